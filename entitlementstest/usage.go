package entitlementstest

import (
	"errors"
	"fmt"
	"math/big"
	"time"
)

// UsageCounts is what happened to the usage events that a [Billing] got.
// Refused events are in none of them.
type UsageCounts struct {
	// Accepted events were taken and would be billed.
	Accepted int

	// Duplicates were recognised by their external_id and absorbed.
	Duplicates int

	// Conflicts are those Duplicates that differ from the event that was
	// accepted: two things that happened were given one id, and one is lost.
	Conflicts int

	// Anonymous events were Accepted without an external_id.
	Anonymous int

	// Replayed events came in requests that were answered from a stored
	// response, without being looked at.
	Replayed int

	// DoubleBilled is how many events would have been billed once more if
	// neither external_id nor Idempotency-Key were recognised.
	DoubleBilled int
}

// usageEvent is a validated event that is not accepted yet.
type usageEvent struct {
	subscription, meter, externalID, quantity, properties string
	amount                                                *big.Int
	timestamp                                             time.Time // zero is the moment of acceptance
}

// fieldError is one entry of a problem's errors array.
type fieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

func (e fieldError) Error() string { return e.Field + " " + e.Message }

// accept takes all events, or none when one of them is bad. It reports how many
// were new.
func (l *ledger) accept(events []usageEvent, now func() time.Time) (accepted int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// All are checked before any is added: a batch is atomic.
	var errs []error
	for i := range events {
		e := &events[i]
		if l.subs[e.subscription] == nil {
			errs = append(errs, fieldError{"subscription_id", fmt.Sprintf("%q does not exist", e.subscription)})
		}
		if _, known := l.meters[e.meter]; !known {
			errs = append(errs, fieldError{"meter", fmt.Sprintf("%q does not exist", e.meter)})
		}
	}
	if len(errs) > 0 {
		return 0, errors.Join(errs...)
	}
	at := now()
	for i := range events {
		if l.addLocked(&events[i], at) {
			accepted++
		}
	}
	return accepted, nil
}

// addLocked takes one event, or absorbs it as a duplicate.
func (l *ledger) addLocked(e *usageEvent, at time.Time) (added bool) {
	s := l.subs[e.subscription]
	t := s.tallies[e.meter]
	if t == nil {
		t = &tally{aggregation: l.meters[e.meter].Aggregation, seen: make(map[string]int)}
		s.tallies[e.meter] = t
	}
	if e.timestamp.IsZero() {
		e.timestamp = at
	}
	if i, dup := t.seen[e.externalID]; dup {
		first := &t.events[i]
		if l.dedup == 0 || at.Sub(first.AcceptedAt) < l.dedup {
			l.counts.Duplicates++
			if first.amount.Cmp(e.amount) != 0 || !first.Timestamp.Equal(e.timestamp) || first.Properties != e.properties {
				l.counts.Conflicts++
			}
			return false
		}
	}
	t.add(AcceptedEvent{
		Subscription: e.subscription, Meter: e.meter, ExternalID: e.externalID,
		Quantity: e.quantity, Timestamp: e.timestamp, AcceptedAt: at, Properties: e.properties,
		amount: e.amount,
	})
	l.counts.Accepted++
	if e.externalID == "" {
		l.counts.Anonymous++
	}
	return true
}

// replayed counts the events of a request that was answered from a stored
// response.
func (l *ledger) replayed(events int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Replayed += events
}

// lookup finds a tally of a subscription that exists or once did.
func (l *ledger) lookupLocked(subscription, meter string) *tally {
	s := l.subs[subscription]
	if s == nil {
		s = l.removed[subscription]
	}
	if s == nil {
		return nil
	}
	return s.tallies[meter]
}

// Use accepts n units of a metered feature, in the units of grants, as if
// another program had sent them. It panics when the subscription or the meter
// does not exist.
func (b *Billing) Use(subscription, feature string, n int64) {
	b.ledger.mu.Lock()
	decimals := b.ledger.meters[feature].Decimals
	b.ledger.mu.Unlock()
	amount := fromUnits(n, decimals)
	event := usageEvent{subscription: subscription, meter: feature, quantity: formatDecimal(amount), amount: amount}
	if _, err := b.ledger.accept([]usageEvent{event}, b.Now); err != nil {
		panic("entitlementstest: use: " + err.Error())
	}
}

// Events returns what was accepted for a subscription on a meter, in the order
// of acceptance. The slice is the caller's.
func (b *Billing) Events(subscription, meter string) []AcceptedEvent {
	l := &b.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.lookupLocked(subscription, meter); t != nil {
		return append([]AcceptedEvent(nil), t.events...)
	}
	return nil
}

// Total is the sum of all accepted quantities, whatever their period and the
// meter's aggregation, in the units of grants (see [Meter]), rounded up. It is
// what a test compares with what it recorded.
func (b *Billing) Total(subscription, meter string) int64 {
	l := &b.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.lookupLocked(subscription, meter); t != nil {
		return toUnits(&t.total, l.meters[meter].Decimals)
	}
	return 0
}

// TotalDecimal is Total in the wire's units, exactly.
func (b *Billing) TotalDecimal(subscription, meter string) string {
	l := &b.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.lookupLocked(subscription, meter); t != nil {
		return formatDecimal(&t.total)
	}
	return "0"
}

// Used is what a read would show now as used of a metered feature: the
// aggregate of the current period, in the units of grants, rounded up.
func (b *Billing) Used(subscription, feature string) int64 {
	v, ok := b.ledger.view(subscription, b.Now)
	if f := v.features[feature]; ok && f.used != nil {
		return toUnits(f.used, f.decimals)
	}
	return 0
}

// UsageCounts is what happened to all usage events so far.
func (b *Billing) UsageCounts() UsageCounts {
	l := &b.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := l.counts
	counts.DoubleBilled = counts.Duplicates + counts.Replayed
	return counts
}
