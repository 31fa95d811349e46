package paylera_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// A service runs for five minutes against an API that loses answers, breaks
// connections, limits and fails at random. Checks are answered all the while, and
// once it is quiet billing has each call exactly once, and the local view says
// the same.
func TestEndToEndExactlyOnce(t *testing.T) {
	for _, family := range []paylera.Family{paylera.SDK, paylera.Core} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%v, seed %d", family, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { endToEnd(t, family, seed) })
			})
		}
	}
}

func endToEnd(t *testing.T, family paylera.Family, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	billing := entitlementstest.NewBilling(entitlementstest.BillingConfig{InMemory: true})
	defer billing.Close()
	customers := make([]string, 5)
	for i := range customers {
		customers[i] = fmt.Sprintf("customer-%d", i)
		billing.Put(customers[i], map[string]entitlements.Grant{
			"export": {Enabled: true},
			"calls":  {Kind: entitlements.KindMetered, Enabled: true, Limit: entitlements.Unlimited},
		})
	}
	cfg := paylera.Config{Token: billing.Token, Family: family, BaseURL: billing.URL, Transport: billing.Client().Transport}
	if family == paylera.Core {
		cfg.Token = billing.CoreToken
	} else {
		cfg.Track.ExternalIDField = "external_id" // so that a stored 5xx can be tried anew
	}
	adapter, err := paylera.New(cfg)
	require.NoError(t, err)
	defer adapter.CloseIdleConnections()
	client, err := entitlements.New(entitlements.Config{Source: adapter, Sink: adapter, TTL: 5 * time.Second})
	require.NoError(t, err)
	defer func() { _ = client.Close(t.Context()) }()
	_, err = client.Warm(t.Context(), nil)
	require.NoError(t, err)

	faults := []entitlementstest.Fault{
		{Reset: true},
		{Reset: true, After: true},
		{Truncate: true},
		{Status: 500},
		{Status: 503, After: true},
		{Status: 502, Gateway: true},
		{Status: 429, RetryAfter: time.Second},
		{Latency: 3 * time.Second},
		{Latency: 20 * time.Second, After: true},
		{Body: "{"},
	}
	used := make(map[string]int64)
	for range 300 {
		if rng.IntN(3) == 0 {
			billing.Inject(entitlementstest.RouteAny, faults[rng.IntN(len(faults))])
		}
		for range rng.IntN(5) {
			customer := customers[rng.IntN(len(customers))]
			n := rng.Int64N(10)
			client.Track(customer, "calls", n)
			used[customer] += n
			require.True(t, client.Allowed(customer, "export"))
			require.GreaterOrEqual(t, client.Decide(customer, "calls").Used, used[customer], "the view is below the truth")
		}
		time.Sleep(time.Second)
	}
	billing.ClearFaults()
	time.Sleep(2 * time.Minute) // breakers and backoffs end by themselves
	require.NoError(t, client.Flush(t.Context()))
	time.Sleep(time.Minute)
	for _, customer := range customers {
		require.Equal(t, used[customer], billing.Total(customer, "calls"), "billed to %s", customer)
		_, err := client.Resolve(t.Context(), customer)
		require.NoError(t, err)
		client.Invalidate(customer)
		d, err := client.Check(t.Context(), customer, "calls")
		require.NoError(t, err)
		require.Equal(t, used[customer], d.Used, "seen of %s", customer)
	}
	require.NoError(t, client.Close(t.Context()))
	u := client.Stats().Usage
	require.Equal(t, u.Recorded, u.Delivered, "%+v", u)
	require.Zero(t, billing.UsageCounts().Conflicts)
}
