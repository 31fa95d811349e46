package entitlements_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// TestRule16_TheDeliverTable goes through the rows of the Deliver table: three
// records, one answer, and then a sink that accepts everything.
func TestRule16_TheDeliverTable(t *testing.T) {
	bad := func(i int) Rejection { return Rejection{i, fmt.Errorf("%w: number %d", entitlementstest.ErrBad, i)} }
	fate := func(e DeliveryError) entitlementstest.DeliverStep {
		return entitlementstest.DeliverStep{Fate: func(Batch) *DeliveryError { return &e }}
	}
	type step = entitlementstest.DeliverStep
	for _, test := range []struct {
		name    string
		step    step
		again   []int // indexes of the first batch that the second has
		notYet  time.Duration
		dead    []int
		inDoubt bool // for a sink that never dedupes
	}{
		{name: "nil"},
		{name: "any other error", step: step{Refuse: errSinkDown}, again: []int{0, 1, 2}, inDoubt: true},
		{name: "a lost answer", step: step{Lost: errSinkDown}, again: []int{0, 1, 2}, inDoubt: true},
		{name: "a panic", step: step{Panic: "boom"}, again: []int{0, 1, 2}, inDoubt: true},
		{name: "a Goexit", step: step{Do: func(context.Context, Batch) { runtime.Goexit() }}, again: []int{0, 1, 2}, inDoubt: true},
		{name: "a hang", step: step{Hang: true}, again: []int{0, 1, 2}, notYet: 10 * time.Second, inDoubt: true},
		{name: "Unsent", step: step{Refuse: Unsent(errSinkDown)}, again: []int{0, 1, 2}},
		{name: "RetryAfter", step: step{Refuse: RetryAfter(time.Minute, errSinkDown)}, again: []int{0, 1, 2}, notYet: time.Minute},
		{name: "Permanent", step: step{Refuse: Permanent(entitlementstest.ErrBad)}, again: []int{0}},
		{name: "rejected", step: fate(DeliveryError{Rejected: []Rejection{bad(1)}}), dead: []int{1}},
		{name: "all rejected", step: fate(DeliveryError{Rejected: []Rejection{bad(0), bad(1), bad(2)}}), dead: []int{0, 1, 2}},
		{name: "retry", step: fate(DeliveryError{Retry: []int{2}}), again: []int{2}},
		{name: "retry later", step: fate(DeliveryError{Retry: []int{2}, After: time.Minute}), again: []int{2}, notYet: time.Minute},
		{name: "retry all later", step: fate(DeliveryError{Retry: []int{0, 1, 2}, After: time.Minute}), again: []int{0, 1, 2}, notYet: time.Minute},
		{name: "unknown", step: fate(DeliveryError{Unknown: []int{0, 2}}), again: []int{0, 2}, inDoubt: true},
		{name: "a mix", step: fate(DeliveryError{Rejected: []Rejection{bad(0)}, Retry: []int{1}}), again: []int{1}, dead: []int{0}},
		{name: "in several lists", step: fate(DeliveryError{Rejected: []Rejection{bad(0)}, Retry: []int{0, 1}, Unknown: []int{0, 1}}), again: []int{1}, dead: []int{0}, inDoubt: true},
		{name: "an empty DeliveryError", step: fate(DeliveryError{Err: errSinkDown})},
		{name: "an index outside", step: fate(DeliveryError{Retry: []int{3}}), again: []int{0, 1, 2}, inDoubt: true},
		{name: "a negative index", step: fate(DeliveryError{Rejected: []Rejection{bad(-1)}}), again: []int{0, 1, 2}, inDoubt: true},
	} {
		for _, window := range []time.Duration{0, -1} {
			t.Run(fmt.Sprintf("%s, window %d", test.name, window), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					sink := entitlementstest.NewSink()
					sink.Next(test.step)
					var mu sync.Mutex
					var times []time.Time
					var dead []string
					reasons := map[string]error{}
					c := usageClient(t, Config{
						FlushConcurrency: 1,
						Sink: limitedDoor{SinkFunc(func(ctx context.Context, b Batch) error {
							mu.Lock()
							times = append(times, time.Now())
							mu.Unlock()
							return sink.Deliver(ctx, b)
						}), SinkLimits{DedupWindow: window}},
						DeadLetter: func(u Usage, err error) {
							mu.Lock()
							defer mu.Unlock()
							dead = append(dead, u.ID)
							reasons[u.ID] = err
						},
					})
					for i := range 3 {
						c.Record(Usage{Customer: "c", Feature: "api", Quantity: 1, ID: fmt.Sprint(i)})
					}
					require.NoError(t, c.Flush(t.Context()))
					synctest.Wait()
					mu.Lock()
					defer mu.Unlock()
					s := requireBalancedUsage(t, c)
					require.EqualValues(t, len(test.dead), s.DeadLettered)
					require.Len(t, dead, len(test.dead))
					for _, i := range test.dead {
						require.Contains(t, dead, fmt.Sprint(i))
						require.ErrorIs(t, reasons[fmt.Sprint(i)], entitlementstest.ErrBad)
						require.ErrorContains(t, reasons[fmt.Sprint(i)], fmt.Sprintf("number %d", i))
					}
					batches := sink.Batches()
					if test.inDoubt && window < 0 {
						require.NotZero(t, s.InDoubt)
						require.Len(t, batches, 1, "sent again although its fate is unknown and the sink never dedupes")
						return
					}
					require.EqualValues(t, 3-len(test.dead), s.Delivered)
					require.EqualValues(t, s.Delivered, len(sink.Accepted()))
					if test.again == nil {
						require.Len(t, batches, 1)
						return
					}
					var ids []int
					for _, u := range batches[1].Usage {
						ids = append(ids, slices.IndexFunc(batches[0].Usage, func(o Usage) bool { return o.ID == u.ID }))
					}
					require.Equal(t, test.again, ids)
					require.GreaterOrEqual(t, times[1].Sub(times[0]), test.notYet)
					require.LessOrEqual(t, times[1].Sub(times[0]), test.notYet+2*time.Second, "it comes again by itself, soon")
				})
			})
		}
	}
}

