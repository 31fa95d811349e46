package entitlements_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// spender is a client with one customer, "c", that is cached.
func spender(t *testing.T, cfg Config, grants map[string]Grant) (*Client, *entitlementstest.Source) {
	t.Helper()
	src := entitlementstest.NewSource(map[string]map[string]Grant{"c": grants})
	cfg.Source = src
	c := usageClient(t, cfg)
	_, err := c.Resolve(t.Context(), "c")
	require.NoError(t, err)
	return c, src
}

// useUp takes single units until one is denied, at most as many as most.
func useUp(c *Client, feature string, most int) (got int64) {
	for range most {
		if !c.Use("c", feature, 1).Allowed {
			return got
		}
		got++
	}
	return got
}

// balanced is the account of a client in a bubble in which nothing moves, which
// adds up.
func balanced(t *testing.T, c *Client) UsageStats {
	t.Helper()
	synctest.Wait()
	return requireBalancedUsage(t, c)
}

// periodGrant is a metered grant whose period began an hour ago.
func periodGrant(limit, used int64, ends time.Time) Grant {
	g := usageGrant(limit, used)
	g.PeriodStart, g.ResetsAt = time.Now().Add(-time.Hour), ends
	return g
}

// offTheSecond lets a moment pass in a bubble, which begins at a whole second: a
// clock that tells whole seconds is taken to know no more than that.
func offTheSecond() { time.Sleep(1234567 * time.Nanosecond) }

// periodBackend is Source and Sink of one backend, with a clock and periods of
// its own. It attributes usage by its Time, as billing does.
type periodBackend struct {
	limit       int64
	skew        time.Duration // its clock is ahead of ours by this
	startUntold bool          // it does not tell PeriodStart
	bounds      []time.Time   // on its clock: where one period ends and the next begins

	mu       sync.Mutex // guards the fields below
	accepted []Usage
	seen     map[string]bool
	fetches  int
}

func (b *periodBackend) now() time.Time { return time.Now().Add(b.skew) }

// set sets its clock.
func (b *periodBackend) set(skew time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.skew = skew
}

// sleepUntil sleeps until its clock shows this.
func (b *periodBackend) sleepUntil(at time.Time) { time.Sleep(at.Sub(b.now())) }

func (b *periodBackend) periodOf(at time.Time) (n int) {
	for n < len(b.bounds) && !at.Before(b.bounds[n]) {
		n++
	}
	return n
}

// billed is what it has accepted for a period.
func (b *periodBackend) billed(period int) (sum int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.billedLocked(period)
}

func (b *periodBackend) billedLocked(period int) (sum int64) {
	for _, u := range b.accepted {
		if b.periodOf(u.Time) == period {
			sum += u.Quantity
		}
	}
	return sum
}

func (b *periodBackend) asked() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fetches
}

func (b *periodBackend) Fetch(_ context.Context, customer string) (*Entitlements, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fetches++
	period := b.periodOf(b.now())
	g := usageGrant(b.limit, b.billedLocked(period))
	if period > 0 && !b.startUntold {
		g.PeriodStart = b.bounds[period-1]
	}
	if period < len(b.bounds) {
		g.ResetsAt = b.bounds[period]
	}
	trial := Grant{Enabled: true, ExpiresAt: b.bounds[len(b.bounds)-1]}
	quota := usageGrant(b.limit, 0)
	quota.ExpiresAt = trial.ExpiresAt
	return &Entitlements{
		Customer: customer, ServerTime: b.now(),
		Features: map[string]Grant{"api": g, "trial": trial, "trial_quota": quota},
	}, nil
}

func (b *periodBackend) Deliver(_ context.Context, batch Batch) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen == nil {
		b.seen = make(map[string]bool)
	}
	for _, u := range batch.Usage {
		if !b.seen[u.ID] && u.Feature == "api" {
			b.seen[u.ID] = true
			b.accepted = append(b.accepted, u)
		}
	}
	return nil
}

// Sixteen callers, and all that can happen to a customer meanwhile. Whatever a
// backend refuses, what was allowed was had: the limit is never passed, and none
// of it is lost either.
func TestUse_NeverAllowsMoreThanTheLimitAndAllOfItOnceQuiet(t *testing.T) {
	const limit = 400
	for name, test := range map[string]struct {
		step   entitlementstest.DeliverStep
		cfg    Config
		limits SinkLimits
	}{
		"a healthy sink":     {},
		"a slow sink":        {step: entitlementstest.DeliverStep{Latency: 300 * time.Millisecond, Late: 300 * time.Millisecond}},
		"a sink that is off": {step: entitlementstest.DeliverStep{Refuse: errSinkDown}},
		"lost answers":       {step: entitlementstest.DeliverStep{Lost: errSinkDown}},
		"refused for good":   {step: entitlementstest.DeliverStep{Refuse: Permanent(entitlementstest.ErrBad)}},
		"no room, the newest goes": {
			step: entitlementstest.DeliverStep{Refuse: errSinkDown}, cfg: Config{MaxPending: 1},
		},
		"no room, the oldest goes": {
			step: entitlementstest.DeliverStep{Refuse: errSinkDown}, cfg: Config{MaxPending: 1, Overflow: DropOldest},
		},
		"never resent": {
			step: entitlementstest.DeliverStep{Refuse: errSinkDown}, limits: SinkLimits{DedupWindow: -1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				grants := map[string]map[string]Grant{"c": {"api": usageGrant(limit, 0)}, "o1": nil, "o2": nil, "o3": nil}
				src := entitlementstest.NewSource(grants)
				src.Always(entitlementstest.FetchStep{Latency: 20 * time.Millisecond, Late: 30 * time.Millisecond})
				sink := entitlementstest.NewSink()
				sink.Feed(src)
				sink.Always(test.step)
				cfg := test.cfg
				cfg.Source, cfg.Sink = src, sink.Limited(test.limits)
				cfg.TTL, cfg.DenyTTL, cfg.MaxCustomers = time.Second, 200*time.Millisecond, 2
				cfg.FlushInterval, cfg.RetryFor = 50*time.Millisecond, time.Minute
				c := usageClient(t, cfg)

				var units, worst atomic.Int64
				var wg sync.WaitGroup
				for g := range 16 {
					wg.Go(func() {
						handle := c.Customer("c")
						feature := c.Feature("api")
						for i := range 30 {
							n := int64(1 + (g+i)%3)
							var d Decision
							switch i % 4 {
							case 0:
								d = handle.Use(feature, n)
							case 1:
								d = c.UseEvent(Usage{Customer: "c", Feature: "api", ID: fmt.Sprint(g, "-", i), Quantity: n})
							default:
								d = c.Use("c", "api", n)
							}
							if d.Allowed {
								worst.Store(max(worst.Load(), units.Add(n)))
							}
							switch {
							case g == 0 && i%4 == 0:
								_, _ = c.Resolve(t.Context(), "c")
							case g == 1 && i%5 == 0:
								c.Invalidate("c")
							case g == 2 && i%7 == 0:
								_, _ = c.Resolve(t.Context(), fmt.Sprint("o", 1+i%3)) // makes room for itself
							case g == 3 && i%9 == 0:
								ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
								_ = c.Flush(ctx)
								cancel()
							case g == 4 && i%20 == 0:
								c.Forget("c")
							}
							time.Sleep(time.Duration(1+(g*7+i*3)%40) * time.Millisecond)
						}
					})
				}
				wg.Wait()
				sink.Always(entitlementstest.DeliverStep{})
				for range 6 { // until nothing is on its way any more
					time.Sleep(10 * time.Second)
					_, err := c.Check(t.Context(), "c", "api")
					require.NoError(t, err)
					for c.Use("c", "api", 1).Allowed {
						units.Add(1)
					}
				}
				require.LessOrEqual(t, worst.Load(), int64(limit))
				require.EqualValues(t, limit, units.Load())
				require.NoError(t, c.Flush(t.Context()))
				s := balanced(t, c)
				require.EqualValues(t, s.Delivered, sink.TotalCalls())
				if s.Delivered == s.Recorded {
					require.EqualValues(t, limit, sink.Total("c", "api"))
				}
				require.Zero(t, sink.Conflicts())
			})
		})
	}
}

