package entitlements

import (
	"strings"
	"sync"
	"sync/atomic"
)

// An account is the usage of one customer that was counted in this process and
// may be missing from what the backend last told. It outlives the customer's
// cache entry: forgetting it with the entry would let a customer back in that
// has just used up its quota.
type account struct {
	customer string
	hash     uint64
	meters   atomic.Pointer[[]*meter] // grows under mu, read without it

	mu      sync.Mutex // guards the fields below and those of the meters and their records
	retired bool       // left the books; a new account takes over
	idle    bool       // was quiet at the last sweep
	entry   *entry     // the cache entry that shows this account, nil when there is none
	first   meter      // most customers use one metered feature: no allocation of its own
}

// A meter is the local view of one metered feature of one customer.
//
// Writers hold the account's lock. Readers take the two views, of the figure's
// period and of the one that follows, and the boundary between them, so that a
// period that ends is seen at the moment of the check, with nobody writing.
type meter struct {
	account *account
	feature string
	fold    Aggregation

	view atomic.Pointer[view]

	figure  figure    // the zero figure until one is known
	open    *record   // takes further calls, nil when there is none
	records []*record // all that may still count, oldest first, open included
	settled int       // how many of them are, since they were last compacted

	extra, extraNext wide // what the records add, AggregateSum only
}

// view is what readers see of a meter. Its boundary never changes: a figure of
// another period comes with a view of its own, so that nobody reads the usage of
// one period beside the boundary of another.
type view struct {
	resets  int64 // backend; 0 = never
	current atomic.Int64
	next    atomic.Int64
}

func newAccount(customer string, hash uint64) *account {
	a := &account{customer: strings.Clone(customer), hash: hash}
	a.meters.Store(new([]*meter))
	return a
}

// meter finds the meter of a feature, or nil. It takes no lock. Customers use a
// few metered features, and comparing a few strings beats hashing one.
func (a *account) meter(feature string) *meter {
	for _, m := range *a.meters.Load() {
		if m.feature == feature {
			return m
		}
	}
	return nil
}

// addMeterLocked makes the meter of a feature. The figure is the cached one, if
// there is one.
func (a *account) addMeterLocked(feature string, fold Aggregation) *meter {
	m := &a.first
	old := *a.meters.Load()
	if len(old) > 0 {
		m = new(meter)
	}
	m.account, m.feature, m.fold = a, strings.Clone(feature), fold
	if a.entry != nil {
		if p, o := a.entry.content(); o != nil {
			if g := p.look(feature); g != nil && g.own >= 0 {
				m.figure = o.figures[g.own]
			}
		}
	}
	m.publishLocked()
	grown := append(old[:len(old):len(old)], m)
	a.meters.Store(&grown)
	return m
}

// attachLocked makes e the entry that shows a, and lets the meters know its
// figures. It returns the own part to install: where a meter holds a figure that
// the new one must not replace, that one stays.
func (a *account) attachLocked(e *entry, p *plan, o *own, now, tick int64) *own {
	a.entry = e
	if o == nil {
		return o
	}
	var patched []figure
	for _, m := range *a.meters.Load() {
		g := p.look(m.feature)
		if g == nil || g.own < 0 {
			continue
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

// used is the local view at a moment on the backend's clock.
func (m *meter) used(now int64) int64 {
	v := m.view.Load()
	if v.resets != 0 && now >= v.resets {
		return v.next.Load()
	}
	return v.current.Load()
}

// installLocked takes over a figure and lets go of the records that it contains.
func (m *meter) installLocked(f figure, tick int64) {
	if m.open != nil && f.resets != m.figure.resets {
		// The open record may span the new boundary: cut it here. It stays with
		// the batcher, which sends it as it is.
		m.open = nil
	}
	m.figure, m.settled = f, 0
	kept := m.records[:0]
	m.extra, m.extraNext = wide{}, wide{}
	for _, r := range m.records {
		in := f.period(r.stamp)
		if r.settled() && (in == periodPast || in == periodCurrent && f.contains(&r.piece, tick)) {
			continue
		}
		kept = append(kept, r)
		if r.settled() {
			m.settled++
		}
		r.counted, r.counts = f.missing(&r.piece, tick)
		m.addLocked(r.counted, r.counts)
	}
	clear(m.records[len(kept):])
	m.records = kept
	m.publishLocked()
}

// recountLocked follows a change of one record's state.
func (m *meter) recountLocked(r *record, tick int64) {
	counted, counts := m.figure.missing(&r.piece, tick)
	if counted == r.counted && counts == r.counts {
		return
	}
	switch r.counts {
	case periodCurrent:
		m.extra.sub(r.counted)
	case periodNext:
		m.extraNext.sub(r.counted)
	}
	r.counted, r.counts = counted, counts
	m.addLocked(r.counted, r.counts)
	m.publishLocked()
}

func (m *meter) addLocked(n int64, to period) {
	switch to {
	case periodCurrent:
		m.extra.add(n)
	case periodNext:
		m.extraNext.add(n)
	}
}

// publishLocked makes the views what readers see.
func (m *meter) publishLocked() {
	var current, next int64
	switch m.fold {
	case AggregateSum:
		current, next = m.extra.plus(m.figure.used), m.extraNext.plus(0)
	case AggregateUnique:
		// Only the backend can tell a new value from a known one.
		current = m.figure.used
	default:
		current, next = m.foldLocked()
	}
	v := m.view.Load()
	fresh := v == nil || v.resets != m.figure.resets
	if fresh {
		v = &view{resets: m.figure.resets}
	}
	v.current.Store(current)
	v.next.Store(next)
	if fresh {
		m.view.Store(v)
	}
}

// foldLocked folds the records that count as the backend will.
func (m *meter) foldLocked() (current, next int64) {
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
	for _, m := range *a.meters.Load() {
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
	if m.settled++; m.settled <= max(maxSettled, len(m.records)/2) || m.fold == AggregateUnique {
		return
	}
	var into [2][3]*record // by acked or lost, and period
	kept := m.records[:0]
	apart := false // AggregateLast must keep the order of those not settled
	for _, r := range m.records {
		apart = apart || !r.settled()
		if !r.settled() || r.quantity < 0 || apart && m.fold == AggregateLast {
			kept = append(kept, r)
			continue
		}
		lost := 0
		if r.state == pieceLost {
			lost = 1
		}
		to := into[lost][r.counts]
		if to == nil || m.fold == AggregateSum && saturate(to.quantity, r.quantity) == Unlimited {
			into[lost][r.counts] = r
			kept = append(kept, r)
			continue
		}
		switch m.fold {
		case AggregateSum:
			to.quantity += r.quantity
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
// since.
func (a *account) quietLocked(since, backendNow int64) bool {
	cached := a.entry != nil && !a.entry.gone.Load()
	for _, m := range *a.meters.Load() {
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
				if f.fetched != 0 {
					return false
				}
			case cached || r.acked >= since:
				return false
			}
		}
	}
	return true
}
