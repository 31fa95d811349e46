package entitlements

import (
	"maps"
	"math"
	"strings"
	"time"
)

// How a call gets into a record: it folds into the open one of its feature, or
// begins one, if there is room.

// track counts a call. e is the customer's entry, or nil.
func (b *batcher) track(e *entry, customer, feature string, n int64) {
	var a *account
	if e != nil {
		if a = e.account.Load(); a != nil && b.fold(a, feature, n) {
			return
		}
	}
	_ = b.addTo(a, &Usage{Customer: customer, Feature: feature, Quantity: n}, nil) // counted where it is dropped
}

// fold adds a call to the open record of a feature. It reports false when there
// is none, or when a boundary is so near that the exact clock must decide.
func (b *batcher) fold(a *account, feature string, n int64) bool {
	now := b.clock.coarse.Load()
	a.mu.Lock()
	m := &a.first
	if m.feature != feature {
		s := a.slot(feature)
		if s == nil {
			a.mu.Unlock()
			return false
		}
		if now != closedTime && s.takeLocked(n, b.clock.backend.Load()) {
			a.idle = false
			a.mu.Unlock()
			b.counters.mine().recorded.Add(1)
			return true
		}
		m = s.meter.Load()
		m.absorbLocked()
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
	a.idle = false
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
		if a == nil || !a.lock() {
			a = b.books.lock(hashOf(u.Customer), u.Customer)
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
	if !ok {
		if waiter != nil {
			waiter.settle(errDropped[dropped])
		}
		return errDropped[dropped]
	}
	return nil
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
	a.idle = false
	if m := a.meterLocked(feature); m != nil {
		return m
	}
	return a.addMeterLocked(feature, b.cfg.Aggregations[feature])
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
	r := &record{
		piece: piece{quantity: u.Quantity, stamp: stamp},
		meter: m, calls: 1, id: strings.Clone(u.ID), properties: maps.Clone(u.Properties), report: waiter,
	}
	if why, ok := b.admit(r); !ok {
		return why, false
	}
	m.addLocked(r, int64(b.clock.tick))
	if folds {
		r.ends = b.endOf(m, stamp)
		m.openLocked(r, b.clock.precise()+min(r.ends-now, int64(forever))-b.clock.margin)
		if b.levels == nil && b.spool == nil { // else each call is to be looked at, or stored
			m.shareLocked(r.ends - b.clock.margin)
		}
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
	in := &b.intake[r.meter.account.shard%uint16(len(b.intake))]
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
		in.waited = append(in.waited, r)
	default:
		in.fresh = append(in.fresh, r)
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
	b.mu.Lock()
	if len(b.ready) == 0 {
		b.gatherLocked(true)
	}
	if len(b.ready) == 0 {
		b.mu.Unlock()
		return // all of it is being sent or tried again: at most FlushConcurrency batches
	}
	oldest := b.ready[:1:1]
	b.ready = b.ready[1:]
	b.mu.Unlock()
	b.settle(oldest, settlement{state: pieceLost, drop: dropOverflow, err: errDropped[dropOverflow]})
}
