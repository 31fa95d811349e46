package entitlements_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

var errDown = errors.New("connection refused")

func TestRule05_CachedCheckNeverWaitsForARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"a": {"x": {Enabled: true}}})
		c := opened(t, Config{Source: src, TTL: time.Second, FetchTimeout: time.Minute})
		loaded(t, c, "a")
		src.Put("a", map[string]Grant{"x": {}})
		src.Always(entitlementstest.FetchStep{Latency: 10 * time.Second})
		time.Sleep(5 * time.Second) // the refresh is under way since second 1
		require.Equal(t, 2, src.Calls("a"))
		require.Zero(t, took(func() {
			d, err := c.Check(t.Context(), "a", "x")
			require.NoError(t, err)
			require.True(t, d.Allowed)
			require.Equal(t, OriginStale, d.Origin)
			require.InDelta(t, 5*time.Second, d.Age, float64(100*time.Millisecond))
			require.True(t, c.Allowed("a", "x"))
			require.True(t, c.Customer("a").Allowed(c.Feature("x")))
			cu, err := c.Resolve(t.Context(), "a")
			require.NoError(t, err)
			require.Equal(t, OriginStale, cu.Decide(c.Feature("x")).Origin)
		}))
		time.Sleep(7 * time.Second)
		d := c.Decide("a", "x")
		require.Equal(t, ReasonNotGranted, d.Reason, "the refresh landed")
		require.Equal(t, OriginStale, d.Origin, "its fetch began more than a TTL ago")
		require.Positive(t, c.Stats().Decisions.Stale)
	})
}

func TestRule05_StaleIfErrorUntilMaxStaleExactly(t *testing.T) {
	for _, policy := range []Policy{FailClosed, FailOpen, LastKnown} {
		t.Run(policy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := entitlementstest.NewSource(map[string]map[string]Grant{"a": withX()})
				c := opened(t, Config{Source: src, TTL: time.Second, MaxStale: 17*time.Second + 3, OnUnavailable: policy})
				time.Sleep(12_345_678) // off the tick
				began := time.Now()
				loaded(t, c, "a")
				src.Always(entitlementstest.FetchStep{Err: errDown})
				cu, x := c.Customer("a"), c.Feature("x")
				time.Sleep(time.Until(began.Add(17*time.Second + 2)))
				d := c.Decide("a", "x")
				require.True(t, d.Allowed)
				require.Equal(t, OriginStale, d.Origin)
				require.True(t, c.Allowed("a", "x"))
				require.True(t, cu.Allowed(x))
				require.False(t, c.Allowed("a", "y"))
				time.Sleep(time.Nanosecond)
				d = c.Decide("a", "x")
				require.Equal(t, ReasonTooStale, d.Reason)
				require.Equal(t, OriginPolicy, d.Origin)
				require.Equal(t, policy != FailClosed, d.Allowed)
				require.Equal(t, policy != FailClosed, c.Allowed("a", "x"))
				require.Equal(t, policy != FailClosed, cu.Allowed(x))
				require.Equal(t, policy == FailOpen, c.Allowed("a", "y"), "LastKnown knows that it was denied")
				d, err := c.Check(t.Context(), "a", "x")
				require.ErrorIs(t, err, ErrUnavailable)
				require.ErrorIs(t, err, errDown)
				require.Equal(t, policy != FailClosed, d.Allowed)

				src.Always(entitlementstest.FetchStep{})
				time.Sleep(time.Minute)
				c.Allowed("a", "x")
				time.Sleep(time.Minute)
				require.True(t, c.Allowed("a", "x"), "recovers by itself")
			})
		})
	}
}

// A Source that answers at once keeps what is in use younger than TTL.
func TestRule05_RefreshComesBeforeTTL(t *testing.T) {
	for _, ttl := range []time.Duration{100 * time.Millisecond, time.Second, 30 * time.Second} {
		t.Run(ttl.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &spy{}
				c := opened(t, Config{Source: src, TTL: ttl, IdleAfter: -1})
				time.Sleep(12_345_678)
				loaded(t, c, named("c", 200)...)
				time.Sleep(5 * ttl)
				last, late, worst := map[string]time.Time{}, 0, time.Duration(0)
				for _, call := range src.seen() {
					if was, ok := last[call.customer]; ok {
						age := call.at.Sub(was)
						worst = max(worst, age)
						require.Greater(t, age, ttl*6/10, "nor much more often")
						if age > ttl {
							late++
						}
					}
					last[call.customer] = call.at
				}
				require.Len(t, last, 200)
				require.Zero(t, late, "of %d refreshes began later than TTL, one at an age of %v", len(src.seen())-200, worst)
			})
		})
	}
}

