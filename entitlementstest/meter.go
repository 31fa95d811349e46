package entitlementstest

import (
	"math/big"
	"time"

	"github.com/entitlements-go/entitlements"
)

// Meter is how a [Billing] counts one kind of usage.
type Meter struct {
	// Aggregation folds the events of a period. Defaults to AggregateSum. Unique
	// counts distinct pairs of quantity and properties. (Assumption: no page
	// says what unique_count tells apart.)
	Aggregation entitlements.Aggregation

	// Decimals says that 10^Decimals of the units in grants, totals and
	// [Billing.Used] make one unit on the wire: with 3, a Limit of 1500 is the
	// wire's 1.5. Between 0 and 9.
	Decimals int
}

// AcceptedEvent is a usage event that a [Billing] accepted and would bill.
type AcceptedEvent struct {
	Subscription, Meter string

	// ExternalID is empty when the client sent none; then nothing recognises a
	// second copy of the event.
	ExternalID string

	// Quantity is as it was sent, a decimal.
	Quantity string

	// Timestamp is the client's, AcceptedAt the backend's clock.
	Timestamp, AcceptedAt time.Time

	// Properties is the JSON that was sent, or empty.
	Properties string

	amount *big.Int
}

// tally is the usage of one subscription on one meter, guarded by the ledger's
// lock.
type tally struct {
	aggregation entitlements.Aggregation
	events      []AcceptedEvent
	seen        map[string]int // external id -> index in events
	total       big.Int        // of all events, whatever their period

	// The fold of the period [start, end) that was last asked for, kept so that
	// a read does not go through all events.
	start, end time.Time
	current    fold
}

func (t *tally) add(e AcceptedEvent) {
	if e.ExternalID != "" {
		t.seen[e.ExternalID] = len(t.events)
	}
	t.events = append(t.events, e)
	t.total.Add(&t.total, e.amount)
	if within(e.Timestamp, t.start, t.end) {
		t.current.add(t.aggregation, &e)
	}
}

// used is what the events of a grant's current period come to. An event counts
// in the period that its timestamp lies in, whenever it arrived.
func (t *tally) used(g entitlements.Grant, now time.Time, lag time.Duration) *big.Int {
	if lag > 0 {
		seen, late := fold{}, now.Add(-lag)
		for i := range t.events {
			if e := &t.events[i]; !e.AcceptedAt.After(late) && within(e.Timestamp, g.PeriodStart, g.ResetsAt) {
				seen.add(t.aggregation, e)
			}
		}
		return seen.value(t.aggregation)
	}
	if !t.start.Equal(g.PeriodStart) || !t.end.Equal(g.ResetsAt) {
		t.start, t.end, t.current = g.PeriodStart, g.ResetsAt, fold{}
		for i := range t.events {
			if e := &t.events[i]; within(e.Timestamp, t.start, t.end) {
				t.current.add(t.aggregation, e)
			}
		}
	}
	return t.current.value(t.aggregation)
}

// within reports whether at lies in [start, end), where zero is open.
func within(at, start, end time.Time) bool {
	return !at.Before(start) && (end.IsZero() || at.Before(end))
}

// fold is the aggregate of a number of events. The zero fold has none.
type fold struct {
	any      bool
	amount   big.Int // the sum, the maximum or the last
	lastAt   time.Time
	distinct map[string]struct{}
}

func (f *fold) add(how entitlements.Aggregation, e *AcceptedEvent) {
	switch how {
	case entitlements.AggregateMax:
		if !f.any || e.amount.Cmp(&f.amount) > 0 {
			f.amount.Set(e.amount)
		}
	case entitlements.AggregateLast:
		// The latest by timestamp; of two at the same moment the one that arrived
		// later.
		if !f.any || !e.Timestamp.Before(f.lastAt) {
			f.amount.Set(e.amount)
			f.lastAt = e.Timestamp
		}
	case entitlements.AggregateUnique:
		if f.distinct == nil {
			f.distinct = make(map[string]struct{})
		}
		f.distinct[e.amount.String()+" "+e.Properties] = struct{}{}
	default:
		f.amount.Add(&f.amount, e.amount)
	}
	f.any = true
}

// value returns a copy: the caller adds to it.
func (f *fold) value(how entitlements.Aggregation) *big.Int {
	if how == entitlements.AggregateUnique {
		return fromUnits(int64(len(f.distinct)), 0)
	}
	return new(big.Int).Set(&f.amount)
}