func TestRule16_AHangThatIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		sink := entitlementstest.NewSink()
		c := usageClient(t, Config{FlushTimeout: 5 * time.Second, Sink: SinkFunc(func(ctx context.Context, b Batch) error {
			if b.Attempt == 1 && b.Usage[0].Customer == "c" {
				<-release
			}
			return sink.Deliver(ctx, b)
		})})
		c.Track("c", "api", 1)
		time.Sleep(time.Second + time.Millisecond)
		c.Track("d", "api", 1)
		require.NoError(t, c.Flush(usageWithin(t, 20*time.Second)), "one hanging call stops nobody else")
		require.EqualValues(t, 2, requireBalancedUsage(t, c).Delivered)
		close(release)
		synctest.Wait()
		require.EqualValues(t, 2, requireBalancedUsage(t, c).Delivered)
		require.Zero(t, sink.Conflicts())
	})
}

func TestRule16_RetryForEnds(t *testing.T) {
	for name, step := range map[string]entitlementstest.DeliverStep{
		"refused": {Refuse: Unsent(errSinkDown)}, "unknown": {Refuse: errSinkDown}, "busy": {Refuse: RetryAfter(7*time.Second, errSinkDown)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := entitlementstest.NewSink()
				sink.Always(step)
				var dead []Usage
				c := usageClient(t, Config{Sink: sink, RetryFor: time.Minute, DeadLetter: func(u Usage, err error) {
					require.Error(t, err)
					dead = append(dead, u)
				}})
				c.Track("c", "api", 7)
				time.Sleep(50 * time.Second)
				require.EqualValues(t, 1, requireBalancedUsage(t, c).Pending)
				time.Sleep(time.Minute)
				synctest.Wait()
				require.EqualValues(t, 1, requireBalancedUsage(t, c).DeadLettered)
				require.Len(t, dead, 1)
				require.EqualValues(t, 7, dead[0].Quantity)
				require.Equal(t, sink.Batches()[0].Usage[0].ID, dead[0].ID)
			})
		})
	}
}

func TestRule15_LimitsOfTheSinkAreRespected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.Always(entitlementstest.DeliverStep{Latency: 100 * time.Millisecond})
		var mu sync.Mutex
		var at []time.Time
		c := usageClient(t, Config{FlushConcurrency: 3, Sink: limitedDoor{SinkFunc(func(ctx context.Context, b Batch) error {
			mu.Lock()
			for range b.Usage {
				at = append(at, time.Now())
			}
			mu.Unlock()
			return sink.Deliver(ctx, b)
		}), SinkLimits{MaxBatch: 5, Rate: 10}}})
		for i := range 100 {
			c.Track(fmt.Sprint("c", i), "api", 1)
		}
		require.NoError(t, c.Flush(t.Context()))
		for _, b := range sink.Batches() {
			require.LessOrEqual(t, len(b.Usage), 5)
		}
		for i, first := range at {
			n := 0
			for _, other := range at[i:] {
				if other.Sub(first) < time.Second {
					n++
				}
			}
			require.LessOrEqual(t, n, 10, "records within a second of %v", first)
		}
		require.InDelta(t, 9.5, at[len(at)-1].Sub(at[0]).Seconds(), 1.5, "and it is used")
		require.LessOrEqual(t, sink.MaxInFlight(), 3)
	})
}