// Each allowed call shows a view of its own: the one after its step.
func TestUse_AllowedCallsAreStepsOneAfterTheOther(t *testing.T) {
	const limit = 3000
	c, _ := spender(t, Config{Sink: entitlementstest.NewSink(), TTL: time.Hour, DenyTTL: -1}, map[string]Grant{"api": usageGrant(limit, 0)})
	var mu sync.Mutex
	seen := map[int64]bool{}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			handle, feature := c.Customer("c"), c.Feature("api")
			var mine []Decision
			for i := range 400 {
				d := c.Use("c", "api", 1)
				if i%2 == 0 {
					d = handle.Use(feature, 1)
				}
				if d.Allowed {
					mine = append(mine, d)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for _, d := range mine {
				if seen[d.Used] || d.Remaining != limit-d.Used {
					t.Errorf("a step that was taken twice, or does not add up: %+v", d)
				}
				seen[d.Used] = true
			}
		})
	}
	wg.Wait()
	// 6400 calls, half of which nobody looked at.
	d := c.Decide("c", "api")
	require.EqualValues(t, limit, d.Used)
	require.Zero(t, d.Remaining)
	require.False(t, d.Allowed)
	for used := range seen {
		require.True(t, 1 <= used && used <= limit, "%d used", used)
	}
}

func TestUse_ShowsTheViewAfterTheStep(t *testing.T) {
	soft := usageGrant(10, 8)
	soft.Soft = true
	type step struct {
		n, used, remaining int64
		reason             Reason
	}
	for name, test := range map[string]struct {
		grant Grant
		fold  Aggregation
		steps []step
	}{
		"hard": {usageGrant(10, 2), AggregateSum, []step{
			{3, 5, 5, ReasonGranted},
			{6, 5, 5, ReasonLimitReached},
			{1, 6, 4, ReasonGranted},
			{4, 10, 0, ReasonGranted},
			{1, 10, 0, ReasonLimitReached},
		}},
		"soft": {soft, AggregateSum, []step{
			{2, 10, 0, ReasonGranted},
			{1, 11, 0, ReasonOverage},
			{100, 111, 0, ReasonOverage},
		}},
		"soft, past the limit in one step": {soft, AggregateSum, []step{{5, 13, 0, ReasonOverage}}},
		"unlimited": {usageGrant(Unlimited, 2), AggregateSum, []step{
			{3, 5, Unlimited - 5, ReasonGranted},
			{3, 8, Unlimited - 8, ReasonGranted},
		}},
		"zero":     {usageGrant(0, 0), AggregateSum, []step{{1, 0, 0, ReasonLimitReached}}},
		"negative": {usageGrant(-5, 0), AggregateSum, []step{{1, 0, 0, ReasonLimitReached}}},
		"max": {usageGrant(10, 7), AggregateMax, []step{
			{5, 7, 3, ReasonGranted},
			{9, 9, 1, ReasonGranted},
			{9, 9, 1, ReasonGranted},
			{10, 10, 0, ReasonGranted},
			{10, 10, 0, ReasonGranted},
		}},
		"last": {usageGrant(10, 7), AggregateLast, []step{
			{10, 10, 0, ReasonGranted},
			{2, 2, 8, ReasonGranted},
			{10, 10, 0, ReasonGranted},
		}},
		"unique": {usageGrant(10, 7), AggregateUnique, []step{
			{3, 7, 3, ReasonGranted},
			{3, 7, 3, ReasonGranted}, // only the backend can tell whether they are new
			{4, 7, 3, ReasonLimitReached},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for how, use := range map[string]func(c *Client, n int64) Decision{
				"by name": func(c *Client, n int64) Decision { return c.Use("c", "api", n) },
				"handle":  func(c *Client, n int64) Decision { return c.Customer("c").Use(c.Feature("api"), n) },
				"as event": func(c *Client, n int64) Decision {
					return c.UseEvent(Usage{Customer: "c", Feature: "api", Quantity: n})
				},
				"event with properties": func(c *Client, n int64) Decision {
					return c.UseEvent(Usage{Customer: "c", Feature: "api", Quantity: n, Properties: map[string]string{"k": "v"}})
				},
			} {
				synctest.Test(t, func(t *testing.T) {
					c, _ := spender(t, Config{
						Sink: entitlementstest.NewSink(), TTL: time.Hour, FlushInterval: time.Hour,
						Aggregations: map[string]Aggregation{"api": test.fold},
					}, map[string]Grant{"api": test.grant})
					for i, s := range test.steps {
						got := use(c, s.n)
						require.Equal(t, Decision{
							Allowed: s.reason != ReasonLimitReached, Reason: s.reason, Origin: OriginFresh, Kind: KindMetered,
							Limit: test.grant.Limit, Used: s.used, Remaining: s.remaining,
						}, got, "%s, step %d", how, i)
						d := c.Decide("c", "api")
						require.Equal(t, []int64{s.used, s.remaining}, []int64{d.Used, d.Remaining}, "%s, after step %d", how, i)
					}
				})
			}
		})
	}
}

// A denial shows the view too: the one that Decide shows.
func TestUse_DeniedShowsWhatDecideShows(t *testing.T) {
	for _, fold := range []Aggregation{AggregateSum, AggregateMax, AggregateLast, AggregateUnique} {
		t.Run(fold.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := spender(t, Config{TTL: time.Hour, Aggregations: map[string]Aggregation{"api": fold}}, map[string]Grant{"api": usageGrant(10, 7)})
				d := c.Use("c", "api", 11)
				require.False(t, d.Allowed)
				require.Equal(t, ReasonLimitReached, d.Reason)
				shown := c.Decide("c", "api")
				require.Equal(t, shown.Used, d.Used)
				require.Equal(t, shown.Remaining, d.Remaining)
			})
		})
	}
}

func TestUse_DeniedCountsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		expired := usageGrant(10, 0)
		expired.ExpiresAt = now.Add(-time.Second)
		off := usageGrant(10, 0)
		off.Enabled = false
		sink := entitlementstest.NewSink()
		c, _ := spender(t, Config{Sink: sink, TTL: time.Hour}, map[string]Grant{
			"full": usageGrant(10, 10), "nearly": usageGrant(10, 9), "expired": expired, "off": off, "switch": {}, "peak": usageGrant(10, 0),
		})
		_, err := c.Check(t.Context(), "nobody", "api")
		require.NoError(t, err)
		long := strings.Repeat("k", MaxKeyLength+1)
		for _, q := range []struct {
			customer, feature string
			n                 int64
			reason            Reason
		}{
			{"c", "full", 1, ReasonLimitReached},
			{"c", "nearly", 2, ReasonLimitReached},
			{"c", "nearly", math.MaxInt64, ReasonLimitReached},
			{"c", "expired", 1, ReasonExpired},
			{"c", "off", 1, ReasonNotGranted},
			{"c", "switch", 1, ReasonNotGranted},
			{"c", "absent", 1, ReasonNotGranted},
			{"nobody", "api", 1, ReasonUnknownCustomer},
			{"cold", "api", 1, ReasonLoading},
			{"", "api", 1, ReasonInvalid},
			{long, "api", 1, ReasonInvalid},
			{"c", "", 1, ReasonInvalid},
			{"c", long, 1, ReasonInvalid},
		} {
			feature := c.Feature(q.feature)
			for range 2 {
				denied := []Decision{
					c.Use(q.customer, q.feature, q.n),
					c.Customer(q.customer).Use(feature, q.n),
					c.UseEvent(Usage{Customer: q.customer, Feature: q.feature, Quantity: q.n, ID: "id"}),
				}
				for _, reserve := range []func() (*Reservation, Decision){
					func() (*Reservation, Decision) { return c.Reserve(q.customer, q.feature, q.n) },
					func() (*Reservation, Decision) { return c.Customer(q.customer).Reserve(feature, q.n) },
				} {
					r, d := reserve()
					require.Nil(t, r, "%+v", q)
					r.Commit(5) // and takes every call
					r.Renew()
					r.Release()
					denied = append(denied, d)
				}
				for _, d := range denied {
					require.False(t, d.Allowed, "%+v", q)
					if q.reason != ReasonLoading { // by then it is known to be unknown
						require.Equal(t, q.reason, d.Reason, "%+v", q)
					}
				}
			}
		}
		require.Equal(t, ReasonInvalid, c.UseEvent(Usage{Customer: "c", Feature: "nearly", Quantity: 1, ID: long}).Reason)
		require.NoError(t, c.Flush(t.Context()))
		require.Zero(t, balanced(t, c).Recorded)
		require.Empty(t, sink.Accepted())
		require.EqualValues(t, 9, c.Decide("c", "nearly").Used)
		require.EqualValues(t, 1, c.Decide("c", "nearly").Remaining)
	})
}

