package entitlements_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
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

// flooded runs f while other customers are loaded as fast as that goes: in all
// not more than fit in a cache of 100 000.
func flooded(t *testing.T, c *Client, f func()) {
	t.Helper()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					_, _ = c.Load(context.Background(), fmt.Sprintf("flood-%d-%d", g, i%30_000))
				}
			}
		})
	}
	defer wg.Wait()
	defer close(stop)
	f()
}

func TestRule10_ALoadedCustomerIsAnswerableWhenItsLoadReturns(t *testing.T) {
	t.Run("room for all", func(t *testing.T) {
		c := opened(t, Config{Source: &spy{}, MaxCustomers: 100_000})
		flooded(t, c, func() {
			for _, customer := range named("mine", 200) {
				loaded(t, c, customer)
				require.Equal(t, ReasonGranted, c.Decide(customer, "x").Reason, customer)
			}
		})
	})
	t.Run("evictions all the time", func(t *testing.T) {
		c := opened(t, Config{Source: &spy{}, MaxCustomers: 8})
		flooded(t, c, func() {
			for _, customer := range named("mine", 200) {
				d, err := c.Check(t.Context(), customer, "x")
				require.NoError(t, err)
				require.Equal(t, ReasonGranted, d.Reason, customer)
				cu, err := c.Resolve(t.Context(), customer)
				require.NoError(t, err)
				require.Equal(t, ReasonGranted, cu.Decide(c.Feature("x")).Reason, customer)
				require.LessOrEqual(t, c.Stats().Cache.Customers, 8)
			}
		})
	})
}

func TestRule10_AnUpdateIsVisibleWhenItReturns(t *testing.T) {
	for _, capacity := range []int{100, 100_000} {
		t.Run(fmt.Sprint(capacity), func(t *testing.T) {
			var version atomic.Int64
			src := SourceFunc(func(_ context.Context, customer string) (*Entitlements, error) {
				return &Entitlements{Customer: customer, Features: map[string]Grant{
					"x": {Enabled: true},
					"n": {Kind: KindNumeric, Enabled: true, Limit: version.Load()},
				}}, nil
			})
			c := opened(t, Config{Source: src, MaxCustomers: capacity})
			flooded(t, c, func() {
				for i := range int64(300) {
					version.Store(i)
					c.Invalidate("a")
					set, err := c.Load(t.Context(), "a")
					require.NoError(t, err)
					require.Equal(t, i, set.Features["n"].Limit)
					if capacity > 1000 {
						require.Equal(t, i, c.Number("a", "n", -1))
					}
				}
			})
		})
	}
}

func TestRule11_CapacityIsMaxCustomers(t *testing.T) {
	for _, capacity := range []int{1, 2, 7, 8, 9, 31, 100, 129, 5000} {
		t.Run(fmt.Sprint(capacity), func(t *testing.T) {
			if underRace && capacity > 1000 {
				t.Skip("slow under the race detector")
			}
			synctest.Test(t, func(t *testing.T) {
				src := &spy{}
				c := opened(t, Config{Source: src, MaxCustomers: capacity, TTL: time.Hour})
				all := named("c", capacity)
				loaded(t, c, all...)
				require.Equal(t, capacity, c.Stats().Cache.Customers)
				for range 3 {
					for _, customer := range all {
						require.Equal(t, ReasonGranted, c.Decide(customer, "x").Reason, customer)
						_, err := c.Check(t.Context(), customer, "x")
						require.NoError(t, err)
					}
				}
				require.Len(t, src.seen(), capacity, "no fetch but the first of each")
				require.Zero(t, c.Stats().Cache.Evictions)

				more := named("more", min(3*capacity, 400)+20)
				for _, customer := range more {
					loaded(t, c, customer)
					require.Equal(t, ReasonGranted, c.Decide(customer, "x").Reason, customer)
					require.LessOrEqual(t, c.Stats().Cache.Customers, capacity)
				}
				require.Len(t, src.seen(), capacity+len(more))
				stats := c.Stats().Cache
				require.Equal(t, capacity, stats.Customers, "full stays full")
				require.EqualValues(t, len(more), stats.Evictions)

				synctest.Wait()
			})
		})
	}
}