func TestRule05_RefreshesAreJittered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl = 30 * time.Second
		src := &spy{}
		c := opened(t, Config{Source: src, TTL: ttl, IdleAfter: -1})
		loaded(t, c, named("c", 500)...)
		time.Sleep(time.Nanosecond)
		busiest := func() int {
			bySecond := map[int64]int{}
			begin := time.Now()
			time.Sleep(ttl)
			for _, call := range src.since(begin) {
				bySecond[int64(call.at.Sub(begin)/time.Second)]++
			}
			most := 0
			for _, n := range bySecond {
				most = max(most, n)
			}
			return most
		}
		require.Less(t, busiest(), 250, "all were loaded in one moment, and must not be refreshed in one")
		time.Sleep(6 * ttl)
		require.Less(t, busiest(), 100, "they drift apart: even is 20 a second")
	})
}

// Ten processes that started together do not ask together for ever.
func TestRule05_ProcessesDriftApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &spy{}
		for range 12 {
			loaded(t, opened(t, Config{Source: src, TTL: 10 * time.Second, IdleAfter: -1}), "a")
		}
		begin := time.Now()
		time.Sleep(40 * time.Second)
		moments := map[int64]int{}
		for _, call := range src.since(begin.Add(time.Second)) {
			moments[int64(call.at.Sub(begin)/(100*time.Millisecond))]++
		}
		for at, n := range moments {
			require.LessOrEqual(t, n, 7, "at %d00 ms", at)
		}
		require.Greater(t, len(moments), 15)
	})
}

func TestRule05_TTLStretchesWhenDemandExceedsTheBounds(t *testing.T) {
	const customers = 60
	for _, test := range []struct {
		name    string
		cfg     Config
		latency time.Duration
		round   time.Duration // that all refreshes take once
	}{
		{"rate", Config{FetchRate: 2}, 0, 30 * time.Second},
		{"concurrency", Config{FetchConcurrency: 4}, time.Second, 30 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var latency atomic.Int64
				src := &spy{answer: func(ctx context.Context, customer string) (*Entitlements, error) {
					return grantedX(customer), nap(ctx, time.Duration(latency.Load()))
				}}
				cfg := test.cfg
				cfg.Source, cfg.TTL, cfg.IdleAfter = src, 10*time.Second, -1
				c := opened(t, cfg)
				all := named("c", customers)
				loaded(t, c, all...)
				latency.Store(int64(test.latency))
				time.Sleep(test.round) // to the steady state
				src.mu.Lock()
				src.most = 0
				src.mu.Unlock()
				begin := time.Now()
				for time.Since(begin) < 4*test.round {
					for _, customer := range all {
						require.True(t, c.Allowed(customer, "x"))
					}
					time.Sleep(time.Second)
				}
				src.mu.Lock()
				if cfg.FetchConcurrency != 0 {
					require.Equal(t, cfg.FetchConcurrency/2, src.most, "refreshes use half of the calls")
				}
				src.mu.Unlock()
				last := map[string]time.Time{}
				for _, call := range src.since(begin) {
					if was, ok := last[call.customer]; ok {
						require.InDelta(t, test.round.Seconds(), call.at.Sub(was).Seconds(), 8, "%s: oldest first is everybody in turn", call.customer)
					}
					last[call.customer] = call.at
				}
				require.Len(t, last, customers)
				behind := c.Stats().Source.BehindBy
				require.Less(t, behind, 40*time.Second)
				require.Greater(t, behind, 10*time.Second, "30 s a round against a TTL of 10 s")
			})
		})
	}
}

// A few customers against a low rate: the loader's queue holds all that is due,
// and they are as late as if it did not.
func TestRule05_BehindByCountsWhatWaitsForTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &spy{}
		c := opened(t, Config{Source: src, TTL: 10 * time.Second, FetchRate: 1, IdleAfter: -1})
		loaded(t, c, named("c", 25)...)
		var behind time.Duration
		for range 120 {
			time.Sleep(time.Second)
			behind = max(behind, c.Stats().Source.BehindBy)
		}
		require.Greater(t, behind, 10*time.Second, "a round takes 25 s, and TTL is 10 s")
	})
}