func TestRule15_FlushConcurrencyIsABound(t *testing.T) {
	for _, most := range []int{1, 2, 5} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := entitlementstest.NewSink()
				sink.Always(entitlementstest.DeliverStep{Latency: time.Second})
				c := usageClient(t, Config{Sink: sink, FlushConcurrency: most, FlushSize: 10})
				for i := range 200 {
					c.Track(fmt.Sprint("c", i), "api", 1)
				}
				require.NoError(t, c.Flush(t.Context()))
				require.Equal(t, most, sink.MaxInFlight())
				require.Equal(t, 20, sink.Deliveries())
			})
		})
	}
}

// In an outage one and the same batch probes; the rest stays at home.
func TestRule15_AnOutageIsProbedByOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.Always(entitlementstest.DeliverStep{Refuse: Unsent(errSinkDown)})
		c := usageClient(t, Config{Sink: sink, FlushConcurrency: 4, FlushSize: 10})
		for i := range 200 {
			c.Track(fmt.Sprint("c", i), "api", 1)
		}
		time.Sleep(time.Minute)
		shut := sink.Deliveries()
		require.LessOrEqual(t, shut, 30, "a dead sink is asked less and less")
		require.Error(t, c.Health().Sink.LastError)
		require.False(t, c.Health().Sink.Ready)
		time.Sleep(30 * time.Minute)
		probes := sink.Batches()[shut:]
		require.InDelta(t, 130, len(probes), 60, "probes every 15 s or so")
		ids := map[string]bool{}
		for _, b := range probes {
			ids[b.ID] = true
		}
		require.Len(t, ids, 1, "batches that probe")
		sink.Always(entitlementstest.DeliverStep{})
		time.Sleep(20 * time.Second) // by itself
		require.EqualValues(t, 200, requireBalancedUsage(t, c).Delivered)
		require.True(t, c.Health().Sink.Ready)
	})
}

func TestRule15_HalfFullStartsAFlush(t *testing.T) { eachWay(t, testHalfFullStartsAFlush) }

func testHalfFullStartsAFlush(t *testing.T, catalog func(*Client, ...string)) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c := usageClient(t, Config{Sink: sink, FlushInterval: time.Hour, MaxPending: 100})
		catalog(c, "api")
		for i := range 49 {
			c.Track(fmt.Sprint("c", i), "api", 1)
		}
		time.Sleep(time.Minute)
		require.Zero(t, sink.Deliveries())
		c.Track("c49", "api", 1)
		time.Sleep(time.Second)
		require.EqualValues(t, 50, requireBalancedUsage(t, c).Delivered)
	})
}

func TestRule18_OverflowDropsAreCounted(t *testing.T) { eachWay(t, testOverflowDropsAreCounted) }

func testOverflowDropsAreCounted(t *testing.T, catalog func(*Client, ...string)) {
	for _, test := range []struct {
		overflow Overflow
		first    int // of the records that are kept
	}{{DropNewest, 0}, {DropOldest, 70}} {
		t.Run(test.overflow.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := entitlementstest.NewSink()
				sink.Always(entitlementstest.DeliverStep{Refuse: RetryAfter(time.Minute, errSinkDown)})
				c := usageClient(t, Config{Sink: sink, FlushInterval: 10 * time.Millisecond, MaxPending: 30, Overflow: test.overflow})
				catalog(c, "api")
				c.Track("first", "api", 1)
				require.Error(t, c.Flush(usageWithin(t, time.Second))) // shuts the door; this one is sealed
				for i := range 100 {
					c.Track(fmt.Sprint("c", i), "api", 1)
					c.Track(fmt.Sprint("c", i), "api", 1)
					time.Sleep(20 * time.Millisecond) // within a flush interval no order is promised
				}
				s := requireBalancedUsage(t, c)
				require.EqualValues(t, 59, s.Pending)
				require.EqualValues(t, 142, s.DroppedBy["overflow"])
				sink.Always(entitlementstest.DeliverStep{})
				require.NoError(t, c.Flush(t.Context()))
				require.Len(t, sink.Accepted(), 30)
				require.EqualValues(t, 1, sink.Calls("first", "api"), "what is being sent is not dropped")
				first := test.first
				if first > 0 {
					first++ // the sealed one takes a place
				}
				for i := range 29 {
					require.EqualValues(t, 2, sink.Calls(fmt.Sprint("c", first+i), "api"))
				}
				err := c.Report(t.Context(), Usage{Customer: "c", Feature: "api"})
				require.NoError(t, err)
			})
		})
	}
}

