package entitlements

import (
	"maps"
	"math"
	"strings"
	"time"
)

// How a call gets into a record: it folds into the open one of its feature, or
// begins one, if there is room.

// track counts a call. a is the customer's account as far as is known, or nil.
func (b *batcher) track(a *account, customer, feature string, n int64) {
	if a != nil && b.fold(a, feature, n) {
		return
	}
	_ = b.addTo(a, &Usage{Customer: customer, Feature: feature, Quantity: n}, nil) // counted where it is dropped
}

// fold adds a call to the open record of a feature. It reports false when there
// is none, or when a boundary is so near that the exact clock must decide.
func (b *batcher) fold(a *account, feature string, n int64) bool {
	now := b.clock.coarse.Load()
	if a.opens.Load() != nil && now != closedTime && 0 <= n && n < cellUnits {
		if o := a.openCell(b.books.features.find(feature)); o != nil && o.take(n, b.clock.backend.Load(), b.clock.margin) {
			b.counters.mine().recorded.Add(1)
			return true
		}
	}
	if a.full.Load() == nil {
		return false
	}
	a.mu.Lock()
	m := a.meter(feature)
	if m == nil {
		a.mu.Unlock()
		return false
	}
	if now >= m.until || !m.fitsLocked(b.clock.backend.Load()) {
		a.mu.Unlock()
		return false
	}
	was := m.shownLocked()
	if !m.foldLocked(n) {
		a.mu.Unlock()
		return false
	}
	is, g := m.shownLocked(), m.grant
	a.setLocked(accountIdle, false)
	a.mu.Unlock()
	b.counters.mine().recorded.Add(1)
	if b.levels.crossed(g, was, is) {
		b.levels.look(m)
	}
	return true
}

// add counts a call. waiter is nil but for Report.
func (b *batcher) add(u *Usage, waiter *report) error { return b.addTo(nil, u, waiter) }

// addTo is add for who has the customer's account at hand, if it is not nil.
func (b *batcher) addTo(a *account, u *Usage, waiter *report) error {
	dropped, ok := dropInvalid, false
	var m *meter
	var g *grant
	var is int64
	switch {
	case b.clock.closed():
		dropped = dropClosed
	case validKey(u.Customer) && validKey(u.Feature) && len(u.ID) <= MaxKeyLength:
		if a == nil || a.entry.Load() == nil || !a.lock() { // or made just now, and its entry does not show it yet
			a = b.books.lock(hashOf(u.Customer), u.Customer)
		}
		if waiter == nil && u.ID == "" && u.Properties == nil && u.Time.IsZero() {
			why, ok, simple := b.trackLocked(a, u.Feature, u.Quantity)
			if simple {
				a.mu.Unlock()
				b.counted(why, ok)
				return errOf(why, ok)
			}
		}
		m = b.meterLocked(a, u.Feature)
		at := b.clock.backendNow()
		dropped, ok = b.countLocked(m, u, waiter, at)
		if b.levels != nil {
			if !u.Time.IsZero() {
				at = nanos(u.Time)
			}
			is, g = m.view.Load().read(at).used, m.grant
		}
		a.mu.Unlock()
	}
	b.counted(dropped, ok)
	if b.levels.crossed(g, math.MinInt64, is) {
		b.levels.look(m)
	}
	err := errOf(dropped, ok)
	if err != nil && waiter != nil {
		waiter.settle(err)
	}
	return err
}

// errOf is what a call is told that countLocked took, or could not.
func errOf(dropped dropReason, ok bool) error {
	if ok {
		return nil
	}
	return errDropped[dropped]
}

// counted accounts for a call that countLocked took, or could not.
func (b *batcher) counted(dropped dropReason, ok bool) {
	b.counters.mine().recorded.Add(1)
	if !ok {
		b.drop(dropped, 1)
		return
	}
	switch n := b.pending.Load(); {
	case b.cfg.Overflow == DropOldest && b.over(n):
		if b.spool != nil {
			b.kick() // what waits for the disk is for the loop
			return
		}
		b.makeRoom()
	case n >= int64(b.cfg.MaxPending+1)/2 && !b.forced.Load():
		b.kick()
	}
}

// meterLocked returns the meter of a feature, and makes one if there is none.
func (b *batcher) meterLocked(a *account, feature string) *meter {
	a.setLocked(accountIdle, false)
	return a.obtainMeterLocked(feature, b.cfg.Aggregations[feature], b.books)
}

