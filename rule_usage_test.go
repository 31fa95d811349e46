package entitlements_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

var errSinkDown = errors.New("backend is down")

// usageClient is a client that is closed when the test ends, whatever its sink
// does by then.
func usageClient(t *testing.T, cfg Config) *Client {
	t.Helper()
	if cfg.Source == nil {
		cfg.Source = Static(nil)
	}
	if cfg.MaxCustomers == 0 {
		cfg.MaxCustomers = 1000 // a cache for 100 000 takes a while to make under -race
	}
	c, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = c.Close(ctx) // what it left is the test's own business
	})
	return c
}

func usageWithin(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// requireBalancedUsage checks the identity of rule 18, and that every drop has a
// reason.
func requireBalancedUsage(t *testing.T, c *Client, msg ...any) UsageStats {
	t.Helper()
	s := c.Stats().Usage
	require.Equal(t, s.Recorded+s.Restored, s.Delivered+s.Pending+s.InDoubt+s.DeadLettered+s.Dropped,
		"%v: the account does not balance: %+v", msg, s)
	var reasons uint64
	for _, n := range s.DroppedBy {
		reasons += n
	}
	require.Equal(t, s.Dropped, reasons, "drops without a reason: %+v", s)
	return s
}

func usageGrant(limit, used int64) Grant {
	return Grant{Kind: KindMetered, Enabled: true, Limit: limit, Used: used}
}

func TestRule15_TrackCountsWhetherOrNotTheCustomerIsCachedOrKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		src := entitlementstest.NewSource(map[string]map[string]Grant{"known": {"api": usageGrant(100, 0)}, "cached": {"api": usageGrant(100, 0)}})
		c := usageClient(t, Config{Source: src, Sink: sink})
		_, err := c.Check(t.Context(), "cached", "api")
		require.NoError(t, err)
		_, err = c.Check(t.Context(), "nobody", "api")
		require.NoError(t, err)
		handle, err := c.Resolve(t.Context(), "cached")
		require.NoError(t, err)
		for _, customer := range []string{"known", "cached", "nobody", "never-asked-for"} {
			c.Track(customer, "api", 2)
			c.Track(customer, "not-in-the-plan", 3)
		}
		handle.Track(c.Feature("api"), 5)
		var zero Customer
		zero.Track(c.Feature("api"), 5) // counts nothing, and does not panic
		require.NoError(t, c.Flush(t.Context()))
		for _, customer := range []string{"known", "nobody", "never-asked-for"} {
			require.EqualValues(t, 2, sink.Total(customer, "api"), customer)
			require.EqualValues(t, 3, sink.Total(customer, "not-in-the-plan"), customer)
		}
		require.EqualValues(t, 7, sink.Total("cached", "api"))
		require.EqualValues(t, 9, requireBalancedUsage(t, c).Delivered)
	})
}

// eachWay runs a test of usage twice: counted in meters, as it is of features that no
// plan has and no handle names, and in cells, as it is of those that catalog makes
// known.
func eachWay(t *testing.T, f func(t *testing.T, catalog func(*Client, ...string))) {
	t.Run("meters", func(t *testing.T) { f(t, func(*Client, ...string) {}) })
	t.Run("cells", func(t *testing.T) { f(t, catalog) })
}

func catalog(c *Client, features ...string) {
	for _, code := range features {
		c.Feature(code)
	}
}

func TestRule15_RecordsGrowWithWhatIsDistinct(t *testing.T) {
	eachWay(t, testRecordsGrowWithWhatIsDistinct)
}

func testRecordsGrowWithWhatIsDistinct(t *testing.T, catalog func(*Client, ...string)) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c := usageClient(t, Config{Sink: sink})
		catalog(c, "f0", "f1", "f2")
		for range 1000 {
			for f := range 3 {
				for cu := range 4 {
					c.Track(fmt.Sprint("c", cu), fmt.Sprint("f", f), 2)
				}
			}
		}
		require.NoError(t, c.Flush(t.Context()))
		require.Len(t, sink.Accepted(), 12)
		require.Equal(t, 1, sink.Deliveries(), "one request for all of it")
		for _, u := range sink.Accepted() {
			require.EqualValues(t, 2000, u.Quantity)
			require.EqualValues(t, 1000, u.Count)
		}
	})
}