// The figure is kept while loads, Forget and evictions race.
func TestRule11_TheCountIsExact(t *testing.T) {
	for _, capacity := range []int{5, 64, 1000} {
		src := &spy{}
		c := opened(t, Config{Source: src, MaxCustomers: capacity})
		var wg sync.WaitGroup
		var over atomic.Int64
		for g := range 4 {
			rng := rand.New(rand.NewPCG(1, uint64(g)))
			wg.Go(func() {
				for range 300 {
					customer := fmt.Sprint("c", rng.IntN(capacity*2))
					if rng.IntN(4) == 0 {
						c.Forget(customer)
					} else {
						_, _ = c.Load(context.Background(), customer)
					}
					if n := c.Stats().Cache.Customers; n > capacity || n < 0 {
						over.Store(int64(n))
					}
				}
			})
		}
		wg.Wait()
		require.Zero(t, over.Load(), "customers at a capacity of %d", capacity)
		for i := range capacity * 2 {
			c.Forget(fmt.Sprint("c", i))
		}
		require.Zero(t, c.Stats().Cache.Customers)
		loaded(t, c, named("again", capacity)...)
		require.Equal(t, capacity, c.Stats().Cache.Customers)
		fetches := len(src.seen())
		loaded(t, c, named("again", capacity)...)
		require.Len(t, src.seen(), fetches)
		require.NoError(t, c.Close(t.Context()))
	}
}

func TestRule12_ANewcomerStaysThoughAllOthersAreHot(t *testing.T) {
	for _, capacity := range []int{100, 1000} {
		t.Run(fmt.Sprint(capacity), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &spy{}
				c := opened(t, Config{Source: src, MaxCustomers: capacity, TTL: time.Hour})
				hot := named("hot", capacity)
				loaded(t, c, hot...)
				heat := func(times int) {
					for range times {
						for _, customer := range hot {
							c.Allowed(customer, "x")
						}
					}
				}
				heat(100_000 / capacity)
				for i, customer := range named("new", 100) {
					loaded(t, c, customer)
					fetches := len(src.seen())
					require.Equal(t, ReasonGranted, c.Decide(customer, "x").Reason)
					if i >= 5 {
						recent := fmt.Sprintf("new-%06d", i-5)
						require.Equal(t, ReasonGranted, c.Decide(recent, "x").Reason, "five loads later")
					}
					require.Len(t, src.seen(), fetches)
				}
			})
		})
	}
}

// Those who are used often stay when others come by now and then. Nearly all of
// their uses never reach ristretto, which must know of them all the same.
func TestRule13_FrequentCustomersSurviveAScan(t *testing.T) {
	if underRace {
		t.Skip("the race detector drops what ristretto keeps in a sync.Pool")
	}
	synctest.Test(t, func(t *testing.T) {
		const capacity = 1000
		src := &spy{}
		c := opened(t, Config{Source: src, MaxCustomers: capacity, TTL: time.Hour})
		hot := named("hot", capacity/2)
		loaded(t, c, hot...)
		loaded(t, c, named("filler", capacity/2)...)
		rng := rand.New(rand.NewPCG(5, 6))
		scan := named("scan", 2*capacity)
		const rounds = 120 // in which the scan goes round three times
		for round := range rounds {
			for i := range 3 * len(scan) / rounds {
				loaded(t, c, scan[(round*3*len(scan)/rounds+i)%len(scan)])
			}
			for range 10 * len(hot) {
				c.Allowed(hot[rng.IntN(len(hot))], "x")
			}
			time.Sleep(5 * time.Second)
		}
		synctest.Wait()
		lost := -len(hot) // the first load of each
		for _, customer := range hot {
			lost += src.count(customer)
		}
		require.LessOrEqual(t, lost, len(hot), "loads of %d customers that had left; thousands if ristretto were not told", len(hot))
	})
}

func TestRule13_EveryDecisionIsCountedOnce(t *testing.T) {
	c := opened(t, Config{Source: &spy{}})
	loaded(t, c, "a")
	const each = 5000
	cu, x, y := c.Customer("a"), c.Feature("x"), c.Feature("y")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range each {
				c.Allowed("a", "x")
				c.Decide("a", "y")
				cu.Allowed(x)
				cu.Allowed(y)
			}
		})
	}
	wg.Wait()
	stats := c.Stats()
	require.EqualValues(t, 8*each*2, stats.Decisions.Allowed)
	require.EqualValues(t, 8*each*2, stats.Decisions.Denied)
	require.EqualValues(t, 8*each*2, stats.Decisions.DeniedBy[Denial{Feature: "y", Reason: ReasonNotGranted}])
	require.EqualValues(t, 8*each*4, stats.Cache.Hits)
	require.Zero(t, stats.Cache.Misses)
}

