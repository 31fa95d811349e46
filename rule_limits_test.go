package entitlements_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// A million attempts at ten thousand units, while refreshes and deliveries go on:
// never one too many, and none too few once it is quiet.
func TestRule19_AMillionAttemptsAtTenThousand(t *testing.T) {
	attempts := 1_000_000
	if underRace {
		attempts = 200_000
	}
	attemptsAtLimit(t, attempts)
}

// attemptsAtLimit lets 64 goroutines try to get 10 000 units. It returns how many
// they got, and how many there were once it was quiet.
func attemptsAtLimit(t *testing.T, attempts int) (during, once int64) {
	const goroutines, limit = 64, 10_000
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": usageGrant(limit, 0)}})
		src.Always(entitlementstest.FetchStep{Latency: 2 * time.Millisecond, Late: 3 * time.Millisecond})
		sink := entitlementstest.NewSink()
		sink.Feed(src)
		sink.Always(entitlementstest.DeliverStep{Latency: 3 * time.Millisecond, Late: 2 * time.Millisecond})
		c := usageClient(t, Config{Source: src, Sink: sink, TTL: 100 * time.Millisecond, FlushInterval: 4 * time.Millisecond})
		_, err := c.Resolve(t.Context(), "c")
		require.NoError(t, err)

		var allowed, tried, above atomic.Int64
		use := func() bool {
			tried.Add(1)
			d := c.Use("c", "api", 1)
			if d.Allowed {
				allowed.Add(1)
			}
			if d.Allowed && (d.Used > limit || d.Remaining != limit-d.Used) {
				above.Add(1)
			}
			return d.Allowed
		}
		var workers, refresher sync.WaitGroup
		done := make(chan struct{})
		refresher.Go(func() {
			for tick := time.NewTicker(10 * time.Millisecond); ; {
				select {
				case <-tick.C:
					c.Invalidate("c")
					_, _ = c.Check(t.Context(), "c", "api")
				case <-done:
					tick.Stop()
					return
				}
			}
		})
		for range goroutines {
			workers.Go(func() {
				// A few at a time at first, so that the limit is not reached before
				// refreshes have come to matter.
				for left, n := attempts/goroutines, 1; left > 0; n++ {
					for range min(left, 1+n/20) {
						use()
						left--
					}
					time.Sleep(3 * time.Millisecond)
				}
			})
		}
		workers.Wait()
		require.LessOrEqual(t, allowed.Load(), int64(limit))
		require.Greater(t, src.Calls("c"), 20)
		close(done)
		refresher.Wait()

		during = allowed.Load()
		require.NoError(t, c.Flush(t.Context()))
		time.Sleep(time.Second) // what is acknowledged leaves the view with a fetch that began a tick later
		c.Invalidate("c")
		_, err = c.Check(t.Context(), "c", "api")
		require.NoError(t, err)
		for use() {
		}
		once = allowed.Load()
		require.EqualValues(t, limit, once)
		require.Zero(t, above.Load(), "allowances that show what is not so")
		require.NoError(t, c.Flush(t.Context()))
		require.EqualValues(t, limit, sink.Total("c", "api"))
		t.Logf("%d attempts, %d refreshes, %d deliveries; %d units were denied until it was quiet",
			tried.Load(), src.Calls("c"), sink.Deliveries(), limit-during)
	})
	return during, once
}

// fleet is processes that share a hard limit through one backend. Each asks for a
// unit at a steady rate for as long as anybody is let in.
type fleet struct {
	processes              int
	rate                   int // units that each asks for per second
	limit                  int64
	ttl                    time.Duration
	flush, delivery, fetch time.Duration
}

// bound is what the doc of Config.TTL allows, when the last unit was allowed by a
// snapshot of this age.
func (f fleet) bound(age time.Duration) float64 {
	delivery := f.delivery
	if delivery > 2*f.flush {
		// Both calls of FlushConcurrency are under way when usage is due. What came
		// just after they began waits until one has returned.
		delivery *= 2
	}
	return float64(f.processes-1) * float64(f.rate) * (f.flush + delivery + age).Seconds()
}

// run returns by how much the fleet passed the limit, and the age of the snapshot
// that allowed the last unit.
func (f fleet) run(t *testing.T, seed uint64) (overshoot int64, last time.Duration) {
	src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": usageGrant(f.limit, 0)}})
	sink := entitlementstest.NewSink()
	sink.Feed(src)
	// As late as can be: accepted at the end of a delivery, read at the beginning
	// of a fetch.
	sink.Always(entitlementstest.DeliverStep{Latency: f.delivery})
	src.Always(entitlementstest.FetchStep{Late: f.fetch})

	var mu sync.Mutex // guards the fields below
	var allowed int64
	var oldest time.Duration
	lastAt := time.Now()
	quiet := 2 * (f.ttl + f.fetch + f.flush + f.delivery)

	rng := rand.New(rand.NewPCG(seed, uint64(f.processes)))
	every := time.Second / time.Duration(f.rate)
	var fleet sync.WaitGroup
	for range f.processes {
		c := usageClient(t, Config{Source: src, Sink: sink, TTL: f.ttl, FlushInterval: f.flush, MaxCustomers: 10})
		// Not in step with each other, nor with what ticks in a Client.
		phase := time.Duration(rng.Int64N(int64(every)))
		fleet.Go(func() {
			_, err := c.Resolve(t.Context(), "c")
			if err != nil {
				t.Error(err)
				return
			}
			for time.Sleep(phase); ; time.Sleep(every) {
				d := c.Use("c", "api", 1)
				mu.Lock()
				if d.Allowed {
					allowed, last, lastAt = allowed+1, d.Age, time.Now()
					oldest = max(oldest, d.Age)
				}
				over := time.Since(lastAt) > quiet
				mu.Unlock()
				if over {
					return
				}
			}
		})
	}
	fleet.Wait()
	require.LessOrEqual(t, oldest, f.ttl+f.fetch, "the age of a snapshot in use")
	return allowed - f.limit, last
}

