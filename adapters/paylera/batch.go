package paylera

import (
	"context"
	"errors"

	"github.com/entitlements-go/entitlements"
)

// deliverBatch sends a batch as one atomic request, the Core family's way.
//
// Records that can't be sent (no subscription, a failed look-up) are left out
// and reported by index, so that one customer never holds up the others.
//
// Source: docs.paylera.com, /api/usage: at most 1000 events, all or none, no
// errors per event; quantity a decimal string, timestamp in UTC with
// milliseconds.
func (a *Adapter) deliverBatch(ctx context.Context, batch entitlements.Batch) error {
	if len(batch.Usage) > maxBatch {
		// Permanent gets it halved, which is all that it lacks.
		return entitlements.Permanent(&Error{Endpoint: "POST /v1/usage/batch", kind: ErrTooLarge, unsent: true})
	}
	outcomes := make([]outcome, len(batch.Usage))
	indexes := make([]int, 0, len(batch.Usage))
	routes := make(map[int]string, len(batch.Usage))
	events := make([]map[string]any, 0, len(batch.Usage))
	// Each record is routed on its own: one batch holds many customers.
	route := a.newRouter(ctx)
	for i := range batch.Usage {
		u := &batch.Usage[i]
		subscription, failed := route.to(u)
		if failed.err != nil {
			outcomes[i] = failed
			continue
		}
		e, err := a.prepare(u, subscription)
		if err != nil {
			outcomes[i] = outcome{fateRejected, 0, err}
			continue
		}
		events = append(events, a.usageEvent(u, e))
		indexes = append(indexes, i)
		routes[i] = subscription
	}
	if len(events) == 0 {
		return settle(outcomes)
	}
	body := encode(map[string]any{"events": events})
	id := batch.ID
	if id == "" || len(events) != len(batch.Usage) {
		// The same key must never come with another body, and what is left out
		// can differ from one attempt to the next.
		id += "-" + hash(string(body))[:16]
	}
	got := outcomeOf(a.post(ctx, "/v1/usage/batch", id, body, true), len(events) == 1)
	if got.fate == fateRejected && len(events) > 1 {
		// Which one is bad, nobody says. Nothing was accepted: the Client halves
		// the batch, the records that were left out included.
		return entitlements.Permanent(got.err)
	}
	// All or none: what was sent shares one fate.
	for _, i := range indexes {
		outcomes[i] = got
		a.pins.settle(&batch.Usage[i], routes[i], got.fate)
	}
	return settle(outcomes)
}

// usageEvent is a record as the API wants it. external_id is what makes any
// retry safe, whatever becomes of the Idempotency-Key.
func (a *Adapter) usageEvent(u *entitlements.Usage, e event) map[string]any {
	// A meter and the feature that it feeds have the same code more often than not.
	meter := a.config.Meters[u.Feature]
	if meter == "" {
		meter = u.Feature
	}
	m := map[string]any{
		"subscription_id": e.subscription,
		"meter":           meter,
		"quantity":        e.quantity,
		"external_id":     e.id,
	}
	a.addOptional(m, "timestamp", u, e)
	return m
}

// addOptional adds what a record may lack.
func (a *Adapter) addOptional(m map[string]any, timestampField string, u *entitlements.Usage, e event) {
	if e.timestamp != "" && timestampField != "-" {
		m[timestampField] = e.timestamp
	}
	if a.config.PropertiesField != "" && len(u.Properties) > 0 {
		m[a.config.PropertiesField] = u.Properties
	}
}

// errNoSubscription is final: nobody could be billed. The record can be redriven
// once the customer has a subscription.
var errNoSubscription = errors.New("paylera: the customer has no subscription")
