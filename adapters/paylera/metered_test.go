package paylera_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// Several goroutines spend hard limits, over real HTTP, while the API is late,
// fails, limits, and loses answers to what it has accepted. Nobody gets more than
// there is, and once it is quiet billing has exactly what was allowed and
// committed.
func TestMeteredLimits(t *testing.T) {
	for seed, family := range []paylera.Family{paylera.SDK, paylera.Core} {
		t.Run(fmt.Sprintf("%v, seed %d", family, seed), func(t *testing.T) {
			t.Parallel() // nearly all of it is waiting
			meteredLimits(t, family, uint64(seed))
		})
	}
}

// quota is a customer's limit, and what was had of it.
type quota struct {
	customer string
	limit    int64
	used     atomic.Int64 // allowed by Use, and committed
	taken    atomic.Int64 // used and held; less than that while a reservation ends, never more
	most     atomic.Int64 // that taken has been
}

func (q *quota) take(n int64) {
	taken := q.taken.Add(n)
	for most := q.most.Load(); taken > most && !q.most.CompareAndSwap(most, taken); most = q.most.Load() {
	}
}

func meteredLimits(t *testing.T, family paylera.Family, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	billing := entitlementstest.NewBilling(entitlementstest.BillingConfig{})
	t.Cleanup(billing.Close)
	quotas := make([]*quota, 4)
	for i := range quotas {
		quotas[i] = &quota{customer: fmt.Sprintf("customer-%d", i), limit: 150 + rng.Int64N(400)}
		billing.Put(quotas[i].customer, map[string]entitlements.Grant{
			"calls": {Kind: entitlements.KindMetered, Enabled: true, Limit: quotas[i].limit},
		})
	}
	cfg := paylera.Config{Family: family, Token: tokenOf(billing, family)}
	if family == paylera.SDK {
		// The API then recognises a record for ever, in either family: none is in
		// doubt, however long it takes to get through.
		cfg.Track.ExternalIDField = "external_id"
	}
	adapter := open(t, billing.URL, cfg)
	client, err := entitlements.New(entitlements.Config{
		Source: adapter, Sink: adapter, MaxCustomers: 100,
		TTL: 200 * time.Millisecond, FlushInterval: 20 * time.Millisecond, FlushTimeout: time.Second, FetchTimeout: time.Second,
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close(within(t)) })
	_, err = client.Warm(within(t), nil)
	require.NoError(t, err)

	stop := time.Now().Add(2 * time.Second)
	var wg sync.WaitGroup
	wg.Go(func() { misbehave(billing, rand.New(rand.NewPCG(seed, 2)), stop) })
	for g := range 6 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(10+g)))
			for time.Now().Before(stop) {
				spend(client, quotas[rng.IntN(len(quotas))], rng)
				time.Sleep(time.Duration(rng.IntN(40)) * time.Millisecond)
			}
		})
	}
	wg.Wait()
	billing.ClearFaults()

	// Doors open again by themselves.
	require.NoError(t, client.Flush(within(t)), "seed %d", seed)
	flushed := time.Now()
	for _, q := range quotas {
		requireBilled(t, client, billing, q, flushed, seed)
	}
	// What is left can be had, all of it and no more.
	for _, q := range quotas {
		left := q.limit - q.used.Load()
		require.False(t, client.Use(q.customer, "calls", left+1).Allowed, "seed %d: %s", seed, q.customer)
		if left > 0 {
			require.True(t, client.Use(q.customer, "calls", left).Allowed, "seed %d: %s", seed, q.customer)
			q.take(left)
		}
		require.False(t, client.Use(q.customer, "calls", 1).Allowed, "seed %d: %s", seed, q.customer)
	}
	require.NoError(t, client.Flush(within(t)), "seed %d", seed)
	for _, q := range quotas {
		require.Equal(t, q.limit, billing.Total(q.customer, "calls"), "seed %d: billed to %s", seed, q.customer)
		require.LessOrEqual(t, q.most.Load(), q.limit, "seed %d: allowed to %s", seed, q.customer)
	}
	require.NoError(t, client.Close(within(t)))
	u := client.Stats().Usage
	require.Equal(t, u.Recorded, u.Delivered, "seed %d: %+v", seed, u)
	counts := billing.UsageCounts()
	require.Zero(t, counts.Conflicts, "seed %d: one id, two contents", seed)
	require.NotZero(t, counts.DoubleBilled, "seed %d: no record was sent twice: nothing was lost", seed)
	t.Logf("%d requests, %d records accepted, %d sent more than once", billing.Requests(entitlementstest.RouteAny), counts.Accepted, counts.DoubleBilled)
}

