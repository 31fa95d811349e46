package entitlements_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

func TestRule20_FlushIsBoundedAndSaysWhatItLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c := usageClient(t, Config{Sink: sink})
		require.NoError(t, c.Flush(t.Context()), "nothing to flush")
		c.Track("a", "api", 1)
		require.NoError(t, c.Flush(t.Context()))
		sink.Next(entitlementstest.DeliverStep{Fate: func(b Batch) *DeliveryError {
			later := slices.IndexFunc(b.Usage, func(u Usage) bool { return u.Customer == "c" })
			return &DeliveryError{Retry: []int{later}, After: time.Minute}
		}})
		c.Track("b", "api", 1)
		c.Track("c", "api", 1)
		c.Track("c", "api", 1)
		began := time.Now()
		err := c.Flush(usageWithin(t, 10*time.Second))
		require.Equal(t, 10*time.Second, time.Since(began))
		var left *UndeliveredError
		require.ErrorAs(t, err, &left)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualValues(t, 1, left.Delivered)
		require.EqualValues(t, 2, left.Pending)
		require.Zero(t, left.Lost)
		require.Zero(t, left.Spooled)
		require.NoError(t, c.Flush(t.Context()), "what was left is still tried")
		require.EqualValues(t, 2, sink.Total("c", "api"))

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		sink.Next(entitlementstest.DeliverStep{Latency: time.Second}) // else it may be delivered before anybody looks
		c.Track("d", "api", 1)
		require.ErrorIs(t, c.Flush(ended), context.Canceled)
	})
}

func TestRule20_FlushWaitsOnlyForWhatCameBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.Always(entitlementstest.DeliverStep{Latency: 100 * time.Millisecond})
		c := usageClient(t, Config{Sink: sink, FlushInterval: 50 * time.Millisecond})
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					c.Track(fmt.Sprint("c", i), "api", 1)
				}
			}
		})
		time.Sleep(time.Second)
		c.Track("mine", "api", 1)
		began := time.Now()
		require.NoError(t, c.Flush(usageWithin(t, time.Minute)))
		require.Less(t, time.Since(began), 2*time.Second, "a stream of usage keeps Flush waiting")
		require.EqualValues(t, 1, sink.Total("mine", "api"))
		close(stop)
		wg.Wait()

		// Several at once, each for its own.
		sink.Always(entitlementstest.DeliverStep{})
		for i := range 10 {
			wg.Go(func() {
				customer := fmt.Sprint("flush", i)
				c.Track(customer, "api", 1)
				err := c.Flush(t.Context())
				if err != nil || sink.Total(customer, "api") != 1 {
					t.Errorf("%s: Flush says %v, %d delivered", customer, err, sink.Total(customer, "api"))
				}
			})
		}
		wg.Wait()
	})
}

func TestRule20_CloseDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.Next(entitlementstest.DeliverStep{Refuse: Unsent(errSinkDown)}, entitlementstest.DeliverStep{Refuse: errSinkDown})
		c := usageClient(t, Config{Sink: sink, FlushInterval: time.Hour})
		for i := range 100 {
			c.Track(fmt.Sprint("c", i), "api", 1)
		}
		began := time.Now()
		require.NoError(t, c.Close(context.Background()))
		require.Less(t, time.Since(began), 5*time.Second)
		require.EqualValues(t, 100, requireBalancedUsage(t, c).Delivered)
	})
}

func TestRule20_CloseInAnOutage(t *testing.T) {
	for _, test := range []struct {
		name  string
		step  entitlementstest.DeliverStep
		bound time.Duration // of ctx; 0 is none
		want  time.Duration
	}{
		{"refusing", entitlementstest.DeliverStep{Refuse: Unsent(errSinkDown)}, 3 * time.Second, 3 * time.Second},
		{"failing", entitlementstest.DeliverStep{Refuse: errSinkDown}, 3 * time.Second, 3 * time.Second},
		{"hanging", entitlementstest.DeliverStep{Hang: true}, 3 * time.Second, 3 * time.Second},
		{"busy", entitlementstest.DeliverStep{Refuse: RetryAfter(time.Hour, errSinkDown)}, 3 * time.Second, 3 * time.Second},
		{"no deadline", entitlementstest.DeliverStep{Hang: true}, 0, 30 * time.Second},
		{"no time at all", entitlementstest.DeliverStep{Refuse: errSinkDown}, time.Nanosecond, time.Nanosecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := entitlementstest.NewSink()
				sink.Always(test.step)
				c := usageClient(t, Config{Sink: sink})
				c.Track("sent", "api", 1)
				time.Sleep(20 * time.Second)
				c.Track("new", "api", 1)
				c.Track("new", "api", 1)
				ctx := context.Background()
				if test.bound > 0 {
					ctx = usageWithin(t, test.bound)
				}
				began := time.Now()
				err := c.Close(ctx)
				require.Equal(t, test.want, time.Since(began))
				var left *UndeliveredError
				require.ErrorAs(t, err, &left)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.EqualValues(t, 3, left.Lost)
				require.Zero(t, left.Delivered)
				require.Zero(t, left.Running)
				s := requireBalancedUsage(t, c)
				require.Zero(t, s.Pending)
				require.EqualValues(t, 3, s.InDoubt+s.DroppedBy["undelivered"])
				if _, refused := RetryDelay(test.step.Refuse); refused {
					require.EqualValues(t, 3, s.DroppedBy["undelivered"], "certainly not accepted: no doubt about it")
				}
			})
		})
	}
}

