package entitlements

import (
	"iter"
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
	moves   atomic.Uint32 // of what is not one number: odd while one is under way, see meter.read

	more  atomic.Pointer[moreMeters] // the meters after the first; nil = not even the first
	first meter                      // most customers use one metered feature: no allocation of its own
}

func newAccount(customer string, hash uint64, features *featureIndex) *account {
	a := &account{shard: uint16(hash)}
	a.first.ledger = &ledger{account: a, customer: strings.Clone(customer), features: features}
	return a
}

// customer is the customer's key.
func (a *account) customer() string { return a.first.customer }

// meter finds the meter of a feature, or nil. It takes no lock.
func (a *account) meter(feature string) *meter {
	if a.more.Load() == nil {
		return nil
	}
	if a.first.feature == feature {
		return &a.first
	}
	if s := a.slot(feature); s != nil {
		return s.meter.Load()
	}
	return nil
}

// slot finds the slot of a feature other than the first, or nil.
func (a *account) slot(feature string) *meterSlot {
	if more := a.more.Load(); more != nil {
		return more.find(feature)
	}
	return nil
}

// meterLocked is meter for who moves it, without a look at whether there are any.
func (a *account) meterLocked(feature string) *meter {
	if a.first.feature == feature {
		return &a.first
	}
	m := a.meter(feature)
	if m != nil {
		m.absorbLocked()
	}
	return m
}

// meters yields all of them.
func (a *account) meters() iter.Seq[*meter] {
	return func(yield func(*meter) bool) {
		more := a.more.Load()
		if more == nil || !yield(&a.first) {
			return
		}
		for i := range more.slots {
			if m := more.slots[i].meter.Load(); m != nil && !yield(m) {
				return
			}
		}
	}
}

// addMeterLocked makes the meter of a feature. Its figure is the cached one, if
// there is one.
func (a *account) addMeterLocked(feature string, fold Aggregation) *meter {
	m, more := &a.first, onlyFirst
	old := a.more.Load()
	if old != nil {
		more = old.roomyLocked(a)
		m = more.takeLocked(a)
	}
	// One copy of the code for all customers: comparing it touches no line of its own.
	m.feature, m.fold = intern(feature), fold
	if e := a.first.entry; e != nil {
		m.learnLocked(e)
	}
	m.publishLocked()
	if old != nil {
		more.putLocked(m)
	}
	a.more.Store(more)
	return m
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
// figures. Where a meter holds a figure that the new one must not replace, that one
// stays, and takes the other's place. It reports whether that was so.
func (a *account) attachLocked(e *entry, p *plan, figures []figure, now, tick int64) (patched bool) {
	a.first.entry = e
	for m := range a.meters() {
		g := p.metered(m.feature)
		if m.grant = g; g == nil {
			continue // and what its figure was stays, for what was not delivered yet
		}
		next := m.figure.after(figures[g.own], now)
		if next != figures[g.own] {
			figures[g.own], patched = next, true
		}
		m.installLocked(next, tick)
	}
	return patched
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
