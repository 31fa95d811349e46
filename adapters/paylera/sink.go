package paylera

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/entitlements-go/entitlements"
)

const (
	// maxBatch is the most events that the API takes at once.
	maxBatch = 1000

	// maxTracks keeps a Deliver of single requests well within a FlushTimeout: 200
	// requests, 8 at once, of 100 ms each are 2.5 s.
	maxTracks = 200

	// keyWindow is how long the API keeps an Idempotency-Key.
	keyWindow = 24 * time.Hour
)

// Limits tells what the API takes.
//
// Core: atomic batches of 1000; a record is recognised by (subscription_id,
// meter, external_id), for which no page states an end. Assumption: for ever.
// SDK: single requests, of which a Deliver makes up to 200, recognised for the
// 24 h that an Idempotency-Key is kept, or for ever with Track.ExternalIDField.
// Both: 5000 records per second, a tenth in the test environments.
//
// Source: docs.paylera.com, /api/usage, /api/idempotency, /api/rate-limits.
func (a *Adapter) Limits() entitlements.SinkLimits {
	limits := entitlements.SinkLimits{MaxBatch: maxTracks, Rate: usageRate}
	if a.config.Family == Core {
		limits.MaxBatch, limits.Atomic = maxBatch, true
	}
	if env, _ := a.config.Family.environmentOf(a.config.Token); env.testing {
		limits.Rate /= 10
	}
	switch {
	case a.config.DedupWindow != 0:
		limits.DedupWindow = a.config.DedupWindow
	case !a.config.bodyDedupes():
		limits.DedupWindow = keyWindow
	}
	return limits
}

// Deliver sends usage: one POST /v1/usage/batch in the Core family, one POST
// /v1/track per record in the SDK family, Track.Concurrency at once. It makes
// one attempt.
//
// Accepted is any 2xx, and an answer that says the record is known already.
// Refused for good are a 4xx about the record and a reused idempotency key. A
// refused token, 429, a failed dial and a request that was held back have
// accepted nothing. A 5xx, an answer that didn't arrive and "still in progress"
// are unknown.
//
// In the SDK family a delivery ends early, with the rest deferred, once the API
// says to wait, can't be reached, or leaves several records without an answer.
func (a *Adapter) Deliver(ctx context.Context, batch entitlements.Batch) error {
	if len(batch.Usage) == 0 {
		return nil
	}
	if a.config.Family == Core {
		return a.deliverBatch(ctx, batch)
	}
	return a.deliverTracks(ctx, batch)
}

// post makes one POST and keeps count of what the API answered to the key.
func (a *Adapter) post(ctx context.Context, endpoint, id string, body []byte, single bool) error {
	_, err := a.transport.do(ctx, call{
		method: "POST", endpoint: endpoint, path: endpoint, body: body,
		key: a.keys.key(ctx, id, single), class: classUsage,
	})
	var e *Error
	if errors.As(err, &e) && e.Status != 0 && !e.is(ErrIdempotencyInProgress) {
		a.keys.failed(id)
	}
	return err
}

// event is a record ready for the wire.
type event struct {
	subscription string
	id           string
	quantity     string
	timestamp    string // "" without a time
}

// prepare checks a record for what no API could take and writes its parts.
func (a *Adapter) prepare(u *entitlements.Usage, subscription string) (event, error) {
	switch {
	case u.ID == "":
		return event{}, errors.New("paylera: Usage.ID is required: without it a retry would count twice")
	case !isWireText(u.Feature):
		return event{}, errors.New("paylera: Usage.Feature must be UTF-8")
	case !isWireText(subscription), !isWireText(u.Customer):
		return event{}, errors.New("paylera: Usage.Customer and its subscription must be UTF-8")
	}
	e := event{
		subscription: subscription,
		id:           wireID(u.ID),
		quantity:     formatDecimal(u.Quantity, a.config.Decimals[u.Feature]),
	}
	if !u.Time.IsZero() {
		// Without a time the API's own is best: ours would make every attempt
		// another body under the same key.
		e.timestamp = u.Time.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	return e, nil
}

// encode writes JSON with the members sorted: every attempt has the same bytes,
// which is what the API compares under one idempotency key.
func encode(v any) []byte {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		// Only maps of strings come here, which always encode.
		panic(fmt.Sprintf("paylera: encoding usage: %v", err))
	}
	return []byte(strings.TrimSuffix(b.String(), "\n"))
}

// isWireText reports whether JSON can carry s unchanged.
func isWireText(s string) bool { return utf8.ValidString(s) }