// A half of a refused batch was certainly not accepted: Close has no doubt.
func TestRule20_WhatWasRefusedIsNotInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.Next(entitlementstest.DeliverStep{Refuse: Permanent(entitlementstest.ErrBad)})
		sink.Always(entitlementstest.DeliverStep{Hang: true})
		c := usageClient(t, Config{Sink: sink, FlushConcurrency: 1})
		c.Track("a", "api", 1)
		c.Track("b", "api", 1)
		time.Sleep(2 * time.Second)
		require.Error(t, c.Close(usageWithin(t, time.Second)))
		s := requireBalancedUsage(t, c)
		require.EqualValues(t, 1, s.InDoubt, "the half that hangs")
		require.EqualValues(t, 1, s.DroppedBy["undelivered"], "the half that waits")
	})
}

func TestRule20_CloseTwiceAndConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.Always(entitlementstest.DeliverStep{Refuse: Unsent(errSinkDown)})
		c := usageClient(t, Config{Sink: sink})
		c.Track("c", "api", 1)
		var wg sync.WaitGroup
		ctx := usageWithin(t, 2*time.Second)
		for range 5 {
			wg.Go(func() {
				var left *UndeliveredError
				if err := c.Close(ctx); !errors.As(err, &left) || left.Lost != 1 {
					t.Errorf("Close: %v", err)
				}
			})
		}
		wg.Wait()
		require.Error(t, c.Close(t.Context()))
		requireBalancedUsage(t, c)
	})
}

// Every Close is bounded by its own context, also one that is not the first.
func TestRule20_TheSecondCloseIsBoundedByItsOwnContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.Always(entitlementstest.DeliverStep{Refuse: Unsent(errSinkDown)})
		c := usageClient(t, Config{Sink: sink})
		c.Track("c", "api", 1)
		first := make(chan error, 1)
		go func() { first <- c.Close(context.Background()) }()
		time.Sleep(time.Second)
		began := time.Now()
		err := c.Close(usageWithin(t, 2*time.Second))
		took := time.Since(began)
		<-first
		require.Error(t, err)
		require.LessOrEqual(t, took, 3*time.Second)
	})
}

func TestRule20_CloseDuringEverything(t *testing.T) {
	src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": usageGrant(1000, 0), "flag": {Enabled: true}}})
	for round := range 5 {
		sink := entitlementstest.NewSink()
		c := usageClient(t, Config{Source: src, Sink: sink, FlushInterval: time.Millisecond})
		handle, err := c.Resolve(t.Context(), "c")
		require.NoError(t, err)
		feature := c.Feature("api")
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for i, f := range []func(){
			func() { c.Track("c", "api", 1) },
			func() { handle.Track(feature, 1) },
			func() { c.Track(fmt.Sprint(time.Now().UnixNano()), "api", 1) },
			func() { c.Record(Usage{Customer: "c", Feature: "api", Properties: map[string]string{}}) },
			func() { _ = c.Report(context.Background(), Usage{Customer: "c", Feature: "api"}) },
			func() { _ = c.Flush(context.Background()) },
			func() { c.Decide("c", "api"); c.Allowed("c", "flag"); c.Stats(); c.Health() },
			func() { c.Invalidate("c"); c.InvalidateAll(); c.Forget("c") },
			func() { _, _ = c.Check(context.Background(), fmt.Sprint("c", time.Now().UnixNano()%7), "api") },
			func() { c.Subscribe(func(Change) {})() },
		} {
			wg.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
						f()
					}
					if n%64 == i {
						time.Sleep(time.Microsecond)
					}
				}
			})
		}
		time.Sleep(time.Duration(round+1) * 3 * time.Millisecond)
		err = c.Close(usageWithin(t, 10*time.Second))
		close(stop)
		wg.Wait()
		require.NoError(t, err)
		s := requireBalancedUsage(t, c)
		require.Zero(t, s.Pending)
		require.Equal(t, s.Recorded, s.Delivered+s.DroppedBy["closed"])
		require.EqualValues(t, s.Delivered, sink.TotalCalls())
	}
}

