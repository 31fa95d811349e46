package paylera_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// dialects are what the kit's billing API can speak: both families, in every
// shape and spelling that the vendor's pages show.
func dialects() map[string]dialect {
	return map[string]dialect{
		"SDK, map, plain":    {paylera.SDK, entitlementstest.BillingConfig{}},
		"SDK, list, verbose": {paylera.SDK, entitlementstest.BillingConfig{Shape: entitlementstest.ShapeArray, Spelling: entitlementstest.SpellingVerbose, ETag: entitlementstest.ETagContent}},
		"Core, list, plain":  {paylera.Core, entitlementstest.BillingConfig{Shape: entitlementstest.ShapeArray}},
		"Core, map, verbose": {paylera.Core, entitlementstest.BillingConfig{Spelling: entitlementstest.SpellingVerbose, RateLimits: entitlementstest.RateLimits{Reads: 1 << 20, Usage: 1 << 20}}},
	}
}

type dialect struct {
	family  paylera.Family
	billing entitlementstest.BillingConfig
}

// billingAdapter starts a billing API and an adapter for it.
func billingAdapter(t testing.TB, billing entitlementstest.BillingConfig, cfg paylera.Config) (*entitlementstest.Billing, *paylera.Adapter) {
	t.Helper()
	b := entitlementstest.NewBilling(billing)
	t.Cleanup(b.Close)
	cfg.Token = b.Token
	if cfg.Family == paylera.Core {
		cfg.Token = b.CoreToken
	}
	cfg.WebhookSecrets = []string{secret}
	// Without keep-alives, so that a broken connection is not tried again by
	// net/http itself, which the suites count.
	cfg.Transport = &http.Transport{DisableKeepAlives: true}
	return b, open(t, b.URL, cfg)
}

// breakBilling makes every request fail in a way. gateway says that errors come
// from in front of the API, which stores none of them.
func breakBilling(b *entitlementstest.Billing, token string, failure entitlementstest.Failure, gateway bool) bool {
	var f entitlementstest.Fault
	switch failure {
	case entitlementstest.FailUnauthorized:
		b.RevokeToken(token)
		return true
	case entitlementstest.FailForbidden:
		b.ForbidToken(token)
		return true
	case entitlementstest.FailUnreachable:
		b.SetOutage(true)
		return true
	case entitlementstest.FailRateLimited:
		f = entitlementstest.Fault{Status: 429, RetryAfter: entitlementstest.RateLimitWait}
	case entitlementstest.FailServer:
		f = entitlementstest.Fault{Status: 500, Gateway: gateway}
	case entitlementstest.FailHang:
		f = entitlementstest.Fault{Hang: true}
	case entitlementstest.FailGarbage:
		f = entitlementstest.Fault{Body: "<html>"}
	case entitlementstest.FailLostAnswer:
		f = entitlementstest.Fault{After: true, Reset: true}
	default:
		return false
	}
	b.Always(entitlementstest.RouteAny, f)
	return true
}

func repairBilling(b *entitlementstest.Billing, token string) {
	b.AllowToken(token)
	b.SetOutage(false)
	b.ClearFaults()
	b.Release()
}

func tokenOf(b *entitlementstest.Billing, family paylera.Family) string {
	if family == paylera.Core {
		return b.CoreToken
	}
	return b.Token
}

func TestConformanceSource(t *testing.T) {
	for name, d := range dialects() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entitlementstest.RunSourceTests(t, func(t testing.TB) entitlementstest.SourceHarness {
				b, a := billingAdapter(t, d.billing, paylera.Config{Family: d.family})
				webhooks(t, b, a)
				token := tokenOf(b, d.family)
				return entitlementstest.SourceHarness{
					Source: a,
					// The events reach nobody before Watch runs: 503, which is fine here.
					Put: func(e *entitlements.Entitlements) {
						b.PutEntitlements(e)
						_ = b.SendWebhook(t.Context(), "subscription.updated", e.Customer, nil)
					},
					Remove: func(customer string) {
						b.Remove(customer)
						_ = b.SendWebhook(t.Context(), "subscription.canceled", customer, nil)
					},
					Use: func(customer, feature string, n int64) {
						err := a.Deliver(t.Context(), entitlements.Batch{ID: rid(), Usage: []entitlements.Usage{
							{ID: rid(), Customer: customer, Feature: feature, Quantity: n, Time: b.Now()},
						}})
						require.NoError(t, err)
					},
					Break:    func(f entitlementstest.Failure) bool { return breakBilling(b, token, f, false) },
					Repair:   func() { repairBilling(b, token) },
					Requests: func() int { return b.Requests(entitlementstest.RouteAny) },
					Secrets:  []string{token, secret},
				}
			})
		})
	}
}