// countLocked folds u into the open record after an exact look at the clock, or
// begins a new one. It reports why not, when it can't.
func (b *batcher) countLocked(m *meter, u *Usage, waiter *report, now int64) (dropReason, bool) {
	now = m.figure.stampOf(now)
	stamp := now
	if !u.Time.IsZero() {
		stamp = nanos(u.Time)
	}
	folds := waiter == nil && b.folds(m, u, stamp, now)
	if r := m.open; folds && r != nil && stamp < r.ends && m.counts == m.figure.period(stamp) && m.foldLocked(u.Quantity) {
		return 0, true
	}
	if b.sink == nil {
		b.endLocalLocked(m.account, now) // one that ended must not keep its successor out
	}
	r := m.newRecord(piece{quantity: u.Quantity, stamp: stamp})
	r.calls, r.id, r.properties, r.report = 1, strings.Clone(u.ID), maps.Clone(u.Properties), waiter
	if why, ok := b.admit(r); !ok {
		return why, false
	}
	m.addLocked(r, int64(b.clock.tick))
	if folds {
		r.ends = b.endOf(m, stamp)
		m.openLocked(r, b.clock.precise()+min(r.ends-now, int64(forever))-b.clock.margin)
	}
	r.placedLocked()
	return 0, true
}

// admit lets a new record wait to be delivered, or says why not.
func (b *batcher) admit(r *record) (dropReason, bool) {
	if b.spool != nil && !b.spool.fits(r) {
		return dropOverflow, false
	}
	over := b.over(b.pending.Add(1))
	if b.spool != nil {
		over = !b.spool.begin(r)
	}
	if over && (b.cfg.Overflow == DropNewest || b.sink == nil || b.spool != nil && b.spool.flooded()) {
		b.pending.Add(-1)
		return dropOverflow, false
	}
	if b.take(r) {
		if over && b.spool != nil {
			b.spool.later(r)
		}
		return 0, true
	}
	b.pending.Add(-1)
	if r.segment != nil {
		r.placedLocked()
		b.settledOnDisk(r.markLocked(nil, stageSettled, b.clock.precise()))
	}
	return dropClosed, false
}

// over reports whether there are more records than there is room for.
func (b *batcher) over(records int64) bool {
	if b.spool != nil {
		return b.spool.crowded()
	}
	return records > int64(b.cfg.MaxPending)
}

// take puts a new record into the intake, unless that is closed.
func (b *batcher) take(r *record) bool {
	in := b.intakeOf(r.account)
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return false
	}
	r.cohort = b.cohort.Load()
	r.cohort.open.Add(1)
	switch {
	case b.sink == nil: // its account keeps it
	case r.report != nil:
		in.waited = append(in.waited, queued{record: r})
	default:
		in.fresh = append(in.fresh, queued{record: r})
	}
	return true
}

// folds reports whether a call may share a record with others. With a Sink they
// must be of one minute and have nothing of their own; without one only the
// period counts.
func (b *batcher) folds(m *meter, u *Usage, stamp, now int64) bool {
	if m.fold == AggregateUnique {
		return false
	}
	if b.sink == nil {
		return m.figure.period(stamp) == m.figure.period(now)
	}
	return u.ID == "" && u.Properties == nil && stamp/int64(time.Minute) == now/int64(time.Minute)
}

// endOf is the moment at which a record that begins at stamp stops taking calls:
// the end of its UTC minute, and the end of its period. Without a Sink nothing
// is sent, so only the period matters.
func (b *batcher) endOf(m *meter, stamp int64) int64 {
	end := int64(math.MaxInt64)
	if b.sink != nil {
		end = stamp - stamp%int64(time.Minute) + int64(time.Minute)
	}
	if resets := m.figure.resets; resets > stamp {
		end = min(end, resets)
	}
	return end
}

// makeRoom drops the oldest record that is not being sent.
func (b *batcher) makeRoom() {
	var oldest []*record
	b.mu.Lock()
	if len(b.ready) == 0 {
		b.gatherLocked(true)
	}
	for len(oldest) == 0 && len(b.ready) > 0 {
		oldest = b.takeReadyLocked(1, nil)
	}
	b.mu.Unlock()
	// Where there is none all is being sent or tried again: at most FlushConcurrency
	// batches.
	b.settle(oldest, settlement{state: pieceLost, drop: dropOverflow, err: errDropped[dropOverflow]})
}
