package entitlements

import (
	"context"
	"fmt"
	"math"
	"time"
)

// The three queues of the loader, and what may start when.

// enqueue queues a load, or says at once why it can't be.
func (l *loader) enqueue(ld *load) error {
	now := l.clock.precise()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clock.closed() {
		return ErrClosed
	}
	if _, wait := l.door.peek(now); wait > 0 && !patient(ld.class, wait) {
		return l.shutError(now)
	}
	if ld.class != loadRefresh && l.fullLocked() && !l.displaceLocked(ld.class) {
		l.stats.shed.Add(1)
		return errShed
	}
	ld.queued = true
	l.queues[ld.class] = append(l.queues[ld.class], ld)
	l.dispatchLocked(now)
	return nil
}

// patient reports whether a load should wait for a shut door: a caller's who
// waits, when a probe is under way that will tell in a moment.
func patient(class loadClass, wait int64) bool {
	return class == loadWaiting && wait == int64(forever)
}

// displaceLocked makes room for a caller who waits at the cost of the newest load
// that nobody waits for.
func (l *loader) displaceLocked(class loadClass) bool {
	cold := l.queues[loadCold]
	if class != loadWaiting {
		return false
	}
	for len(cold) > 0 {
		last := cold[len(cold)-1]
		cold[len(cold)-1], cold = nil, cold[:len(cold)-1]
		l.queues[loadCold] = cold
		if !last.started && last.class == loadCold {
			last.started = true
			l.stats.shed.Add(1)
			finish([]*load{last}, errShed)
			return true
		}
	}
	return false
}

func (l *loader) shutError(now int64) error {
	if cause := l.door.cause(now); cause != nil {
		return fmt.Errorf("%w: %w", errShut, cause)
	}
	return errShut
}

func (l *loader) fullLocked() bool {
	return len(l.queues[loadWaiting])+len(l.queues[loadCold]) >= maxQueued
}

// roomForRefresh is how many refreshes could start now, and when to ask again if
// none could.
func (l *loader) roomForRefresh(now int64) (room int, wait int64) {
	probing, wait := l.door.peek(now)
	if wait > 0 {
		return 0, min(wait, int64(l.clock.tick))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if now < l.paceAt {
		return 0, l.paceAt - now
	}
	room, wait = l.refreshLimit(), int64(l.clock.tick)
	queued := len(l.queues[loadRefresh])
	switch {
	case probing:
		room = 1
	case l.cfg.FetchRate > 0:
		// One at a time, as often as the rate allows: what it leaves in the queue would
		// be late there, unseen.
		if room -= l.busyBack; room > 0 {
			wait = min(wait, max(int64(time.Millisecond), int64(float64(time.Second)/l.cfg.FetchRate)))
		}
		return max(0, min(room, 1-queued)), wait
	case l.batches != nil:
		room *= maxBatch
	}
	return max(0, room-l.busyBack-queued), wait
}

func (l *loader) refreshLimit() int { return max(1, l.cfg.FetchConcurrency/2) }

// dispatchLocked starts calls while there are loads, calls free, and the door and
// the rate allow it.
func (l *loader) dispatchLocked(now int64) {
	for l.busy < l.cfg.FetchConcurrency {
		class := l.nextClassLocked()
		if class == loadClasses {
			return
		}
		if wait := l.fillWait(class, now); wait > 0 {
			l.paceLocked(wait)
			return
		}
		if now < l.paceAt {
			l.paceLocked(l.paceAt - now)
			return
		}
		probe, wait := l.door.admit(now)
		if wait > 0 {
			// It shut while they were queued. Refreshes come again by themselves.
			for class := range loadClasses {
				if !patient(class, wait) {
					finish(l.takeLocked(class, class, math.MaxInt), l.shutError(now))
				}
			}
			return
		}
		most := 1
		if l.batches != nil && !probe {
			most = maxBatch
		}
		loads := l.takeLocked(class, loadClasses-1, most)
		background := class == loadRefresh
		l.busy++
		if background {
			l.busyBack++
		}
		if l.cfg.FetchRate > 0 {
			l.paceAt = now + int64(float64(time.Second)/l.cfg.FetchRate)
		}
		if !l.running.start(func() { l.call(loads, background, probe) }) {
			l.door.release(probe)
			l.returnLocked(background)
			finish(loads, ErrClosed)
		}
	}
}

// fillWait is how long a batch is better waited for: Warm goes on bringing
// customers.
func (l *loader) fillWait(class loadClass, now int64) int64 {
	switch {
	case class != loadCold || l.warming == 0 || len(l.queues[loadCold]) >= maxBatch:
		l.fillBy = 0
	case l.fillBy == 0:
		l.fillBy = now + fillWithin
	case now >= l.fillBy:
		l.fillBy = 0
	}
	return max(0, l.fillBy-now)
}

// warm notes that Warm begins, and returns what ends it.
func (l *loader) warm() (done func()) {
	if l.batches == nil {
		return func() {}
	}
	add := func(n int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.warming += n
		l.dispatchLocked(l.clock.precise())
	}
	add(1)
	return func() { add(-1) }
}

// nextClassLocked is the first queue with a load that may start.
func (l *loader) nextClassLocked() loadClass {
	for class := range loadClasses {
		q := l.queues[class]
		for len(q) > 0 && (q[0].started || q[0].class != class) {
			q[0], q = nil, q[1:] // promoted, or served by a batch
		}
		l.queues[class] = q
		if len(q) > 0 && (class != loadRefresh || l.busyBack < l.refreshLimit()) {
			return class
		}
	}
	return loadClasses
}

// takeLocked takes up to most loads of the classes from first to last.
func (l *loader) takeLocked(first, last loadClass, most int) []*load {
	queued := 0
	for class := first; class <= last; class++ {
		queued += len(l.queues[class])
	}
	loads := make([]*load, 0, min(most, queued))
	for class := first; class <= last && len(loads) < most; class++ {
		q := l.queues[class]
		for len(q) > 0 && len(loads) < most {
			ld := q[0]
			q[0], q = nil, q[1:]
			if !ld.started && ld.class == class {
				ld.started = true
				loads = append(loads, ld)
			}
		}
		l.queues[class] = q
	}
	return loads
}

// paceLocked dispatches again when the rate allows the next call.
func (l *loader) paceLocked(wait int64) {
	if l.pacing {
		return
	}
	l.pacing = true
	l.running.start(func() { // once closed, nothing waits any more: see turn
		sleep(l.running.context, time.Duration(wait))
		l.mu.Lock()
		defer l.mu.Unlock()
		l.pacing = false
		l.dispatchLocked(l.clock.precise())
	})
}

// pace waits for the rate limit before a retry, as a call of its own.
func (l *loader) pace(ctx context.Context) bool {
	if l.cfg.FetchRate == 0 {
		return true
	}
	l.mu.Lock()
	now := l.clock.precise()
	at := max(now, l.paceAt)
	l.paceAt = at + int64(float64(time.Second)/l.cfg.FetchRate)
	l.mu.Unlock()
	return sleep(ctx, time.Duration(at-now))
}

func (l *loader) returnLocked(background bool) {
	l.busy--
	if background {
		l.busyBack--
	}
}

// finish ends loads that were not fetched.
func finish(loads []*load, err error) {
	for _, ld := range loads {
		ld.err = err
		close(ld.done)
	}
}
