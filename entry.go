package entitlements

import (
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// An entry is what the cache keeps of one customer. It is mutable: a refresh
// changes it in place, so the cache never sets a key twice and a handle that
// points at it sees every refresh. The table has a copy of what a check needs:
// whoever changes that publishes it.
//
// Readers take no lock, so writers order their stores (see content). All that a
// check through a handle reads is the first cache line, and the way to what is
// counted here. It is 128 bytes, a size that the allocator aligns.
type entry struct {
	plan atomic.Pointer[plan] // never nil: see nothing

	// own is what the customer does not share with others of its plan. It names
	// its plan, so that a metered verdict reads both from one place. nil when
	// there is nothing.
	own atomic.Pointer[own]

	// fetched is the precise time at which the fetch of the content began. It is
	// stored last: until MaxStale after it the content answers.
	fetched atomic.Int64

	// staleAt is the coarse time from which the snapshot counts as stale; 0 when
	// it was invalidated.
	staleAt atomic.Int64

	lastUse atomic.Int64 // coarse, written at most once per tick
	pending atomic.Uint32
	gone    atomic.Bool // left the cache; a handle may still hold it

	// account is the usage of this customer that was counted here and that the
	// backend may not have told of yet. nil when there is none.
	account atomic.Pointer[account]

	denyAt atomic.Int64 // coarse time from which a denial asks for a refresh

	key      string
	startSeq atomic.Uint64 // of the fetch that brought the content; 0 for content of an earlier run of the program
	used     atomic.Uint32 // the turn in which it was used last: see cache.tell

	inWindow bool  // guarded by cache.mu, like the next
	seenUsed uint8 // the low bits of used when it got its place in the window

	failures uint16     // loads failed in a row; like the fields below, guarded by mu
	mu       sync.Mutex // guards the writes of the entry
	staleSeq uint64     // of the last Invalidate
	failed   *failure   // the last load, when it failed; set for good when there is nothing else

	due int64 // guarded by refresher.mu: when the next refresh is due
}

// newEntry copies the key: a caller's may be part of something larger.
func newEntry(key string, now int64) *entry {
	e := &entry{key: strings.Clone(key)}
	e.plan.Store(nothing)
	e.fetched.Store(never)
	e.lastUse.Store(now)
	return e
}

// nothing is the plan of an entry that has no content, or none any more. It has
// no verdicts, so whoever reads it looks closer.
var nothing = new(plan)

// never is when what an entry does not have was fetched.
const never = math.MinInt64 / 2

// Values of entry.pending: what the refresher has in mind for it.
const (
	refreshNone    uint32 = iota // nothing: it was idle when it was due, or gone
	refreshLater                 // waits in the wheel until it is due
	refreshLoading               // is being loaded for the refresher
	refreshQueued                // is due
	refreshUrgent                // was invalidated, and the reload that knows of it has not begun
)

// content returns the plan and the customer's own part of one and the same
// snapshot.
//
// storeLocked sets own before plan when there is an own part, and plan before a
// nil own when there is none. So an own part that is seen has its plan in it, and
// where none is seen a plan that needs one can only be a store that is under way:
// then the own part is there at the next look.
func (e *entry) content() (*plan, *own) {
	for {
		if o := e.own.Load(); o != nil {
			return o.plan, o
		}
		if p := e.plan.Load(); p.dated == 0 {
			return p, nil
		}
	}
}

// touch notes that the customer is in use. One store per tick and customer, so
// that readers on several cores do not take the line from each other.
func (e *entry) touch(now int64) {
	if e.lastUse.Load() != now {
		e.lastUse.Store(now)
	}
}

// storeLocked makes p and o what readers see. e.mu is held.
func (e *entry) storeLocked(p *plan, o *own) {
	if o != nil {
		e.own.Store(o)
		e.plan.Store(p)
		return
	}
	e.plan.Store(p)
	e.own.Store(nil)
}

// export is the snapshot as a Source would have answered it; nil without one.
func (e *entry) export() *Entitlements {
	p, o := e.content()
	if p == nothing {
		return nil
	}
	out := &Entitlements{Customer: strings.Clone(e.key), Plan: p.name, Features: make(map[string]Grant, len(p.grants))}
	if o != nil {
		out.Version, out.AsOf, out.ServerTime = o.version, fromNanos(o.reading.asOf), fromNanos(o.reading.serverTime)
	}
	for i := range p.grants {
		g := &p.grants[i]
		grant := Grant{Kind: g.kind, Enabled: g.enabled, Limit: g.limit, Soft: g.soft, Text: g.text}
		if g.own >= 0 && o != nil {
			f := o.figure(g)
			grant.Used = f.used
			grant.PeriodStart, grant.ResetsAt, grant.ExpiresAt = fromNanos(f.start), fromNanos(f.resets), fromNanos(f.expires)
		}
		out.Features[g.code] = grant
	}
	return out
}

// blank reports whether there is no content: not loaded yet, or forgotten.
func (e *entry) blank() bool { return e.plan.Load() == nothing || e.fetched.Load() == never }

// age is how old the content is, 0 when there is none, or none any more.
func (e *entry) age(now int64) time.Duration {
	fetched := e.fetched.Load()
	if fetched == never {
		return 0
	}
	return time.Duration(max(0, now-fetched))
}