// Refreshes use the rate that they are given, however long each takes.
func TestRule05_RefreshesUseTheRateTheyAreGiven(t *testing.T) {
	for _, rate := range []float64{5, 50, 200} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &spy{answer: func(ctx context.Context, customer string) (*Entitlements, error) {
					return grantedX(customer), nap(ctx, 100*time.Millisecond)
				}}
				c := opened(t, Config{Source: src, TTL: 10 * time.Second, FetchRate: rate, FetchConcurrency: 64, IdleAfter: -1})
				_, err := c.Warm(t.Context(), slices.Values(named("c", int(5*rate)))) // half of what the rate allows
				require.NoError(t, err)
				time.Sleep(20 * time.Second)
				require.Less(t, c.Stats().Source.BehindBy, 2*time.Second)
				before := len(src.seen())
				time.Sleep(20 * time.Second)
				require.InDelta(t, 20*rate/2/0.925, len(src.seen())-before, 20*rate/2*0.2, "each customer once in a TTL")
			})
		})
	}
}

func TestRule05_WhoJustPaidGetsInAfterDenyTTL(t *testing.T) {
	for name, grants := range map[string]map[string]Grant{
		"switched off": {"x": {}},
		"absent":       {},
		"used up":      {"x": {Kind: KindMetered, Enabled: true, Limit: 5, Used: 5}},
		"expired":      {"x": {Enabled: true, ExpiresAt: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := entitlementstest.NewSource(map[string]map[string]Grant{"a": grants})
				c := opened(t, Config{Source: src, TTL: 10 * time.Minute, DenyTTL: 2 * time.Second})
				loaded(t, c, "a")
				for range 100 {
					require.False(t, c.Allowed("a", "x"))
					time.Sleep(100 * time.Millisecond)
				}
				require.LessOrEqual(t, src.Calls("a"), 1+5, "10 s of denials at a DenyTTL of 2 s")
				src.Put("a", map[string]Grant{"x": {Enabled: true}}) // paid
				waited := took(func() {
					for !c.Allowed("a", "x") {
						time.Sleep(50 * time.Millisecond)
					}
				})
				require.LessOrEqual(t, waited, 2*time.Second+200*time.Millisecond)
				calls := src.Calls("a")
				for range 100 {
					require.True(t, c.Allowed("a", "x"))
					time.Sleep(100 * time.Millisecond)
				}
				require.Equal(t, calls, src.Calls("a"), "what is allowed waits for its TTL")
			})
		})
	}
}

func TestRule05_DenialsDoNotHammerAFailingSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"a": {}, "b": withX()})
		c := opened(t, Config{Source: src, TTL: 30 * time.Second, DenyTTL: time.Second})
		loaded(t, c, "a", "b")
		src.Always(entitlementstest.FetchStep{Err: errDown})
		for range 600 {
			require.False(t, c.Allowed("a", "x"))
			time.Sleep(100 * time.Millisecond)
		}
		require.LessOrEqual(t, src.Calls("a"), 12, "a minute")
	})
}

func TestRule05_DenyTTLNegativeIsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"a": {}})
		c := opened(t, Config{Source: src, TTL: time.Minute, DenyTTL: -1})
		loaded(t, c, "a")
		for range 45 {
			require.False(t, c.Allowed("a", "x"))
			time.Sleep(time.Second)
		}
		require.Equal(t, 1, src.Calls("a"))
	})
}

func TestRule08_OnlyCustomersInUseAreRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &spy{}
		c := opened(t, Config{Source: src, TTL: time.Second, IdleAfter: 10 * time.Second})
		_, err := c.Warm(t.Context(), slices.Values([]string{"used", "idle"}))
		require.NoError(t, err)
		for range 60 {
			require.True(t, c.Allowed("used", "x"))
			time.Sleep(time.Second)
		}
		require.Greater(t, src.count("used"), 50)
		require.Greater(t, src.count("idle"), 5, "warmed counts as used once")
		require.Less(t, src.count("idle"), 14)

		d := c.Decide("idle", "x")
		require.True(t, d.Allowed)
		require.Equal(t, OriginStale, d.Origin)
		time.Sleep(200 * time.Millisecond)
		require.Equal(t, OriginFresh, c.Decide("idle", "x").Origin, "its check asked for a refresh")
	})
}

