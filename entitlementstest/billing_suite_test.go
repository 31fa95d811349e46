package entitlementstest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// door is the smallest pair of doors over HTTP that does everything right. It
// shows that a Billing can be put into every state that the suites ask for.
type door struct{ b *entitlementstest.Billing }

func (d door) call(ctx context.Context, method, path string, body any, key string) (*http.Response, []byte, error) {
	content, err := json.Marshal(body)
	if err != nil {
		return nil, nil, entitlements.Permanent(err)
	}
	request, err := http.NewRequestWithContext(ctx, method, d.b.URL+path, bytes.NewReader(content))
	if err != nil {
		return nil, nil, err
	}
	request.Header.Set("Authorization", "Bearer "+d.b.Token)
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	response, err := d.b.Client().Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode == http.StatusTooManyRequests {
		n, _ := strconv.Atoi(response.Header.Get("Retry-After"))
		err = entitlements.RetryAfter(time.Duration(n)*time.Second, errors.New("rate limited"))
	}
	return response, answer, err
}

func (d door) Fetch(ctx context.Context, customer string) (*entitlements.Entitlements, error) {
	response, answer, err := d.call(ctx, "GET", "/v1/subscriptions/"+url.PathEscape(customer)+"/entitlements", nil, "")
	if err != nil {
		return nil, err
	}
	switch response.StatusCode {
	case 200:
	case 404:
		return nil, entitlements.ErrUnknownCustomer
	case 401, 403:
		return nil, entitlements.Permanent(errors.New(response.Status))
	default:
		return nil, errors.New(response.Status)
	}
	var body struct {
		AsOf     time.Time `json:"as_of"`
		Features map[string]struct {
			Kind      string
			Enabled   bool
			Unlimited bool
			Limit     int64
			Used      int64
			Soft      bool      `json:"overage_allowed"`
			ResetsAt  time.Time `json:"resets_at"`
			ExpiresAt time.Time `json:"expires_at"`
			Value     any
		}
	}
	if err := json.Unmarshal(answer, &body); err != nil {
		return nil, err
	}
	e := &entitlements.Entitlements{Customer: customer, Features: make(grants), AsOf: body.AsOf}
	if e.ServerTime, err = http.ParseTime(response.Header.Get("Date")); err != nil {
		return nil, err
	}
	kinds := map[string]entitlements.Kind{"numeric": entitlements.KindNumeric, "text": entitlements.KindText, "metered": entitlements.KindMetered}
	for code, f := range body.Features {
		g := entitlements.Grant{Kind: kinds[f.Kind], Enabled: f.Enabled, Limit: f.Limit, Used: f.Used, Soft: f.Soft, ResetsAt: f.ResetsAt, ExpiresAt: f.ExpiresAt}
		if f.Unlimited {
			g.Limit = entitlements.Unlimited
		}
		if g.Kind == entitlements.KindText {
			g.Text = fmt.Sprint(f.Value)
		}
		e.Features[code] = g
	}
	return e, nil
}

func (d door) Deliver(ctx context.Context, batch entitlements.Batch) error {
	var events []object
	for _, u := range batch.Usage {
		events = append(events, object{
			"subscription_id": u.Customer, "meter": u.Feature, "quantity": strconv.FormatInt(u.Quantity, 10),
			"timestamp": u.Time.UTC().Format("2006-01-02T15:04:05.000Z"), "external_id": u.ID,
		})
	}
	// A key for each attempt: a received 5xx is stored, and external_id dedupes.
	response, _, err := d.call(ctx, "POST", "/v1/usage/batch", object{"events": events}, fmt.Sprint(batch.ID, "-", batch.Attempt))
	if err != nil {
		return err
	}
	switch response.StatusCode {
	case 202:
		return nil
	case 401, 403:
		return entitlements.Unsent(errors.New(response.Status))
	case 422:
		return entitlements.Permanent(errors.New(response.Status))
	}
	return errors.New(response.Status)
}

func (door) Limits() entitlements.SinkLimits {
	return entitlements.SinkLimits{MaxBatch: 1000, Atomic: true}
}

// requests is how many arrived, for clients whose connections were not reused
// when they broke.
func requests(b *entitlementstest.Billing) func() int {
	return func() int { return b.Requests(entitlementstest.RouteAny) }
}

func TestBillingThroughTheSourceSuite(t *testing.T) {
	t.Parallel()
	entitlementstest.RunSourceTests(t, func(t testing.TB) entitlementstest.SourceHarness {
		b := entitlementstest.NewBilling(entitlementstest.BillingConfig{})
		t.Cleanup(b.Close)
		return entitlementstest.SourceHarness{
			Source: door{b}, Put: b.PutEntitlements, Remove: b.Remove, Use: b.Use,
			Break: b.Break, Repair: b.Repair, Requests: requests(b), Secrets: []string{b.Token},
		}
	})
}

func TestBillingThroughTheSinkSuite(t *testing.T) {
	t.Parallel()
	entitlementstest.RunSinkTests(t, func(t testing.TB) entitlementstest.SinkHarness {
		b := entitlementstest.NewBilling(entitlementstest.BillingConfig{})
		t.Cleanup(b.Close)
		b.Put("c", grants{"f": metered(10)})
		return entitlementstest.SinkHarness{
			Sink: door{b}, Customer: "c", Feature: "f", Total: b.Total,
			Bad:   func(u entitlements.Usage) entitlements.Usage { u.Feature = "unheard of"; return u },
			Break: b.Break, Repair: b.Repair, Requests: requests(b), Secrets: []string{b.Token},
		}
	})
}

// TestReusedKeyFailsTheSuite has the one mistake that a Paylera client makes
// most easily: the same Idempotency-Key after a received 5xx.
func TestReusedKeyFailsTheSuite(t *testing.T) {
	b := newBilling(t, entitlementstest.BillingConfig{})
	b.Put("c", grants{"f": metered(10)})
	sink := entitlements.SinkFunc(func(ctx context.Context, batch entitlements.Batch) error {
		batch.Attempt = 1
		return door{b}.Deliver(ctx, batch)
	})
	err := entitlementstest.SinkCheck("failure, server error", entitlementstest.SinkHarness{
		Sink: sink, Customer: "c", Feature: "f", Total: b.Total, Break: b.Break, Repair: b.Repair,
	})
	require.ErrorContains(t, err, "after the backend recovered")
}