func TestRule22_CallbacksStopNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.SetBad(func(u Usage) error {
			if u.Properties != nil {
				return entitlementstest.ErrBad
			}
			return nil
		})
		src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": usageGrant(10, 0)}})
		release := make(chan struct{})
		var mu sync.Mutex
		var dead []string
		c := usageClient(t, Config{Source: src, Sink: sink, DeadLetter: func(u Usage, _ error) {
			mu.Lock()
			dead = append(dead, u.ID)
			mu.Unlock()
			switch u.ID {
			case "panics":
				panic("callback")
			case "exits":
				runtime.Goexit()
			case "blocks":
				<-release
			}
		}})
		_, err := c.Resolve(t.Context(), "c")
		require.NoError(t, err)
		send := func(ids ...string) {
			t.Helper()
			for _, id := range ids {
				c.Record(Usage{Customer: "c", Feature: "api", ID: id, Properties: map[string]string{}})
				c.Track("c", "api", 1)
				require.NoError(t, c.Flush(t.Context()))
			}
			synctest.Wait()
		}
		send("panics", "exits", "plain")
		mu.Lock()
		require.Equal(t, []string{"panics", "exits", "plain"}, dead)
		mu.Unlock()
		send("blocks", "waits")
		require.EqualValues(t, 5, requireBalancedUsage(t, c).DeadLettered)
		require.EqualValues(t, 5, sink.Total("c", "api"))
		require.EqualValues(t, 10, c.Decide("c", "api").Limit)
		mu.Lock()
		require.Len(t, dead, 4, "one call at a time")
		mu.Unlock()
		close(release)
		synctest.Wait()
		mu.Lock()
		require.Equal(t, "waits", dead[4])
		mu.Unlock()
	})
}

func TestRule22_SubscribersGetChangesOfContentInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": usageGrant(1, 0)}})
		c := usageClient(t, Config{Source: src, TTL: time.Second})
		var limits []int64
		stopPanics := c.Subscribe(func(Change) { panic("subscriber") })
		defer stopPanics()
		stop := c.Subscribe(func(ch Change) {
			require.Equal(t, "c", ch.Customer)
			require.Equal(t, []string{"api"}, ch.Features)
			require.Equal(t, ch.Before.Features["api"].Limit+1, ch.After.Features["api"].Limit)
			limits = append(limits, ch.After.Features["api"].Limit)
		})
		reload := func() {
			c.Invalidate("c")
			_, err := c.Check(t.Context(), "c", "api")
			require.NoError(t, err)
			synctest.Wait()
		}
		reload()
		require.Empty(t, limits, "a first load is no change")
		src.AddUsed("c", "api", 5)
		src.PutEntitlements(&Entitlements{Customer: "c", Version: "another", AsOf: time.Now(), ServerTime: time.Now(), Features: map[string]Grant{"api": usageGrant(1, 9)}})
		reload()
		require.Empty(t, limits, "neither usage nor a version is a change")
		for i := range int64(5) {
			src.Put("c", map[string]Grant{"api": usageGrant(2+i, 0)})
			reload()
		}
		require.Equal(t, []int64{2, 3, 4, 5, 6}, limits)
		stop()
		stop()
		src.Put("c", map[string]Grant{"api": usageGrant(7, 0)})
		reload()
		require.Len(t, limits, 5)
	})
}

// Many dead letters of one feature are one in the view. One that is sent again leaves
// the others there.
func TestRule19_RedrivingOneDeadLetterLeavesTheOthersInTheView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.SetBad(func(Usage) error { return entitlementstest.ErrBad })
		source := entitlementstest.NewSource(map[string]map[string]Grant{"acme": {"api": usageGrant(1000, 0)}})
		c := usageClient(t, Config{Source: source, Sink: sink, RetryFor: time.Hour})
		loaded(t, c, "acme")
		const letters = 60
		for range letters {
			c.Track("acme", "api", 2)
			require.NoError(t, c.Flush(t.Context()))
		}
		require.EqualValues(t, letters, requireBalancedUsage(t, c).DeadLettered)
		require.EqualValues(t, 2*letters, c.Decide("acme", "api").Used)
		sink.SetBad(nil)
		for left := letters - 1; left >= 0; left-- {
			n, err := c.Redrive(t.Context(), RedriveFilter{Most: 1})
			require.NoError(t, err)
			require.Equal(t, 1, n)
			require.GreaterOrEqual(t, c.Decide("acme", "api").Used, int64(2*letters))
			require.NoError(t, c.Flush(t.Context()))
			require.GreaterOrEqual(t, c.Decide("acme", "api").Used, int64(2*letters))
			require.EqualValues(t, left, requireBalancedUsage(t, c).DeadLettered)
		}
		require.EqualValues(t, 2*letters, sink.Total("acme", "api"))
	})
}