func TestRule08_IdleCustomersAreNotReloadedByInvalidateAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &spy{}
		c := opened(t, Config{Source: src, TTL: time.Second, IdleAfter: 5 * time.Second})
		loaded(t, c, "a")
		time.Sleep(time.Minute)
		calls := src.count("a")
		c.InvalidateAll()
		time.Sleep(time.Minute)
		require.Equal(t, calls, src.count("a"))
		d, err := c.Check(t.Context(), "a", "x")
		require.NoError(t, err)
		require.Equal(t, OriginFresh, d.Origin)
		require.Equal(t, calls+1, src.count("a"))
	})
}

// The bar: an outage of ten minutes costs nobody an answer, and the Source at
// most a probe a second.
func TestRule08_OutageIsSurvived(t *testing.T) {
	for _, test := range []struct {
		name      string
		customers int
		fail      func(context.Context) error
	}{
		{"refused", 10_000, func(context.Context) error { return errDown }},
		{"hangs", 1000, func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }},
		{"busy", 1000, func(context.Context) error { return RetryAfter(time.Second, errDown) }},
	} {
		customers, fail := test.customers, test.fail
		if underRace {
			customers = min(customers, 500)
		}
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var down atomic.Bool
				src := &spy{answer: func(ctx context.Context, customer string) (*Entitlements, error) {
					if down.Load() {
						return nil, fail(ctx)
					}
					return grantedX(customer), nil
				}}
				c := opened(t, Config{Source: src, MaxCustomers: customers})
				all := named("c", customers)
				_, err := c.Warm(t.Context(), slices.Values(all))
				require.NoError(t, err)
				checkAll := func() {
					for i, customer := range all {
						if !c.Allowed(customer, "x") {
							require.Fail(t, "not answered from the cache", "%s: %+v", customer, c.Decide(customer, "x"))
						}
						if i%1000 == 0 {
							_, err := c.Check(t.Context(), customer, "x")
							require.NoError(t, err)
						}
					}
				}
				down.Store(true)
				time.Sleep(time.Nanosecond)
				begin := time.Now()
				for time.Since(begin) < 10*time.Minute {
					require.Zero(t, took(checkAll))
					time.Sleep(30 * time.Second)
				}
				// The first calls find out; 32 of them may be under way by then.
				first := src.since(begin)[0].at
				steady := src.since(first.Add(10 * time.Second))
				bySecond := map[int64]int{}
				for _, call := range steady {
					bySecond[call.at.Unix()]++
				}
				most := 0
				for _, n := range bySecond {
					most = max(most, n)
				}
				all10 := len(src.since(begin))
				t.Logf("%d calls in the outage, %d of them to find out, at most %d a second then", all10, all10-len(steady), most)
				require.NotEmpty(t, steady)
				require.LessOrEqual(t, most, 1, "probes in one second")
				require.LessOrEqual(t, all10-len(steady), 64+10)

				down.Store(false)
				for range 10 {
					time.Sleep(10 * time.Second)
					checkAll()
				}
				require.False(t, c.Stats().Source.BreakerOpen)
				require.Equal(t, OriginFresh, c.Decide(all[0], "x").Origin, "recovers by itself")
				require.Equal(t, OriginFresh, c.Decide(all[customers-1], "x").Origin)
				require.LessOrEqual(t, src.most, 64)
			})
		})
	}
}

func TestRule08_BreakerProbesAtMostOnceASecond(t *testing.T) {
	// A backend that is down and names a very short wait is down all the same.
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		src := &spy{answer: func(context.Context, string) (*Entitlements, error) {
			if n.Add(1) <= 20 {
				return nil, errDown
			}
			return nil, RetryAfter(5*time.Millisecond, errDown)
		}}
		c := opened(t, Config{Source: src, NegativeTTL: -1})
		for i := range 300 {
			_, err := c.Check(t.Context(), fmt.Sprint("c", i), "x")
			require.ErrorIs(t, err, ErrUnavailable)
			time.Sleep(100 * time.Millisecond)
		}
		calls := src.seen()
		steady := src.since(calls[0].at.Add(5 * time.Second))
		require.LessOrEqual(t, len(steady), 25, "in 25 s")
	})
}

