package entitlements

import (
	"iter"
	"math"
	"strings"
	"sync"
	"sync/atomic"
)

// An account is the usage of one customer that was counted in this process and
// may be missing from what the backend last told. It outlives the customer's
// cache entry: forgetting it with the entry would let a customer back in that
// has just used up its quota.
//
// A call of Use or Track costs the cache lines that it touches, and the pages. So
// what it needs is apart from the rest, and 128 bytes, a size that the allocator
// aligns: the lock, and the beginning of the first meter.
type account struct {
	mu      sync.Mutex    // guards the fields below and those of the meters and their records
	retired bool          // left the books; a new account takes over
	idle    bool          // was quiet at the last sweep
	shard   uint16        // of all that is sharded by customer
	moves   atomic.Uint32 // of what is held: odd while one is under way, see read

	more  atomic.Pointer[[]*meter] // the meters after the first; grows under mu, read without it; nil = not even the first
	first meter                    // most customers use one metered feature: no allocation of its own
}

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

// ledger is what a call does not need of a meter.
type ledger struct {
	open    *record
	figure  figure // the zero figure until one is known
	account *account
	records []*record // all that may still count, oldest first, open included

	// Of the account, so kept by its first meter only.
	customer string
	entry    *entry // the cache entry that shows the account, nil when there is none
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

// onlyFirst stands for no meters after the first.
var onlyFirst = new([]*meter)

func newAccount(customer string, hash uint64) *account {
	a := &account{shard: uint16(hash)}
	a.first.ledger = &ledger{account: a, customer: strings.Clone(customer)}
	return a
}

// customer is the customer's key.
func (a *account) customer() string { return a.first.customer }

// meter finds the meter of a feature, or nil. It takes no lock. Customers use a
// few metered features, and comparing a few strings beats hashing one.
func (a *account) meter(feature string) *meter {
	more := a.more.Load()
	if more == nil {
		return nil
	}
	if a.first.feature == feature {
		return &a.first
	}
	for _, m := range *more {
		if m.feature == feature {
			return m
		}
	}
	return nil
}

// meterLocked is meter without a look at whether there are any.
func (a *account) meterLocked(feature string) *meter {
	if a.first.feature == feature {
		return &a.first
	}
	return a.meter(feature)
}

// shownLocked is the view that calls move now.
func (m *meter) shownLocked() int64 {
	v := m.view.Load()
	if m.counts == periodNext {
		return v.next.Load()
	}
	return v.current.Load()
}

// meters yields all of them.
func (a *account) meters() iter.Seq[*meter] {
	return func(yield func(*meter) bool) {
		more := a.more.Load()
		if more == nil || !yield(&a.first) {
			return
		}
		for _, m := range *more {
			if !yield(m) {
				return
			}
		}
	}
}

// addMeterLocked makes the meter of a feature. Its figure is the cached one, if
// there is one.
func (a *account) addMeterLocked(feature string, fold Aggregation) *meter {
	m, more := &a.first, onlyFirst
	if old := a.more.Load(); old != nil {
		m = &meter{ledger: &ledger{account: a}}
		grown := append((*old)[:len(*old):len(*old)], m)
		more = &grown
	}
	// One copy of the code for all customers: comparing it touches no line of its own.
	m.feature, m.fold = intern(feature), fold
	if e := a.first.entry; e != nil {
		m.learnLocked(e)
	}
	m.publishLocked()
	a.more.Store(more)
	return m
}

// learnLocked takes over the figure that an entry shows, when none is known.
func (m *meter) learnLocked(e *entry) {
	if m.figure.fetched != 0 {
		return
	}
	if p, o := e.content(); o != nil {
		if g := p.metered(m.feature); g != nil {
			m.grant = g
			m.installLocked(o.figures[g.own], 0)
		}
	}
}

// inheritLocked takes over what the retired account of an entry showed. It was let
// go of because any later figure has it; the entry, which left the cache and is
// read through a handle, may still have the figure from before.
func (a *account) inheritLocked(was *account, e *entry) {
	for old := range was.meters() {
		m := a.meter(old.feature)
		if m == nil {
			m = a.addMeterLocked(old.feature, old.fold)
		}
		m.learnLocked(e)
		if m.figure.fetched == 0 || m.figure.fetched != old.figure.fetched {
			continue
		}
		v := old.view.Load()
		f := m.figure
		f.used = max(f.used, v.current.Load())
		m.installLocked(f, 0)
		if next := v.next.Load(); next > 0 {
			r := &record{meter: m, piece: piece{quantity: next, stamp: f.resets, sent: f.received, acked: f.received, state: pieceAcked}}
			m.addLocked(r, 0)
		}
	}
}

// attachLocked makes e the entry that shows a, and lets the meters know its
// figures. It returns the own part to install: where a meter holds a figure that
// the new one must not replace, that one stays.
func (a *account) attachLocked(e *entry, p *plan, o *own, now, tick int64) *own {
	a.first.entry = e
	var patched []figure
	for m := range a.meters() {
		g := p.metered(m.feature)
		if m.grant = g; g == nil {
			continue // and what its figure was stays, for what was not delivered yet
		}
		next := m.figure.after(o.figures[g.own], now)
		if next != o.figures[g.own] {
			if patched == nil {
				patched = append(patched, o.figures...)
			}
			patched[g.own] = next
		}
		m.installLocked(next, tick)
	}
	if patched == nil {
		return o
	}
	merged := *o
	merged.figures = patched
	return &merged
}

// read is the local view of one of the account's meters at a moment on the
// backend's clock: what is used and what is held at one moment, although they are
// two numbers. Nobody moved what is held in between when moves is even, and the
// same before and after. For a writer that is interrupted in the middle it waits
// as every other writer does.
func (a *account) read(v *view, now int64) meterRead {
	for range 64 {
		before := a.moves.Load()
		r := v.read(now)
		if before&1 == 0 && a.moves.Load() == before {
			return r
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return v.read(now)
}

// read is for who holds the account's lock, or needs only one of the numbers.
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

// waits reports whether delivered usage waits for a figure that contains it.
func (a *account) waits() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for m := range a.meters() {
		for _, r := range m.records {
			if r.state == pieceAcked && r.counts == periodCurrent {
				return true
			}
		}
	}
	return false
}

// maxSettled is how many settled records a meter keeps apart before they are
// compacted. A customer that is counted but not checked is not refreshed, so no
// figure takes them off.
const maxSettled = 16

// compactLocked merges records that only wait for a figure to contain them, when
// as many as are left from the last time have been added. Each field takes the
// value that keeps the merged record counted for longest, so the view can be late
// to shrink, never early.
func (m *meter) compactLocked(tick int64) {
	m.settled = min(m.settled, math.MaxUint8-1) + 1
	if int(m.settled) <= min(max(maxSettled, len(m.records)/2), math.MaxUint8-1) || m.fold == AggregateUnique {
		return
	}
	var into [2][3]*record // by acked or lost, and period
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
		to := into[lost][r.counts]
		if to == nil || m.fold == AggregateSum && saturate(to.effect(), r.effect()) == Unlimited {
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
		to.stamp, to.acked = max(to.stamp, r.stamp), max(to.acked, r.acked)
	}
	clear(m.records[len(kept):])
	m.records = kept
	m.installLocked(m.figure, tick)
	m.settled = 0
}

// quietLocked reports whether nothing in the account can still be missing from
// the figures that its entry shows, or, with no entry, from any later figure:
// a figure that is fetched from now on knows all that was acknowledged before
// since. What was lost before lostSince, and was allowed by a policy with no
// grant known, is no longer waited with for one.
func (a *account) quietLocked(since, lostSince, backendNow int64) bool {
	e := a.first.entry
	cached := e != nil && !e.gone.Load()
	for m := range a.meters() {
		if m.view.Load().held.Load() != 0 {
			return false
		}
		f := &m.figure
		for _, r := range m.records {
			switch {
			case !r.settled():
				return false
			case r.counts == periodPast || f.resets != 0 && r.counts == periodCurrent && backendNow >= f.resets:
				// Its period is over.
			case r.state == pieceLost:
				// It was allowed by a grant that this process has seen, and no later
				// figure will know of it. Without a grant nothing was allowed.
				if f.fetched != 0 || r.allowed && r.acked >= lostSince {
					return false
				}
			case cached || r.acked >= since:
				return false
			}
		}
	}
	return true
}
