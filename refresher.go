package entitlements

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// The refresher keeps what is in use fresh. Every cached customer is in one of
// three states (entry.pending): it waits in the wheel until its refresh is due,
// it is queued because it is due or being loaded, or it was idle when it was due
// and nothing is planned; then the next check of it plans again.
//
// Queued customers start as the loader has room, those that were invalidated
// first, then the one that has been due for longest. When demand exceeds the
// bounds the queue grows, which stretches TTL, and BehindBy tells by how much.
type refresher struct {
	cfg    *Config
	clock  *clock
	loader *loader
	wake   chan struct{}

	mu     sync.Mutex // guards the fields below, and entry.due
	wheel  *wheel
	urgent []*entry
	ready  []*entry // due, oldest first
	spread bool     // everything cached may be stale
}

func newRefresher(cfg *Config, clock *clock, l *loader) *refresher {
	// A slot is a tick, or more where the wheel must reach further.
	width := max(int64(clock.tick), 2*int64(cfg.TTL)/wheelSlots)
	return &refresher{
		cfg: cfg, clock: clock, loader: l, wake: make(chan struct{}, 1),
		wheel: newWheel(width, clock.precise()),
	}
}

// want asks for a refresh of an entry soon: it is stale and in use, or denied a
// customer who may have paid meanwhile.
func (r *refresher) want(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.pending.Load() >= refreshQueued || e.gone.Load() {
		return
	}
	e.pending.Store(refreshQueued)
	e.due = r.clock.precise()
	r.ready = append(r.ready, e)
	r.nudge()
}

// hurry is want for an entry that was invalidated: it goes first, and is queued
// once more when it is being loaded already.
func (r *refresher) hurry(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.pending.Load() == refreshUrgent || e.gone.Load() {
		return
	}
	e.pending.Store(refreshUrgent)
	e.due = r.clock.precise()
	r.urgent = append(r.urgent, e)
	r.nudge()
}

// everything plans a reload of all that is cached, spread over half a TTL.
func (r *refresher) everything() {
	r.mu.Lock()
	r.spread = true
	r.mu.Unlock()
	r.nudge()
}

// landed plans the next refresh of an entry that was loaded, or was tried to.
func (r *refresher) landed(l landed) {
	e := l.entry
	if e == nil || l.forgotten {
		return
	}
	if errors.Is(l.err, errShut) {
		// It was not asked for: its turn comes when the door opens.
		r.mu.Lock()
		defer r.mu.Unlock()
		if e.pending.Load() != refreshUrgent {
			e.pending.Store(refreshQueued)
			r.ready = append(r.ready, e)
		}
		return
	}
	now := r.clock.precise()
	e.mu.Lock()
	failures, fetched := e.failures, e.fetched.Load()
	stale := e.staleSeq > e.startSeq
	e.mu.Unlock()
	var due int64
	switch {
	case l.err != nil:
		wait := newBackOff(min(r.cfg.TTL, 10*time.Second)/2, max(r.cfg.TTL, time.Minute))
		pause := wait.NextBackOff()
		for range min(failures-1, 10) {
			pause = wait.NextBackOff()
		}
		due = now + int64(pause)
		e.denyAt.Store(due)
	case stale:
		r.hurry(e)
		return
	default:
		// Up to 15 % early, so that processes that started together drift apart and
		// the age stays below TTL.
		due = fetched + int64(float64(r.cfg.TTL)*(1-0.15*rand.Float64()))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.planLocked(e, due)
	r.nudge()
}

func (r *refresher) planLocked(e *entry, due int64) {
	e.due = due
	e.pending.Store(refreshLater)
	r.wheel.put(e, due)
}

func (r *refresher) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run refreshes. Owned by New, ends with ctx.
func (r *refresher) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(time.Duration(r.step()))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.wake:
		}
	}
}

// step starts what is due, as far as there is room, and returns when to look
// again.
func (r *refresher) step() (wait int64) {
	now := r.clock.precise()
	r.mu.Lock()
	if r.spread {
		r.spread = false
		r.mu.Unlock()
		r.spreadOut(now)
		r.mu.Lock()
	}
	r.wheel.drain(now, func(t timed) {
		if e := t.entry; e.due == t.due && e.pending.Load() == refreshLater {
			e.pending.Store(refreshQueued)
			r.ready = append(r.ready, e)
		}
	})
	wait = r.wheel.wait(now)
	r.mu.Unlock()
	for room := r.loader.roomForRefresh(now); room > 0; room-- {
		e := r.take(now)
		if e == nil {
			return wait
		}
		// One that is being loaded is planned again when that lands.
		if !r.loader.loading(e.key()) {
			r.loader.start(e.key(), loadRefresh)
		}
	}
	if r.behind(now) > 0 {
		// No room: a load that lands nudges, a door that opens does not.
		wait = min(wait, int64(r.clock.tick))
	}
	return wait
}

// take returns the next entry to refresh, passing over those that left the cache
// or are no longer in use. Those plan again when they are checked.
func (r *refresher) take(now int64) *entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		queue := &r.urgent
		if len(*queue) == 0 {
			queue = &r.ready
		}
		if len(*queue) == 0 {
			return nil
		}
		e := (*queue)[0]
		(*queue)[0], *queue = nil, (*queue)[1:]
		switch {
		case e.gone.Load():
		case queue == &r.ready && r.idle(e, now):
			e.pending.Store(refreshNone)
		case queue == &r.ready && e.pending.Load() == refreshUrgent:
			// It is in both; the other one goes first.
		default:
			e.pending.Store(refreshQueued)
			return e
		}
	}
}

func (r *refresher) idle(e *entry, now int64) bool {
	return now-e.lastUse.Load() > int64(r.cfg.IdleAfter)
}

// behind is how late the oldest refresh in use is.
func (r *refresher) behind(now int64) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	late := int64(0)
	if len(r.urgent) > 0 {
		late = now - r.urgent[0].due
	}
	for _, e := range r.ready {
		if !e.gone.Load() && !r.idle(e, now) {
			late = max(late, now-e.due)
			break
		}
	}
	return time.Duration(late)
}

// spreadOut marks all that is cached as stale and plans its reloads over half a
// TTL. What is loaded meanwhile knows better, by its sequence.
func (r *refresher) spreadOut(now int64) {
	sequence := r.loader.allStale.Load()
	r.loader.cache.each(func(e *entry) {
		e.mu.Lock()
		stale := sequence > e.startSeq
		if stale {
			e.staleAt.Store(0)
		}
		e.mu.Unlock()
		if !stale {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if e.pending.Load() < refreshQueued {
			r.planLocked(e, now+rand.Int64N(int64(r.cfg.TTL)/2))
		}
	})
}