func TestRule15_CellsAreCutAtMinutesAndResets(t *testing.T) {
	type call struct {
		at time.Duration
		n  int64
	}
	type cell struct {
		at       time.Duration
		quantity int64
	}
	for _, test := range []struct {
		name   string
		resets time.Duration
		calls  []call
		want   []cell
	}{
		{
			"the UTC minute", 0,
			[]call{{58 * time.Second, 1}, {59999 * time.Millisecond, 2}, {time.Minute, 4}, {61 * time.Second, 8}, {119 * time.Second, 16}},
			[]cell{{58 * time.Second, 3}, {time.Minute, 28}},
		},
		{
			"ResetsAt inside of a minute", 90 * time.Second,
			[]call{{70 * time.Second, 1}, {89999 * time.Millisecond, 2}, {90 * time.Second, 4}, {95 * time.Second, 8}, {120 * time.Second, 16}},
			[]cell{{70 * time.Second, 3}, {90 * time.Second, 12}, {120 * time.Second, 16}},
		},
		{
			"only what is used", 0,
			[]call{{time.Second, 1}, {10 * time.Minute, 2}},
			[]cell{{time.Second, 1}, {10 * time.Minute, 2}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now().Truncate(time.Minute)
				g := usageGrant(1000, 0)
				if test.resets != 0 {
					g.PeriodStart, g.ResetsAt = start.Add(-time.Hour), start.Add(test.resets)
				}
				sink := entitlementstest.NewSink()
				c := usageClient(t, Config{
					Source: entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": g}}),
					Sink:   sink, FlushInterval: time.Hour, TTL: 2 * time.Hour, MaxStale: 4 * time.Hour,
				})
				_, err := c.Check(t.Context(), "c", "api")
				require.NoError(t, err)
				for _, call := range test.calls {
					time.Sleep(time.Until(start.Add(call.at)))
					c.Track("c", "api", call.n)
				}
				require.NoError(t, c.Flush(t.Context()))
				var got []cell
				for _, u := range sink.Accepted() {
					got = append(got, cell{u.Time.Sub(start), u.Quantity})
				}
				require.Equal(t, test.want, got)
			})
		})
	}
}

func TestRule15_CellsAreSealedAtDispatchAndNotBefore(t *testing.T) {
	eachWay(t, testCellsAreSealedAtDispatchAndNotBefore)
}

func testCellsAreSealedAtDispatchAndNotBefore(t *testing.T, catalog func(*Client, ...string)) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.Always(entitlementstest.DeliverStep{Refuse: errSinkDown})
		c := usageClient(t, Config{Sink: sink})
		catalog(c, "api", "quiet")
		// The door needs some failures to shut; what was sent by then is sealed.
		for range 20 {
			c.Track("c", "api", 1)
			time.Sleep(time.Second)
		}
		time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute + time.Second)))
		for range 10 { // many flush intervals within one minute of an outage
			c.Track("c", "quiet", 1)
			time.Sleep(5 * time.Second)
		}
		sink.Always(entitlementstest.DeliverStep{})
		require.NoError(t, c.Flush(t.Context()))
		records := 0
		for _, u := range sink.Accepted() {
			if u.Feature == "quiet" {
				records++
			}
		}
		require.Equal(t, 1, records, "usage of one minute of an outage is one record")
		require.EqualValues(t, 10, sink.Calls("c", "quiet"))
		require.Zero(t, sink.Conflicts(), "a sealed record never changes")
	})
}

func TestRule15_HoursOfOutage(t *testing.T) { eachWay(t, testHoursOfOutage) }

