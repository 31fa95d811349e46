package entitlementstest_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements/entitlementstest"
)

func TestFaultSequence(t *testing.T) {
	b := newBilling(t, entitlementstest.BillingConfig{})
	b.Put("c", nil)
	b.Inject(entitlementstest.RouteEntitlements,
		entitlementstest.Fault{Status: 429, RetryAfter: 1500 * time.Millisecond},
		entitlementstest.Fault{},
		entitlementstest.Fault{Status: 503},
		entitlementstest.Fault{Body: `{"features":`},
	)
	b.Inject(entitlementstest.RouteAny, entitlementstest.Fault{Status: 502, Gateway: true})
	get := func() reply { return send(t, b, "GET", "/v1/subscriptions/c/entitlements", "") }
	r := get()
	require.Equal(t, 429, r.status)
	require.Equal(t, "2", r.header.Get("Retry-After"), "never less than was asked for")
	require.Equal(t, 200, get().status)
	require.Equal(t, 503, get().status)
	r = get()
	require.Equal(t, 200, r.status)
	require.Equal(t, `{"features":`, r.body)
	r = get()
	require.Equal(t, 502, r.status, "the queue of all routes serves when the route's own is empty")
	require.Equal(t, "text/html", r.header.Get("Content-Type"))
	require.Equal(t, 200, get().status)

	b.Always(entitlementstest.RouteAny, entitlementstest.Fault{Status: 500})
	b.Always(entitlementstest.RouteEntitlements, entitlementstest.Fault{Status: 403})
	require.Equal(t, 403, get().status)
	require.Equal(t, 500, send(t, b, "GET", "/v1/subscriptions", "").status)
	b.ClearFaults()
	require.Equal(t, 200, get().status)
}

func TestBrokenConnections(t *testing.T) {
	for _, inMemory := range []bool{false, true} {
		b := newBilling(t, entitlementstest.BillingConfig{InMemory: inMemory})
		b.Client().Transport.(*http.Transport).DisableKeepAlives = true
		b.Put("c", grants{"api": metered(10)})
		post := func(id string) error {
			_, err := try(b, "POST", "/v1/usage", event("c", "api", "1", id))
			return err
		}
		b.Inject(entitlementstest.RouteUsage, entitlementstest.Fault{Reset: true})
		require.Error(t, post("1"))
		require.Zero(t, b.Total("c", "api"))
		b.Inject(entitlementstest.RouteUsage, entitlementstest.Fault{Reset: true, After: true})
		require.Error(t, post("1"))
		require.EqualValues(t, 1, b.Total("c", "api"))
		b.Inject(entitlementstest.RouteUsage, entitlementstest.Fault{Truncate: true})
		require.ErrorIs(t, post("2"), io.ErrUnexpectedEOF)
		require.EqualValues(t, 2, b.Total("c", "api"))
		b.SetOutage(true)
		require.Error(t, post("3"))
		b.SetOutage(false)
		require.NoError(t, post("3"))
		require.EqualValues(t, 3, b.Total("c", "api"))
		require.Equal(t, 5, b.Requests(entitlementstest.RouteAny))
		require.Equal(t, map[int]int{202: 1}, b.Statuses())
	}
}

func TestLatencyIsTheBubbles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := entitlementstest.NewBilling(entitlementstest.BillingConfig{InMemory: true})
		defer b.Close()
		b.Inject(entitlementstest.RouteAny, entitlementstest.Fault{Latency: time.Hour}, entitlementstest.Fault{Latency: time.Hour, After: true})
		for range 2 {
			began := time.Now()
			require.Equal(t, 200, send(t, b, "GET", "/v1/subscriptions", "").status)
			require.Equal(t, time.Hour, time.Since(began))
		}
	})
}

func TestHangEnds(t *testing.T) {
	hang := func(t *testing.T, b *entitlementstest.Billing) (cancel context.CancelFunc, result chan error) {
		in := make(chan struct{})
		b.Inject(entitlementstest.RouteAny, entitlementstest.Fault{Hang: true, Strike: func(*http.Request) { close(in) }})
		ctx, cancel := context.WithCancel(t.Context())
		request, err := http.NewRequestWithContext(ctx, "GET", b.URL+"/v1/subscriptions", nil)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+b.Token)
		result = make(chan error, 1)
		go func() {
			response, err := b.Client().Do(request)
			if err == nil {
				_ = response.Body.Close()
			}
			result <- err
		}()
		<-in
		return cancel, result
	}
	b := newBilling(t, entitlementstest.BillingConfig{})
	cancel, result := hang(t, b)
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
	cancel, result = hang(t, b)
	b.Release()
	require.NoError(t, <-result)
	cancel()
	cancel, result = hang(t, b)
	defer cancel()
	b.Close() // waits for nothing that hangs
	require.Error(t, <-result)
	b.Close()
}
