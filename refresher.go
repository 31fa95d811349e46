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
	if e.pending.Load() < refreshLoading && !e.gone.Load() {
		r.queueLocked(e, refreshQueued)
	}
}

// hurry is want for an entry that was invalidated: it goes first, and is queued
// once more when it is being loaded already.
func (r *refresher) hurry(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.pending.Load() != refreshUrgent && !e.gone.Load() {
		r.queueLocked(e, refreshUrgent)
	}
}

// queueLocked puts an entry into the queue of its new state. A place that it has
// in the other queue, or in the wheel, no longer counts: see take and step.
func (r *refresher) queueLocked(e *entry, state uint32) {
	e.pending.Store(state)
	e.due = r.clock.precise()
	if state == refreshUrgent {
		r.urgent = append(r.urgent, e)
	} else {
		r.ready = append(r.ready, e)
	}
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
	e.mu.Lock()
	failures, fetched := int(e.failures), e.fetched.Load()
	stale, allStale := e.staleSeq > e.startSeq.Load(), r.loader.allStale.Load() > e.startSeq.Load()
	e.mu.Unlock()
	now := r.clock.precise()
	failed := l.err != nil
	var due int64
	switch {
	case stale && (!failed || !l.current(e)):
		r.hurry(e)
		return
	case failed:
		due = now + int64(r.pause(failures))
		e.denyAt.Store(due)
	case allStale:
		due = now + rand.Int64N(int64(r.cfg.TTL)/2)
	default:
		// Up to 15 % early, so that processes that started together drift apart, and
		// a slot, so that the age stays below TTL.
		due = fetched + int64(float64(int64(r.cfg.TTL)-r.wheel.width)*(1-0.15*rand.Float64()))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch state := e.pending.Load(); {
	case state == refreshUrgent, errors.Is(l.err, errShut) && state != refreshLoading:
		// It has its place already.
	case errors.Is(l.err, errShut):
		r.queueLocked(e, refreshQueued) // its turn comes when the door opens
	default:
		r.planLocked(e, due)
		r.nudge()
	}
}

// pause is how long a customer rests whose loads failed this often in a row.
func (r *refresher) pause(failures int) time.Duration {
	wait := newBackOff(min(r.cfg.TTL, 10*time.Second)/2, max(r.cfg.TTL, time.Minute))
	pause := wait.NextBackOff()
	for range min(failures-1, 10) {
		pause = wait.NextBackOff()
	}
	return pause
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
	room, again := r.loader.roomForRefresh(now)
	for ; room > 0; room-- {
		e := r.take(now)
		if e == nil {
			return wait
		}
		// One that is being loaded is planned again when that lands.
		if !r.loader.loading(e.key) {
			r.loader.start(e.key, loadRefresh, seenAll)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.urgent)+len(r.ready) > 0 {
		// No room: a load that lands nudges, a door that opens does not.
		wait = min(wait, again)
	}
	return wait
}

// take returns the next entry to refresh, passing over those that left the cache
// or are no longer in use. Those plan again when they are checked.
func (r *refresher) take(now int64) *entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		queue, state := &r.urgent, refreshUrgent
		if len(*queue) == 0 {
			queue, state = &r.ready, refreshQueued
		}
		if len(*queue) == 0 {
			return nil
		}
		e := (*queue)[0]
		(*queue)[0], *queue = nil, (*queue)[1:]
		switch {
		case e.gone.Load() || e.pending.Load() != state:
			// It left, or has another place by now.
		case state == refreshQueued && r.idle(e, now):
			e.pending.Store(refreshNone)
		default:
			e.pending.Store(refreshLoading)
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
	for state, queue := range map[uint32][]*entry{refreshUrgent: r.urgent, refreshQueued: r.ready} {
		for _, e := range queue {
			if e.pending.Load() == state && !e.gone.Load() && !r.idle(e, now) {
				late = max(late, now-e.due)
				break
			}
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
		stale := sequence > e.startSeq.Load()
		if stale {
			e.staleAt.Store(0)
		}
		e.mu.Unlock()
		if !stale {
			return
		}
		r.loader.cache.table.publish(e)
		r.mu.Lock()
		defer r.mu.Unlock()
		if e.pending.Load() < refreshLoading {
			r.planLocked(e, now+rand.Int64N(int64(r.cfg.TTL)/2))
		}
	})
}