// What the doc of Config.TTL says of processes that share a limit.
func TestRule19_ProcessesThatShareALimitPassItByNoMoreThanStated(t *testing.T) {
	const ms = time.Millisecond
	for _, f := range []fleet{
		// Reached within the first TTL, when nobody has seen anything of the others.
		{processes: 2, rate: 40, limit: 34, ttl: time.Second, flush: 100 * ms, delivery: 20 * ms, fetch: 20 * ms},
		{processes: 8, rate: 40, limit: 34, ttl: time.Second, flush: 100 * ms, delivery: 20 * ms, fetch: 20 * ms},
		{processes: 8, rate: 10, limit: 42, ttl: 5 * time.Second, flush: 200 * ms, delivery: 50 * ms, fetch: 100 * ms},
		// Reached after many refreshes.
		{processes: 2, rate: 20, limit: 300, ttl: time.Second, flush: time.Second, delivery: 100 * ms, fetch: 50 * ms},
		{processes: 8, rate: 20, limit: 1500, ttl: time.Second, flush: 200 * ms, delivery: 300 * ms, fetch: 200 * ms},
		{processes: 2, rate: 10, limit: 400, ttl: 5 * time.Second, flush: time.Second, delivery: 200 * ms, fetch: 100 * ms},
		{processes: 8, rate: 5, limit: 1000, ttl: 5 * time.Second, flush: time.Second, delivery: time.Second, fetch: time.Second},
		// Deliveries take far longer than usage gathers.
		{processes: 2, rate: 50, limit: 200, ttl: time.Second, flush: 50 * ms, delivery: time.Second, fetch: 20 * ms},
		{processes: 8, rate: 20, limit: 600, ttl: 200 * ms, flush: 20 * ms, delivery: time.Second, fetch: 2 * ms},
		// One process passes nothing, however late it learns of anything.
		{processes: 1, rate: 40, limit: 200, ttl: time.Second, flush: time.Second, delivery: 300 * ms, fetch: 200 * ms},
		{processes: 1, rate: 10, limit: 100, ttl: 5 * time.Second, flush: time.Second, delivery: time.Second, fetch: time.Second},
	} {
		t.Run(fmt.Sprintf("%d at %d per second, TTL %v, delivery %v", f.processes, f.rate, f.ttl, f.delivery), func(t *testing.T) {
			for seed := range uint64(max(1, *seeds/10)) {
				synctest.Test(t, func(t *testing.T) {
					overshoot, last := f.run(t, seed)
					bound := f.bound(f.ttl + f.fetch)
					t.Logf("passed by %d, bound %.0f; by the age of the last, %v, it is %.0f", overshoot, bound, last.Round(time.Millisecond), f.bound(last))
					require.LessOrEqual(t, float64(overshoot), bound, "seed %d", seed)
					if f.processes == 1 {
						require.Zero(t, overshoot, "seed %d", seed)
					} else {
						require.Positive(t, overshoot, "seed %d: nobody was late: the bound was not put to the test", seed)
					}
				})
			}
		})
	}
}

// A call of Report that has returned is over: the figures have what it delivered.
func TestRule18_WhatReportDeliveredIsCounted(t *testing.T) {
	sink := entitlementstest.NewSink()
	c := usageClient(t, Config{Sink: sink})
	for i := range uint64(1000) {
		require.NoError(t, c.Report(t.Context(), Usage{Customer: "c", Feature: "api", Quantity: 1}))
		require.Equal(t, i+1, requireBalancedUsage(t, c).Delivered)
	}
}

// Likewise a call of Flush, while others deliver and flush too.
func TestRule18_WhatFlushDeliveredIsCounted(t *testing.T) {
	sink := entitlementstest.NewSink()
	c := usageClient(t, Config{Sink: sink, FlushInterval: time.Millisecond, FlushConcurrency: 4})
	var recorded, missing atomic.Int64
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for range 100 {
				for i := range 50 {
					c.Track(fmt.Sprintf("c%d-%d", g, i), "api", 1)
					recorded.Add(1)
				}
				before := recorded.Load()
				if err := c.Flush(t.Context()); err != nil {
					t.Error(err)
				}
				missing.Store(max(missing.Load(), before-int64(c.Stats().Usage.Delivered)))
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, missing.Load(), int64(0), "calls recorded before a Flush and not delivered after it")
}
