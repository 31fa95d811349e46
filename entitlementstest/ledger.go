package entitlementstest

import (
	"maps"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/entitlements-go/entitlements"
)

// ledger is what the billing API knows: subscriptions, their grants, and the
// usage that it accepted. One lock over all of it makes every answer a moment in
// time: as_of, the figures, and what a batch added or did not.
type ledger struct {
	lag   time.Duration
	dedup time.Duration

	mu        sync.Mutex // guards everything below
	meters    map[string]Meter
	subs      map[string]*subscription
	removed   map[string]*subscription // what they used stays countable
	customers map[string]string        // customer id -> subscription id
	ids       []string                 // sorted, for paging; nil when it must be made again
	counts    UsageCounts
}

// subscription is guarded by the ledger's lock.
type subscription struct {
	id, customer, plan string
	grants             map[string]entitlements.Grant
	version            uint64 // of all but usage
	tallies            map[string]*tally
}

// view is a subscription at one moment, safe to encode without the lock.
type view struct {
	id, customer, plan string
	version            uint64
	asOf               time.Time
	features           map[string]figure
}

// figure is one feature of a view.
type figure struct {
	grant    entitlements.Grant
	used     *big.Int // metered grants only, in decimalPlaces
	decimals int
}

// init makes an empty ledger.
func (l *ledger) init(cfg BillingConfig) {
	l.lag, l.dedup = cfg.UsageLag, cfg.DedupWindow
	l.meters = maps.Clone(cfg.Meters)
	if l.meters == nil {
		l.meters = make(map[string]Meter)
	}
	l.subs = make(map[string]*subscription)
	l.removed = make(map[string]*subscription)
	l.customers = make(map[string]string)
}

// put creates or replaces. A nil plan leaves the plan as it is.
func (l *ledger) put(id string, plan *string, grants map[string]entitlements.Grant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.subs[id]
	if s == nil {
		// A subscription that comes back keeps its history, so that an event of
		// its first life is still recognised.
		if s = l.removed[id]; s == nil {
			s = &subscription{id: id, customer: id, tallies: make(map[string]*tally)}
		}
		delete(l.removed, id)
		l.subs[id], l.ids = s, nil
		l.customers[s.customer] = id
	}
	if plan != nil {
		s.plan = *plan
	}
	// The caller's map stays the caller's; ours changes when a period rolls over.
	s.grants = maps.Clone(grants)
	s.version++
	for code, grant := range grants {
		if _, known := l.meters[code]; !known && grant.Kind == entitlements.KindMetered {
			l.meters[code] = Meter{}
		}
	}
}

// setCustomer gives a subscription another customer id. The old one is free then.
func (l *ledger) setCustomer(id, customer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.subs[id]; s != nil {
		delete(l.customers, s.customer)
		s.customer = customer
		l.customers[customer] = id
		s.version++
	}
}

// remove keeps the subscription aside: what it used is still asked for.
func (l *ledger) remove(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.subs[id]; s != nil {
		delete(l.subs, id)
		delete(l.customers, s.customer)
		l.removed[id], l.ids = s, nil
	}
}

// view reads a subscription as of now, or reports that there is none. The clock
// is read under the lock: nothing can be accepted between the two.
func (l *ledger) view(id string, now func() time.Time) (view, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.subs[id]
	if s == nil {
		return view{}, false
	}
	v := view{id: s.id, customer: s.customer, plan: s.plan, asOf: now()}
	v.features = make(map[string]figure, len(s.grants))
	for code := range s.grants {
		grant := s.rollLocked(code, v.asOf)
		f := figure{grant: grant}
		if grant.Kind == entitlements.KindMetered {
			meter := l.meters[code]
			f.decimals = meter.Decimals
			f.used = fromUnits(grant.Used, meter.Decimals)
			if t := s.tallies[code]; t != nil {
				f.used.Add(f.used, t.used(grant, v.asOf, l.lag))
			}
		}
		v.features[code] = f
	}
	v.version = s.version // after the loop: a rollover changes the content
	return v, true
}

// rollLocked returns a grant in the period that now lies in. A grant that knows
// its period's start goes on in periods of the same length; one that does not
// has no further reset. (Assumption: no page says how periods follow.)
func (s *subscription) rollLocked(code string, now time.Time) entitlements.Grant {
	g := s.grants[code]
	if g.Kind != entitlements.KindMetered || g.ResetsAt.IsZero() || now.Before(g.ResetsAt) {
		return g
	}
	length := g.ResetsAt.Sub(g.PeriodStart)
	if g.PeriodStart.IsZero() || length <= 0 {
		g.PeriodStart, g.ResetsAt = g.ResetsAt, time.Time{}
	} else {
		periods := now.Sub(g.ResetsAt)/length + 1
		g.PeriodStart = g.ResetsAt.Add((periods - 1) * length)
		g.ResetsAt = g.PeriodStart.Add(length)
	}
	g.Used = 0
	s.grants[code] = g
	s.version++
	return g
}

// page returns up to limit subscriptions after the id cursor, in order of id.
func (l *ledger) page(cursor string, limit int) (rows []view, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ids == nil {
		l.ids = slices.Sorted(maps.Keys(l.subs))
	}
	// The cursor need not exist any more: the page goes on after where it was.
	from, found := slices.BinarySearch(l.ids, cursor)
	if found {
		from++
	}
	rest := l.ids[from:]
	more = len(rest) > limit
	for _, id := range rest[:min(limit, len(rest))] {
		s := l.subs[id]
		rows = append(rows, view{id: s.id, customer: s.customer, plan: s.plan})
	}
	return rows, more
}

// byCustomer finds a subscription id by customer id.
func (l *ledger) byCustomer(customer string) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id, ok := l.customers[customer]
	return id, ok
}