func testHoursOfOutage(t *testing.T, catalog func(*Client, ...string)) {
	for _, test := range []struct {
		name       string
		pairs      int
		every      time.Duration
		outage     time.Duration
		maxPending int
		step       entitlementstest.DeliverStep
	}{
		{"each second", 100, time.Second, 5 * time.Minute, 0, entitlementstest.DeliverStep{Refuse: errSinkDown}},
		{"hours", 10, 20 * time.Second, 2 * time.Hour, 0, entitlementstest.DeliverStep{Refuse: Unsent(errSinkDown)}},
		{"a rate limit", 100, time.Second, 5 * time.Minute, 0, entitlementstest.DeliverStep{Refuse: RetryAfter(time.Second, errSinkDown)}},
		{"hours in little memory", 10, 30 * time.Second, 2 * time.Hour, 300, entitlementstest.DeliverStep{Refuse: errSinkDown}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := entitlementstest.NewSink()
				sink.Always(test.step)
				c := usageClient(t, Config{Sink: sink, MaxPending: test.maxPending, TTL: time.Minute})
				catalog(c, "api")
				customers := make([]string, test.pairs)
				for i := range customers {
					customers[i] = fmt.Sprint("c", i)
				}
				calls := uint64(0)
				for range int(test.outage / test.every) {
					for _, customer := range customers {
						c.Track(customer, "api", 1)
						calls++
					}
					time.Sleep(test.every)
				}
				s := requireBalancedUsage(t, c)
				require.Equal(t, calls, s.Recorded)
				sink.Always(entitlementstest.DeliverStep{})
				require.NoError(t, c.Flush(t.Context()))
				s = requireBalancedUsage(t, c)
				require.Equal(t, s.Delivered, uint64(sink.TotalCalls()))
				require.Zero(t, sink.Conflicts())
				cells := test.pairs * int(test.outage/time.Minute)
				if test.maxPending > 0 {
					require.LessOrEqual(t, len(sink.Accepted()), test.maxPending)
					require.NotZero(t, s.DroppedBy["overflow"])
					require.Equal(t, calls, s.Delivered+s.Dropped)
					return
				}
				require.Equal(t, calls, s.Delivered)
				// What was sent before the door shut is sealed: a few batches.
				require.LessOrEqual(t, len(sink.Accepted()), cells+12*test.pairs, "records pile up in an outage")
			})
		})
	}
}

func TestRule15_HowUsageFolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c := usageClient(t, Config{Sink: sink, FlushInterval: time.Hour, Aggregations: map[string]Aggregation{
			"peak": AggregateMax, "level": AggregateLast, "users": AggregateUnique,
		}})
		for _, n := range []int64{3, 9, 4} {
			c.Track("c", "peak", n)
			c.Track("c", "level", n)
			c.Track("c", "users", n)
			c.Track("c", "sum", n)
		}
		c.Track("d", "peak", -7) // the largest of negatives is negative
		c.Track("d", "peak", -5)
		c.Record(Usage{Customer: "c", Feature: "sum", Quantity: 100, ID: "mine"})
		c.Record(Usage{Customer: "c", Feature: "sum", Quantity: 200, Properties: map[string]string{"region": "eu"}})
		c.Record(Usage{Customer: "c", Feature: "sum", Quantity: 400}) // nothing of its own: folds
		c.Track("c", "sum", 1)
		require.NoError(t, c.Flush(t.Context()))

		got := map[string][]int64{}
		counts := map[string]int64{}
		for _, u := range sink.Accepted() {
			key := u.Customer + "/" + u.Feature
			got[key] = append(got[key], u.Quantity)
			counts[key] += u.Count
			switch u.Quantity {
			case 100:
				require.Equal(t, "mine", u.ID)
			case 200:
				require.Equal(t, map[string]string{"region": "eu"}, u.Properties)
			}
		}
		require.Equal(t, []int64{9}, got["c/peak"])
		require.Equal(t, []int64{-5}, got["d/peak"])
		require.Equal(t, []int64{4}, got["c/level"])
		require.Equal(t, []int64{3, 9, 4}, got["c/users"])
		require.ElementsMatch(t, []int64{417, 100, 200}, got["c/sum"])
		require.EqualValues(t, 7, counts["c/sum"])
		require.EqualValues(t, 3, counts["c/peak"])
		requireBalancedUsage(t, c)
	})
}

func TestRule15_LocalViewFoldsAsTheBackendDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		grants := map[string]Grant{"peak": usageGrant(100, 5), "level": usageGrant(100, 5), "users": usageGrant(100, 5), "sum": usageGrant(100, 5)}
		c := usageClient(t, Config{
			Source: entitlementstest.NewSource(map[string]map[string]Grant{"c": grants}), Sink: entitlementstest.NewSink(),
			TTL: time.Hour, FlushInterval: time.Hour,
			Aggregations: map[string]Aggregation{"peak": AggregateMax, "level": AggregateLast, "users": AggregateUnique},
		})
		_, err := c.Resolve(t.Context(), "c")
		require.NoError(t, err)
		for _, step := range []struct{ n, peak, level, users, sum int64 }{
			{3, 5, 3, 5, 8}, {9, 9, 9, 5, 17}, {4, 9, 4, 5, 21}, {0, 9, 0, 5, 21},
		} {
			for feature := range grants {
				c.Track("c", feature, step.n)
			}
			require.Equal(t, step.peak, c.Decide("c", "peak").Used)
			require.Equal(t, step.level, c.Decide("c", "level").Used)
			require.Equal(t, step.users, c.Decide("c", "users").Used)
			require.Equal(t, step.sum, c.Decide("c", "sum").Used)
		}
	})
}

