package entitlementstest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/entitlements-go/entitlements"
)

// ErrWebhookDisabled is returned when the receiver answered 4xx a hundred times
// in a row: the endpoint is switched off and what was pending for it is dropped,
// as the API does. [Billing.RegisterWebhook] switches it on again.
var ErrWebhookDisabled = errors.New("entitlementstest: webhook endpoint is switched off")

// disableAfter is how many 4xx answers in a row switch an endpoint off.
const disableAfter = 100

// Change is what an operator does in the billing system: it replaces a
// subscription's grants, sends subscription.updated and waits for the receiver's
// answer. The error tells why the event was not taken; the change has happened
// all the same, and the event stays pending for [Billing.RetryWebhooks].
// Without a registered endpoint it is [Billing.Put].
func (b *Billing) Change(ctx context.Context, subscription string, grants map[string]entitlements.Grant) error {
	b.Put(subscription, grants)
	return b.SendWebhook(ctx, "subscription.updated", subscription, nil)
}

// SendWebhook sends an event about a subscription, and waits for the receiver's
// answer. What is pending for the same subscription goes first: order is kept
// per subscription. data is merged into the envelope's data.
func (b *Billing) SendWebhook(ctx context.Context, eventType, subscription string, data map[string]any) error {
	payload := map[string]any{"subscription_id": subscription}
	if v, ok := b.ledger.view(subscription, b.Now); ok {
		payload["customer_id"] = v.customer
	}
	maps.Copy(payload, data)
	n := strconv.FormatUint(b.serial.Add(1), 10)
	event := &webhookEvent{id: "evt_" + n, kind: eventType, subscription: subscription}
	event.body = encode(map[string]any{
		"id":             event.id,
		"type":           eventType,
		"occurred_at":    b.Now().UTC().Format("2006-01-02T15:04:05.000Z"),
		"schema_version": 1,
		"tenant_id":      "ten_test",
		"aggregate_type": "subscription",
		"aggregate_id":   subscription,
		"data":           payload,
	})
	if !b.webhooks.enqueue(event) {
		return nil
	}
	_, err := b.deliverWebhooks(ctx, subscription)
	return err
}

// RetryWebhooks sends every pending event once more, in order, and reports how
// many were taken. An event that is refused holds back the later ones of its
// subscription only.
func (b *Billing) RetryWebhooks(ctx context.Context) (delivered int, err error) {
	var errs []error
	for _, subscription := range b.webhooks.waiting() {
		n, err := b.deliverWebhooks(ctx, subscription)
		delivered += n
		errs = append(errs, err)
	}
	return delivered, errors.Join(errs...)
}

// ResendWebhooks sends again, in order, every event that was taken before, as an
// API does that delivers at least once. A receiver must not mind.
func (b *Billing) ResendWebhooks(ctx context.Context) error {
	select {
	case b.webhooks.sending <- struct{}{}:
		defer func() { <-b.webhooks.sending }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	url, secret := b.webhooks.endpoint()
	var errs []error
	for _, event := range b.webhooks.takenBefore() {
		_, err := b.post(ctx, url, secret, event)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// deliverWebhooks sends what is pending for a subscription until one is refused.
func (b *Billing) deliverWebhooks(ctx context.Context, subscription string) (delivered int, err error) {
	// One delivery at a time, without a lock held over the network: order per
	// subscription would be gone with two.
	select {
	case b.webhooks.sending <- struct{}{}:
		defer func() { <-b.webhooks.sending }()
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	for {
		event, url, secret := b.webhooks.first(subscription)
		if event == nil {
			return delivered, nil
		}
		status, err := b.post(ctx, url, secret, event)
		if b.webhooks.settle(event, status, err) {
			return delivered, ErrWebhookDisabled
		}
		if err != nil {
			return delivered, err
		}
		delivered++
	}
}

// post makes one attempt. Any answer but a 2xx is an error. The caller has the
// sending token.
func (b *Billing) post(ctx context.Context, url, secret string, event *webhookEvent) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(event.body))
	if err != nil {
		return 0, err
	}
	h := request.Header
	h.Set("Content-Type", "application/json")
	h.Set("Paylera-Event-Id", event.id)
	h.Set("Paylera-Delivery-Id", "del_"+strconv.FormatUint(b.serial.Add(1), 10))
	h.Set("Paylera-Event-Type", event.kind)
	h.Set("Paylera-Signature", SignWebhook(secret, b.Now(), event.body))
	b.webhooks.attempt()
	response, err := b.webhooks.client.Do(request)
	if err != nil {
		return 0, fmt.Errorf("entitlementstest: send webhook %s: %w", event.id, err)
	}
	defer func() { _ = response.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<16))
	if response.StatusCode/100 != 2 {
		return response.StatusCode, fmt.Errorf("entitlementstest: send webhook %s: the receiver answered %d", event.id, response.StatusCode)
	}
	return response.StatusCode, nil
}

// SignWebhook is the Paylera-Signature header of a body that is sent at a
// moment: t=<unix>,v1=<hex>, where v1 is the HMAC-SHA256 of "<unix>." and the
// body under the secret's bytes. For tests of receivers: a wrong secret, an old
// moment, another body.
func SignWebhook(secret string, at time.Time, body []byte) string {
	stamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = mac.Write([]byte(stamp + "."))
	_, _ = mac.Write(body)
	return "t=" + stamp + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}
