package entitlements_test

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// honest is a backend that keeps nothing for itself: what it was given it tells.
type honest struct {
	mu     sync.Mutex // guards the fields below
	used   map[string]int64
	grants []string // the features that the plan has
}

func (h *honest) Fetch(_ context.Context, customer string) (*Entitlements, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := &Entitlements{Customer: customer, Plan: "p", Features: make(map[string]Grant)}
	for _, code := range h.grants {
		e.Features[code] = Grant{Kind: KindMetered, Enabled: true, Limit: Unlimited, Used: h.used[code]}
	}
	return e, nil
}

func (h *honest) Deliver(_ context.Context, batch Batch) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range batch.Usage {
		h.used[batch.Usage[i].Feature] += batch.Usage[i].Quantity
	}
	return nil
}

func (h *honest) grant(codes ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.grants = codes
}

// A customer that uses a hundred features, half of which no plan has at first,
// while records are sealed and delivered, plans change, and checks look on: every
// call arrives once, and no check ever sees less than was counted before it.
func TestRule15_OneCustomerUsesVeryManyFeatures(t *testing.T) {
	synctest.Test(t, testOneCustomerUsesVeryManyFeatures)
}

func testOneCustomerUsesVeryManyFeatures(t *testing.T) {
	codes := make([]string, 100)
	for i := range codes {
		codes[i] = fmt.Sprintf("feature-with-a-long-name-%02d", i)
	}
	backend := &honest{used: make(map[string]int64)}
	backend.grant(codes[:50]...)
	c := usageClient(t, Config{Source: backend, Sink: backend})
	loaded(t, c, "acme")

	const writers, laps = 2, 400
	counted := make([]atomic.Int64, len(codes)) // calls of Track that have returned
	var writing, others sync.WaitGroup
	stop := make(chan struct{})
	for range writers {
		writing.Go(func() {
			for lap := range laps {
				if lap == laps/2 {
					backend.grant(codes...)
					c.Invalidate("acme")
				}
				for i, code := range codes {
					c.Track("acme", code, int64(i))
					counted[i].Add(1)
				}
			}
		})
	}
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = c.Flush(context.Background())
			}
		}
	})
	missed := make([]string, 2)
	for r := range missed {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for i, code := range codes {
					least := counted[i].Load() * int64(i)
					d := c.Decide("acme", code)
					if d.Reason == ReasonGranted && d.Used < least {
						missed[r] = fmt.Sprintf("%s: %d, although %d were counted", code, d.Used, least)
						return
					}
				}
			}
		})
	}
	writing.Wait()
	close(stop)
	others.Wait()
	require.Equal(t, []string{"", ""}, missed)
	require.NoError(t, c.Flush(t.Context()))
	s := requireBalancedUsage(t, c)
	require.EqualValues(t, writers*laps*len(codes), s.Delivered)
	for i, code := range codes {
		require.EqualValues(t, writers*laps*i, backend.used[code], code)
	}
	time.Sleep(time.Second) // from here on an answer has all that was acknowledged, for certain
	c.Invalidate("acme")
	_, err := c.Load(t.Context(), "acme")
	require.NoError(t, err)
	for i, code := range codes {
		require.EqualValues(t, writers*laps*i, c.Decide("acme", code).Used, code)
	}
}

// What a slot takes in place of a meter is little: where sums or counts grow
// large, the meter takes over and nothing is lost.
func TestRule15_LargeQuantitiesOfManyFeatures(t *testing.T) {
	backend := &honest{used: make(map[string]int64)}
	c := usageClient(t, Config{Source: backend, Sink: backend})
	loaded(t, c, "acme")
	want := make(map[string]int64)
	for i := range 8 {
		code := fmt.Sprint("f", i)
		for lap := range 100 {
			n := int64(1) << (8 * i % 60) // up to 2^56
			if lap%3 == 2 {
				n = -n
			}
			c.Track("acme", code, n)
			want[code] += n
		}
	}
	require.NoError(t, c.Flush(t.Context()))
	require.Equal(t, want, backend.used)
	requireBalancedUsage(t, c)
}

// A large step goes past the slot. What the slot takes after that must not push the
// sum over its end: a quota would open.
func TestRule03_AQuotaStaysShutAtTheEndOfTheRange(t *testing.T) {
	for _, code := range []string{"first", "second"} {
		t.Run(code, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				backend := &honest{used: make(map[string]int64)}
				backend.grant("first", "second")
				c := usageClient(t, Config{Source: backend, Sink: backend, FlushInterval: 30 * time.Second})
				loaded(t, c, "acme")
				c.Track("acme", "first", 1)
				c.Track("acme", code, 1)
				c.Track("acme", code, math.MaxInt64-10)
				c.Track("acme", code, 1000)
				for range 2 {
					require.Equal(t, int64(math.MaxInt64), c.Decide("acme", code).Used)
					requireBalancedUsage(t, c) // looks at every record, which absorbs what slots have
				}
			})
		})
	}
}