func TestRule15_AnOverflowingSumLosesNothing(t *testing.T) {
	for _, n := range []int64{math.MaxInt64, math.MinInt64} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := entitlementstest.NewSink()
				c := usageClient(t, Config{
					Source: entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": usageGrant(Unlimited, 10), "hard": usageGrant(5, 0)}}),
					Sink:   sink, TTL: time.Hour,
				})
				_, err := c.Resolve(t.Context(), "c")
				require.NoError(t, err)
				for range 3 {
					c.Track("c", "api", n)
					c.Track("c", "hard", n)
					d := c.Decide("c", "api")
					require.GreaterOrEqual(t, d.Remaining, int64(0))
				}
				require.Equal(t, n > 0, c.Decide("c", "hard").Reason == ReasonLimitReached, "an overflow must not become an allowance")
				require.NoError(t, c.Flush(t.Context()))
				var quantities []int64
				for _, u := range sink.Accepted() {
					if u.Feature == "api" {
						quantities = append(quantities, u.Quantity)
					}
				}
				require.Equal(t, []int64{n, n, n}, quantities)
				require.EqualValues(t, 6, requireBalancedUsage(t, c).Delivered)
			})
		})
	}
}

func TestRule15_TrackNeverBlocksOnAHangingSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := usageClient(t, Config{Sink: SinkFunc(func(context.Context, Batch) error {
			<-release // ignores its context
			return nil
		}), MaxPending: 100})
		began := time.Now()
		for i := range 1000 {
			c.Track(fmt.Sprint("c", i), "api", 1)
			c.Record(Usage{Customer: "c", Feature: "api", ID: fmt.Sprint(i)})
			if i%100 == 0 {
				time.Sleep(5 * time.Second)
			}
		}
		require.Equal(t, 50*time.Second, time.Since(began), "time passed in Track")
		s := requireBalancedUsage(t, c)
		require.NotZero(t, s.DroppedBy["overflow"])
		close(release)
	})
}

func TestRule15_FlatOutNothingIsDropped(t *testing.T) { eachWay(t, testFlatOutNothingIsDropped) }

func testFlatOutNothingIsDropped(t *testing.T, catalog func(*Client, ...string)) {
	sink := entitlementstest.NewSink()
	c := usageClient(t, Config{Sink: sink, FlushInterval: 20 * time.Millisecond})
	catalog(c, "api")
	customers := make([]string, 10_000)
	for i := range customers {
		customers[i] = fmt.Sprint("customer-", i)
	}
	const calls = 30_000
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(g)))
			for range calls {
				c.Track(customers[rng.IntN(len(customers))], "api", 1)
			}
		})
	}
	wg.Wait()
	require.NoError(t, c.Flush(usageWithin(t, 20*time.Second)))
	s := requireBalancedUsage(t, c)
	require.EqualValues(t, 2*calls, s.Recorded)
	require.EqualValues(t, 2*calls, s.Delivered)
	require.EqualValues(t, 2*calls, sink.TotalCalls())
	require.Zero(t, s.Dropped)
}

// One customer's events, each with an ID: what one record costs must not grow
// with how many others wait. A factor of 8 in records is allowed one of 30 in
// time; where each record looks at all others it is 64.
func TestRule15_ManyEventsOfOneFeature(t *testing.T) {
	flush := func(events int) time.Duration {
		c := usageClient(t, Config{Sink: entitlementstest.NewSink(), FlushInterval: time.Hour})
		for i := range events {
			c.Record(Usage{Customer: "c", Feature: "api", Quantity: 1, ID: fmt.Sprint("event-", i)})
		}
		began := time.Now()
		require.NoError(t, c.Flush(usageWithin(t, time.Minute)))
		took := time.Since(began)
		require.EqualValues(t, events, requireBalancedUsage(t, c).Delivered)
		return took
	}
	few := min(flush(500), flush(500), flush(500))
	bound := 30*few + 50*time.Millisecond
	many := flush(4000)
	if many > bound {
		many = flush(4000) // the machine may have been busy
	}
	require.LessOrEqual(t, many, bound, "500 records took %v", few)
}

