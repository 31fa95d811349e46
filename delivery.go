package entitlements

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// A delivery is one batch on its way: sealed records, tried until each of them
// has an end. Its content and ID never change; where an outcome splits it, the
// parts are deliveries of their own.
type delivery struct {
	batch   Batch
	records []*record
	notYet  int64 // precise: no attempt before
	wait    *backoff.ExponentialBackOff
}

var (
	errDropped = [dropReasons]error{
		dropOverflow:    errors.New("entitlements: usage dropped: more than Config.MaxPending records wait"),
		dropInvalid:     ErrInvalidKey,
		dropClosed:      ErrClosed,
		dropUndelivered: ErrClosed,
		dropNoSink:      nil,
	}
	errInDoubt = errors.New("entitlements: usage in doubt: sent without an answer for longer than the sink dedupes")
	errExpired = errors.New("entitlements: usage not delivered within Config.RetryFor")
)

// dispatch starts what may be started, and returns how long nothing more will be
// due.
func (b *batcher) dispatch(ctx context.Context, now int64) (wait int64) {
	for {
		b.mu.Lock()
		if b.busy >= b.cfg.FlushConcurrency {
			b.mu.Unlock()
			return int64(forever) // a call that returns nudges
		}
		probe, wait := b.door.admit(now)
		if wait > 0 {
			b.mu.Unlock()
			return wait
		}
		d, wait := b.nextLocked(now, probe)
		if d != nil {
			b.flying[d] = struct{}{}
			b.busy++
		}
		expired, doubtful := b.expired, b.doubtful
		b.expired, b.doubtful = nil, nil
		b.mu.Unlock()
		b.settle(doubtful, settlement{state: pieceLost, inDoubt: true, err: errInDoubt})
		b.settle(expired, settlement{state: pieceLost, dead: true, err: errExpired})
		if d == nil {
			b.door.release(probe)
			return wait
		}
		if !b.running.start(func() { b.deliver(ctx, d, probe) }) {
			return int64(forever) // closed: what flies is settled by close
		}
	}
}

// nextLocked takes the next delivery: what is due again, then in turn a record
// that travels alone and a new batch of what was gathered. A probe takes the
// first of what failed, due or not, so that an outage is probed by one batch.
func (b *batcher) nextLocked(now int64, probe bool) (*delivery, int64) {
	if now < b.paceAt {
		return nil, b.paceAt - now
	}
	wait := int64(forever)
	for i := 0; i < len(b.retries); i++ {
		d := b.retries[i]
		if d.notYet > now && !probe {
			wait = min(wait, d.notYet-now)
			continue
		}
		b.retries = slices.Delete(b.retries, i, i+1)
		i--
		if d = b.reviewLocked(d, now); d != nil {
			b.paceLocked(now, len(d.records))
			return d, 0
		}
	}
	if len(b.alone) > 0 && (b.turn || len(b.ready) == 0) {
		return b.aloneLocked(now), 0
	}
	var take []*record
	for len(take) < b.limits.MaxBatch && len(b.ready) > 0 {
		from := len(take)
		take = b.takeReadyLocked(b.limits.MaxBatch-from, take)
		if len(b.suspects) > 0 {
			kept := take[:from]
			for _, r := range take[from:] {
				if b.suspectLocked(r, now) {
					b.alone = append(b.alone, r)
				} else {
					kept = append(kept, r)
				}
			}
			take = kept
		}
	}
	switch {
	case len(take) > 0:
		b.turn = true
		b.paceLocked(now, len(take))
		return b.newDelivery(take), 0
	case len(b.alone) > 0:
		return b.aloneLocked(now), 0
	}
	return nil, wait
}

// takeReadyLocked takes the first of what is ready, or so many of it, and appends
// its records. It may be that there is none.
func (b *batcher) takeReadyLocked(most int, records []*record) []*record {
	q, all := b.ready[0], true
	if q.record != nil {
		records = append(records, q.record)
	} else {
		records, all = b.sealLocked(q.account, most, records)
	}
	if all {
		b.ready[0], b.ready = queued{}, b.ready[1:]
	}
	return records
}

// aloneLocked takes the next record that travels alone.
func (b *batcher) aloneLocked(now int64) *delivery {
	r := b.alone[0]
	b.alone[0], b.alone = nil, b.alone[1:]
	b.turn = false
	b.paceLocked(now, 1)
	return b.newDelivery([]*record{r})
}

// reviewLocked takes out of a failed delivery what must not be sent again. It
// returns what is left, or nil.
func (b *batcher) reviewLocked(d *delivery, now int64) *delivery {
	left := make([]*record, 0, len(d.records))
	for _, r := range d.records {
		switch {
		case r.unknown != 0 && b.tooLate(now-r.unknown):
			b.doubtful = append(b.doubtful, r)
		case now-r.first >= int64(b.cfg.RetryFor):
			b.expired = append(b.expired, r)
		default:
			left = append(left, r)
		}
	}
	switch len(left) {
	case len(d.records):
		return d
	case 0:
		return nil
	default:
		return b.newDelivery(left)
	}
}

// tooLate reports whether the sink may have forgotten a record that it first saw
// this long ago. A request can arrive as late as its timeout, so that is taken
// off the window.
func (b *batcher) tooLate(age int64) bool {
	window := int64(b.limits.DedupWindow)
	switch {
	case window == 0:
		return false
	case window < 0:
		return true
	}
	return age >= window-min(window/4, int64(b.cfg.FlushTimeout))
}