func TestRule20_AfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c := usageClient(t, Config{Sink: sink})
		c.Track("c", "api", 1)
		require.NoError(t, c.Close(t.Context()))
		deliveries := sink.Deliveries()
		c.Track("c", "api", 1)
		c.Track("d", "api", 1)
		c.Record(Usage{Customer: "c", Feature: "api", ID: "x"})
		require.ErrorIs(t, c.Report(t.Context(), Usage{Customer: "c", Feature: "api"}), ErrClosed)
		require.ErrorIs(t, c.Flush(t.Context()), ErrClosed)
		time.Sleep(time.Minute)
		s := requireBalancedUsage(t, c)
		require.EqualValues(t, 3, s.DroppedBy["closed"])
		require.EqualValues(t, 4, s.Recorded)
		require.Equal(t, deliveries, sink.Deliveries())
	})
}

// Flush that meets a Close which gives usage up must not say that it is
// delivered.
func TestRule20_FlushDuringACloseThatGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.Always(entitlementstest.DeliverStep{Refuse: Unsent(errSinkDown)})
		c := usageClient(t, Config{Sink: sink})
		c.Track("c", "api", 1)
		flushed, reported := make(chan error, 1), make(chan error, 1)
		go func() { flushed <- c.Flush(context.Background()) }()
		go func() { reported <- c.Report(context.Background(), Usage{Customer: "c", Feature: "api"}) }()
		time.Sleep(time.Second)
		require.Error(t, c.Close(usageWithin(t, 2*time.Second)))
		require.Error(t, <-reported)
		require.Error(t, <-flushed, "dropped by Close, and Flush says it is delivered")
	})
}

func TestRule20_CallbacksAndSinksThatIgnoreTheirContext(t *testing.T) {
	t.Run("a sink", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			release := make(chan struct{})
			c := usageClient(t, Config{Sink: SinkFunc(func(context.Context, Batch) error { <-release; return nil })})
			c.Track("c", "api", 1)
			began := time.Now()
			err := c.Close(usageWithin(t, 2*time.Second))
			require.Less(t, time.Since(began), 3*time.Second)
			var left *UndeliveredError
			require.ErrorAs(t, err, &left)
			require.EqualValues(t, 1, left.Lost)
			require.Equal(t, 1, left.Running)
			require.EqualValues(t, 1, requireBalancedUsage(t, c).InDoubt)
			close(release)
			synctest.Wait()
			require.EqualValues(t, 1, requireBalancedUsage(t, c).InDoubt)
		})
	})
	t.Run("a callback", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			release := make(chan struct{})
			sink := entitlementstest.NewSink()
			sink.Always(entitlementstest.DeliverStep{Refuse: Permanent(entitlementstest.ErrBad)})
			c := usageClient(t, Config{Sink: sink, DeadLetter: func(Usage, error) { <-release }})
			c.Track("c", "api", 1)
			began := time.Now()
			err := c.Close(usageWithin(t, 2*time.Second))
			require.Less(t, time.Since(began), 3*time.Second)
			var left *UndeliveredError
			require.ErrorAs(t, err, &left)
			require.Equal(t, 1, left.Running)
			require.Zero(t, left.Lost)
			close(release)
			synctest.Wait()
		})
	})
	t.Run("a callback that takes its time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sink := entitlementstest.NewSink()
			sink.Always(entitlementstest.DeliverStep{Refuse: Permanent(entitlementstest.ErrBad)})
			told := 0
			c := usageClient(t, Config{Sink: sink, DeadLetter: func(Usage, error) { time.Sleep(time.Second); told++ }})
			for i := range 5 {
				c.Track(fmt.Sprint("c", i), "api", 1)
			}
			require.NoError(t, c.Close(t.Context()))
			require.Equal(t, 5, told, "Close waits for the callbacks")
		})
	})
}