// misbehave lets about every fourth request go wrong.
func misbehave(billing *entitlementstest.Billing, rng *rand.Rand, stop time.Time) {
	routes := []entitlementstest.Route{entitlementstest.RouteTrack, entitlementstest.RouteUsageBatch, entitlementstest.RouteAny}
	fine, lost := entitlementstest.Fault{}, entitlementstest.Fault{Reset: true, After: true}
	for _, route := range routes {
		billing.Inject(route, lost, fine, fine) // at least one
	}
	faults := []entitlementstest.Fault{
		lost,
		{Reset: true},
		{Truncate: true},
		{Status: 500},
		{Status: 503, After: true},
		{Status: 502, Gateway: true},
		{Status: 429},
		{Latency: 30 * time.Millisecond},
		{Latency: 100 * time.Millisecond, After: true},
		{Body: "{"},
	}
	for n := 0; time.Now().Before(stop); n++ {
		fault := faults[rng.IntN(len(faults))]
		if n == 15 {
			fault = entitlementstest.Fault{Status: 429, RetryAfter: time.Second} // once: it shuts a door for as long
		}
		billing.Inject(routes[rng.IntN(len(routes))], fault, fine, fine, fine)
		time.Sleep(20 * time.Millisecond)
	}
}

// spend uses some of a quota, or reserves it, works, and commits what it took.
func spend(client *entitlements.Client, q *quota, rng *rand.Rand) {
	n := 1 + rng.Int64N(6)
	if rng.IntN(2) == 0 {
		if client.Use(q.customer, "calls", n).Allowed {
			q.take(n)
			q.used.Add(n)
		}
		return
	}
	r, d := client.Reserve(q.customer, "calls", n)
	if !d.Allowed {
		return
	}
	q.take(n)
	time.Sleep(time.Duration(rng.IntN(10)) * time.Millisecond)
	actual := rng.Int64N(n + 1)
	q.used.Add(actual)
	q.take(actual - n) // before the units can be had by others
	if actual == 0 {
		r.Release()
	} else {
		r.Commit(actual)
	}
}

// requireBilled checks that billing has what was used, and that the local view
// says the same. The API tells its clock to the second, so that what was delivered
// is in an answer for certain when that was asked for more than a second later.
func requireBilled(t *testing.T, client *entitlements.Client, billing *entitlementstest.Billing, q *quota, flushed time.Time, seed uint64) {
	t.Helper()
	require.Equal(t, q.used.Load(), billing.Total(q.customer, "calls"), "seed %d: billed to %s", seed, q.customer)
	var d entitlements.Decision
	require.Eventually(t, func() bool {
		client.Invalidate(q.customer)
		d, _ = client.Check(within(t), q.customer, "calls") // in an outage the old answer
		return time.Since(flushed)-d.Age > 1300*time.Millisecond
	}, 10*time.Second, 50*time.Millisecond, "seed %d: %s is not refreshed", seed, q.customer)
	require.Equal(t, billing.Used(q.customer, "calls"), d.Used, "seed %d: seen of %s", seed, q.customer)
	require.Equal(t, q.limit-q.used.Load(), d.Remaining, "seed %d: %s", seed, q.customer)
}