func TestRule16_IDsAreFixedBeforeTheFirstAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.Next(
			entitlementstest.DeliverStep{Refuse: errSinkDown},
			entitlementstest.DeliverStep{Refuse: Unsent(errSinkDown)},
			entitlementstest.DeliverStep{Lost: errSinkDown}, // accepted, and the answer got lost
			entitlementstest.DeliverStep{Fate: func(b Batch) *DeliveryError {
				return &DeliveryError{Retry: []int{0, 1}, Err: errSinkDown}
			}},
		)
		c := usageClient(t, Config{Sink: sink})
		c.Track("a", "api", 1)
		c.Track("b", "api", 2)
		c.Record(Usage{Customer: "c", Feature: "api", Quantity: 3, ID: "mine"})
		require.NoError(t, c.Flush(t.Context()))
		batches := sink.Batches()
		require.Len(t, batches, 5)
		first := batches[0].Usage
		ids := map[string]bool{}
		for i, u := range first {
			require.NotEmpty(t, u.ID)
			require.LessOrEqual(t, len(u.ID), MaxKeyLength)
			ids[u.ID] = true
			for _, b := range batches[:4] {
				require.Equal(t, u, b.Usage[i], "content and ID are the same on every attempt")
			}
		}
		require.Len(t, ids, 3)
		require.True(t, ids["mine"])
		for i, b := range batches[:4] {
			require.Equal(t, batches[0].ID, b.ID, "same content, same batch ID")
			require.Equal(t, i+1, b.Attempt)
		}
		require.Equal(t, first[:2], batches[4].Usage)
		require.NotEqual(t, batches[0].ID, batches[4].ID, "new content, new batch ID")
		require.Zero(t, sink.Conflicts())
		require.EqualValues(t, 1, sink.Total("a", "api"))
	})
}

func TestRule16_UnknownFateBeyondTheDedupWindowIsParked(t *testing.T) {
	for _, test := range []struct {
		name   string
		window time.Duration
		outage time.Duration
		parked bool
	}{
		{"for ever", 0, 2 * time.Hour, false},
		{"never", -1, 0, true},
		{"inside of the window", time.Hour, 10 * time.Minute, false},
		{"past the window", time.Hour, 2 * time.Hour, true},
		{"a request may arrive as late as its timeout", time.Hour, time.Hour - 5*time.Second, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := entitlementstest.NewSink()
				var mu sync.Mutex
				sent := map[string][]time.Time{}
				note := func(_ context.Context, b Batch) {
					mu.Lock()
					defer mu.Unlock()
					for _, u := range b.Usage {
						sent[u.ID] = append(sent[u.ID], time.Now())
					}
				}
				sink.Always(entitlementstest.DeliverStep{Do: note, Lost: errSinkDown})
				var dead []Usage
				c := usageClient(t, Config{
					Sink:       sink.Limited(SinkLimits{DedupWindow: test.window}),
					DeadLetter: func(u Usage, _ error) { dead = append(dead, u) },
				})
				c.Track("c", "api", 7)
				c.Track("c", "api", 1)
				time.Sleep(2 * time.Second)
				if test.window < 0 {
					require.EqualValues(t, 2, requireBalancedUsage(t, c).InDoubt, "parked at once")
					require.Equal(t, 1, sink.Deliveries())
				}
				time.Sleep(test.outage)
				sink.Always(entitlementstest.DeliverStep{Do: note})
				require.NoError(t, c.Flush(t.Context()))
				s := requireBalancedUsage(t, c)
				if test.parked {
					require.EqualValues(t, 2, s.InDoubt)
					require.Zero(t, s.Delivered)
				} else {
					require.Zero(t, s.InDoubt)
					require.EqualValues(t, 2, s.Delivered)
				}
				require.Empty(t, dead, "in doubt is not dead")
				require.EqualValues(t, 8, sink.Total("c", "api"), "billed once either way")
				require.Zero(t, sink.Conflicts())
				for id, at := range sent {
					if test.window > 0 {
						require.Less(t, at[len(at)-1].Sub(at[0]), test.window, "%s was resent after the backend may have forgotten it", id)
					}
				}
				// A parked record blocks nobody.
				c.Track("c", "api", 100)
				require.NoError(t, c.Flush(t.Context()))
				require.EqualValues(t, 108, sink.Total("c", "api"))
			})
		})
	}
}