func TestRule12_WarmOfManyIsOneFetchEach(t *testing.T) {
	customers := 100_000
	if underRace || testing.Short() {
		customers = 2000
	}
	src := entitlementstest.NewSource(nil)
	all := named("c", customers)
	for _, customer := range all {
		src.PutEntitlements(&Entitlements{Customer: customer, Version: "v", Features: map[string]Grant{"x": {Enabled: true}}})
	}
	both := struct {
		*entitlementstest.Source
		BatchSource
		Lister
	}{src, src.Batch(), src.Listing()}
	c := opened(t, Config{Source: both, MaxCustomers: customers, TTL: time.Hour})
	report, err := c.Warm(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, WarmReport{Loaded: customers}, report)
	for _, customer := range all {
		require.Equal(t, ReasonGranted, c.Decide(customer, "x").Reason)
	}
	asked := 0
	seen := make(map[string]int, customers)
	for _, batch := range src.Batches() {
		asked += len(batch)
		for _, customer := range batch {
			seen[customer]++
		}
		require.LessOrEqual(t, len(batch), 100)
	}
	for _, customer := range all {
		require.Equal(t, 1, seen[customer]+src.Calls(customer), customer)
	}
	require.LessOrEqual(t, c.Stats().Source.Fetches, uint64(customers/10), "batches fill, however fast the Source is")
	require.Equal(t, customers, c.Stats().Cache.Customers)
	require.Zero(t, c.Stats().Cache.Evictions)
	report, err = c.Warm(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, WarmReport{Cached: customers}, report)
}

func TestRule14_CustomersOnAPlanShareIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reset := time.Now().Add(time.Hour)
		grants := func(used int64, resets time.Time) map[string]Grant {
			return map[string]Grant{
				"x": {Enabled: true}, "m": {Kind: KindMetered, Enabled: true, Limit: 10, Used: used, ResetsAt: resets},
				"t": {Kind: KindText, Enabled: true, Text: "eu"},
			}
		}
		src := entitlementstest.NewSource(nil)
		put := func(customer, plan string, grants map[string]Grant) {
			src.PutEntitlements(&Entitlements{Customer: customer, Plan: plan, Features: grants})
		}
		put("a", "p", grants(1, reset))
		put("b", "p", grants(7, reset.Add(time.Minute)))
		put("other name", "q", grants(1, reset))
		more := grants(1, reset)
		more["t"] = Grant{Kind: KindText, Enabled: true, Text: "us"}
		put("other content", "p", more)
		fewer := grants(1, reset)
		delete(fewer, "t")
		put("fewer", "p", fewer)
		c := opened(t, Config{Source: src})
		loaded(t, c, "a", "b", "other name", "other content", "fewer")
		require.True(t, SamePlan(c, "a", "b"))
		require.False(t, SamePlan(c, "a", "other name"))
		require.False(t, SamePlan(c, "a", "other content"))
		require.False(t, SamePlan(c, "a", "fewer"))
		require.EqualValues(t, 1, c.Decide("a", "m").Used, "usage is not shared")
		require.EqualValues(t, 7, c.Decide("b", "m").Used)
		require.Equal(t, "us", c.Text("other content", "t", ""))
		require.Equal(t, "eu", c.Text("a", "t", ""))

		put("b", "p", more) // changes plan, and back
		c.Invalidate("b")
		loaded(t, c, "b")
		require.True(t, SamePlan(c, "b", "other content"))
		require.Equal(t, "us", c.Text("b", "t", ""))
		put("b", "p", grants(8, reset))
		c.Invalidate("b")
		loaded(t, c, "b")
		require.True(t, SamePlan(c, "a", "b"))

		for customer, plan := range map[string]string{"a": "p", "other name": "q"} {
			set, err := c.Load(t.Context(), customer)
			require.NoError(t, err)
			require.Equal(t, plan, set.Plan)
			require.Len(t, set.Features, 3)
			require.Equal(t, reset.UTC(), set.Features["m"].ResetsAt)
		}
	})
}

