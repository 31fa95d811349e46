package entitlements

import (
	"iter"
	"sync"
	"sync/atomic"
	"unsafe"
)

// An account is the usage of one customer that was counted in this process and
// may be missing from what the backend last told. It outlives the customer's
// cache entry: forgetting it with the entry would let a customer back in that
// has just used up its quota.
//
// It is one cache line, because there are as many as customers in use, and each
// call of Use or Track needs it first.
type account struct {
	mu     sync.Mutex // guards the fields below and those of the meters and their records
	flags  accountFlags
	shard  uint8         // of all that is sharded by customer
	length uint8         // of key
	moves  atomic.Uint32 // of what is not one number: odd while one is under way, see account.read

	entry atomic.Pointer[entry]    // the cache entry that shows the account, nil when there is none
	full  atomic.Pointer[meterSet] // nil: there are no meters
	key   *byte                    // of the customer

	cells  atomic.Pointer[cell]     // the first of so many places
	opens  atomic.Pointer[openCell] // the first of as many; nil: nothing is open, and nothing on its way
	places atomic.Uint32
	placed uint16 // places that are taken
	busy   int16  // records of cells that are not settled
}

type accountFlags uint8

const (
	accountRetired accountFlags = 1 << iota // left the books; a new account takes over
	accountIdle                             // was quiet at the last sweep
	accountQueued                           // waits to be dispatched, for its cells
)

func (a *account) isLocked(f accountFlags) bool { return a.flags&f != 0 }

func (a *account) setLocked(f accountFlags, on bool) {
	if a.flags &^= f; on {
		a.flags |= f
	}
}

// meterSet is the meters of an account. Most customers use one metered feature:
// that is here, and a call of Use needs the first two lines.
type meterSet struct {
	first  meter
	more   atomic.Pointer[moreMeters] // nil: there are no others
	ledger ledger                     // of first
}

// newAccount keeps the key.
func newAccount(customer string, hash uint64) *account {
	return &account{shard: uint8(hash), key: unsafe.StringData(customer), length: uint8(len(customer))}
}

// customer is the customer's key, which is at most [MaxKeyLength] bytes.
func (a *account) customer() string { return unsafe.String(a.key, int(a.length)) }

// meter finds the meter of a feature, or nil. It takes no lock.
func (a *account) meter(feature string) *meter {
	set := a.full.Load()
	if set == nil {
		return nil
	}
	if set.first.feature == feature {
		return &set.first
	}
	if more := set.more.Load(); more != nil {
		return more.find(feature)
	}
	return nil
}

// obtainMeterLocked is meter that makes one where there is none, be it of
// a cell.
func (a *account) obtainMeterLocked(feature string, fold Aggregation, b *books) *meter {
	if m := a.meter(feature); m != nil {
		return m
	}
	if a.places.Load() != 0 {
		if m := a.promoteLocked(b.features.find(feature), b); m != nil {
			return m
		}
	}
	return a.addMeterLocked(feature, fold, b.features)
}

// meters yields all of them.
func (a *account) meters() iter.Seq[*meter] {
	return func(yield func(*meter) bool) {
		set := a.full.Load()
		if set == nil || !yield(&set.first) {
			return
		}
		more := set.more.Load()
		if more == nil {
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
func (a *account) addMeterLocked(feature string, fold Aggregation, features *featureIndex) *meter {
	set := a.full.Load()
	var m *meter
	var more *moreMeters
	if set == nil {
		set = new(meterSet)
		m = &set.first
		m.ledger = &set.ledger
		m.account = a
	} else {
		more = set.more.Load().roomyLocked(features)
		m = more.takeLocked(a)
	}
	// One copy of the code for all customers: comparing it touches no line of its own.
	m.feature, m.fold = intern(feature), fold
	if e := a.entry.Load(); e != nil {
		m.learnLocked(e)
	}
	m.publishLocked()
	if more != nil {
		more.putLocked(m)
		set.more.Store(more)
	}
	a.full.Store(set)
	return m
}

// inheritLocked takes over what the retired account of an entry showed. It was let
// go of because any later figure has it; the entry, which left the cache and is
// read through a handle, may still have the figure from before.
func (a *account) inheritLocked(was *account, e *entry, b *books) {
	for old := range was.meters() {
		m := a.obtainMeterLocked(old.feature, old.fold, b)
		m.learnLocked(e)
		if m.figure.fetched == 0 || m.figure.fetched != old.figure.fetched {
			continue
		}
		v := old.view.Load()
		f := m.figure
		f.used = max(f.used, v.current.Load())
		m.installLocked(f, 0)
		if next := v.next.Load(); next > 0 {
			r := m.newRecord(piece{quantity: next, stamp: f.resets, sent: f.received, acked: f.received, state: pieceAcked})
			m.addLocked(r, 0)
		}
	}
	for c := range was.cellsLocked {
		code := b.features.code(c.number())
		showed, known := was.entry.Load().figureOf(code)
		shows, _ := e.figureOf(code)
		if !known || c.units() == 0 || shows.fetched != showed.fetched || c.isIn(&shows, b.tick) {
			continue
		}
		m := a.obtainMeterLocked(code, AggregateSum, b)
		m.learnLocked(e)
		if f := m.figure; f.fetched == showed.fetched {
			f.used = max(f.used, saturate(showed.used, c.units()))
			m.installLocked(f, 0)
		}
	}
}

// attachLocked makes e the entry that shows a, and lets the meters know its
// figures. Where a meter holds a figure that the new one must not replace, that one
// stays, and takes the other's place. It reports whether that was so.
func (a *account) attachLocked(e *entry, p *plan, figures []figure, now int64, b *books) (patched bool) {
	a.showLocked(e, b)
	a.fitCellsLocked(p, func(g *grant) figure { return figures[g.own] }, b)
	for m := range a.meters() {
		g := p.metered(m.feature)
		if m.grant = g; g == nil {
			continue // and what its figure was stays, for what was not delivered yet
		}
		next := m.figure.after(figures[g.own], now)
		if next != figures[g.own] {
			figures[g.own], patched = next, true
		}
		m.installLocked(next, b.tick)
	}
	return patched
}

// waits reports whether delivered usage waits for a figure that contains it.
func (a *account) waits(b *books) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for m := range a.meters() {
		for _, r := range m.records {
			if r.state == pieceAcked && r.counts == periodCurrent {
				return true
			}
		}
	}
	return a.cellsWaitLocked(b)
}

// quietLocked reports whether nothing in the account can still be missing from
// the figures that its entry shows, or, with no entry, from any later figure:
// a figure that is fetched from now on knows all that was acknowledged before
// since. What was lost before lostSince, and was allowed by a policy with no
// grant known, is no longer waited with for one.
func (a *account) quietLocked(since, lostSince, backendNow int64, b *books) bool {
	e := a.entry.Load()
	cached := e != nil && !e.gone.Load()
	if !a.cellsQuietLocked(cached, since, backendNow, b) {
		return false
	}
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
