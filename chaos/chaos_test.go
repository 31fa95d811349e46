package chaos_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

var (
	seeds = flag.Int("seeds", 1, "random runs of each API")
	from  = flag.Uint64("from", 1, "the first of their seeds")
	laps  = flag.Int("laps", 1, "how often a run meets each kind of weather")
	soak  = flag.Duration("soak", 0, "run the random tests for this long, with new seeds")
)

// A service runs on a network that is slow, cut off, half-open and down by turns,
// against an API that fails, limits and loses answers to what it has accepted.
// Nobody gets more than a hard limit, and once it is quiet billing has exactly
// what was used, and the local view says the same.
//
// A seed repeats the weather and the faults, but not what the scheduler makes of
// them.
func TestChaos(t *testing.T) {
	for seed := *from; seed < *from+uint64(*seeds); seed++ {
		chaosOf(t, seed)
	}
}

// TestSoak repeats TestChaos with new seeds until the time is over.
func TestSoak(t *testing.T) {
	if *soak == 0 {
		t.Skip("run by `make soak`")
	}
	for end := time.Now().Add(*soak); time.Now().Before(end) && !t.Failed(); {
		seed := rand.Uint64()
		fmt.Printf("%s left: -run TestChaos -from %d -laps %d\n", time.Until(end).Round(time.Second), seed, *laps)
		chaosOf(t, seed)
	}
}

// chaosOf runs all APIs at once: nearly all of it is waiting.
func chaosOf(t *testing.T, seed uint64) {
	t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
		for i, a := range apis {
			t.Run(a.name, func(t *testing.T) {
				t.Parallel()
				chaos(t, a, rand.New(rand.NewPCG(seed, uint64(i))))
			})
		}
	})
}

// api is one way to tell the API of usage, and how it recognises a record.
type api struct {
	name   string
	family paylera.Family
	track  paylera.Track
	route  entitlementstest.Route

	// keyOnly says that nothing but the Idempotency-Key tells a record from its
	// repetition. A 5xx that is stored for the key would then be the answer for ever.
	keyOnly bool
}

var apis = []api{
	{name: "core", family: paylera.Core, route: entitlementstest.RouteUsageBatch},
	{name: "sdk", track: paylera.Track{ExternalIDField: "external_id"}, route: entitlementstest.RouteTrack},
	{name: "sdk by key", route: entitlementstest.RouteTrack, keyOnly: true},
}

// service is a Client behind a network, and the billing API at its end.
type service struct {
	billing   *entitlementstest.Billing
	network   *network
	transport *http.Transport
	client    *entitlements.Client
	customers []*customer
}

func newService(t *testing.T, a api, customers []*customer, keepAlive bool, adapter paylera.Config, cfg entitlements.Config) *service {
	// Tokens of its own: what goes astray on loopback is refused.
	id := rand.Uint64()
	billing := entitlementstest.NewBilling(entitlementstest.BillingConfig{
		Token: fmt.Sprintf("pl_live_%016x", id), CoreToken: fmt.Sprintf("sk_live_%016x", id),
	})
	t.Cleanup(billing.Close)
	for _, c := range customers {
		billing.Put(c.key, c.grants())
	}
	s := &service{billing: billing, network: newNetwork(t, billing.URL), customers: customers}

	adapter.Family, adapter.Track, adapter.BaseURL = a.family, a.track, billing.URL
	adapter.Token = billing.Token
	if a.family == paylera.Core {
		adapter.Token = billing.CoreToken
	}
	s.transport = &http.Transport{DialContext: s.network.dial, DisableKeepAlives: !keepAlive, MaxIdleConnsPerHost: 64}
	t.Cleanup(s.transport.CloseIdleConnections)
	adapter.Transport = s.transport
	door, err := paylera.New(adapter)
	require.NoError(t, err)
	cfg.Source, cfg.Sink = door, door
	s.client, err = entitlements.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.client.Close(within(t, 10*time.Second)) })
	_, err = s.client.Warm(within(t, time.Minute), nil)
	require.NoError(t, err)
	return s
}