// What was cleanly refused may be sent for ever, however short the window.
func TestRule16_RefusedIsNotInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.Always(entitlementstest.DeliverStep{Refuse: Unsent(errSinkDown)})
		c := usageClient(t, Config{Sink: sink.Limited(SinkLimits{DedupWindow: time.Minute})})
		c.Track("c", "api", 7)
		time.Sleep(time.Hour)
		sink.Always(entitlementstest.DeliverStep{})
		require.NoError(t, c.Flush(t.Context()))
		require.EqualValues(t, 1, requireBalancedUsage(t, c).Delivered)
	})
}

// A record of certain fate waits as it was told to, whatever travels with it.
func TestRule16_ParkingOneRecordDoesNotHurryTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.Next(entitlementstest.DeliverStep{Fate: func(Batch) *DeliveryError {
			return &DeliveryError{Retry: []int{1}, Unknown: []int{2}, After: time.Minute, Err: errSinkDown}
		}})
		c := usageClient(t, Config{Sink: sink.Limited(SinkLimits{DedupWindow: -1})})
		for i := range 3 {
			c.Track(fmt.Sprint("c", i), "api", 1)
		}
		time.Sleep(30 * time.Second)
		require.EqualValues(t, 1, requireBalancedUsage(t, c).InDoubt)
		require.Equal(t, 1, sink.Deliveries(), "sent again before After had passed")
		time.Sleep(time.Minute)
		require.EqualValues(t, 2, requireBalancedUsage(t, c).Delivered)
	})
}

func TestRule17_OneBadRecordBlocksNobody(t *testing.T) {
	for _, bads := range [][]int{{0}, {99}, {37}, {3, 4, 50}, {0, 20, 40, 60, 80}} {
		t.Run(fmt.Sprint(bads), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := entitlementstest.NewSink()
				bad := map[string]bool{}
				for _, i := range bads {
					bad[fmt.Sprint("c", i)] = true
				}
				sink.SetBad(func(u Usage) error {
					if bad[u.Customer] {
						return fmt.Errorf("%w: %s", entitlementstest.ErrBad, u.Customer)
					}
					return nil
				})
				var mu sync.Mutex
				dead := map[string]error{}
				c := usageClient(t, Config{Sink: sink, DeadLetter: func(u Usage, err error) {
					mu.Lock()
					defer mu.Unlock()
					dead[u.Customer] = err
				}})
				for i := range 100 {
					c.Track(fmt.Sprint("c", i), "api", 1)
				}
				require.NoError(t, c.Flush(t.Context()))
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				require.Len(t, dead, len(bads))
				for customer := range bad {
					require.ErrorIs(t, dead[customer], entitlementstest.ErrBad)
					require.ErrorContains(t, dead[customer], customer)
				}
				require.Len(t, sink.Accepted(), 100-len(bads))
				require.Zero(t, sink.Duplicates(), "good ones are delivered exactly once")
				s := requireBalancedUsage(t, c)
				require.EqualValues(t, len(bads), s.DeadLettered)
				require.EqualValues(t, 100-len(bads), s.Delivered)
				// Each bad one costs about two requests per halving.
				require.LessOrEqual(t, sink.Deliveries(), 1+len(bads)*2*7)
				for _, b := range sink.Batches() {
					for _, u := range b.Usage {
						require.NotEmpty(t, u.ID)
					}
				}
				require.False(t, c.Health().Sink.LastError != nil && !c.Health().Sink.Ready, "a bad record is not an outage")
			})
		})
	}
}

func TestRule17_BisectKeepsTheIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.SetBad(func(u Usage) error {
			if u.Customer == "c3" {
				return entitlementstest.ErrBad
			}
			return nil
		})
		c := usageClient(t, Config{Sink: sink})
		for i := range 8 {
			c.Track(fmt.Sprint("c", i), "api", 1)
		}
		require.NoError(t, c.Flush(t.Context()))
		ids, batches := map[string]string{}, map[string]string{}
		for _, b := range sink.Batches() {
			var content strings.Builder
			for _, u := range b.Usage {
				if id, ok := ids[u.Customer]; ok {
					require.Equal(t, id, u.ID, u.Customer)
				}
				ids[u.Customer] = u.ID
				content.WriteString(u.ID + " ")
			}
			if other, ok := batches[b.ID]; ok {
				require.Equal(t, other, content.String(), "one batch ID, one content")
			}
			batches[b.ID] = content.String()
		}
		require.Len(t, ids, 8)
	})
}