func TestRule14_LoadReturnsWhatTheSourceAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().UTC()
		want := &Entitlements{
			Customer: strings.Repeat("k", MaxKeyLength), Plan: "p", Version: "v1", AsOf: now.Add(-time.Second), ServerTime: now,
			Features: map[string]Grant{
				"b":                               {Enabled: true, ExpiresAt: now.Add(time.Hour)},
				"off":                             {},
				"n":                               {Kind: KindNumeric, Enabled: true, Limit: -7},
				"t":                               {Kind: KindText, Enabled: true, Text: "eu"},
				"m":                               {Kind: KindMetered, Enabled: true, Limit: Unlimited, Used: 3, Soft: true, PeriodStart: now.Add(-time.Hour), ResetsAt: now.Add(time.Hour)},
				strings.Repeat("f", MaxKeyLength): {Enabled: true},
			},
		}
		c := opened(t, Config{Source: SourceFunc(func(context.Context, string) (*Entitlements, error) { return want, nil })})
		got, err := c.Load(t.Context(), want.Customer)
		require.NoError(t, err)
		require.Equal(t, want, got)
		got.Features["off"] = Grant{Enabled: true} // a fresh copy
		require.False(t, c.Allowed(want.Customer, "off"))
		require.True(t, c.Allowed(want.Customer, strings.Repeat("f", MaxKeyLength)))
		require.False(t, c.Allowed(want.Customer, strings.Repeat("f", MaxKeyLength-1)))
	})
}

func TestRule14_ACustomerCosts400BytesAtMost(t *testing.T) {
	if underRace || testing.Short() {
		t.Skip("measures memory")
	}
	const customers = 100_000
	w := newWorkload(customers)
	src := w.source()
	before := liveHeap()
	c := opened(t, Config{Source: src, MaxCustomers: customers, TTL: time.Hour})
	_, err := c.Warm(t.Context(), slices.Values(w.customers))
	require.NoError(t, err)
	each := (liveHeap() - before) / customers
	t.Logf("%d bytes a customer", each)
	require.LessOrEqual(t, each, int64(400))
	require.Equal(t, customers, c.Stats().Cache.Customers)
	runtime.KeepAlive(w)
	runtime.KeepAlive(src)
}

func TestRule14_CloseRacesEverything(t *testing.T) {
	rounds := 30
	if underRace {
		rounds = 8
	}
	for range rounds {
		synctest.Test(t, func(t *testing.T) { // no goroutine is left
			src := &spy{answer: func(ctx context.Context, customer string) (*Entitlements, error) {
				return grantedX(customer), nap(ctx, time.Duration(rand.IntN(2000))*time.Microsecond)
			}}
			c, err := New(Config{Source: src, MaxCustomers: 50, TTL: 100 * time.Millisecond, Sink: SinkFunc(func(ctx context.Context, _ Batch) error {
				return nap(ctx, time.Millisecond)
			})})
			require.NoError(t, err)
			loaded(t, c, "a")
			cu, x := c.Customer("a"), c.Feature("x")
			ctx := t.Context()
			calls := []func(customer string){
				func(customer string) { c.Allowed(customer, "x") },
				func(customer string) { c.Decide(customer, "y") },
				func(string) { cu.Allowed(x) },
				func(customer string) { c.Customer(customer).Decide(x) },
				func(string) {
					for range cu.All() {
						continue
					}
				},
				func(customer string) { _, _ = c.Check(ctx, customer, "x") },
				func(customer string) { _, _ = c.Load(ctx, customer) },
				func(customer string) { _, _ = c.Resolve(ctx, customer) },
				func(customer string) { c.Track(customer, "x", 1) },
				func(customer string) { cu.Track(x, 1) },
				func(customer string) { c.Invalidate(customer) },
				func(string) { c.InvalidateAll() },
				func(customer string) { c.Forget(customer) },
				func(string) { c.Stats() },
				func(string) { c.Health() },
				func(string) { _ = c.Flush(ctx) },
				func(customer string) { _, _ = c.Warm(ctx, slices.Values([]string{customer, "w"})) },
				func(string) { c.Subscribe(func(Change) {})() },
			}
			var stop atomic.Bool
			var wg sync.WaitGroup
			for i, call := range calls {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(3, uint64(i)))
					for !stop.Load() {
						call(fmt.Sprint("c", rng.IntN(150)))
						time.Sleep(time.Duration(rng.IntN(200)) * time.Microsecond)
					}
				})
			}
			time.Sleep(time.Duration(rand.IntN(5000)) * time.Microsecond)
			for range 3 {
				wg.Go(func() { require.NoError(t, c.Close(ctx)) })
			}
			require.NoError(t, c.Close(ctx))
			time.Sleep(5 * time.Millisecond) // and after it
			stop.Store(true)
			wg.Wait()
			require.Equal(t, ReasonClosed, c.Decide("a", "x").Reason)
			require.False(t, cu.Allowed(x))
			_, err = c.Check(ctx, "a", "x")
			require.ErrorIs(t, err, ErrClosed)
			_, err = c.Load(ctx, "a")
			require.ErrorIs(t, err, ErrClosed)
			_, err = c.Resolve(ctx, "a")
			require.ErrorIs(t, err, ErrClosed)
		})
	}
}

