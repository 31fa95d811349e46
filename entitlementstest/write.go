package entitlementstest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

const (
	maxBatch      = 1000
	maxExternalID = 255 // assumption: the pages bound the header, not this
)

// usageRequest is a decoded usage request: its events, or what is wrong with it.
type usageRequest struct {
	events    []wireEvent
	malformed error
}

// wireEvent is a usage event in either spelling. Raw fields tell "absent" from
// "of the wrong type".
type wireEvent struct {
	Subscription string          `json:"subscription_id"`
	Customer     string          `json:"customer_id"`
	Meter        string          `json:"meter"`
	Feature      string          `json:"feature_code"`
	Quantity     json.RawMessage `json:"quantity"`
	Value        json.RawMessage `json:"value"`
	Timestamp    string          `json:"timestamp"`
	ExternalID   string          `json:"external_id"`
	Properties   json.RawMessage `json:"properties"`
}

// decodeUsage reads a request before it is admitted, since rate limits count
// events. What is wrong with it is told later, when it has passed the door.
func decodeUsage(route Route, body []byte) (request usageRequest) {
	if route == RouteUsageBatch {
		var batch struct {
			Events []wireEvent `json:"events"`
		}
		request.malformed = json.Unmarshal(body, &batch)
		request.events = batch.Events
		return request
	}
	request.events = make([]wireEvent, 1)
	request.malformed = json.Unmarshal(body, &request.events[0])
	return request
}

// acceptUsage answers the three usage routes: all events are accepted, or none.
func (b *Billing) acceptUsage(x *exchange) (a answer, accepted int) {
	wire := x.usage.events
	switch {
	case x.usage.malformed != nil:
		return x.problem(problemMalformed().because(x.usage.malformed.Error())), 0
	case len(wire) == 0 || len(wire) > maxBatch:
		return x.problem(problemInvalid(fieldError{"events", fmt.Sprintf("must have 1 to %d entries", maxBatch)})), 0
	}
	// All events are validated, not only up to the first bad one: the problem
	// then names everything that is wrong, once each.
	events := make([]usageEvent, len(wire))
	var errs []error
	for i := range wire {
		var bad []error
		events[i], bad = b.event(x.route, &wire[i])
		errs = append(errs, bad...)
	}
	err := errors.Join(errs...)
	added := 0
	if err == nil {
		added, err = b.ledger.accept(events, b.Now)
	}
	if err != nil {
		return x.problem(problemInvalid(err)), 0
	}
	// Assumption: the pages give the status and not the body.
	body := fmt.Appendf(nil, `{"accepted":%d,"duplicates":%d}`, added, len(events)-added)
	return answer{status: http.StatusAccepted, contentType: "application/json", body: body}, len(events)
}

// event validates one event, as strictly as the pages let one read them.
func (b *Billing) event(route Route, w *wireEvent) (e usageEvent, bad []error) {
	fail := func(field, message string) { bad = append(bad, fieldError{field, message}) }
	e.subscription, e.meter, e.externalID = w.Subscription, w.Meter, w.ExternalID
	amount := w.Quantity
	if route == RouteTrack {
		// A feature is counted by the meter of the same code. (Assumption: no page
		// says how the two are mapped.)
		e.meter = w.Feature
		if e.subscription == "" && w.Customer != "" {
			var known bool
			if e.subscription, known = b.ledger.byCustomer(w.Customer); !known {
				fail("customer_id", fmt.Sprintf("%q does not exist", w.Customer))
			}
		}
		if e.meter == "" {
			fail("feature_code", "is required")
		}
		// Two of the vendor's pages differ here, so that both are taken; both at
		// once is a client that does not know what it sends.
		switch {
		case w.Quantity != nil && w.Value != nil:
			fail("value", "must not be beside quantity")
		case w.Value != nil:
			amount = w.Value
		}
	} else if e.meter == "" {
		fail("meter", "is required")
	}
	if e.subscription == "" && len(bad) == 0 {
		fail("subscription_id", "is required")
	}
	// A value may be a JSON number, a quantity may not: the pages have it as a
	// string, since numbers lose digits on their way through other languages.
	bare := route == RouteTrack && w.Value != nil && len(amount) > 0 && amount[0] != '"'
	var ok bool
	if bare {
		e.quantity = string(amount)
	} else if err := json.Unmarshal(amount, &e.quantity); err != nil {
		fail("quantity", "must be a decimal string")
	}
	if e.amount, ok = parseDecimal(e.quantity); !ok && len(bad) == 0 {
		fail("quantity", fmt.Sprintf("%.50q is not a decimal", e.quantity))
	}
	// A track call may leave out when it happened. (Assumption: then it is now.)
	if w.Timestamp != "" || route != RouteTrack {
		// An offset other than Z is refused, though it would name the same moment:
		// the pages ask for UTC, and a lenient test double hides a bug.
		var err error
		if e.timestamp, err = time.Parse(time.RFC3339, w.Timestamp); err != nil || !strings.HasSuffix(w.Timestamp, "Z") {
			fail("timestamp", "must be RFC 3339 in UTC")
		}
	}
	if len(e.externalID) > maxExternalID {
		fail("external_id", "is longer than 255 bytes")
	}
	if len(w.Properties) > 0 && !bytes.Equal(w.Properties, []byte("null")) {
		// Compacted, so that two spellings of one object are one.
		var compact bytes.Buffer
		if err := json.Compact(&compact, w.Properties); err != nil || compact.Bytes()[0] != '{' {
			fail("properties", "must be an object")
		}
		e.properties = compact.String()
	}
	return e, bad
}