func TestRule17_SuspectsTravelApartForTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.SetBad(func(u Usage) error {
			if u.Properties["bad"] != "" {
				return entitlementstest.ErrBad
			}
			return nil
		})
		c := usageClient(t, Config{Sink: sink})
		together := func() (with int) {
			before := sink.Deliveries()
			c.Track("suspect", "api", 1)
			c.Track("suspect", "other", 1)
			c.Track("good", "api", 1)
			require.NoError(t, c.Flush(t.Context()))
			for _, b := range sink.Batches()[before:] {
				for _, u := range b.Usage {
					if u.Customer == "suspect" && u.Feature == "api" {
						with = len(b.Usage)
					}
				}
			}
			return with
		}
		require.Equal(t, 3, together())
		c.Record(Usage{Customer: "suspect", Feature: "api", Properties: map[string]string{"bad": "yes"}})
		c.Track("good", "api", 1)
		require.NoError(t, c.Flush(t.Context()))
		require.EqualValues(t, 1, c.Stats().Usage.DeadLettered)
		require.Equal(t, 1, together())
		// Between two flushes of the client's own, so that none of them comes in between.
		time.Sleep(9*time.Minute + 50*time.Second + 500*time.Millisecond)
		require.Equal(t, 1, together())
		time.Sleep(15 * time.Second)
		require.Equal(t, 3, together())
		requireBalancedUsage(t, c)
	})
}

// Traffic of a suspect goes one by one. That must cost the suspect, nobody else.
func TestRule17_ASuspectsTrafficDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.SetBad(func(u Usage) error {
			if u.ID == "bad" {
				return entitlementstest.ErrBad
			}
			return nil
		})
		c := usageClient(t, Config{Sink: sink})
		c.Record(Usage{Customer: "suspect", Feature: "api", ID: "bad"})
		require.NoError(t, c.Flush(t.Context()))
		sink.Always(entitlementstest.DeliverStep{Latency: 50 * time.Millisecond})
		for i := range 2000 {
			c.Record(Usage{Customer: "suspect", Feature: "api", ID: fmt.Sprint("event-", i)})
		}
		c.Track("good", "api", 1)
		time.Sleep(10 * time.Second)
		require.EqualValues(t, 1, sink.Total("good", "api"), "10 s later a good customer's usage still waits behind a suspect's")
	})
}

func TestRule17_ManySuspects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.SetBad(func(u Usage) error {
			if strings.HasPrefix(u.ID, "bad") {
				return entitlementstest.ErrBad
			}
			return nil
		})
		c := usageClient(t, Config{Sink: sink})
		for i := range 1100 {
			c.Record(Usage{Customer: fmt.Sprint("old", i), Feature: "api", ID: fmt.Sprint("bad", i)})
		}
		require.NoError(t, c.Flush(t.Context()))
		require.EqualValues(t, 1100, c.Stats().Usage.DeadLettered)
		time.Sleep(11 * time.Minute) // those are no suspects any more
		c.Record(Usage{Customer: "new", Feature: "api", ID: "bad-new"})
		require.NoError(t, c.Flush(t.Context()))
		before := sink.Deliveries()
		c.Track("new", "api", 1)
		c.Track("good", "api", 1)
		require.NoError(t, c.Flush(t.Context()))
		for _, b := range sink.Batches()[before:] {
			require.Len(t, b.Usage, 1, "a new suspect travels with others although all the old ones are over")
		}
	})
}