func TestRule08_RetryAfterIsObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"a": withX(), "b": withX()})
		c := opened(t, Config{Source: src, TTL: time.Second, NegativeTTL: time.Second})
		loaded(t, c, "a")
		src.Next(entitlementstest.FetchStep{Err: RetryAfter(20*time.Second, errDown)})
		c.Invalidate("a")
		synctest.Wait()
		require.Equal(t, 2, src.TotalCalls())
		for range 39 {
			time.Sleep(500 * time.Millisecond)
			require.True(t, c.Allowed("a", "x"))
			require.False(t, c.Allowed("b", "x"))
			require.Zero(t, took(func() {
				_, err := c.Check(t.Context(), "b", "x")
				require.ErrorIs(t, err, ErrUnavailable)
				require.ErrorIs(t, err, errDown)
			}))
		}
		require.Equal(t, 2, src.TotalCalls(), "nothing before its time")
		time.Sleep(2 * time.Second)
		require.True(t, c.Allowed("a", "x"))
		require.Equal(t, OriginFresh, c.Decide("a", "x").Origin)
		d, err := c.Check(t.Context(), "b", "x")
		require.NoError(t, err)
		require.True(t, d.Allowed)
	})
}

func TestRule08_ABackendCannotShutTheDoorForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"a": withX()})
		c := opened(t, Config{Source: src})
		src.Next(entitlementstest.FetchStep{Err: RetryAfter(1<<62, errDown)})
		_, err := c.Check(t.Context(), "a", "x")
		require.ErrorIs(t, err, ErrUnavailable)
		time.Sleep(10 * time.Minute)
		d, err := c.Check(t.Context(), "a", "x")
		require.NoError(t, err)
		require.True(t, d.Allowed)
	})
}

func TestRule08_RefusedCredentialsAreTriedSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refused atomic.Bool
		src := &spy{answer: func(_ context.Context, customer string) (*Entitlements, error) {
			if refused.Load() {
				return nil, Permanent(errors.New("401"))
			}
			return grantedX(customer), nil
		}}
		c := opened(t, Config{Source: src, TTL: time.Second, MaxStale: 2 * time.Hour})
		all := named("c", 50)
		loaded(t, c, all...)
		refused.Store(true)
		begin := time.Now()
		for time.Since(begin) < 12*time.Minute {
			for _, customer := range all {
				require.True(t, c.Allowed(customer, "x"))
			}
			time.Sleep(5 * time.Second)
		}
		steady := src.since(begin.Add(time.Minute))
		require.NotEmpty(t, steady, "not given up")
		require.LessOrEqual(t, len(steady), 10, "in 11 minutes")
		require.True(t, c.Stats().Source.BreakerOpen)
		require.False(t, c.Health().Source.Ready)
		refused.Store(false) // somebody mended the key
		for range 80 {
			time.Sleep(5 * time.Second)
			c.Allowed(all[0], "x")
		}
		require.Equal(t, OriginFresh, c.Decide(all[0], "x").Origin)
		require.True(t, c.Health().Source.Ready)
	})
}

func TestRule08_NotModifiedRenewsTheAgeOnly(t *testing.T) {
	metered := func(used int64, asOf time.Time, version string) *Entitlements {
		return &Entitlements{
			Customer: "a", Plan: "p", Version: version, AsOf: asOf, ServerTime: time.Now(),
			Features: map[string]Grant{"x": {Enabled: true}, "m": {Kind: KindMetered, Enabled: true, Limit: 100, Used: used}},
		}
	}
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(nil)
		asOf := time.Now().Add(-time.Second).UTC()
		src.PutEntitlements(metered(10, asOf, "v1"))
		c := opened(t, Config{Source: src.Conditional(), TTL: time.Second, MaxStale: 2 * time.Second})
		loaded(t, c, "a")
		for range 100 {
			src.AddUsed("a", "m", 1) // does not change the version
			time.Sleep(100 * time.Millisecond)
			d := c.Decide("a", "m")
			require.True(t, d.Allowed)
			require.EqualValues(t, 10, d.Used, "nothing is learnt about usage without a body")
			require.Less(t, d.Age, 1500*time.Millisecond)
		}
		require.Greater(t, src.Calls("a"), 8)
		set, err := c.Load(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, asOf, set.AsOf)
		require.EqualValues(t, 10, set.Features["m"].Used)
		require.Equal(t, "v1", set.Version)

		later := time.Now().UTC()
		src.PutEntitlements(metered(50, later, "v2"))
		c.Invalidate("a")
		set, err = c.Load(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, later, set.AsOf, "both move with a body")
		require.EqualValues(t, 50, set.Features["m"].Used)
	})
}