func TestUse_BelowOneIsInvalid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		soft := usageGrant(0, 0)
		soft.Soft = true
		src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {
			"api": usageGrant(10, 5), "soft": soft, "free": usageGrant(Unlimited, 0), "switch": {Enabled: true},
		}})
		c := usageClient(t, Config{Source: src, Sink: entitlementstest.NewSink(), OnUnavailable: FailOpen})
		check := func(customer string) {
			t.Helper()
			for _, feature := range []string{"api", "soft", "free", "switch", "absent"} {
				for _, n := range []int64{0, -1, -5, math.MinInt64} {
					handle, f := c.Customer(customer), c.Feature(feature)
					r1, d1 := c.Reserve(customer, feature, n)
					r2, d2 := handle.Reserve(f, n)
					require.Nil(t, r1)
					require.Nil(t, r2)
					for _, d := range []Decision{
						c.Use(customer, feature, n), handle.Use(f, n), d1, d2,
						c.UseEvent(Usage{Customer: customer, Feature: feature, Quantity: n, ID: "id"}),
					} {
						require.False(t, d.Allowed, "%s %d", feature, n)
						require.Equal(t, ReasonInvalid, d.Reason, "%s %d", feature, n)
					}
				}
			}
		}
		check("cold")
		_, err := c.Resolve(t.Context(), "c")
		require.NoError(t, err)
		check("c")
		require.Zero(t, balanced(t, c).Recorded)
		require.EqualValues(t, 5, c.Decide("c", "api").Used)
		require.NotZero(t, c.Stats().Decisions.DeniedBy[Denial{Feature: "api", Reason: ReasonInvalid}])
	})
}

func TestUse_OfWhatIsNotMeteredIsDecideAndTrack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c, _ := spender(t, Config{Sink: sink, TTL: time.Hour, Aggregations: map[string]Aggregation{"peak": AggregateMax}}, map[string]Grant{
			"switch": {Enabled: true}, "seats": {Kind: KindNumeric, Enabled: true, Limit: 3}, "region": {Kind: KindText, Enabled: true, Text: "eu"},
			"trial": {Enabled: true, ExpiresAt: time.Now().Add(time.Minute)}, "peak": {Enabled: true}, "off": {},
		})
		for _, feature := range []string{"switch", "seats", "region", "trial", "peak"} {
			want := c.Decide("c", feature)
			require.True(t, want.Allowed)
			require.Equal(t, want, c.Use("c", feature, 5), "more than any limit that is not one of units")
			require.Equal(t, want, c.Customer("c").Use(c.Feature(feature), 7))
		}
		require.False(t, c.Use("c", "off", 1).Allowed)
		time.Sleep(time.Minute)
		require.Equal(t, ReasonExpired, c.Use("c", "trial", 1).Reason)
		require.NoError(t, c.Flush(t.Context()))
		for _, feature := range []string{"switch", "seats", "region", "trial"} {
			require.EqualValues(t, 12, sink.Total("c", feature), feature)
		}
		require.EqualValues(t, 7, sink.Total("c", "peak"), "folded as Track folds")
		require.Zero(t, sink.Total("c", "off"))
		require.EqualValues(t, 10, balanced(t, c).Recorded)
	})
}

func TestUse_FarEndsOfInt64(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		soft := usageGrant(10, 5)
		soft.Soft = true
		sink := entitlementstest.NewSink()
		c, _ := spender(t, Config{Sink: sink, TTL: time.Hour, FlushInterval: time.Hour, DenyTTL: -1}, map[string]Grant{
			"soft": soft, "free": usageGrant(Unlimited, 5), "hard": usageGrant(math.MaxInt64-1, 5), "over": usageGrant(10, math.MaxInt64),
		})
		for _, feature := range []string{"soft", "free"} {
			for range 3 {
				d := c.Use("c", feature, math.MaxInt64)
				require.True(t, d.Allowed, feature)
				require.EqualValues(t, int64(math.MaxInt64), d.Used)
				require.Zero(t, d.Remaining)
			}
		}
		require.False(t, c.Use("c", "over", 1).Allowed)
		require.False(t, c.Use("c", "hard", math.MaxInt64).Allowed)
		require.False(t, c.Use("c", "hard", math.MaxInt64-5).Allowed)
		require.True(t, c.Use("c", "hard", math.MaxInt64-6).Allowed)
		require.False(t, c.Use("c", "hard", 1).Allowed)
		r, d := c.Reserve("c", "free", math.MaxInt64)
		require.True(t, d.Allowed)
		require.True(t, c.Use("c", "free", math.MaxInt64).Allowed, "what is held never makes an unlimited grant end")
		r.Commit(math.MaxInt64)
		c.Track("c", "hard", -1)
		require.True(t, c.Use("c", "hard", 1).Allowed)
		require.False(t, c.Use("c", "hard", 1).Allowed)
		require.NoError(t, c.Flush(t.Context()))
		s := balanced(t, c)
		require.EqualValues(t, s.Recorded, s.Delivered)
	})
}

// On a miss nobody knows what is left. What FailOpen let through is counted, and
// once a snapshot is there it is on top of it, as long as that may not contain it.
func TestUse_ColdMissAsksThePolicyAndIsReconciled(t *testing.T) {
	for _, delivered := range []bool{false, true} {
		t.Run(fmt.Sprint("delivered first: ", delivered), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": usageGrant(10, 4), "shut": usageGrant(10, 4)}})
				src.Always(entitlementstest.FetchStep{Latency: 3 * time.Second})
				sink := entitlementstest.NewSink()
				sink.Feed(src)
				cfg := Config{
					Source: src, Sink: sink, OnUnavailable: FailOpen, TTL: time.Second, DenyTTL: 100 * time.Millisecond,
					FeaturePolicy: map[string]Policy{"shut": FailClosed},
				}
				if !delivered {
					cfg.FlushInterval = 10 * time.Second
				}
				c := usageClient(t, cfg)
				for range 4 {
					d := c.Use("c", "api", 1)
					require.True(t, d.Allowed)
					require.Equal(t, ReasonLoading, d.Reason)
					require.Equal(t, OriginPolicy, d.Origin)
					require.False(t, c.Use("c", "shut", 1).Allowed)
				}
				require.EqualValues(t, 4, balanced(t, c).Recorded, "what was denied counts nothing")
				synctest.Wait() // the load is on its way
				src.Always(entitlementstest.FetchStep{})
				d, err := c.Check(t.Context(), "c", "api")
				require.NoError(t, err)
				require.GreaterOrEqual(t, d.Used, int64(8), "4 that the backend told, and 4 of ours")
				if delivered { // while it was asked: nobody can tell whether it told of them
					time.Sleep(3 * time.Second)
				}
				require.EqualValues(t, 8, c.Decide("c", "api").Used, "4 that the backend told, and 4 of ours")
				require.EqualValues(t, 4, c.Decide("c", "shut").Used)
				require.EqualValues(t, 2, useUp(c, "api", 20))
				for range 30 {
					time.Sleep(time.Second)
					require.False(t, c.Use("c", "api", 1).Allowed)
				}
				require.EqualValues(t, 10, c.Decide("c", "api").Used)
				require.EqualValues(t, 6, sink.Total("c", "api"))
			})
		})
	}
}