func TestRule22_WaitersAreReleasedByClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &spy{answer: func(ctx context.Context, _ string) (*Entitlements, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}}
		c, err := New(Config{Source: src, MaxCustomers: 100, FetchConcurrency: 2, FetchTimeout: time.Hour, FetchRate: 100})
		require.NoError(t, err)
		var wg sync.WaitGroup
		for i := range 20 { // most of them in the queue
			wg.Go(func() {
				_, err := c.Check(context.Background(), fmt.Sprint("c", i), "x")
				require.ErrorIs(t, err, ErrClosed)
			})
		}
		synctest.Wait()
		require.Less(t, took(func() { require.NoError(t, c.Close(t.Context())) }), 500*time.Millisecond)
		wg.Wait()
	})
}

func TestRule22_CloseSaysWhoIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		src := &spy{answer: func(_ context.Context, customer string) (*Entitlements, error) {
			<-release
			return grantedX(customer), nil
		}}
		c, err := New(Config{Source: src, MaxCustomers: 100, FetchConcurrency: 2, FetchTimeout: time.Hour})
		require.NoError(t, err)
		var wg sync.WaitGroup
		var released atomic.Int64
		for i := range 10 { // two hang, eight are queued
			wg.Go(func() {
				if _, err := c.Check(context.Background(), fmt.Sprint("c", i), "x"); errors.Is(err, ErrClosed) {
					released.Add(1)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		require.LessOrEqual(t, took(func() { err = c.Close(ctx) }), 3*time.Second)
		var undelivered *UndeliveredError
		require.ErrorAs(t, err, &undelivered)
		require.Equal(t, err, c.Close(t.Context()), "the same again")
		time.Sleep(time.Minute)
		got := released.Load()
		close(release)
		wg.Wait()
		synctest.Wait()
		require.EqualValues(t, 10, got, "waiters that were released by Close")
		require.Equal(t, 2, undelivered.Running, "the calls that still run, not those who waited for a turn")
	})
}

func TestRule22_CloseIsBoundedByItsOwnContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		src := &spy{answer: func(_ context.Context, customer string) (*Entitlements, error) {
			<-release
			return grantedX(customer), nil
		}}
		c, err := New(Config{Source: src, MaxCustomers: 100})
		require.NoError(t, err)
		c.Decide("a", "x")
		synctest.Wait()
		var wg sync.WaitGroup
		wg.Go(func() { // 30 s
			require.Equal(t, 30*time.Second, took(func() { require.Error(t, c.Close(context.Background())) }))
		})
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		second := took(func() { err = c.Close(ctx) })
		wg.Wait()
		close(release)
		synctest.Wait()
		require.LessOrEqual(t, second, time.Second+250*time.Millisecond)
		require.Error(t, err, "it is not complete")
	})
}

func TestRule22_NothingRunsBeforeNewAndNothingAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := runtime.NumGoroutine()
		src := entitlementstest.NewSource(map[string]map[string]Grant{"a": withX()})
		c, err := New(Config{Source: src.Watching(), MaxCustomers: 100, TTL: time.Second, Sink: SinkFunc(func(context.Context, Batch) error { return nil })})
		require.NoError(t, err)
		loaded(t, c, "a")
		c.Track("a", "x", 1)
		c.Invalidate("a")
		require.NoError(t, c.Close(t.Context()))
		synctest.Wait()
		require.LessOrEqual(t, runtime.NumGoroutine(), before)
		calls := src.TotalCalls()
		c.Allowed("b", "x")
		c.Invalidate("a", "b")
		c.InvalidateAll()
		_, _ = c.Check(t.Context(), "b", "x")
		time.Sleep(time.Minute)
		require.Equal(t, calls, src.TotalCalls(), "nor is the Source asked")
	})
}
