package entitlements

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// A door guards one backend, the Source's or the Sink's: it decides when a call
// may be made, from how the calls before went.
//
// It is open while calls work. A Retry-After shuts it for that long, and then one
// call goes first. Some failures in a row trip it: then one call at a time probes,
// at growing intervals, until one works. Refused credentials are probed for as well, more
// slowly: somebody may mend them without a restart.
type door struct {
	name  string
	clock *clock
	log   *slog.Logger

	mu       sync.Mutex // guards the fields below
	failures int        // in a row
	tripped  bool
	busy     bool // the last word was a Retry-After
	probing  bool
	until    int64 // precise: no call before
	wait     *backoff.ExponentialBackOff
	slow     *backoff.ExponentialBackOff
	budget   int // for retries, see spend
	lastErr  error
	health   DoorHealth
}

// verdict is how a call went.
type verdict uint8

const (
	verdictWorked   verdict = iota
	verdictFailed           // may work later
	verdictTimedOut         // the same, and dearer
	verdictBusy             // the backend asks for time: a rate limit is no outage
	verdictDenied           // credentials are refused
)

const (
	tripAfter = 5 // failures in a row

	// longestPause bounds a Retry-After: a confused backend must not shut the door
	// for good.
	longestPause = 5 * time.Minute

	// The retry budget is the AWS SDKs': it bounds what retries add to the load of
	// a backend that is failing, whatever the number of callers.
	budgetFull    = 500
	budgetRetry   = 5
	budgetTimeout = 10
)

func newDoor(name string, clock *clock, log *slog.Logger) *door {
	return &door{
		name: name, clock: clock, log: log, budget: budgetFull,
		wait: newBackOff(1500*time.Millisecond, 15*time.Second),
		slow: newBackOff(30*time.Second, 5*time.Minute),
	}
}

// admit reports how long to wait before a call may be made; 0 is now. When the
// call is a probe, done or release must be called for it.
func (d *door) admit(now int64) (probe bool, wait int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	probe, wait = d.peekLocked(now)
	d.probing = d.probing || probe
	return probe, wait
}

// release takes back an admitted call that was not made.
func (d *door) release(probe bool) {
	if probe {
		d.mu.Lock()
		d.probing = false
		d.mu.Unlock()
	}
}

// cause is why the door is shut, nil when it is open.
func (d *door) cause(now int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now < d.until || d.tripped || d.busy {
		return d.lastErr
	}
	return nil
}

// peek is admit without making a call.
func (d *door) peek(now int64) (probe bool, wait int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.peekLocked(now)
}

func (d *door) peekLocked(now int64) (probe bool, wait int64) {
	switch {
	case now < d.until:
		return false, d.until - now
	case !d.tripped && !d.busy:
		return false, 0
	case d.probing:
		return false, int64(forever) // done decides
	}
	return true, 0
}

// open reports whether a call could be made now.
func (d *door) open(now int64) bool {
	_, wait := d.peek(now)
	return wait == 0
}

// done learns how a call went.
func (d *door) done(now int64, probe bool, v verdict, after time.Duration, err error) {
	d.mu.Lock()
	was := d.tripped
	d.learnLocked(now, probe, v, after, err)
	is, failures := d.tripped, d.failures
	d.mu.Unlock()
	// The log is somebody else's code.
	switch {
	case was && !is:
		d.log.Info("entitlements: door is open again", "door", d.name)
	case is && !was:
		d.log.Warn("entitlements: door is shut, probing", "door", d.name, "failures", failures, "error", err)
	}
}

func (d *door) learnLocked(now int64, probe bool, v verdict, after time.Duration, err error) {
	if probe {
		d.probing = false
	}
	if d.busy = after > 0; d.busy {
		d.until = max(d.until, now+int64(min(after, longestPause)))
	}
	if v == verdictWorked {
		d.health.Ready, d.health.LastSuccess = true, time.Now()
		d.failures, d.budget = 0, min(d.budget+1, budgetFull)
		if d.tripped {
			d.tripped = false
			if !d.busy {
				d.until = 0
			}
			d.wait.Reset()
			d.slow.Reset()
		}
		return
	}
	if errors.Is(err, ErrClosed) {
		return // we ended the call ourselves: that says nothing of the backend
	}
	d.lastErr = err
	d.health.Ready, d.health.LastError, d.health.LastErrorAt = false, err, time.Now()
	if v == verdictBusy {
		return
	}
	d.failures++
	if d.tripped && !probe || d.failures < tripAfter {
		return // those that were under way when it tripped say nothing new
	}
	wait := d.wait
	if v == verdictDenied {
		wait = d.slow
	}
	pause := wait.NextBackOff()
	d.until = max(d.until, now+int64(pause))
	d.tripped = true
}

// spend takes a retry out of the budget, and reports false when there is none.
func (d *door) spend(v verdict) bool {
	cost := budgetRetry
	if v == verdictTimedOut {
		cost = budgetTimeout
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.budget < cost {
		return false
	}
	d.budget -= cost
	return true
}

// report is the door's health.
func (d *door) report() (DoorHealth, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.health
	h.Ready = h.LastError == nil || h.Ready
	return h, d.tripped
}