// An allowed call that finds no room was allowed all the same.
func TestUse_ColdMissStaysCountedWhenThereIsNoRoomForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": usageGrant(10, 0)}})
		src.Always(entitlementstest.FetchStep{Latency: time.Second})
		sink := entitlementstest.NewSink()
		sink.Always(entitlementstest.DeliverStep{Refuse: errSinkDown})
		c := usageClient(t, Config{Source: src, Sink: sink, OnUnavailable: FailOpen, MaxPending: 1, TTL: time.Hour})
		c.Track("other", "api", 1)
		require.True(t, c.Use("c", "api", 6).Allowed)
		require.EqualValues(t, 1, balanced(t, c).DroppedBy["overflow"])
		_, err := c.Check(t.Context(), "c", "api")
		require.NoError(t, err)
		require.EqualValues(t, 6, c.Decide("c", "api").Used)
		require.EqualValues(t, 4, useUp(c, "api", 20))
	})
}

// The Source is down for a while, and the Sink refuses for good what the policy
// let through meanwhile.
func TestUse_ColdMissStaysCountedWhenItsRecordIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := periodGrant(10, 0, time.Now().Add(15*time.Minute))
		src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": g}})
		src.Always(entitlementstest.FetchStep{Err: errSinkDown})
		sink := entitlementstest.NewSink()
		sink.Always(entitlementstest.DeliverStep{Refuse: Permanent(entitlementstest.ErrBad)})
		c := usageClient(t, Config{Source: src, Sink: sink, OnUnavailable: FailOpen, TTL: time.Minute})
		require.True(t, c.Use("c", "api", 6).Allowed)
		time.Sleep(5 * time.Minute)
		require.EqualValues(t, 1, balanced(t, c).DeadLettered)
		src.Always(entitlementstest.FetchStep{})
		time.Sleep(time.Minute)
		_, err := c.Check(t.Context(), "c", "api")
		require.NoError(t, err)
		require.EqualValues(t, 6, c.Decide("c", "api").Used)
		require.EqualValues(t, 4, useUp(c, "api", 20))
		time.Sleep(time.Until(g.ResetsAt))
		require.Zero(t, c.Decide("c", "api").Used, "until its period ends")
	})
}

func TestUse_LastKnownTakesFromTheOldSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, src := spender(t, Config{
			Sink: entitlementstest.NewSink(), TTL: time.Second, MaxStale: time.Minute,
			FeaturePolicy: map[string]Policy{"api": LastKnown, "open": FailOpen},
		}, map[string]Grant{"api": usageGrant(10, 3), "open": usageGrant(10, 10), "shut": usageGrant(10, 3)})
		src.Always(entitlementstest.FetchStep{Err: errSinkDown})
		time.Sleep(2 * time.Minute)
		d := c.Use("c", "api", 2)
		require.True(t, d.Allowed)
		require.Equal(t, ReasonTooStale, d.Reason)
		require.Equal(t, OriginPolicy, d.Origin)
		require.EqualValues(t, 5, d.Used)
		require.EqualValues(t, 5, d.Remaining)
		r, d := c.Reserve("c", "api", 4)
		require.True(t, d.Allowed)
		require.EqualValues(t, 1, useUp(c, "api", 20), "an old snapshot's limit is a limit")
		r.Release()
		require.EqualValues(t, 4, useUp(c, "api", 20))
		require.Equal(t, ReasonTooStale, c.Use("c", "api", 1).Reason)
		require.True(t, c.Use("c", "open", 5).Allowed)
		require.False(t, c.Use("c", "shut", 1).Allowed)
		require.EqualValues(t, 7, balanced(t, c).Recorded)
	})
}

func TestUse_StaysCountedWhenItsRecordIsGivenUp(t *testing.T) {
	for name, test := range map[string]struct {
		refuse error // nil: there is no Sink
		dedup  time.Duration
		cfg    Config
	}{
		"refused for good":     {refuse: Permanent(entitlementstest.ErrBad)},
		"tried for too long":   {refuse: Unsent(errSinkDown), cfg: Config{RetryFor: 5 * time.Second}},
		"in doubt":             {refuse: errSinkDown, dedup: -1},
		"no room for it":       {refuse: Unsent(errSinkDown), cfg: Config{MaxPending: 1}},
		"it made room":         {refuse: Unsent(errSinkDown), cfg: Config{MaxPending: 1, Overflow: DropOldest}},
		"no room, and no sink": {cfg: Config{MaxPending: 1}},
		"no sink":              {},
		"merely not delivered": {refuse: Unsent(errSinkDown)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				ends := start.Add(10 * time.Minute)
				cfg := test.cfg
				if test.refuse != nil {
					sink := entitlementstest.NewSink()
					sink.Always(entitlementstest.DeliverStep{Refuse: test.refuse})
					cfg.Sink = sink.Limited(SinkLimits{DedupWindow: test.dedup})
				}
				cfg.TTL, cfg.DenyTTL, cfg.MaxCustomers = 10*time.Second, time.Second, 1
				cfg.Aggregations = map[string]Aggregation{"peak": AggregateMax, "last": AggregateLast}
				cfg.Source = entitlementstest.NewSource(map[string]map[string]Grant{"o": nil, "c": {
					"api": periodGrant(10, 2, ends), "event": periodGrant(10, 2, ends), "held": periodGrant(10, 2, ends),
					"peak": periodGrant(10, 2, ends), "last": periodGrant(10, 2, ends),
				}})
				c := usageClient(t, cfg)
				resolve := func(customer string) {
					t.Helper()
					_, err := c.Resolve(t.Context(), customer)
					require.NoError(t, err)
				}
				c.Track("first", "fills", 1)
				resolve("c")
				r, d := c.Reserve("c", "held", 5)
				require.True(t, d.Allowed)
				r.Commit(4)
				for range 4 {
					require.True(t, c.Use("c", "api", 1).Allowed)
				}
				require.True(t, c.UseEvent(Usage{Customer: "c", Feature: "event", ID: "mine", Quantity: 4}).Allowed)
				require.True(t, c.Use("c", "peak", 6).Allowed)
				require.True(t, c.Use("c", "last", 6).Allowed)
				c.Track("then", "something", 1)
				for i := range 18 {
					if i%6 == 5 {
						c.Forget("c")
						resolve("o") // and it is evicted
						resolve("c")
					}
					for _, feature := range []string{"api", "event", "held", "peak", "last"} {
						d := c.Decide("c", feature)
						require.EqualValues(t, 6, d.Used, "%s after %v", feature, time.Since(start))
						require.EqualValues(t, 4, d.Remaining, "%s after %v", feature, time.Since(start))
					}
					time.Sleep(30 * time.Second)
				}
				require.EqualValues(t, 4, useUp(c, "api", 20))
				balanced(t, c)
				time.Sleep(time.Until(ends))
				for _, feature := range []string{"api", "event", "held", "peak", "last"} {
					require.Zero(t, c.Decide("c", feature).Used, "%s, exactly at ResetsAt", feature)
				}
				require.EqualValues(t, 10, useUp(c, "api", 20))
			})
		})
	}
}