func TestRule20_Report(t *testing.T) {
	t.Run("nil means delivered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sink := entitlementstest.NewSink()
			sink.Next(entitlementstest.DeliverStep{Refuse: Unsent(errSinkDown)}, entitlementstest.DeliverStep{Lost: errSinkDown})
			c := usageClient(t, Config{Sink: sink, FlushInterval: time.Hour})
			require.NoError(t, c.Report(t.Context()), "of nothing")
			require.NoError(t, c.Report(t.Context(),
				Usage{Customer: "a", Feature: "api", Quantity: 1}, Usage{Customer: "a", Feature: "api", Quantity: 2}, Usage{Customer: "b", Feature: "api", Quantity: 3, ID: "x"}))
			require.EqualValues(t, 3, sink.Total("a", "api"))
			require.EqualValues(t, 3, sink.Total("b", "api"))
			require.Len(t, sink.Accepted(), 3, "each is a record of its own")
		})
	})
	t.Run("takes nothing along that gathers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sink := entitlementstest.NewSink()
			c := usageClient(t, Config{Sink: sink, FlushInterval: time.Hour})
			c.Track("c", "api", 1)
			require.NoError(t, c.Report(t.Context(), Usage{Customer: "a", Feature: "api", Quantity: 1}))
			c.Track("c", "api", 1)
			require.NoError(t, c.Flush(t.Context()))
			require.Len(t, sink.Accepted(), 2)
		})
	})
	t.Run("ctx ends: still pending, same ID later", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sink := entitlementstest.NewSink()
			sink.Always(entitlementstest.DeliverStep{Lost: errSinkDown})
			c := usageClient(t, Config{Sink: sink})
			began := time.Now()
			err := c.Report(usageWithin(t, time.Second), Usage{Customer: "c", Feature: "api", Quantity: 5, ID: "x"})
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, time.Second, time.Since(began))
			require.EqualValues(t, 1, requireBalancedUsage(t, c).Pending)
			sink.Always(entitlementstest.DeliverStep{})
			require.NoError(t, c.Report(t.Context(), Usage{Customer: "c", Feature: "api", Quantity: 5, ID: "x"}))
			require.NoError(t, c.Flush(t.Context()))
			require.EqualValues(t, 5, sink.Total("c", "api"))
			for _, b := range sink.Batches() {
				require.Equal(t, "x", b.Usage[0].ID)
			}
		})
	})
	t.Run("a bad record errs, the good ones go", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sink := entitlementstest.NewSink()
			sink.SetBad(func(u Usage) error {
				if u.Customer == "bad" {
					return entitlementstest.ErrBad
				}
				return nil
			})
			c := usageClient(t, Config{Sink: sink})
			err := c.Report(t.Context(), Usage{Customer: "good", Feature: "api", Quantity: 1}, Usage{Customer: "bad", Feature: "api", Quantity: 1})
			require.ErrorIs(t, err, entitlementstest.ErrBad)
			require.EqualValues(t, 1, sink.Total("good", "api"))
		})
	})
	t.Run("no room", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sink := entitlementstest.NewSink()
			sink.Always(entitlementstest.DeliverStep{Refuse: errSinkDown})
			c := usageClient(t, Config{Sink: sink, MaxPending: 1})
			c.Track("c", "api", 1)
			err := c.Report(usageWithin(t, time.Second), Usage{Customer: "d", Feature: "api"})
			require.Error(t, err)
			require.NotErrorIs(t, err, context.DeadlineExceeded)
		})
	})
	t.Run("no room and no sink", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := usageClient(t, Config{MaxPending: 1})
			c.Track("c", "api", 1)
			require.Error(t, c.Report(t.Context(), Usage{Customer: "d", Feature: "api"}), "dropped, and Report says that it can't be lost")
		})
	})
	t.Run("in doubt", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sink := entitlementstest.NewSink()
			sink.Always(entitlementstest.DeliverStep{Refuse: errSinkDown})
			c := usageClient(t, Config{Sink: sink.Limited(SinkLimits{DedupWindow: -1})})
			require.Error(t, c.Report(usageWithin(t, time.Minute), Usage{Customer: "d", Feature: "api"}))
			require.EqualValues(t, 1, requireBalancedUsage(t, c).InDoubt)
		})
	})
}

// What Close counts as dropped was not sent, and is not sent any more: billing
// may be settled by hand from that number.
func TestRule20_WhatCloseDroppedIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for round := range 200 {
			sink := entitlementstest.NewSink()
			c := usageClient(t, Config{Sink: sink, MaxCustomers: 1, FlushSize: 1, FlushConcurrency: 4})
			for i := range 4 {
				c.Track(fmt.Sprint("c", i), "api", 1)
			}
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			_ = c.Close(ended)
			s := requireBalancedUsage(t, c)
			require.LessOrEqual(t, uint64(sink.TotalCalls()), s.Delivered+s.InDoubt, "round %d: the sink accepted what counts as dropped: %+v", round, s)
		}
	})
}