// Usage that is simple is counted in cells. Whatever is not simple about it, the
// view has all of it at once, and every call arrives once.
func TestRule19_WhatIsNotSimpleLosesNothing(t *testing.T) {
	type world struct {
		c      *Client
		src    *entitlementstest.Source
		sink   *entitlementstest.Sink
		start  time.Time
		resets time.Time
	}
	grant := func(w world, used int64) map[string]Grant {
		return map[string]Grant{"api": {
			Kind: KindMetered, Enabled: true, Limit: 1000, Used: used,
			PeriodStart: w.start.Add(-time.Hour), ResetsAt: w.resets,
		}}
	}
	flush := func(t *testing.T, w world) { require.NoError(t, w.c.Flush(t.Context())) }
	load := func(t *testing.T, w world) {
		w.c.Invalidate("acme")
		_, err := w.c.Load(t.Context(), "acme")
		require.NoError(t, err)
	}
	// next is the world of the period that follows.
	next := func(w world) world {
		w.start, w.resets = w.resets.Add(time.Hour), w.resets.Add(time.Hour)
		return w
	}
	// lagging is an answer that was read half a minute before it is given.
	lagging := func(w world, used int64) *Entitlements {
		now := time.Now()
		return &Entitlements{Customer: "acme", ServerTime: now, AsOf: now.Add(-30 * time.Second), Features: grant(w, used)}
	}
	// overtaken delivers what was counted, gets a figure that has it, and delivers 4
	// more.
	overtaken := func(t *testing.T, w world) {
		flush(t, w)
		time.Sleep(time.Second)
		w.src.AddUsed("acme", "api", 3)
		load(t, w)
		w.c.Track("acme", "api", 4)
		flush(t, w)
	}
	for _, test := range []struct {
		name string
		do   func(*testing.T, world)
		used int64 // the view then: 10 that the backend told, 3 that were counted, and what do did
		sent int64 // units that arrive in all
	}{
		{"nothing else", func(*testing.T, world) {}, 13, 3},
		{"a correction", func(_ *testing.T, w world) { w.c.Track("acme", "api", -2) }, 11, 1},
		{"a large call", func(_ *testing.T, w world) { w.c.Track("acme", "api", 1<<40) }, 13 + 1<<40, 3 + 1<<40},
		{"an event", func(_ *testing.T, w world) {
			w.c.Record(Usage{ID: "one", Customer: "acme", Feature: "api", Quantity: 4})
		}, 17, 7},
		{"an event of earlier", func(_ *testing.T, w world) {
			w.c.Record(Usage{Customer: "acme", Feature: "api", Quantity: 4, Time: w.start.Add(-time.Minute)})
		}, 17, 7},
		{"an event of the period before", func(_ *testing.T, w world) {
			w.c.Record(Usage{Customer: "acme", Feature: "api", Quantity: 4, Time: w.start.Add(-2 * time.Hour)})
		}, 13, 7},
		{"Use", func(t *testing.T, w world) { require.True(t, w.c.Use("acme", "api", 5).Allowed) }, 18, 8},
		{"Use of more than is left", func(t *testing.T, w world) { require.False(t, w.c.Use("acme", "api", 988).Allowed) }, 13, 3},
		{"Reserve", func(t *testing.T, w world) {
			held, d := w.c.Reserve("acme", "api", 100)
			require.EqualValues(t, 887, d.Remaining)
			held.Commit(6)
		}, 19, 9},
		{"a delivery", func(t *testing.T, w world) { flush(t, w) }, 13, 3},
		{"two deliveries and no figure in between", func(t *testing.T, w world) {
			flush(t, w)
			w.c.Track("acme", "api", 4)
			flush(t, w)
			w.c.Track("acme", "api", 5)
		}, 22, 12},
		{"a figure in between that has the first", func(t *testing.T, w world) {
			flush(t, w)
			w.c.Track("acme", "api", 4)
			time.Sleep(time.Second)
			w.src.AddUsed("acme", "api", 3)
			load(t, w)
			flush(t, w)
		}, 17, 7},
		{"a figure that has it all", func(t *testing.T, w world) {
			flush(t, w)
			time.Sleep(time.Second)
			w.src.AddUsed("acme", "api", 3)
			load(t, w)
		}, 13, 3},
		{"two minutes of an outage", func(_ *testing.T, w world) {
			time.Sleep(61 * time.Second)
			w.c.Track("acme", "api", 4)
		}, 17, 7},
		{"many minutes of an outage", func(_ *testing.T, w world) {
			w.sink.Always(entitlementstest.DeliverStep{Refuse: Unsent(errSinkDown)})
			for range 10 {
				w.c.Track("acme", "api", 1)
				time.Sleep(61 * time.Second)
			}
			w.sink.Always(entitlementstest.DeliverStep{})
		}, 23, 13},
		{"refused for good", func(t *testing.T, w world) {
			w.sink.Next(entitlementstest.DeliverStep{Refuse: Permanent(errSinkDown)})
			flush(t, w)
			w.c.Track("acme", "api", 4)
		}, 17, 4},
		{"other customers come", func(t *testing.T, w world) {
			flush(t, w)
			loaded(t, w.c, "b", "c", "d", "e")
			loaded(t, w.c, "acme")
			w.c.Track("acme", "api", 4)
		}, 17, 7},
		{"Forget", func(t *testing.T, w world) {
			w.c.Forget("acme")
			w.c.Track("acme", "api", 4)
			loaded(t, w.c, "acme")
		}, 17, 7},
		{"the feature is not metered for a while", func(t *testing.T, w world) {
			flush(t, w)
			w.src.Put("acme", map[string]Grant{"api": {Enabled: true}})
			load(t, w)
			w.src.Put("acme", grant(w, 10))
			load(t, w)
		}, 13, 3},
		{"Forget, and a figure from before what the last one had", func(t *testing.T, w world) {
			overtaken(t, w)
			w.c.Forget("acme")
			w.src.PutEntitlements(lagging(w, 10))
			loaded(t, w.c, "acme")
		}, 17, 7},
		{"not metered for a while, and a figure from before", func(t *testing.T, w world) {
			overtaken(t, w)
			w.src.Put("acme", map[string]Grant{"api": {Enabled: true}})
			load(t, w)
			w.src.PutEntitlements(lagging(w, 10))
			load(t, w)
		}, 17, 7},
		{"the period is over, and its usage waits to be sent", func(t *testing.T, w world) {
			time.Sleep(time.Until(w.resets.Add(time.Second)))
			w.src.Put("acme", grant(next(w), 0))
			load(t, w)
		}, 0, 3},
		{"the period is over, and a figure of the next may lack its usage", func(t *testing.T, w world) {
			time.Sleep(time.Until(w.resets.Add(-time.Second)))
			flush(t, w)
			time.Sleep(2 * time.Second)
			w.src.PutEntitlements(lagging(next(w), 0))
			load(t, w)
		}, 0, 3},
		{"another period", func(t *testing.T, w world) {
			other := w
			other.resets = w.start.Add(2 * time.Hour)
			w.src.Put("acme", grant(other, 10))
			load(t, w)
			w.c.Track("acme", "api", 4)
		}, 17, 7},
		{"the period is over", func(_ *testing.T, w world) { time.Sleep(time.Until(w.resets)) }, 0, 3},
		{"the period ends", func(_ *testing.T, w world) {
			time.Sleep(time.Until(w.resets))
			w.c.Track("acme", "api", 4)
		}, 4, 7},
		{"the period will have ended in this minute", func(t *testing.T, w world) {
			flush(t, w)
			soon := w
			soon.resets = time.Now().Truncate(time.Minute).Add(30 * time.Second)
			time.Sleep(time.Until(soon.resets.Add(-20 * time.Second)))
			w.src.Put("acme", grant(soon, 10))
			load(t, w)
			w.c.Track("acme", "api", 4)
			time.Sleep(20 * time.Second)
			w.c.Track("acme", "api", 5)
		}, 5, 12},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world{start: time.Now().Truncate(time.Minute), sink: entitlementstest.NewSink()}
				w.resets = w.start.Add(time.Hour)
				w.src = entitlementstest.NewSource(map[string]map[string]Grant{"b": nil, "c": nil, "d": nil, "e": nil})
				w.src.Put("acme", grant(w, 10))
				w.c = usageClient(t, Config{
					Source: w.src, Sink: w.sink, MaxCustomers: 2, FlushInterval: 2 * time.Hour, TTL: 3 * time.Hour, MaxStale: 4 * time.Hour,
				})
				loaded(t, w.c, "acme")
				w.c.Track("acme", "api", 1)
				w.c.Track("acme", "api", 2)
				require.EqualValues(t, 13, w.c.Decide("acme", "api").Used)
				test.do(t, w)
				require.Equal(t, test.used, w.c.Decide("acme", "api").Used)
				requireBalancedUsage(t, w.c)
				flush(t, w)
				require.Equal(t, test.used, w.c.Decide("acme", "api").Used, "delivered, and no figure has it yet")
				requireBalancedUsage(t, w.c)
				sent := int64(0)
				for _, u := range w.sink.Accepted() {
					sent += u.Quantity
				}
				require.Equal(t, test.sent, sent)
				require.Zero(t, w.sink.Conflicts())
			})
		})
	}
}