// Whatever the backend's clock shows, its periods end and its grants expire when
// it says so, with nobody asked, and usage is billed to the period that allowed
// it.
func TestUse_EndsAreJudgedAtTheCheckOnTheBackendsClock(t *testing.T) {
	for _, skew := range []time.Duration{0, time.Hour, -time.Hour, 40 * 24 * time.Hour, 3 * time.Second} {
		t.Run(skew.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				offTheSecond()
				b := &periodBackend{limit: 10, skew: skew}
				ends := b.now().Add(95*time.Second + 5*time.Millisecond)
				expires := ends.Add(40 * time.Second)
				b.bounds = []time.Time{b.now().Add(-time.Hour), ends, expires}
				c := usageClient(t, Config{Source: b, Sink: b, TTL: time.Hour, DenyTTL: -1, FlushInterval: 30 * time.Second})
				_, err := c.Resolve(t.Context(), "c")
				require.NoError(t, err)
				time.Sleep(10 * time.Second)
				require.EqualValues(t, 4, useUp(c, "api", 4))
				r, d := c.Reserve("c", "api", 2)
				require.True(t, d.Allowed)
				b.sleepUntil(ends.Add(-time.Millisecond))
				require.EqualValues(t, 4, useUp(c, "api", 20))
				r.Commit(2)
				require.EqualValues(t, 10, c.Decide("c", "api").Used)
				b.sleepUntil(ends.Add(-time.Nanosecond))
				require.Equal(t, ReasonLimitReached, c.Use("c", "api", 1).Reason)
				b.sleepUntil(ends)
				d = c.Use("c", "api", 1)
				require.True(t, d.Allowed)
				require.EqualValues(t, 1, d.Used)
				require.EqualValues(t, 9, d.Remaining)
				r, d = c.Reserve("c", "api", 3)
				require.True(t, d.Allowed)
				require.EqualValues(t, 6, useUp(c, "api", 20))
				r.Commit(3)
				time.Sleep(20 * time.Second)
				require.False(t, c.Use("c", "api", 1).Allowed)

				b.sleepUntil(expires.Add(-time.Nanosecond))
				require.True(t, c.Use("c", "trial", 1).Allowed)
				require.True(t, c.Use("c", "trial_quota", 1).Allowed)
				b.sleepUntil(expires)
				require.Equal(t, ReasonExpired, c.Use("c", "trial", 1).Reason)
				require.Equal(t, ReasonExpired, c.Use("c", "trial_quota", 1).Reason)
				require.Equal(t, 1, b.asked(), "with no network")

				require.NoError(t, c.Flush(t.Context()))
				require.EqualValues(t, 10, b.billed(1))
				require.EqualValues(t, 10, b.billed(2))
			})
		})
	}
}

// A difference of clocks below two seconds is not noticed, so around the end of a
// period the two sides disagree about which one it is. The figures come from the
// backend: its period is the one that a limit is for.
func TestUse_NeverMintsWhileClocksDisagreeAboutThePeriod(t *testing.T) {
	for _, skew := range []time.Duration{1900 * time.Millisecond, time.Second, -time.Second, -1900 * time.Millisecond} {
		for _, startUntold := range []bool{false, true} {
			t.Run(fmt.Sprint(skew, ", start untold: ", startUntold), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					offTheSecond()
					b := &periodBackend{limit: 10, skew: skew, startUntold: startUntold}
					ends := b.now().Add(20 * time.Second)
					b.bounds = []time.Time{b.now().Add(-time.Hour), ends, ends.Add(time.Hour)}
					c := usageClient(t, Config{Source: b, Sink: b, TTL: 300 * time.Millisecond, DenyTTL: 50 * time.Millisecond, FlushInterval: 100 * time.Millisecond})
					_, err := c.Resolve(t.Context(), "c")
					require.NoError(t, err)
					require.EqualValues(t, 10, useUp(c, "api", 20))
					b.sleepUntil(ends.Add(-5 * time.Second))
					require.False(t, c.Use("c", "api", 1).Allowed)
					allowed := int64(0)
					for i := 0; b.now().Before(ends.Add(6 * time.Second)); i++ {
						switch i % 4 {
						case 0:
							if r, d := c.Reserve("c", "api", 1); d.Allowed {
								r.Commit(1)
								allowed++
							}
						default:
							if c.Use("c", "api", 1).Allowed {
								allowed++
							}
						}
						time.Sleep(37 * time.Millisecond)
					}
					require.EqualValues(t, 10, allowed, "allowed since the first period was used up")
					require.NoError(t, c.Flush(t.Context()))
					require.EqualValues(t, 10, b.billed(1))
					require.EqualValues(t, 10, b.billed(2))
				})
			})
		}
	}
}

// The idea of the backend's clock can change while a record is open: what is used
// after the period's end is of the next one all the same.
func TestUse_CountsInTheNewPeriodWhenTheBackendsClockWasSet(t *testing.T) {
	for name, use := range map[string]func(c *Client){
		"Use":    func(c *Client) { c.Use("c", "api", 5) },
		"Track":  func(c *Client) { c.Track("c", "api", 5) },
		"Record": func(c *Client) { c.Record(Usage{Customer: "c", Feature: "api", Quantity: 5}) },
		"Commit": func(c *Client) {
			r, _ := c.Reserve("c", "api", 5)
			r.Commit(5)
		},
	} {
		for _, sink := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", sink: ", sink), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					offTheSecond()
					b := &periodBackend{limit: 10}
					ends := b.now().Add(time.Hour)
					b.bounds = []time.Time{b.now().Add(-time.Hour), ends, ends.Add(time.Hour)}
					cfg := Config{Source: b, TTL: time.Second, FlushInterval: 10 * time.Minute}
					if sink {
						cfg.Sink = b
					}
					c := usageClient(t, cfg)
					_, err := c.Resolve(t.Context(), "c")
					require.NoError(t, err)
					time.Sleep(time.Second)
					use(c)
					b.set(time.Hour - 20*time.Second)
					for range 50 { // until that is what most answers say
						time.Sleep(200 * time.Millisecond)
						c.Invalidate("c")
						_, err := c.Check(t.Context(), "c", "api")
						require.NoError(t, err)
					}
					require.EqualValues(t, 5, c.Decide("c", "api").Used)
					b.sleepUntil(ends.Add(10 * time.Millisecond))
					require.Zero(t, c.Decide("c", "api").Used)
					use(c)
					require.EqualValues(t, 5, c.Decide("c", "api").Used)
					time.Sleep(5 * time.Second)
					require.EqualValues(t, 5, c.Decide("c", "api").Used)
				})
			})
		}
	}
}

// A backend that rolls over late goes on telling the old period for a while.
func TestUse_ABackendThatRollsOverLateMintsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := time.Now().Add(time.Minute)
		g := periodGrant(10, 7, ends)
		c, src := spender(t, Config{Sink: entitlementstest.NewSink(), TTL: time.Second, DenyTTL: 100 * time.Millisecond}, map[string]Grant{"api": g})
		require.EqualValues(t, 3, useUp(c, "api", 20))
		time.Sleep(time.Until(ends))
		allowed := int64(0)
		for range 100 {
			allowed += useUp(c, "api", 1)
			time.Sleep(200 * time.Millisecond)
		}
		require.EqualValues(t, 10, allowed)
		g.Used, g.PeriodStart, g.ResetsAt = 10, ends, ends.Add(time.Hour)
		src.Put("c", map[string]Grant{"api": g})
		for range 100 {
			require.False(t, c.Use("c", "api", 1).Allowed)
			time.Sleep(200 * time.Millisecond)
		}
	})
}

