package entitlementstest_test

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements/entitlementstest"
)

func TestKeyReplays(t *testing.T) {
	b := newBilling(t, entitlementstest.BillingConfig{})
	b.Put("c", grants{"api": metered(10)})
	// No external_id: only the key stands between a retry and a second bill.
	body := event("c", "api", "2", "")
	first := send(t, b, "POST", "/v1/usage", body, "Idempotency-Key", "k")
	again := send(t, b, "POST", "/v1/usage", body, "Idempotency-Key", "k")
	require.Equal(t, 202, again.status)
	require.Equal(t, first.body, again.body)
	require.EqualValues(t, 2, b.Total("c", "api"))
	require.Equal(t, 1, b.Replays())
	require.Equal(t, 1, b.UsageCounts().Replayed)
	require.Equal(t, 1, b.UsageCounts().DoubleBilled)
	// The scope is the route: the same key elsewhere is another.
	require.Equal(t, 202, send(t, b, "POST", "/v1/track", `{"subscription_id":"c","feature_code":"api","quantity":"1"}`, "Idempotency-Key", "k").status)
	require.EqualValues(t, 3, b.Total("c", "api"))
}

func TestKeyOfAnotherBody(t *testing.T) {
	for name, family := range map[string]struct {
		core   bool
		status int
		field  string
		value  string
	}{
		"SDK":  {false, 409, "type", "paylera.idempotency_conflict"},
		"core": {true, 422, "problem", "idempotency.body_mismatch"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBilling(t, entitlementstest.BillingConfig{})
			b.Put("c", grants{"api": metered(10)})
			token := b.Token
			if family.core {
				token = b.CoreToken
			}
			post := func(quantity string) reply {
				return send(t, b, "POST", "/v1/usage", event("c", "api", quantity, "e"), "Idempotency-Key", "k", "Authorization", "Bearer "+token)
			}
			require.Equal(t, 202, post("1").status)
			r := post("2")
			require.Equal(t, family.status, r.status)
			require.Equal(t, family.value, r.json(t)[family.field])
			require.EqualValues(t, 1, b.Total("c", "api"))
		})
	}
}

func TestStoredErrorsAreReplayed(t *testing.T) {
	for name, test := range map[string]struct {
		fault entitlementstest.Fault
		again int // the status of the second request
		total int64
	}{
		"500":            {entitlementstest.Fault{Status: 500}, 500, 0},
		"500 after work": {entitlementstest.Fault{Status: 500, After: true}, 500, 1},
		"503 of gateway": {entitlementstest.Fault{Status: 503, Gateway: true}, 202, 1},
		"the same after": {entitlementstest.Fault{Status: 503, Gateway: true, After: true}, 202, 1},
		"429":            {entitlementstest.Fault{Status: 429, RetryAfter: time.Second}, 202, 1},
		"401":            {entitlementstest.Fault{Status: 401}, 202, 1},
		"reset":          {entitlementstest.Fault{Reset: true}, 202, 1},
		"reset after":    {entitlementstest.Fault{Reset: true, After: true}, 202, 1},
		"truncated":      {entitlementstest.Fault{Truncate: true}, 202, 1},
		"wrong JSON":     {entitlementstest.Fault{Body: "<html>"}, 202, 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBilling(t, entitlementstest.BillingConfig{})
			b.Put("c", grants{"api": metered(10)})
			b.Inject(entitlementstest.RouteUsage, test.fault)
			// Without reuse, or Go's client would try again by itself.
			b.Client().Transport.(*http.Transport).DisableKeepAlives = true
			_, _ = try(b, "POST", "/v1/usage", event("c", "api", "1", ""), "Idempotency-Key", "k")
			require.Equal(t, test.again, send(t, b, "POST", "/v1/usage", event("c", "api", "1", ""), "Idempotency-Key", "k").status)
			require.Equal(t, test.total, b.Total("c", "api"))
			require.Equal(t, 2, b.Requests(entitlementstest.RouteUsage))
			// A new key is a new call.
			require.Equal(t, 202, send(t, b, "POST", "/v1/usage", event("c", "api", "1", ""), "Idempotency-Key", "k2").status)
			require.Equal(t, test.total+1, b.Total("c", "api"))
		})
	}
}

func TestKeyInProgress(t *testing.T) {
	b := newBilling(t, entitlementstest.BillingConfig{})
	b.Put("c", grants{"api": metered(10)})
	in := make(chan struct{})
	b.Inject(entitlementstest.RouteUsage, entitlementstest.Fault{Strike: func(*http.Request) { close(in) }, Hang: true})
	post := func() (reply, error) {
		return try(b, "POST", "/v1/usage", event("c", "api", "1", ""), "Idempotency-Key", "k")
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		r, err := post()
		if err != nil || r.status != 202 {
			t.Errorf("the first request: %v, %v", r.status, err)
		}
	})
	<-in
	r, err := post()
	require.NoError(t, err)
	require.Equal(t, 409, r.status)
	require.Equal(t, "paylera.idempotency_in_progress", r.json(t)["type"])
	b.Release()
	wg.Wait()
	r, err = post()
	require.NoError(t, err)
	require.Equal(t, 202, r.status)
	require.EqualValues(t, 1, b.Total("c", "api"))
}

func TestKeysAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := entitlementstest.NewBilling(entitlementstest.BillingConfig{InMemory: true, IdempotencyKeys: 2})
		defer b.Close()
		b.Put("c", grants{"api": metered(10)})
		post := func(key string) {
			require.Equal(t, 202, send(t, b, "POST", "/v1/usage", event("c", "api", "1", ""), "Idempotency-Key", key).status)
		}
		post("a")
		time.Sleep(24*time.Hour - 1)
		post("a")
		require.EqualValues(t, 1, b.Total("c", "api"))
		time.Sleep(time.Nanosecond)
		post("a")
		require.EqualValues(t, 2, b.Total("c", "api"))
		post("b")
		post("c") // there is room for two
		post("b")
		require.EqualValues(t, 4, b.Total("c", "api"))
		post("a")
		require.EqualValues(t, 5, b.Total("c", "api"))
	})
}