func (b *batcher) paceLocked(now int64, records int) {
	if b.limits.Rate > 0 {
		b.paceAt = now + int64(float64(records)/b.limits.Rate*float64(time.Second))
	}
}

// newDelivery seals records into a batch.
func (b *batcher) newDelivery(records []*record) *delivery {
	d := &delivery{records: records, wait: newBackOff(250*time.Millisecond, 30*time.Second)}
	d.batch = Batch{Usage: make([]Usage, len(records))}
	next := b.newIDs(1 + len(records))
	d.batch.ID = next()
	var locked lockedAccount
	for i, r := range records {
		locked.lock(r.account)
		r.sealLocked()
		if r.id == "" {
			r.id = next()
		}
		d.batch.Usage[i] = r.usage()
	}
	locked.unlock()
	return d
}

// deliver makes one attempt and settles what it tells.
func (b *batcher) deliver(ctx context.Context, d *delivery, probe bool) {
	sent := b.clock.precise()
	var marks []mark
	b.eachRecord(d.records, func(r *record) {
		if r.sent == 0 {
			r.sent = sent
			b.recountLocked(r)
		}
		if r.first == 0 {
			r.first = sent
		}
		marks = r.markLocked(marks, stageSent, sent)
	})
	b.mu.Lock()
	shut := b.shut
	b.mu.Unlock()
	if shut {
		return // close has dropped them; what it sees after this, it takes for sent
	}
	storeMarks(marks) // before: a process that is killed from here on must know
	d.batch.Attempt++
	batch := d.batch // of its own: a callee that is left behind may still read it
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.FlushTimeout, &timeoutError{"Deliver", b.cfg.FlushTimeout})
	defer cancel()
	// The call is free for another when we are done with its outcome and it has
	// returned, in time or not.
	var holders atomic.Int32
	holders.Store(2)
	free := func() {
		if holders.Add(-1) == 0 {
			b.mu.Lock()
			b.busy--
			b.mu.Unlock()
			b.nudge()
		}
	}
	_, err := protect(ctx, b.running, free, func() (struct{}, error) { return struct{}{}, b.sink.Deliver(ctx, batch) })
	now := b.clock.precise()
	o := readOutcome(err, len(d.records))
	b.door.done(now, probe, o.verdict, o.after, err)
	again := b.apply(d, o, sent, now)

	b.mu.Lock()
	delete(b.flying, d)
	switch {
	case b.shut: // close has settled them
	case probe:
		b.retries = append(again, b.retries...) // it goes on being the probe
	default:
		b.retries = append(b.retries, again...)
	}
	b.mu.Unlock()
	free()
}

// apply settles the records of a delivery by its outcome, and returns what is to
// be tried again.
func (b *batcher) apply(d *delivery, o outcome, sent, now int64) []*delivery {
	var accepted, doubtful, again []*record
	var marks []mark
	for i, r := range d.records {
		f := o.fates[i]
		if o.bisect {
			f = fateRetry // nothing was accepted, and it is the batch that is bad
		}
		switch f {
		case fateAccepted:
			accepted = append(accepted, r)
		case fateRejected:
			reason := o.reasons[i]
			if reason == nil {
				reason = o.err
			}
			b.suspectNow(r, now, reason)
			b.settle([]*record{r}, settlement{state: pieceLost, dead: true, err: reason})
		case fateUnknown:
			if b.limits.DedupWindow < 0 {
				doubtful = append(doubtful, r)
			} else {
				again = append(again, r)
			}
			b.eachRecord([]*record{r}, func(r *record) {
				if r.unknown == 0 {
					r.unknown = sent
				}
			})
		case fateRetry:
			again = append(again, r)
			b.eachRecord([]*record{r}, func(r *record) {
				if r.unknown == 0 {
					r.sent = 0 // it certainly is not there
					b.recountLocked(r)
					marks = r.markLocked(marks, stagePending, now)
				}
			})
		}
	}
	storeMarks(marks)
	b.settle(accepted, settlement{state: pieceAcked, at: now})
	b.settle(doubtful, settlement{state: pieceLost, inDoubt: true, err: errInDoubt})
	if len(again) == 0 {
		return nil
	}
	if o.bisect {
		half := len(again) / 2
		return []*delivery{b.newDelivery(again[:half]), b.newDelivery(again[half:])}
	}
	if len(again) < len(d.records) {
		left := b.newDelivery(again)
		left.wait = d.wait
		d = left
	}
	wait := o.after
	if wait == 0 {
		wait = d.wait.NextBackOff()
		if !b.door.spend(o.verdict) {
			wait = max(wait, d.wait.MaxInterval)
		}
	}
	d.notYet = now + int64(min(wait, longestPause))
	return []*delivery{d}
}

// eachRecord calls f with every record that is not settled, under its account's
// lock.
func (b *batcher) eachRecord(records []*record, f func(*record)) {
	var locked lockedAccount
	for _, r := range records {
		locked.lock(r.account)
		if !r.settled() {
			r.syncLocked()
			f(r)
		}
	}
	locked.unlock()
}

func (b *batcher) recountLocked(r *record) {
	if r.meter != nil { // else it counts in full, sent or not
		r.meter.recountLocked(r, int64(b.clock.tick))
	}
}

// newBackOff is the waits between attempts: exponential, jittered, without end.
func newBackOff(first, most time.Duration) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(first),
		backoff.WithMaxInterval(most),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(0.2),
		backoff.WithMaxElapsedTime(math.MaxInt64),
	)
}