// Corrections give back what the view shows as used and not more: until the
// backend tells what it makes of them, the limit is all there is.
func TestUse_CorrectionsMintNothingBeyondTheLimit(t *testing.T) {
	flush := func(c *Client) { _ = c.Flush(context.Background()) }
	for name, test := range map[string]struct {
		step entitlementstest.DeliverStep
		cfg  Config
		then func(c *Client) // after some were used
	}{
		"nothing happens":    {then: func(*Client) {}},
		"it is delivered":    {then: flush},
		"a minute goes by":   {then: func(*Client) { time.Sleep(time.Minute) }},
		"it is refused":      {step: entitlementstest.DeliverStep{Refuse: Permanent(entitlementstest.ErrBad)}, then: flush},
		"there is no room":   {step: entitlementstest.DeliverStep{Refuse: errSinkDown}, cfg: Config{MaxPending: 1}, then: func(*Client) { time.Sleep(time.Minute) }},
		"an event is used":   {then: func(c *Client) { c.UseEvent(Usage{Customer: "c", Feature: "api", ID: "mine", Quantity: 1}) }},
		"something is held":  {then: func(c *Client) { r, _ := c.Reserve("c", "api", 1); flush(c); r.Release() }},
		"some is committed":  {then: func(c *Client) { flush(c); r, _ := c.Reserve("c", "api", 1); r.Commit(1) }},
		"some is tracked":    {then: func(c *Client) { flush(c); c.Track("c", "api", 1) }},
		"a refresh comes":    {then: func(c *Client) { c.Invalidate("c"); _, _ = c.Load(context.Background(), "c") }},
		"others are flushed": {then: func(c *Client) { c.Track("o", "api", 1); flush(c) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := entitlementstest.NewSink()
				sink.Always(test.step)
				cfg := test.cfg
				cfg.Sink, cfg.TTL, cfg.DenyTTL, cfg.FlushInterval = sink, 10*time.Hour, -1, 5*time.Hour
				c, _ := spender(t, cfg, map[string]Grant{"api": usageGrant(10, 0)})
				c.Track("c", "api", -50)
				taken := int64(0)
				for _, most := range []int{4, 2, 30, 30} {
					taken += useUp(c, "api", most)
					d := c.Decide("c", "api")
					require.LessOrEqual(t, d.Remaining, d.Limit)
					test.then(c)
				}
				require.LessOrEqual(t, taken, int64(10))
				d := c.Decide("c", "api")
				require.False(t, d.Allowed, "%+v", d)
			})
		})
	}
}

func TestUse_CorrectionsGiveBackWhatWasUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := spender(t, Config{Sink: entitlementstest.NewSink(), TTL: 10 * time.Hour, DenyTTL: -1}, map[string]Grant{"api": usageGrant(10, 3)})
		require.EqualValues(t, 7, useUp(c, "api", 20))
		c.Track("c", "api", -4)
		require.EqualValues(t, 4, useUp(c, "api", 20))
		time.Sleep(2 * time.Minute) // delivered, and in a record of its own
		c.Track("c", "api", -2)
		require.EqualValues(t, 2, useUp(c, "api", 20))
		require.EqualValues(t, 10, c.Decide("c", "api").Used)
	})
}

// Also when an earlier one gave back more than was used.
func TestUse_CorrectionsGiveBackWhatWasUsedAfterOneThatGaveTooMuch(t *testing.T) {
	for name, correct := range map[string]func(c *Client, n int64){
		"Track": func(c *Client, n int64) { c.Track("c", "api", n) },
		"Record": func(c *Client, n int64) {
			c.Record(Usage{Customer: "c", Feature: "api", Quantity: n, ID: fmt.Sprint(n)})
		},
	} {
		for _, flushed := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", flushed: ", flushed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ends := time.Now().Add(5 * time.Minute)
					c, _ := spender(t, Config{Sink: entitlementstest.NewSink(), TTL: 10 * time.Hour, FlushInterval: time.Hour, DenyTTL: -1}, map[string]Grant{"api": periodGrant(10, 0, ends)})
					time.Sleep(time.Second) // what is sent from now on is not in the snapshot for certain
					c.Track("c", "api", -50)
					require.EqualValues(t, 10, useUp(c, "api", 20))
					for n := int64(1); n < 5; n++ {
						if flushed {
							require.NoError(t, c.Flush(t.Context()))
						}
						correct(c, -n)
						require.EqualValues(t, 10-n, c.Decide("c", "api").Used)
						require.EqualValues(t, n, useUp(c, "api", 20))
					}
					time.Sleep(time.Until(ends))
					require.EqualValues(t, 10, useUp(c, "api", 20))
					correct(c, -7)
					require.EqualValues(t, 3, c.Decide("c", "api").Used, "in the next period too")
				})
			})
		}
	}
}

// A handle goes on answering from what it was made of, when its customer has made
// room for others. What was used through it is not forgotten before that is.
func TestUse_AHandleOfAnEvictedCustomerMintsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		grants := map[string]map[string]Grant{"c": {"api": usageGrant(10, 0)}, "o1": nil, "o2": nil}
		src := entitlementstest.NewSource(grants)
		sink := entitlementstest.NewSink()
		sink.Feed(src)
		c := usageClient(t, Config{Source: src, Sink: sink, MaxCustomers: 1, TTL: time.Hour, MaxStale: 2 * time.Hour})
		handle, err := c.Resolve(t.Context(), "c")
		require.NoError(t, err)
		api := c.Feature("api")
		use := func() (got int64) {
			for range 20 {
				if handle.Use(api, 1).Allowed {
					got++
				}
			}
			return got
		}
		require.EqualValues(t, 10, use())
		require.NoError(t, c.Flush(t.Context()))
		_, err = c.Resolve(t.Context(), "o1")
		require.NoError(t, err)
		for range 5 {
			time.Sleep(10 * time.Minute) // long enough for what nobody asks about to be let go
			require.False(t, handle.Decide(api).Allowed)
			r, _ := handle.Reserve(api, 1)
			require.Nil(t, r, "held beyond the limit")
			require.Zero(t, use(), "allowed beyond the limit")
		}
	})
}

// Some before, some after what nobody asks about was let go, and some in the next
// period: it is one limit for all of them.
func TestUse_AHandleOfAnEvictedCustomerGoesOnWhereItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := time.Now().Add(30 * time.Minute)
		src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": periodGrant(10, 1, ends), "other": periodGrant(10, 1, ends)}, "o": nil})
		sink := entitlementstest.NewSink()
		c := usageClient(t, Config{Source: src, Sink: sink, MaxCustomers: 1, TTL: 2 * time.Hour, MaxStale: 3 * time.Hour, DenyTTL: -1})
		handle, err := c.Resolve(t.Context(), "c")
		require.NoError(t, err)
		api, other := c.Feature("api"), c.Feature("other")
		pause := func() {
			t.Helper()
			require.NoError(t, c.Flush(t.Context()))
			_, err := c.Resolve(t.Context(), "o")
			require.NoError(t, err)
			time.Sleep(7 * time.Minute)
		}
		left := func(feature Feature, n int64) {
			t.Helper()
			require.Equal(t, n, handle.Decide(feature).Remaining)
			require.False(t, handle.Use(feature, n+1).Allowed)
			r, d := handle.Reserve(feature, n)
			require.Equal(t, n > 0, d.Allowed)
			r.Release()
		}
		require.True(t, handle.Use(api, 4).Allowed)
		pause()
		left(api, 5)
		require.True(t, handle.Use(other, 2).Allowed)
		require.True(t, handle.Use(api, 3).Allowed)
		pause()
		left(api, 2)
		left(other, 7)
		handle.Track(api, 2)
		left(api, 0)
		pause()
		left(api, 0)
		left(other, 7)
		time.Sleep(time.Until(ends))
		left(api, 10)
		require.True(t, handle.Use(api, 6).Allowed)
		pause()
		left(api, 4)
		left(other, 10)
		require.True(t, handle.Use(api, 4).Allowed)
		pause()
		left(api, 0)
		require.EqualValues(t, 9+10, sink.Total("c", "api"))
	})
}