func TestRule21_KeysAreOpaqueBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c := usageClient(t, Config{Sink: sink})
		long, tooLong := strings.Repeat("k", 255), strings.Repeat("k", 256)
		good := []string{long, "\x00", "\xff\xfe", "a\nb", " ", "é", "%2F/../", strings.Repeat("\x00", 255)}
		for _, customer := range good {
			for _, feature := range good {
				c.Track(customer, feature, 1)
				c.Record(Usage{Customer: customer, Feature: feature, Quantity: 2, ID: "id" + long[:250]})
			}
		}
		require.NoError(t, c.Flush(t.Context()))
		s := requireBalancedUsage(t, c)
		require.EqualValues(t, 2*len(good)*len(good), s.Delivered)
		for _, customer := range good {
			for _, feature := range good {
				require.GreaterOrEqual(t, sink.Total(customer, feature), int64(1), "%q %q", customer, feature)
			}
		}
		for _, bad := range []Usage{
			{Customer: "", Feature: "f"},
			{Customer: "c", Feature: ""},
			{Customer: tooLong, Feature: "f"},
			{Customer: "c", Feature: tooLong},
			{Customer: "c", Feature: "f", ID: tooLong},
		} {
			before := requireBalancedUsage(t, c)
			c.Record(bad)
			after := requireBalancedUsage(t, c)
			require.Equal(t, before.DroppedBy["invalid"]+1, after.DroppedBy["invalid"], "%.20q", fmt.Sprint(bad))
			require.Equal(t, before.Recorded+1, after.Recorded)
			if bad.ID == "" {
				c.Track(bad.Customer, bad.Feature, 1)
				require.Equal(t, after.Dropped+1, requireBalancedUsage(t, c).Dropped)
				d, err := c.Check(t.Context(), bad.Customer, bad.Feature)
				require.ErrorIs(t, err, ErrInvalidKey)
				require.Equal(t, ReasonInvalid, d.Reason)
			}
			require.ErrorIs(t, c.Report(t.Context(), bad), ErrInvalidKey)
			require.ErrorIs(t, c.Report(t.Context(), Usage{Customer: "fine", Feature: "f", Quantity: 1}, bad), ErrInvalidKey)
		}
		require.Zero(t, sink.Total("fine", "f"), "a Report with an invalid key records none of it")
		require.EqualValues(t, 0, requireBalancedUsage(t, c).Pending)
	})
}

func TestRule21_CallersMemoryIsTheirs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c := usageClient(t, Config{Sink: sink})
		properties := map[string]string{"k": "v"}
		c.Record(Usage{Customer: "c", Feature: "f", Quantity: 1, Properties: properties, Count: 99})
		require.NoError(t, c.Flush(t.Context()))
		require.Equal(t, map[string]string{"k": "v"}, sink.Accepted()[0].Properties)
		require.EqualValues(t, 1, sink.Accepted()[0].Count, "what a caller writes into Count is ignored")
	})
}

// lagging is a backend whose reads know what it was given a while ago.
type lagging struct {
	lag   time.Duration
	mu    sync.Mutex // guards given
	given []given
}

type given struct {
	at    time.Time
	units int64
}

func (l *lagging) Deliver(_ context.Context, batch Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range batch.Usage {
		l.given = append(l.given, given{time.Now(), batch.Usage[i].Quantity})
	}
	return nil
}

func (l *lagging) Fetch(_ context.Context, customer string) (*Entitlements, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	used := int64(0)
	for _, g := range l.given {
		if time.Since(g.at) >= l.lag {
			used += g.units
		}
	}
	return &Entitlements{Customer: customer, Plan: "p", Features: map[string]Grant{"api": usageGrant(1_000_000, used)}}, nil
}

// What waits for a figure is merged, but a figure that lags takes off what is older,
// also when the customer never pauses.
func TestRule19_AFigureThatLagsContainsWhatIsOlderThoughTheCustomerNeverPauses(t *testing.T) {
	for _, lag := range []time.Duration{time.Minute, 10 * time.Minute} {
		t.Run(lag.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				backend := &lagging{lag: lag}
				c := usageClient(t, Config{
					Source: backend, Sink: backend, UsageLag: lag, TTL: 10 * time.Second, FlushInterval: time.Second,
				})
				loaded(t, c, "acme")
				late := int64(lag/time.Second/3) + 15 // seconds: a third of the lag, the TTL, and a few
				for n := range int64(4 * lag / time.Second) {
					c.Track("acme", "api", 1)
					time.Sleep(time.Second)
					used := c.Decide("acme", "api").Used
					require.GreaterOrEqual(t, used, n+1, "below the truth")
					require.LessOrEqual(t, used, n+1+late, "above the truth by more than what was delivered in %d s", late)
				}
			})
		})
	}
}
