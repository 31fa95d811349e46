package paylera

import (
	"encoding/json"
	"errors"
	"strings"
)

// webhookEvent is what a webhook says, as far as anything here depends on it.
//
// Source: docs.paylera.com, /guides/webhooks.
type webhookEvent struct {
	id            string
	typ           string
	subscriptions []string // whose entitlements it is about; usually one
}

// decodeEvent reads an event's envelope. Members of unexpected types are taken
// for absent, as new event types may bring them.
func decodeEvent(body []byte) (webhookEvent, error) {
	var wire struct {
		ID            loose           `json:"id"`
		Type          loose           `json:"type"`
		AggregateType loose           `json:"aggregate_type"`
		AggregateID   loose           `json:"aggregate_id"`
		Data          json.RawMessage `json:"data"`
	}
	// null and the like are JSON that would decode into an empty event.
	if firstByte(body) != '{' {
		return webhookEvent{}, errors.New("not a JSON object")
	}
	if err := json.Unmarshal(body, &wire); err != nil {
		return webhookEvent{}, err
	}
	e := webhookEvent{id: string(wire.ID), typ: string(wire.Type)}
	if wire.AggregateID != "" && (wire.AggregateType == "" || strings.EqualFold(string(wire.AggregateType), "subscription")) {
		e.subscriptions = append(e.subscriptions, string(wire.AggregateID))
	}
	// Events of other aggregates, a meter's threshold say, name it here.
	var data struct {
		SubscriptionID loose `json:"subscription_id"`
	}
	_ = json.Unmarshal(wire.Data, &data)
	if data.SubscriptionID != "" && data.SubscriptionID != wire.AggregateID {
		e.subscriptions = append(e.subscriptions, string(data.SubscriptionID))
	}
	return e, nil
}

// changesEntitlements reports whether a subscription's entitlements can differ
// after the event.
//
// Source: docs.paylera.com, /guides/webhooks#events.
func (e webhookEvent) changesEntitlements() bool {
	// Listed one by one: a prefix would also take what only changes a name or an
	// invoice, and a reload per customer for it.
	switch e.typ {
	case "subscription.activated", "subscription.updated", "subscription.paused", "subscription.resumed",
		"subscription.past_due", "subscription.canceled", "subscription.reactivated",
		"subscription.trial_started", "subscription.trial_ended", "subscription.trial_extended",
		"subscription.usage_threshold_crossed":
		return true
	}
	return false
}