// A call that meets a Forget of its customer has seen what is granted, and may not
// see what is used any more.
func TestUse_ForgetMeanwhileMintsNothing(t *testing.T) {
	const n = 2500
	full := &Entitlements{Features: map[string]Grant{"api": usageGrant(10, 10)}}
	src := SourceFunc(func(_ context.Context, customer string) (*Entitlements, error) {
		return &Entitlements{Customer: customer, Features: full.Features}, nil
	})
	c := usageClient(t, Config{Source: src, TTL: time.Hour, MaxCustomers: 2 * n})
	customers := named("full", n)
	loaded(t, c, customers...)
	// Whoever asks for Stats of a client without a Sink looks at every account, so
	// that a call that needs a new one has to wait a little.
	for _, other := range named("other", 3000) {
		c.Track(other, "api", 1)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			c.Stats()
		}
	})
	minted := 0
	for _, customer := range customers {
		begun, done := make(chan struct{}), make(chan Decision)
		go func() {
			close(begun)
			done <- c.Use(customer, "api", 1)
		}()
		<-begun
		c.Forget(customer)
		if (<-done).Allowed {
			minted++
		}
	}
	stop.Store(true)
	wg.Wait()
	require.Zero(t, minted, "of %d customers that had used up all, so many were allowed more", n)
}

func TestUse_AsksForRefreshesAsDecideDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, src := spender(t, Config{TTL: time.Minute, DenyTTL: 5 * time.Second, IdleAfter: 2 * time.Minute}, map[string]Grant{
			"api": usageGrant(1000, 0), "full": usageGrant(10, 10),
		})
		time.Sleep(4 * time.Second)
		require.False(t, c.Use("c", "full", 1).Allowed)
		synctest.Wait()
		require.Equal(t, 1, src.Calls("c"))
		src.Put("c", map[string]Grant{"api": usageGrant(1000, 0), "full": usageGrant(20, 10)}) // has paid
		time.Sleep(2 * time.Second)
		require.False(t, c.Use("c", "full", 1).Allowed)
		synctest.Wait()
		require.Equal(t, 2, src.Calls("c"), "a denial asks once the snapshot is older than DenyTTL")
		require.True(t, c.Use("c", "full", 1).Allowed)
		for range 120 { // the customer is in use
			time.Sleep(10 * time.Second)
			d := c.Use("c", "api", 1)
			require.True(t, d.Allowed)
			require.Equal(t, OriginFresh, d.Origin)
			require.Less(t, d.Age, time.Minute)
		}
		src.Always(entitlementstest.FetchStep{Err: errSinkDown})
		time.Sleep(2 * time.Minute)
		d := c.Use("c", "api", 1)
		require.True(t, d.Allowed)
		require.Equal(t, OriginStale, d.Origin)
		require.Greater(t, d.Age, time.Minute)
	})
}

// Used in a period whose limit a refresh changes.
func TestUse_FollowsTheLatestGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c, src := spender(t, Config{Sink: sink, TTL: time.Hour}, map[string]Grant{"api": usageGrant(10, 0)})
		sink.Feed(src)
		handle, api := c.Customer("c"), c.Feature("api")
		reload := func(g Grant) {
			t.Helper()
			require.NoError(t, c.Flush(t.Context()))
			time.Sleep(time.Second) // so that the fetch is later than what was delivered
			src.Put("c", map[string]Grant{"api": g})
			c.Invalidate("c")
			_, err := c.Check(t.Context(), "c", "api")
			require.NoError(t, err)
		}
		require.EqualValues(t, 10, useUp(c, "api", 20))
		reload(usageGrant(15, 10))
		require.EqualValues(t, 5, useUp(c, "api", 20))
		reload(usageGrant(5, 15))
		require.False(t, handle.Use(api, 1).Allowed)
		reload(Grant{Enabled: true})
		d := handle.Use(api, 100)
		require.True(t, d.Allowed, "not metered any more")
		require.Equal(t, KindBoolean, d.Kind)
		require.True(t, c.Use("c", "api", 100).Allowed)
		reload(usageGrant(300, 215))
		require.EqualValues(t, 85, useUp(c, "api", 200))
		soft := usageGrant(300, 300)
		soft.Soft = true
		reload(soft)
		require.Equal(t, ReasonOverage, c.Use("c", "api", 1).Reason)
		reload(Grant{Kind: KindMetered, Limit: 1000})
		require.Equal(t, ReasonNotGranted, c.Use("c", "api", 1).Reason)
		require.NoError(t, c.Flush(t.Context()))
		require.EqualValues(t, 10+5+200+85+1, sink.Total("c", "api"))
	})
}

// Unique usage travels one by one; Max and Last fold.
func TestUse_FoldsAsTrackDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c, _ := spender(t, Config{Sink: sink, TTL: time.Hour, FlushInterval: time.Hour, Aggregations: map[string]Aggregation{
			"peak": AggregateMax, "level": AggregateLast, "users": AggregateUnique,
		}}, map[string]Grant{"peak": usageGrant(10, 9), "level": usageGrant(10, 9), "users": usageGrant(10, 1), "sum": usageGrant(100, 1)})
		for _, n := range []int64{3, 8, 4} {
			for _, feature := range []string{"peak", "level", "users", "sum"} {
				require.True(t, c.Use("c", feature, n).Allowed, feature)
			}
		}
		for _, feature := range []string{"peak", "level", "users"} {
			require.Equal(t, ReasonLimitReached, c.Use("c", feature, 11).Reason, feature)
		}
		require.NoError(t, c.Flush(t.Context()))
		got := map[string][]int64{}
		for _, u := range sink.Accepted() {
			got[u.Feature] = append(got[u.Feature], u.Quantity)
		}
		require.Equal(t, map[string][]int64{"peak": {8}, "level": {4}, "users": {3, 8, 4}, "sum": {15}}, got)
		require.EqualValues(t, 12, balanced(t, c).Delivered)
	})
}

func TestUse_WithoutASinkCountsUntilResetsAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := time.Now().Add(10 * time.Minute)
		c, _ := spender(t, Config{TTL: 10 * time.Second, DenyTTL: time.Second}, map[string]Grant{"api": periodGrant(10, 3, ends)})
		allowed := int64(0)
		for time.Now().Before(ends.Add(-time.Minute)) {
			allowed += useUp(c, "api", 1)
			time.Sleep(29 * time.Second)
		}
		require.EqualValues(t, 7, allowed)
		require.EqualValues(t, 7, balanced(t, c).Pending)
		time.Sleep(time.Until(ends))
		require.EqualValues(t, 10, useUp(c, "api", 20))
		require.EqualValues(t, 7, balanced(t, c).DroppedBy["no_sink"])
	})
}

func TestUse_AfterCloseThePolicyAnswers(t *testing.T) {
	for _, policy := range []Policy{FailClosed, FailOpen, LastKnown} {
		t.Run(policy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := entitlementstest.NewSink()
				c, _ := spender(t, Config{Sink: sink, OnUnavailable: policy}, map[string]Grant{"api": usageGrant(10, 0)})
				handle, api := c.Customer("c"), c.Feature("api")
				require.True(t, c.Use("c", "api", 3).Allowed)
				require.NoError(t, c.Close(t.Context()))
				r, d1 := c.Reserve("c", "api", 1)
				calls := []Decision{d1, c.Use("c", "api", 1), handle.Use(api, 1), c.UseEvent(Usage{Customer: "c", Feature: "api", ID: "i", Quantity: 1}), c.Use("c", "api", 0)}
				r.Commit(1)
				allowed := uint64(0)
				for i, d := range calls {
					require.Equal(t, ReasonClosed, d.Reason)
					require.Equal(t, policy == FailOpen, d.Allowed)
					if d.Allowed && i < 4 {
						allowed++
					}
				}
				s := balanced(t, c)
				require.EqualValues(t, 1, s.Delivered)
				require.Equal(t, allowed, s.DroppedBy["closed"])
				require.Equal(t, allowed+1, s.Recorded)
				require.EqualValues(t, 3, sink.Total("c", "api"))
			})
		})
	}
}