func TestConformanceSink(t *testing.T) {
	for name, c := range map[string]struct {
		cfg     paylera.Config
		gateway bool
	}{
		"Core": {cfg: paylera.Config{Family: paylera.Core}},
		// Where the key is all that dedupes, a stored 5xx stays for its 24 h.
		"SDK":                         {gateway: true},
		"SDK with an id in the body":  {cfg: paylera.Config{Track: paylera.Track{ExternalIDField: "external_id"}}},
		"SDK as the Python page says": {cfg: paylera.Config{Track: paylera.Track{SubjectField: "customer_id", AmountField: "value"}}, gateway: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entitlementstest.RunSinkTests(t, func(t testing.TB) entitlementstest.SinkHarness {
				b, a := billingAdapter(t, entitlementstest.BillingConfig{}, c.cfg)
				b.Put("cust", map[string]entitlements.Grant{"api": {Kind: entitlements.KindMetered, Enabled: true, Limit: 1 << 40}})
				token := tokenOf(b, c.cfg.Family)
				return entitlementstest.SinkHarness{
					Sink: a, Customer: "cust", Feature: "api",
					Total: b.Total,
					Bad: func(u entitlements.Usage) entitlements.Usage {
						u.Feature = "no such meter"
						return u
					},
					Break:    func(f entitlementstest.Failure) bool { return breakBilling(b, token, f, c.gateway) },
					Repair:   func() { repairBilling(b, token) },
					Requests: func() int { return b.Requests(entitlementstest.RouteAny) },
					Secrets:  []string{token},
				}
			})
		})
	}
}

// The kit signs its webhooks by itself: another second opinion on the verifier.
func TestConformanceWebhooks(t *testing.T) {
	b, a := billingAdapter(t, entitlementstest.BillingConfig{}, paylera.Config{})
	webhooks(t, b, a)
	grants := map[string]entitlements.Grant{"sso": {Enabled: true}}
	require.Error(t, b.Change(t.Context(), "cust", grants), "nobody watches: 503")
	require.Equal(t, 1, b.PendingWebhooks())

	var told invalidations
	go func() { _ = a.Watch(t.Context(), &told) }()
	require.Eventually(t, func() bool {
		_, _ = b.RetryWebhooks(t.Context())
		return b.PendingWebhooks() == 0
	}, 5*time.Second, 5*time.Millisecond)
	require.Equal(t, []string{"cust"}, told.all())

	require.NoError(t, b.ResendWebhooks(t.Context()))
	require.Equal(t, []string{"cust"}, told.all(), "at least once, handled once")
	require.NoError(t, b.Change(t.Context(), "cust", grants))
	require.Equal(t, []string{"cust", "cust"}, told.all())
}

// Both ways through the API, a quantity keeps every digit.
func TestConformanceDecimals(t *testing.T) {
	for _, family := range []paylera.Family{paylera.SDK, paylera.Core} {
		b, a := billingAdapter(t, entitlementstest.BillingConfig{Meters: map[string]entitlementstest.Meter{"storage": {Decimals: 3}}},
			paylera.Config{Family: family, Decimals: map[string]int{"storage": 3}})
		b.Put("cust", map[string]entitlements.Grant{"storage": {Kind: entitlements.KindMetered, Enabled: true, Limit: 12_345_678}})
		require.NoError(t, a.Deliver(within(t), entitlements.Batch{ID: rid(), Usage: []entitlements.Usage{
			{ID: rid(), Customer: "cust", Feature: "storage", Quantity: 1_500_001, Time: b.Now()},
		}}))
		require.Equal(t, "1500.001", b.TotalDecimal("cust", "storage"))
		e, err := a.Fetch(within(t), "cust")
		require.NoError(t, err)
		require.Equal(t, int64(12_345_678), e.Features["storage"].Limit)
		require.Equal(t, int64(1_500_001), e.Features["storage"].Used)
	}
}

// webhooks mounts the adapter as the billing API's webhook endpoint.
func webhooks(t testing.TB, b *entitlementstest.Billing, a *paylera.Adapter) {
	t.Helper()
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	b.RegisterWebhook(server.URL, secret)
}