func chaos(t *testing.T, a api, rng *rand.Rand) {
	customers := newCustomers(rng, 5)
	cfg := entitlements.Config{
		TTL: 200 * time.Millisecond, FlushInterval: 20 * time.Millisecond, FlushTimeout: time.Second, FetchTimeout: time.Second,
		NegativeTTL: 100 * time.Millisecond,
	}
	keepAlive, evicting := rng.IntN(2) == 0, rng.IntN(2) == 0
	if evicting {
		cfg.MaxCustomers = 3
	}
	s := newService(t, a, customers, keepAlive, paylera.Config{}, cfg)
	p := &program{t: t, client: s.client, cached: !evicting}

	// The first answer is lost for certain.
	lost := make(chan struct{})
	s.billing.Inject(a.route, entitlementstest.Fault{
		After: true, Reset: true, Strike: func(*http.Request) { close(lost) },
	})
	over := make(chan struct{})
	var wg sync.WaitGroup
	for range 6 {
		mine := rand.New(rand.NewPCG(rng.Uint64(), 0))
		wg.Go(func() {
			for {
				p.step(customers[mine.IntN(len(customers))], mine)
				select {
				case <-over:
					return
				case <-time.After(time.Duration(mine.IntN(20)) * time.Millisecond):
				}
			}
		})
	}
	select {
	case <-lost:
	case <-time.After(time.Minute):
		t.Error("no usage arrives")
	}
	faults := rand.New(rand.NewPCG(rng.Uint64(), 0))
	wg.Go(func() { misbehave(s.billing, a, faults, over) })
	s.network.storm(rng, *laps)
	close(over)
	wg.Wait()

	// Quiet. Doors open again by themselves.
	s.network.change(fair, true)
	s.billing.ClearFaults()
	quiet := time.Now()
	require.NoError(t, s.client.Flush(within(t, 3*time.Minute)))
	flushed := time.Now()
	s.requireBilled(t)
	for _, c := range customers {
		s.requireSeen(t, c, flushed)
		p.finish(c.calls)
		p.finish(c.tokens)
	}
	require.NoError(t, s.client.Flush(within(t, 3*time.Minute)))
	s.requireBilled(t)
	for _, c := range customers {
		for _, limited := range []*cell{c.calls, c.tokens} {
			require.Equal(t, limited.limit, s.billing.Total(c.key, limited.feature), "%s of %s", limited.feature, c.key)
			require.LessOrEqual(t, limited.most.Load(), limited.limit, "%s of %s", limited.feature, c.key)
		}
	}
	requireAccounted(t, s.client, p.recorded.Load())
	require.NoError(t, s.client.Close(within(t, time.Minute)))
	requireAccounted(t, s.client, p.recorded.Load())

	counts := s.billing.UsageCounts()
	require.Zero(t, counts.Conflicts, "one id, two contents")
	require.NotZero(t, counts.DoubleBilled, "no record was sent twice: nothing was lost")
	t.Logf("keep-alive %v, evicting %v: %d calls, the longest %v; %d requests, %d records accepted, %d sent more than once; flushed %v after",
		keepAlive, evicting, p.made.Load(), time.Duration(p.longest.Load()),
		s.billing.Requests(entitlementstest.RouteAny), counts.Accepted, counts.DoubleBilled, flushed.Sub(quiet).Round(time.Millisecond))
}

// misbehave lets about every fourth request go wrong.
func misbehave(billing *entitlementstest.Billing, a api, rng *rand.Rand, over <-chan struct{}) {
	fine := entitlementstest.Fault{}
	faults := []entitlementstest.Fault{
		{Reset: true, After: true}, // accepted, and nobody hears of it
		{Reset: true},
		{Truncate: true},
		{Status: 500, Gateway: a.keyOnly},
		{Status: 503, Gateway: a.keyOnly, After: true},
		{Status: 502, Gateway: true},
		{Status: 429},
		{Latency: 30 * time.Millisecond},
		{Latency: 1500 * time.Millisecond, After: true}, // too late
		{Body: "{"},
	}
	routes := []entitlementstest.Route{a.route, entitlementstest.RouteEntitlements, entitlementstest.RouteAny}
	for n := 0; ; n++ {
		fault := faults[rng.IntN(len(faults))]
		if n%100 == 30 { // now and then: it shuts a door for as long
			fault = entitlementstest.Fault{Status: 429, RetryAfter: time.Second}
		}
		billing.Inject(routes[rng.IntN(len(routes))], fault, fine, fine, fine)
		select {
		case <-over:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// requireBilled checks that billing has each unit once.
func (s *service) requireBilled(t *testing.T) {
	t.Helper()
	for _, c := range s.customers {
		for _, cell := range c.cells() {
			require.Equal(t, cell.used.Load(), s.billing.Total(c.key, cell.feature), "billed to %s of %s", c.key, cell.feature)
		}
	}
}

// requireSeen checks that the local view is what billing has. The API tells its
// clock to the second, so that what was delivered is in an answer for certain when
// that was asked for more than a second later.
func (s *service) requireSeen(t *testing.T, c *customer, flushed time.Time) {
	t.Helper()
	require.Eventually(t, func() bool {
		s.client.Invalidate(c.key)
		d, err := s.client.Check(within(t, time.Minute), c.key, "calls") // in an outage the old answer
		return err == nil && time.Since(flushed)-d.Age > 1300*time.Millisecond
	}, time.Minute, 50*time.Millisecond, "%s is not refreshed", c.key)
	for _, cell := range c.cells() {
		require.Equal(t, cell.used.Load(), s.client.Decide(c.key, cell.feature).Used, "seen of %s of %s", cell.feature, c.key)
	}
}

// finish takes what is left of a limit: all of it can be had, and no more.
func (p *program) finish(c *cell) {
	left := c.limit - c.used.Load()
	require.False(p.t, p.client.Use(c.customer, c.feature, left+1).Allowed, "more than is left of %s of %s", c.feature, c.customer)
	if left > 0 {
		p.use(c, left)
	}
	require.Equal(p.t, c.limit, c.used.Load(), "what is left of %s of %s can be had", c.feature, c.customer)
	require.False(p.t, p.client.Use(c.customer, c.feature, 1).Allowed, "more than the limit of %s of %s", c.feature, c.customer)
}

// requireAccounted checks that each call is delivered: the API knows a record for
// longer than a run takes, so that none is in doubt.
func requireAccounted(t *testing.T, client *entitlements.Client, recorded uint64) {
	t.Helper()
	u := client.Stats().Usage
	require.Equal(t, u.Recorded+u.Restored, u.Delivered+u.Pending+u.InDoubt+u.DeadLettered+u.Dropped, "%+v", u)
	require.Equal(t, recorded, u.Recorded, "%+v", u)
	require.Equal(t, recorded, u.Delivered, "%+v", u)
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d) // a test's own is over when its clean-up runs
	t.Cleanup(cancel)
	return ctx
}
