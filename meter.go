package entitlements

import (
	"math"
	"math/bits"
	"sync/atomic"
)

// A meter is the local view of one metered feature of one customer.
//
// Writers hold the account's lock. Readers take the two views, of the figure's
// period and of the one that follows, and the boundary between them, so that a
// period that ends is seen at the moment of the check, with nobody writing.
type meter struct {
	feature string
	grant   *grant // the latest that was loaded; nil = none, or not metered
	view    atomic.Pointer[view]
	only    view // the first one, beside what points at it

	// The open record takes further calls. Its sums are kept here, beside the view
	// that they move, and it has them when somebody looks at it: see syncLocked.
	until    int64 // coarse: from here on a call looks closer whether it still folds in; 0 = none is open
	quantity int64
	calls    uint32
	counts   period // to which view
	fold     Aggregation
	settled  uint8 // records that are, since they were last compacted
	spooled  bool  // the open record is on disk

	*ledger
}

// ledger is what a call does not need of a meter, the most used first.
type ledger struct {
	open    *record
	account *account
	records []*record  // all that may still count, oldest first, open included
	alone   [1]*record // where they are when it is one
	figure  figure     // the zero figure until one is known
}

// view is what readers see of a meter. Its boundary never changes: a figure of
// another period comes with a view of its own, so that nobody reads the usage of
// one period beside the boundary of another.
type view struct {
	resets  int64 // backend; 0 = never, unknownEnd = no figure is known
	expires atomic.Int64
	current atomic.Int64
	next    atomic.Int64
	held    atomic.Int64 // by reservations, whatever the period
}

// unknownEnd is the end of a period that no figure has told of: not before any
// moment that is.
const unknownEnd = math.MaxInt64 - 1

func (v *view) known() bool { return v.resets != unknownEnd }

// shownLocked is the view that calls move now.
func (m *meter) shownLocked() int64 {
	v := m.view.Load()
	if m.counts == periodNext {
		return v.next.Load()
	}
	return v.current.Load()
}

// learnLocked takes over the figure that an entry shows, when none is known.
func (m *meter) learnLocked(e *entry) {
	if m.figure.fetched != 0 {
		return
	}
	if p, o := e.content(); o != nil {
		if g := p.metered(m.feature); g != nil {
			m.grant = g
			m.installLocked(o.figure(g), 0)
		}
	}
}

// read is for who holds the account's lock.
func (v *view) read(now int64) meterRead {
	r := meterRead{held: v.held.Load(), resets: v.resets, expires: v.expires.Load()}
	if v.over(now) {
		r.used = v.next.Load()
	} else {
		r.used = v.current.Load()
	}
	return r
}

// over reports whether the figure's period has ended.
func (v *view) over(now int64) bool { return v.resets != 0 && now >= v.resets }

// installLocked takes over a figure and lets go of the records that it contains.
func (m *meter) installLocked(f figure, tick int64) {
	m.syncLocked()
	if f.resets != m.figure.resets {
		// The open record may span the new boundary: cut it here. It stays with
		// the batcher, which sends it as it is.
		m.sealLocked()
	}
	m.figure, m.settled = f, 0
	kept := m.records[:0]
	for _, r := range m.records {
		in := f.period(r.stamp)
		if r.settled() && (in == periodPast || in == periodCurrent && f.contains(&r.piece, tick)) {
			continue
		}
		kept = append(kept, r)
		if r.settled() {
			m.settled = min(m.settled, math.MaxUint8-1) + 1
		}
		r.counted, r.counts = f.missing(&r.piece, tick)
	}
	clear(m.records[len(kept):])
	m.records = kept
	if m.open != nil {
		m.counts = m.open.counts
	}
	m.publishLocked()
}

// addLocked lets a new record count.
func (m *meter) addLocked(r *record, tick int64) {
	if m.records == nil {
		m.records = m.alone[:0]
	}
	m.records = append(m.records, r)
	m.recountLocked(r, tick)
}

// recountLocked follows a change of one record's state.
func (m *meter) recountLocked(r *record, tick int64) {
	m.syncLocked()
	counted, counts := m.figure.missing(&r.piece, tick)
	was, from := r.counted, r.counts
	r.counted, r.counts = counted, counts
	if r == m.open {
		m.counts = counts
	}
	switch {
	case counted == was && counts == from && m.fold == AggregateSum:
	case m.fold != AggregateSum, !m.shiftLocked(counted, counts), !m.shiftLocked(-was, from):
		m.publishLocked()
	}
}

// exact is the range in which a view cannot be saturated, nor become so by
// adding a quantity of this range.
const exact = 1 << 62