// Flush has taken in all that there was, and waits for it. What a meter takes over
// meanwhile is still sent now, and not when the next flush is due.
func TestRule20_FlushWaitsForWhatIsNotSimpleAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c := usageClient(t, Config{Sink: sink, FlushInterval: 24 * time.Hour, FlushSize: 1, FlushConcurrency: 1})
		catalog(c, "api")
		sink.Next(entitlementstest.DeliverStep{Latency: 5 * time.Second})
		c.Track("first", "api", 1)
		time.Sleep(time.Millisecond)
		c.Track("second", "api", 1)
		go func() {
			time.Sleep(time.Second) // one is on its way, the other waits
			c.Track("first", "api", -1)
			c.Track("second", "api", -1)
		}()
		require.Less(t, took(func() { require.NoError(t, c.Flush(t.Context())) }), time.Minute)
		require.NoError(t, c.Flush(t.Context()))
		require.EqualValues(t, 2, sink.Calls("first", "api"))
		require.EqualValues(t, 2, sink.Calls("second", "api"))
	})
}

// Usage of a customer that nobody loaded is told apart by days: a figure of the new
// day, that may lack all of it, gets what is of its day.
func TestRule19_UsageOfTwoDaysBeforeTheFirstFigure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		midnight := time.Now().Truncate(24 * time.Hour).Add(24 * time.Hour)
		src := entitlementstest.NewSource(nil)
		c := usageClient(t, Config{Source: src, Sink: entitlementstest.NewSink(), MaxStale: 4 * time.Hour})
		catalog(c, "api")
		time.Sleep(time.Until(midnight.Add(-30 * time.Second)))
		c.Track("acme", "api", 5)
		require.NoError(t, c.Flush(t.Context()))
		time.Sleep(time.Minute)
		c.Track("acme", "api", 3)
		require.NoError(t, c.Flush(t.Context()))
		src.PutEntitlements(&Entitlements{
			Customer: "acme", ServerTime: time.Now(), AsOf: time.Now().Add(-10 * time.Minute),
			Features: map[string]Grant{"api": {
				Kind: KindMetered, Enabled: true, Limit: 100, PeriodStart: midnight, ResetsAt: midnight.Add(24 * time.Hour),
			}},
		})
		loaded(t, c, "acme")
		require.EqualValues(t, 3, c.Decide("acme", "api").Used)
	})
}