func TestRule08_EqualVersionWithABodyBringsUsageAndRenewsTheAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(nil)
		src.PutEntitlements(&Entitlements{Customer: "a", Version: "v1", Features: map[string]Grant{
			"x": {Enabled: true}, "m": {Kind: KindMetered, Enabled: true, Limit: 100, Used: 10},
		}})
		c := opened(t, Config{Source: src, TTL: time.Second, MaxStale: 2 * time.Second})
		loaded(t, c, "a")
		src.AddUsed("a", "m", 5)
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			require.True(t, c.Allowed("a", "x"))
		}
		require.EqualValues(t, 15, c.Decide("a", "m").Used)
	})
}

func TestRule23_BoundariesAreExact(t *testing.T) {
	for _, offset := range []time.Duration{0, time.Hour, -time.Hour} {
		t.Run(fmt.Sprint("the backend's clock is off by ", offset), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				backend := func() time.Time { return time.Now().Add(offset) }
				time.Sleep(12_345_678)
				expires, resets := backend().Add(time.Minute), backend().Add(2*time.Minute)
				src := SourceFunc(func(_ context.Context, customer string) (*Entitlements, error) {
					return &Entitlements{Customer: customer, ServerTime: backend(), Features: map[string]Grant{
						"x": {Enabled: true, ExpiresAt: expires},
						"m": {Kind: KindMetered, Enabled: true, Limit: 5, Used: 5, ResetsAt: resets},
					}}, nil
				})
				c := opened(t, Config{Source: src, TTL: time.Hour, DenyTTL: -1})
				loaded(t, c, "a")
				cu, x, m := c.Customer("a"), c.Feature("x"), c.Feature("m")
				time.Sleep(expires.Sub(backend()) - 1)
				require.True(t, c.Allowed("a", "x"))
				require.True(t, cu.Allowed(x))
				time.Sleep(time.Nanosecond)
				require.False(t, c.Allowed("a", "x"))
				require.False(t, cu.Allowed(x))
				require.Equal(t, ReasonExpired, c.Decide("a", "x").Reason)
				time.Sleep(resets.Sub(backend()) - 1)
				require.Equal(t, ReasonLimitReached, c.Decide("a", "m").Reason)
				require.False(t, cu.Allowed(m))
				time.Sleep(time.Nanosecond)
				d := c.Decide("a", "m")
				require.True(t, d.Allowed)
				require.Zero(t, d.Used)
				require.EqualValues(t, 5, d.Remaining)
				require.True(t, cu.Allowed(m))
			})
		})
	}
}

// What the first answer tells of the backend's clock holds for the check that
// waited for it, not only from the next tick on.
func TestRule23_TheBackendsClockCountsFromTheAnswerOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := SourceFunc(func(_ context.Context, customer string) (*Entitlements, error) {
			now := time.Now().Add(time.Hour)
			return &Entitlements{Customer: customer, ServerTime: now, Features: map[string]Grant{
				"x": {Enabled: true, ExpiresAt: now.Add(-30 * time.Minute)},
			}}, nil
		})
		c := opened(t, Config{Source: src})
		time.Sleep(150 * time.Millisecond)
		d, err := c.Check(t.Context(), "a", "x")
		require.NoError(t, err)
		require.Equal(t, ReasonExpired, d.Reason, "by the backend's clock it ended half an hour ago")
	})
}

func TestRule23_NegativeTTLIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &spy{answer: func(context.Context, string) (*Entitlements, error) { return nil, ErrUnknownCustomer }}
		c := opened(t, Config{Source: src, NegativeTTL: 3*time.Second + 7})
		time.Sleep(12_345_678)
		c.Decide("a", "x")
		synctest.Wait()
		time.Sleep(3*time.Second + 6)
		require.Equal(t, ReasonUnknownCustomer, c.Decide("a", "x").Reason)
		time.Sleep(time.Nanosecond)
		require.Equal(t, ReasonLoading, c.Decide("a", "x").Reason)
		synctest.Wait()
		require.Len(t, src.seen(), 2)
	})
}