// shiftLocked moves the view of a period. It reports false when the result would
// not be exact.
func (m *meter) shiftLocked(n int64, of period) bool {
	v := m.view.Load()
	to := &v.current
	switch of {
	case periodNext:
		to = &v.next
	case periodPast:
		return true
	}
	shown := to.Load()
	if -exact >= shown || shown >= exact || -exact >= n || n >= exact {
		return false
	}
	to.Store(shown + n)
	return true
}

// publishLocked makes the views what readers see, from the figure and all
// records.
func (m *meter) publishLocked() {
	var current, next int64
	switch m.fold {
	case AggregateSum:
		var sum, sumNext wide
		for _, r := range m.records {
			switch r.counts {
			case periodCurrent:
				sum.add(r.counted)
			case periodNext:
				sumNext.add(r.counted)
			}
		}
		current, next = sum.plus(m.figure.used), sumNext.plus(0)
	case AggregateUnique:
		// Only the backend can tell a new value from a known one.
		current = m.figure.used
	default:
		current, next = m.foldedLocked()
	}
	resets := int64(unknownEnd)
	if m.figure.fetched != 0 {
		resets = m.figure.resets
	}
	v := m.view.Load()
	fresh := v == nil || v.resets != resets
	switch {
	case v == nil:
		v = &m.only
		v.resets = resets
	case fresh:
		was := v
		v = &view{resets: resets}
		v.held.Store(was.held.Load())
	}
	v.expires.Store(m.figure.expires)
	v.current.Store(current)
	v.next.Store(next)
	if fresh {
		m.view.Store(v)
	}
}

// foldedLocked folds the records that count as the backend will.
func (m *meter) foldedLocked() (current, next int64) {
	current = m.figure.used
	seen := false
	for _, r := range m.records {
		if r.counted == 0 && r.quantity != 0 {
			continue
		}
		switch {
		case r.counts == periodCurrent && m.fold == AggregateMax:
			current = max(current, r.quantity)
		case r.counts == periodCurrent:
			current = r.quantity
		case r.counts == periodNext && m.fold == AggregateMax && seen:
			next = max(next, r.quantity)
		case r.counts == periodNext:
			next, seen = r.quantity, true
		}
	}
	return current, next
}

// maxSettled is how many settled records a meter keeps apart before they are
// compacted. A customer that is counted but not checked is not refreshed, so no
// figure takes them off.
const maxSettled = 16

// compactLocked merges records that only wait for a figure to contain them, when
// as many as are left from the last time have been added. Each field takes the
// value that keeps the merged record counted for longest, so the view can be late
// to shrink, never early; by how much is bounded, see near. A day of seconds makes
// about a hundred records.
func (m *meter) compactLocked(now, tick int64) {
	m.settled = min(m.settled, math.MaxUint8-1) + 1
	if int(m.settled) <= min(max(maxSettled, len(m.records)/2), math.MaxUint8-1) {
		return
	}
	var into [2][3]*record // the latest, by acked or lost, and period
	kept := m.records[:0]
	apart := false // AggregateLast must keep the order of those not settled
	for _, r := range m.records {
		apart = apart || !r.settled()
		if !r.settled() || r.effect() < 0 || apart && m.fold == AggregateLast {
			kept = append(kept, r)
			continue
		}
		lost := 0
		if r.state == pieceLost {
			lost = 1
		}
		if m.fold == AggregateLast {
			into[1-lost] = [3]*record{} // what came before must not come after
		}
		to := into[lost][r.counts]
		if to == nil || !to.near(r, now) || m.fold == AggregateSum && saturate(to.effect(), r.effect()) == Unlimited {
			into[lost][r.counts] = r
			kept = append(kept, r)
			continue
		}
		switch m.fold {
		case AggregateSum:
			to.quantity, to.waived = to.effect()+r.effect(), 0
		case AggregateMax:
			to.quantity = max(to.quantity, r.quantity)
		case AggregateLast:
			to.quantity = r.quantity
		}
		to.stamp, to.acked, to.allowed = max(to.stamp, r.stamp), max(to.acked, r.acked), to.allowed || r.allowed
	}
	clear(m.records[len(kept):])
	m.records = kept
	m.installLocked(m.figure, tick)
	m.settled = 0
}

// near reports whether two settled records may become one. Of what was accepted, a
// figure that lags contains the earlier before the later, and a customer who never
// pauses would wait for the later for ever. So those are merged that are in one cell
// of a grid, whose cells are at most a quarter as wide as they are old, and each two
// of the one before: what is merged was acknowledged within a third of the time that
// has gone by since the last of it.
func (p *piece) near(r *record, now int64) bool {
	if p.state == pieceLost {
		return true // until its period ends
	}
	grain := int64(1)
	if age := (now - max(p.acked, r.acked)) / 4; age > 0 {
		grain = 1 << (bits.Len64(uint64(age)) - 1)
	}
	return p.acked/grain == r.acked/grain
}