// What is in doubt may have been accepted, and what was refused was had all the
// same: both count, also when the customer was not known yet.
func TestRule19_WhatIsLostBeforeTheFirstFigureCounts(t *testing.T) {
	for name, step := range map[string]entitlementstest.DeliverStep{
		"in doubt": {Refuse: errSinkDown},
		"refused":  {Refuse: Permanent(errSinkDown)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := entitlementstest.NewSink()
				sink.Always(step)
				src := entitlementstest.NewSource(map[string]map[string]Grant{"acme": {"api": usageGrant(100, 10)}})
				c := usageClient(t, Config{Source: src, Sink: sink.Limited(SinkLimits{DedupWindow: -1})})
				catalog(c, "api")
				c.Track("acme", "api", 5)
				require.NoError(t, c.Flush(t.Context()))
				requireBalancedUsage(t, c)
				loaded(t, c, "acme")
				require.EqualValues(t, 15, c.Decide("acme", "api").Used)
			})
		})
	}
}

// Close gives up what it can't deliver, also what stops being simple meanwhile: it
// is in the account, and in what Close says.
func TestRule18_CloseMeetsUsageThatIsNotSimpleAnyMore(t *testing.T) {
	customers := named("c", 10_000)
	snapshots := make(map[string]*Entitlements, len(customers))
	for _, customer := range customers {
		snapshots[customer] = &Entitlements{Features: map[string]Grant{"api": usageGrant(100, 0)}}
	}
	for range 5 {
		c, err := New(Config{Source: Static(snapshots), Sink: entitlementstest.NewSink(), FlushInterval: time.Hour})
		require.NoError(t, err)
		_, err = c.Warm(t.Context(), nil)
		require.NoError(t, err)
		for _, customer := range customers {
			c.Track(customer, "api", 1)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var forgetting sync.WaitGroup
		forgetting.Go(func() { // its figure is kept, with a meter
			for _, customer := range customers {
				c.Forget(customer)
			}
		})
		err = c.Close(ctx)
		forgetting.Wait()
		s := requireBalancedUsage(t, c)
		require.Zero(t, s.Pending)
		if lost := uint64(len(customers)) - s.Delivered; lost > 0 {
			var undelivered *UndeliveredError
			require.ErrorAs(t, err, &undelivered)
			require.Equal(t, lost, undelivered.Lost)
		}
	}
}