func TestUseEvent_TravelsAsItsOwnRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.Next(entitlementstest.DeliverStep{Lost: errSinkDown}) // it is sent again
		c, src := spender(t, Config{Sink: sink, TTL: time.Hour, FlushInterval: time.Hour, DenyTTL: -1}, map[string]Grant{"api": usageGrant(100, 0)})
		sink.Feed(src)
		at := time.Now().Add(-10 * time.Minute)
		properties := map[string]string{"region": "eu"}
		require.EqualValues(t, 1, c.UseEvent(Usage{Customer: "c", Feature: "api", Quantity: 1, ID: "one", Count: 99}).Used)
		require.EqualValues(t, 3, c.UseEvent(Usage{Customer: "c", Feature: "api", Quantity: 2, Properties: properties}).Used)
		require.EqualValues(t, 7, c.UseEvent(Usage{Customer: "c", Feature: "api", Quantity: 4, Time: at, ID: "old"}).Used)
		require.EqualValues(t, 15, c.UseEvent(Usage{Customer: "c", Feature: "api", Quantity: 8}).Used)
		require.EqualValues(t, 31, c.Use("c", "api", 16).Used)
		require.EqualValues(t, 32, c.UseEvent(Usage{Customer: "c", Feature: "api", Quantity: 1, ID: "one"}).Used, "the view counts it twice until it is told")
		d := c.UseEvent(Usage{Customer: "c", Feature: "api", Quantity: 69, ID: "too much"})
		require.False(t, d.Allowed)
		require.EqualValues(t, 32, d.Used)
		properties["region"] = "changed"
		require.NoError(t, c.Flush(t.Context()))
		byID, others := map[string]Usage{}, map[int64]Usage{}
		for _, u := range sink.Accepted() {
			if u.ID == "one" || u.ID == "old" {
				byID[u.ID] = u
			} else {
				others[u.Quantity] = u
			}
		}
		require.Len(t, sink.Accepted(), 4)
		require.EqualValues(t, 1, byID["one"].Count)
		require.True(t, at.Equal(byID["old"].Time))
		require.Equal(t, map[string]string{"region": "eu"}, others[2].Properties)
		require.EqualValues(t, 2, others[24].Count, "an event with nothing of its own folds")
		require.Zero(t, sink.Conflicts())
		require.EqualValues(t, 6, balanced(t, c).Delivered)
		time.Sleep(time.Second)
		c.Invalidate("c")
		d, err := c.Check(t.Context(), "c", "api")
		require.NoError(t, err)
		require.EqualValues(t, 31, d.Used, "the backend counts a repeated ID once")
	})
}

// A late event is judged by what was left when it happened, and an early one by
// what will be.
func TestUseEvent_IsJudgedAndCountedInThePeriodOfItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := time.Now().Add(5 * time.Minute)
		sink := entitlementstest.NewSink()
		c, _ := spender(t, Config{Sink: sink, TTL: 10 * time.Hour, MaxStale: 20 * time.Hour, DenyTTL: -1}, map[string]Grant{"api": periodGrant(10, 8, ends)})
		event := func(id string, n int64, at time.Time) Decision {
			return c.UseEvent(Usage{Customer: "c", Feature: "api", ID: id, Quantity: n, Time: at})
		}
		require.True(t, event("early", 7, ends).Allowed)
		require.Equal(t, ReasonLimitReached, event("early 2", 4, ends.Add(time.Second)).Reason)
		require.EqualValues(t, 8, c.Decide("c", "api").Used, "it counts in the next period")
		require.True(t, c.Use("c", "api", 1).Allowed)
		time.Sleep(time.Until(ends.Add(time.Minute)))
		require.EqualValues(t, 7, c.Decide("c", "api").Used)
		d := event("late", 1, ends.Add(-time.Nanosecond))
		require.True(t, d.Allowed)
		require.EqualValues(t, 10, d.Used)
		require.Equal(t, ReasonLimitReached, event("late 2", 1, ends.Add(-time.Minute)).Reason)
		require.EqualValues(t, 7, c.Decide("c", "api").Used, "it counted in the last period")
		require.EqualValues(t, 3, useUp(c, "api", 20))
		require.NoError(t, c.Flush(t.Context()))
		require.EqualValues(t, 7+1+1+3, sink.Total("c", "api"))
	})
}

// A backend that does not tell when its period began told when the last one ends.
// Events that are used right after its snapshot are of the new period.
func TestUseEvent_CountsInThePeriodThatHasJustBegun(t *testing.T) {
	for _, startUntold := range []bool{false, true} {
		t.Run(fmt.Sprint("start untold: ", startUntold), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				offTheSecond()
				b := &periodBackend{limit: 10, startUntold: startUntold}
				ends := b.now().Add(time.Minute + 50*time.Millisecond) // between two ticks of the client's clock
				b.bounds = []time.Time{b.now().Add(-time.Hour), ends, ends.Add(time.Hour)}
				c := usageClient(t, Config{Source: b, Sink: b, TTL: time.Hour, DenyTTL: -1})
				_, err := c.Resolve(t.Context(), "c")
				require.NoError(t, err)
				require.EqualValues(t, 10, useUp(c, "api", 20))
				b.sleepUntil(ends.Add(time.Millisecond))
				c.Invalidate("c")
				_, err = c.Check(t.Context(), "c", "api")
				require.NoError(t, err)
				require.True(t, c.Use("c", "api", 1).Allowed)
				allowed := 1
				for i := range 40 {
					if c.UseEvent(Usage{Customer: "c", Feature: "api", ID: fmt.Sprint(i), Quantity: 1}).Allowed {
						allowed++
					}
					time.Sleep(time.Millisecond)
				}
				require.Equal(t, 10, allowed)
				require.NoError(t, c.Flush(t.Context()))
				require.EqualValues(t, 10, b.billed(1))
				require.EqualValues(t, 10, b.billed(2))
			})
		})
	}
}

func TestUse_RecordedIsWhatWasAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.Always(entitlementstest.DeliverStep{Refuse: Unsent(errSinkDown)})
		c, _ := spender(t, Config{Sink: sink, TTL: time.Second}, map[string]Grant{"api": usageGrant(20, 0), "switch": {Enabled: true}})
		allowed, denied := uint64(0), uint64(0)
		before := c.Stats().Decisions
		for i := range 40 {
			for _, d := range []Decision{
				c.Use("c", "api", 1), c.Customer("c").Use(c.Feature("switch"), 3),
				c.UseEvent(Usage{Customer: "c", Feature: "api", ID: fmt.Sprint(i), Quantity: 1}),
			} {
				if d.Allowed {
					allowed++
				} else {
					denied++
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		s := balanced(t, c)
		require.Equal(t, allowed, s.Recorded)
		require.EqualValues(t, 20+40, allowed)
		d := c.Stats().Decisions
		require.Equal(t, allowed, d.Allowed-before.Allowed)
		require.Equal(t, denied, d.Denied-before.Denied)
		require.Equal(t, denied, d.DeniedBy[Denial{Feature: "api", Reason: ReasonLimitReached}])
		sink.Always(entitlementstest.DeliverStep{})
		require.NoError(t, c.Flush(t.Context()))
		require.EqualValues(t, allowed, balanced(t, c).Delivered)
		require.EqualValues(t, 20, sink.Total("c", "api"))
	})
}

// Who waits for a flush finds in the account what it waited for, also when the
// client's own flush comes at the same moment.
func TestUse_IsInTheAccountWhenFlushReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := spender(t, Config{Sink: entitlementstest.NewSink(), TTL: time.Hour, FlushInterval: 5 * time.Millisecond}, map[string]Grant{"api": usageGrant(Unlimited, 0)})
		rounds := uint64(5000)
		if underRace {
			rounds = 1000
		}
		for i := range rounds {
			require.True(t, c.Use("c", "api", 1).Allowed)
			time.Sleep(5 * time.Millisecond)
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					if err := c.Flush(t.Context()); err != nil {
						t.Error(err)
					}
					if s := c.Stats().Usage; s.Delivered+s.Pending != i+1 {
						t.Errorf("%d recorded, %d delivered, %d pending", s.Recorded, s.Delivered, s.Pending)
					}
				})
			}
			wg.Wait()
		}
	})
}
