package entitlements_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

func TestRule06_OneLoadInFlightPerCustomer(t *testing.T) {
	const waiters = 1000
	for name, spread := range map[string]time.Duration{"together": 0, "spread over 40 ms": 40 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &spy{answer: func(ctx context.Context, customer string) (*Entitlements, error) {
					return grantedX(customer), nap(ctx, 20*time.Millisecond)
				}}
				c := opened(t, Config{Source: src})
				var allowed atomic.Int64
				var wg sync.WaitGroup
				for i := range waiters {
					wg.Go(func() {
						time.Sleep(spread * time.Duration(i) / waiters)
						switch i % 4 {
						case 0:
							d, err := c.Check(t.Context(), "a", "x")
							if err == nil && d.Allowed {
								allowed.Add(1)
							}
						case 1:
							cu, err := c.Resolve(t.Context(), "a")
							if err == nil && cu.Allowed(c.Feature("x")) {
								allowed.Add(1)
							}
						case 2:
							set, err := c.Load(t.Context(), "a")
							if err == nil && set.Features["x"].Enabled {
								allowed.Add(1)
							}
						case 3:
							c.Decide("a", "x") // asks for a load, and does not wait
							allowed.Add(1)
						}
					})
				}
				require.LessOrEqual(t, took(wg.Wait), 61*time.Millisecond)
				require.EqualValues(t, waiters, allowed.Load())
				require.Len(t, src.seen(), 1)
				require.EqualValues(t, 1, c.Stats().Source.Fetches)
			})
		})
	}
}

// A load ends while others have looked and found nothing: they find it then.
func TestRule06_WhoComesAsALoadEndsDoesNotBeginAnother(t *testing.T) {
	for name, ask := range map[string]func(c *Client){
		"Check":   func(c *Client) { _, _ = c.Check(context.Background(), "acme", "export") },
		"Allowed": func(c *Client) { c.Allowed("acme", "export") },
		"Warm":    func(c *Client) { _, _ = c.Warm(context.Background(), slices.Values([]string{"acme"})) },
	} {
		for what, source := range map[string]func(ctx context.Context) (*Entitlements, error){
			"a snapshot": func(context.Context) (*Entitlements, error) {
				return &Entitlements{Customer: "acme", Features: map[string]Grant{"export": {Enabled: true}}}, nil
			},
			"nobody":    func(context.Context) (*Entitlements, error) { return nil, ErrUnknownCustomer },
			"a failure": func(context.Context) (*Entitlements, error) { return nil, Permanent(errors.New("no")) },
		} {
			if name == "Warm" && what != "a snapshot" {
				continue // it asks again on purpose
			}
			t.Run(name+", "+what, func(t *testing.T) {
				for range 30 {
					synctest.Test(t, func(t *testing.T) {
						var fetches atomic.Int64
						c, err := New(Config{MaxCustomers: 16, Source: SourceFunc(func(ctx context.Context, _ string) (*Entitlements, error) {
							fetches.Add(1)
							time.Sleep(20 * time.Millisecond)
							return source(ctx)
						})})
						require.NoError(t, err)
						var wg sync.WaitGroup
						for i := range 20 {
							wg.Go(func() {
								if i > 0 {
									time.Sleep(20 * time.Millisecond)
								}
								ask(c)
							})
						}
						wg.Wait()
						synctest.Wait()
						time.Sleep(100 * time.Millisecond)
						require.EqualValues(t, 1, fetches.Load())
						require.NoError(t, c.Close(t.Context()))
					})
				}
			})
		}
	}
}

func TestRule06_ColdChecksRunSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &spy{answer: func(ctx context.Context, customer string) (*Entitlements, error) {
			return grantedX(customer), nap(ctx, 100*time.Millisecond)
		}}
		c := opened(t, Config{Source: src})
		require.Equal(t, 100*time.Millisecond, took(func() {
			var wg sync.WaitGroup
			for i := range 10 {
				wg.Go(func() {
					d, err := c.Check(t.Context(), fmt.Sprint("c", i), "x")
					require.NoError(t, err)
					require.True(t, d.Allowed)
				})
			}
			wg.Wait()
		}))
	})
}

// A Source that goes wrong is an error to everyone who waits, and to nobody else.
func TestRule06_ABrokenSourceIsAnErrorToEveryWaiter(t *testing.T) {
	for name, broken := range map[string]func(release chan struct{}) (*Entitlements, error){
		"panic": func(chan struct{}) (*Entitlements, error) { panic("boom") },
		"nil panic": func(chan struct{}) (*Entitlements, error) {
			var none *Entitlements
			return &Entitlements{Plan: none.Plan}, nil
		},
		"goexit":            func(chan struct{}) (*Entitlements, error) { runtime.Goexit(); return nil, nil },
		"nothing":           func(chan struct{}) (*Entitlements, error) { return nil, nil },
		"another customer":  func(chan struct{}) (*Entitlements, error) { return grantedX("b"), nil },
		"hangs and ignores": func(release chan struct{}) (*Entitlements, error) { <-release; return grantedX("a"), nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var works atomic.Bool
				release := make(chan struct{})
				src := &spy{answer: func(ctx context.Context, customer string) (*Entitlements, error) {
					if works.Load() {
						return grantedX(customer), nil
					}
					return broken(release)
				}}
				c := opened(t, Config{Source: src, FetchTimeout: time.Second, NegativeTTL: time.Second})
				t.Cleanup(func() { close(release) }) // before Close
				var wg sync.WaitGroup
				var failed atomic.Int64
				for range 50 {
					wg.Go(func() {
						d, err := c.Check(context.Background(), "a", "x")
						if errors.Is(err, ErrUnavailable) && !d.Allowed && d.Reason == ReasonUnavailable {
							failed.Add(1)
						}
					})
				}
				require.LessOrEqual(t, took(wg.Wait), 2*time.Second)
				require.EqualValues(t, 50, failed.Load())
				require.Positive(t, c.Stats().Source.Failures)
				works.Store(true)
				time.Sleep(2 * time.Second)
				d, err := c.Check(context.Background(), "a", "x")
				require.NoError(t, err)
				require.True(t, d.Allowed)
			})
		})
	}
}

// Calls that ignore their context may take every call that there is. Who waits
// behind them gets an error, too, and not only once they return.
func TestRule06_HungCallsDoNotHangTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		src := &spy{answer: func(_ context.Context, customer string) (*Entitlements, error) {
			<-release
			return grantedX(customer), nil
		}}
		c := opened(t, Config{Source: src, FetchTimeout: time.Second, FetchConcurrency: 2})
		var wg sync.WaitGroup
		var failed atomic.Int64
		for i := range 10 {
			wg.Go(func() {
				if _, err := c.Check(context.Background(), fmt.Sprint("c", i), "x"); errors.Is(err, ErrUnavailable) {
					failed.Add(1)
				}
			})
		}
		time.Sleep(time.Minute)
		got := failed.Load()
		close(release)
		wg.Wait()
		require.EqualValues(t, 10, got, "checks that had an error within a minute, at a FetchTimeout of 1 s")
	})
}

func TestRule06_AWaiterLeavesWhenItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &spy{answer: func(ctx context.Context, customer string) (*Entitlements, error) {
			return grantedX(customer), nap(ctx, time.Second)
		}}
		c := opened(t, Config{Source: src})
		var wg sync.WaitGroup
		wg.Go(func() { // the first, whose load it is
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			require.Equal(t, 100*time.Millisecond, took(func() {
				d, err := c.Check(ctx, "a", "x")
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.False(t, d.Allowed)
				require.Equal(t, OriginPolicy, d.Origin)
			}))
		})
		for range 10 {
			wg.Go(func() {
				require.Equal(t, time.Second, took(func() {
					d, err := c.Check(context.Background(), "a", "x")
					require.NoError(t, err)
					require.True(t, d.Allowed)
				}))
			})
		}
		wg.Wait()
		require.Len(t, src.seen(), 1)

		// The last one leaves, and the load is kept for who comes later.
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_, err := c.Load(ctx, "b")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(time.Second)
		require.True(t, c.Allowed("b", "x"))
		require.Equal(t, 1, src.count("b"))
	})
}

func TestRule06_TheQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		src := &spy{answer: func(_ context.Context, customer string) (*Entitlements, error) {
			<-release
			return grantedX(customer), nil
		}}
		c := opened(t, Config{Source: src, FetchConcurrency: 1, OnUnavailable: FailOpen, FetchTimeout: time.Hour})
		const asked = 5000
		shed, loading := 0, 0
		for i, customer := range named("c", asked) {
			d := c.Decide(customer, "x")
			require.True(t, d.Allowed, "the policy answers")
			switch d.Reason {
			case ReasonUnavailable:
				shed++
			case ReasonLoading:
				loading++
			default:
				require.Fail(t, "another reason", "%+v", d)
			}
			if i%16 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		require.Positive(t, shed)
		require.InDelta(t, 4096, loading, 20)
		require.InDelta(t, shed, c.Stats().Source.Shed, 16)
		require.Equal(t, 1, c.Stats().Source.InFlight)
		before := c.Stats().Source.Shed
		for range 10 {
			c.Decide(named("c", 2)[1], "x") // is queued: no new load, nothing shed
		}
		require.Equal(t, before, c.Stats().Source.Shed)
		close(release)
		time.Sleep(time.Second)
		require.InDelta(t, 4096, c.Stats().Cache.Customers, 20)
		_, err := c.Check(t.Context(), "late", "x")
		require.NoError(t, err)
	})
}

// A queue full of customers that nobody waits for has room for one that somebody
// waits for.
func TestRule06_WaitingCallsAreNotShedForColdOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &spy{answer: func(ctx context.Context, customer string) (*Entitlements, error) {
			return grantedX(customer), nap(ctx, 100*time.Millisecond)
		}}
		c := opened(t, Config{Source: src, FetchConcurrency: 2})
		for i, customer := range named("scan", 5000) {
			c.Allowed(customer, "x")
			if i%16 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		require.Positive(t, c.Stats().Source.Shed)
		d, err := c.Check(t.Context(), "a", "x")
		require.NoError(t, err)
		require.True(t, d.Allowed)
	})
}

func TestRule06_WaitingCallersGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var block atomic.Pointer[chan struct{}]
		src := &spy{answer: func(_ context.Context, customer string) (*Entitlements, error) {
			if wait := block.Load(); wait != nil && customer == "first" {
				<-*wait
			}
			return grantedX(customer), nil
		}}
		c := opened(t, Config{Source: src, FetchConcurrency: 1, FetchTimeout: time.Hour})
		loaded(t, c, "due")
		release := make(chan struct{})
		block.Store(&release)
		var wg sync.WaitGroup
		check := func(customer string) {
			wg.Go(func() {
				_, err := c.Check(context.Background(), customer, "x")
				require.NoError(t, err)
			})
			synctest.Wait()
		}
		check("first")
		c.Invalidate("due") // a refresh
		synctest.Wait()
		for _, customer := range []string{"cold1", "cold2", "joined"} {
			c.Decide(customer, "x")
			synctest.Wait()
		}
		check("wait1")
		check("wait2")
		check("joined") // was cold until now
		close(release)
		wg.Wait()
		synctest.Wait()
		var order []string
		for _, call := range src.seen()[2:] {
			order = append(order, call.customer)
		}
		require.Equal(t, []string{"wait1", "wait2", "joined", "cold1", "cold2", "due"}, order)
	})
}

// The usual way to ask, Decide and then Check, in one breath.
func TestRule06_ACheckRightBehindADecideGoesFirstToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &spy{answer: func(ctx context.Context, customer string) (*Entitlements, error) {
			return grantedX(customer), nap(ctx, time.Second)
		}}
		c := opened(t, Config{Source: src, FetchConcurrency: 1})
		for _, customer := range named("cold", 300) {
			c.Decide(customer, "x")
		}
		synctest.Wait()
		for _, customer := range named("urgent", 20) {
			require.LessOrEqual(t, took(func() {
				c.Decide(customer, "x")
				_, err := c.Check(t.Context(), customer, "x")
				require.NoError(t, err)
			}), 2*time.Second, "%s waited behind those that nobody waits for", customer)
		}
	})
}

func TestRule06_TheRateBoundsRetriesToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &spy{answer: func(context.Context, string) (*Entitlements, error) { return nil, errDown }}
		c := opened(t, Config{Source: src, FetchRate: 1})
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() { _, _ = c.Check(t.Context(), fmt.Sprint("c", i), "x") })
		}
		wg.Wait()
		calls := src.seen()
		for i := range calls[1:] {
			require.GreaterOrEqual(t, calls[i+1].at.Sub(calls[i].at), time.Second, "call %d", i+1)
		}
	})
}

// late answers with what there was when the fetch began.
func late(d time.Duration) entitlementstest.FetchStep { return entitlementstest.FetchStep{Late: d} }

func TestRule07_ALoadThatBeganBeforeAnInvalidateDoesNotHideIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"a": {"x": {}}})
		src.Next(late(time.Second), late(time.Second))
		c := opened(t, Config{Source: src, DenyTTL: -1})
		var wg sync.WaitGroup
		wg.Go(func() {
			require.Equal(t, time.Second, took(func() {
				d, err := c.Check(context.Background(), "a", "x")
				require.NoError(t, err)
				require.False(t, d.Allowed, "its own waiters get what it found")
			}))
		})
		time.Sleep(500 * time.Millisecond)
		src.Put("a", withX())
		c.Invalidate("a")
		wg.Go(func() {
			require.Equal(t, 1500*time.Millisecond, took(func() {
				d, err := c.Check(context.Background(), "a", "x")
				require.NoError(t, err)
				require.True(t, d.Allowed, "who came after the Invalidate gets what began after it")
			}))
		})
		time.Sleep(600 * time.Millisecond)
		d := c.Decide("a", "x")
		require.False(t, d.Allowed)
		require.Equal(t, OriginStale, d.Origin, "installs as stale")
		wg.Wait()
		require.Equal(t, OriginFresh, c.Decide("a", "x").Origin)
		time.Sleep(5 * time.Second)
		require.Equal(t, 2, src.Calls("a"))
	})
}

func TestRule07_NobodyNeedsToAskForTheReload(t *testing.T) {
	for _, cached := range []bool{false, true} {
		t.Run(fmt.Sprint("cached before: ", cached), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := entitlementstest.NewSource(map[string]map[string]Grant{"a": {"x": {}}})
				c := opened(t, Config{Source: src, DenyTTL: -1, TTL: time.Hour})
				if cached {
					loaded(t, c, "a")
					src.Next(late(time.Second))
					c.Invalidate("a")
				} else {
					src.Next(late(time.Second))
					c.Decide("a", "x")
				}
				time.Sleep(500 * time.Millisecond)
				src.Put("a", withX())
				c.Invalidate("a")
				time.Sleep(time.Second)
				require.True(t, c.Allowed("a", "x"))
				require.Equal(t, OriginFresh, c.Decide("a", "x").Origin)
			})
		})
	}
}

func TestRule07_ManyInvalidatesAreOneReloadInFlightAndOneQueued(t *testing.T) {
	for _, times := range []int{2, 1000} {
		t.Run(fmt.Sprint(times), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &spy{answer: func(ctx context.Context, customer string) (*Entitlements, error) {
					return grantedX(customer), nap(ctx, time.Second)
				}}
				c := opened(t, Config{Source: src, TTL: time.Hour})
				loaded(t, c, "a")
				c.Invalidate("a")
				time.Sleep(100 * time.Millisecond)
				for i := range times {
					c.Invalidate("a", "a")
					if i%10 == 0 {
						time.Sleep(time.Millisecond)
					}
				}
				time.Sleep(time.Minute)
				require.Equal(t, 3, src.count("a"), "the first load, one in flight, one queued")
				require.False(t, src.twice)
				require.Equal(t, OriginFresh, c.Decide("a", "x").Origin)
			})
		})
	}
}

// It was due already, and waited for its turn, when it was invalidated.
func TestRule07_AnInvalidateOfWhatIsDueIsOneReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"a": withX(), "b": withX()})
		c := opened(t, Config{Source: src, TTL: 10 * time.Second, IdleAfter: -1, FetchConcurrency: 1})
		loaded(t, c, "a", "b")
		src.Next(entitlementstest.FetchStep{Err: RetryAfter(time.Minute, errDown)})
		c.Invalidate("b") // shuts the door
		time.Sleep(30 * time.Second)
		before := src.Calls("a")
		c.Invalidate("a")
		time.Sleep(35 * time.Second)
		require.Equal(t, before+1, src.Calls("a"))
	})
}

func TestRule07_WaitingCallsWaitForTheReloadAndDecideDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"a": {"x": {}}})
		c := opened(t, Config{Source: src, DenyTTL: -1, TTL: time.Hour})
		loaded(t, c, "a")
		src.Put("a", withX())
		src.Next(entitlementstest.FetchStep{Latency: time.Second})
		c.Invalidate("a")
		require.Zero(t, took(func() {
			d := c.Decide("a", "x")
			require.Equal(t, ReasonNotGranted, d.Reason)
			require.Equal(t, OriginStale, d.Origin)
		}))
		var wg sync.WaitGroup
		waits := func(f func()) { wg.Go(func() { require.Equal(t, time.Second, took(f)) }) }
		waits(func() {
			d, err := c.Check(context.Background(), "a", "x")
			require.NoError(t, err)
			require.True(t, d.Allowed)
			require.Equal(t, OriginFresh, d.Origin)
		})
		waits(func() {
			set, err := c.Load(context.Background(), "a")
			require.NoError(t, err)
			require.True(t, set.Features["x"].Enabled)
		})
		waits(func() {
			cu, err := c.Resolve(context.Background(), "a")
			require.NoError(t, err)
			require.True(t, cu.Allowed(c.Feature("x")))
		})
		wg.Wait()
		require.Equal(t, 2, src.Calls("a"))
	})
}

func TestRule07_AFailedReloadLeavesTheOldAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"a": withX()})
		c := opened(t, Config{Source: src, TTL: time.Hour, MaxStale: 2 * time.Hour})
		loaded(t, c, "a")
		src.Always(entitlementstest.FetchStep{Latency: time.Second, Err: errDown})
		c.Invalidate("a")
		d, err := c.Check(t.Context(), "a", "x")
		require.NoError(t, err)
		require.True(t, d.Allowed)
		require.Equal(t, OriginStale, d.Origin)
		set, err := c.Load(t.Context(), "a")
		require.NoError(t, err)
		require.True(t, set.Features["x"].Enabled)
		cu, err := c.Resolve(t.Context(), "a")
		require.NoError(t, err)
		require.True(t, cu.Allowed(c.Feature("x")))
		src.Always(entitlementstest.FetchStep{})
		src.Put("a", map[string]Grant{"x": {}})
		time.Sleep(2 * time.Minute)
		require.False(t, c.Allowed("a", "x"), "the reload is tried again by itself")
	})
}

// The load that is under way fails. It began before the Invalidate, so that says
// nothing of the reload, which Check waits for.
func TestRule07_TheReloadComesAfterAnOlderLoadThatFailed(t *testing.T) {
	for name, step := range map[string]entitlementstest.FetchStep{
		"fails":     {Latency: time.Second, Err: Permanent(errDown)},
		"not there": {Latency: time.Second, Err: ErrUnknownCustomer},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := entitlementstest.NewSource(map[string]map[string]Grant{"a": {"x": {}}})
				c := opened(t, Config{Source: src, DenyTTL: -1, TTL: time.Hour})
				loaded(t, c, "a")
				src.NextFor("a", step)
				c.Invalidate("a")
				time.Sleep(500 * time.Millisecond)
				src.Put("a", withX())
				c.Invalidate("a")
				time.Sleep(100 * time.Millisecond)
				d, err := c.Check(t.Context(), "a", "x")
				require.NoError(t, err)
				require.True(t, d.Allowed, "%+v", d)
			})
		})
		t.Run(name+", and nobody waits", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := entitlementstest.NewSource(map[string]map[string]Grant{"a": {"x": {}}})
				c := opened(t, Config{Source: src, DenyTTL: -1, TTL: time.Hour})
				loaded(t, c, "a")
				src.NextFor("a", step)
				c.Invalidate("a")
				time.Sleep(500 * time.Millisecond)
				src.Put("a", withX())
				c.Invalidate("a")
				time.Sleep(600 * time.Millisecond)
				c.Decide("a", "x") // asks for it where nothing is cached
				synctest.Wait()
				require.True(t, c.Allowed("a", "x"), "its reload starts at once")
			})
		})
	}
}

func TestRule07_AnInvalidateDropsWhatIsRememberedAsMissing(t *testing.T) {
	for name, all := range map[string]bool{"Invalidate": false, "InvalidateAll": true} {
		invalidate := func(c *Client) {
			if all {
				c.InvalidateAll()
			} else {
				c.Invalidate("a")
			}
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := entitlementstest.NewSource(nil)
				c := opened(t, Config{Source: src})
				d, err := c.Check(t.Context(), "a", "x")
				require.NoError(t, err)
				require.Equal(t, ReasonUnknownCustomer, d.Reason)
				src.Put("a", withX()) // signed up
				require.Equal(t, ReasonUnknownCustomer, c.Decide("a", "x").Reason)
				invalidate(c)
				d, err = c.Check(t.Context(), "a", "x")
				require.NoError(t, err)
				require.True(t, d.Allowed)
			})
		})
		t.Run(name+" while it is being asked for", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := entitlementstest.NewSource(nil)
				src.Next(late(time.Second)) // finds nothing
				c := opened(t, Config{Source: src})
				c.Decide("a", "x")
				time.Sleep(500 * time.Millisecond)
				src.Put("a", withX()) // signed up
				invalidate(c)
				time.Sleep(time.Second)
				require.NotEqual(t, ReasonUnknownCustomer, c.Decide("a", "x").Reason, "that is from before it signed up")
				d, err := c.Check(t.Context(), "a", "x")
				require.NoError(t, err)
				require.True(t, d.Allowed)
			})
		})
		t.Run(name+" while it is being asked for, and waited for", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := entitlementstest.NewSource(nil)
				src.Next(late(time.Second)) // finds nothing
				c := opened(t, Config{Source: src})
				c.Decide("a", "x")
				time.Sleep(500 * time.Millisecond)
				src.Put("a", withX()) // signed up
				invalidate(c)
				d, err := c.Check(t.Context(), "a", "x")
				require.NoError(t, err)
				require.True(t, d.Allowed, "%+v", d)
			})
		})
	}
}

func TestRule07_InvalidateOfNothingDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &spy{}
		c := opened(t, Config{Source: src})
		c.Invalidate()
		c.Forget()
		c.Invalidate("not cached", "")
		c.Forget("not cached", "")
		time.Sleep(time.Minute)
		require.Empty(t, src.seen())
	})
}

func TestRule07_InvalidateAllSpreadsItsReloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl = 10 * time.Second
		src := &spy{}
		c := opened(t, Config{Source: src, TTL: ttl, IdleAfter: -1})
		all := named("c", 500)
		loaded(t, c, all...)
		time.Sleep(time.Second)
		c.InvalidateAll()
		begin := time.Now()
		d, err := c.Check(t.Context(), all[7], "x")
		require.NoError(t, err)
		require.Equal(t, OriginFresh, d.Origin, "Check waits for its own")
		require.Zero(t, time.Since(begin))
		synctest.Wait()
		require.Equal(t, OriginStale, c.Decide(all[8], "x").Origin)
		require.True(t, c.Allowed(all[8], "x"))
		time.Sleep(ttl/2 + 500*time.Millisecond)
		again, most := map[string]bool{}, map[int64]int{}
		for _, call := range src.since(begin) {
			again[call.customer] = true
			most[int64(call.at.Sub(begin)/(500*time.Millisecond))]++
		}
		require.Len(t, again, len(all))
		for _, n := range most {
			require.Less(t, n, 120, "of 500 within 500 ms of 5 s")
		}
		for _, customer := range all {
			require.Equal(t, OriginFresh, c.Decide(customer, "x").Origin)
		}
	})
}

// What was being loaded at an InvalidateAll is as stale as what was cached, and
// its reload comes as soon.
func TestRule07_InvalidateAllReachesWhatIsBeingLoaded(t *testing.T) {
	for _, cached := range []bool{false, true} {
		t.Run(fmt.Sprint("cached before: ", cached), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const ttl = time.Minute
				src := entitlementstest.NewSource(map[string]map[string]Grant{"a": {"x": {}}})
				c := opened(t, Config{Source: src, TTL: ttl, DenyTTL: -1})
				if cached {
					loaded(t, c, "a")
				}
				src.Next(late(time.Second))
				if cached {
					c.Invalidate("a")
				} else {
					c.Decide("a", "x")
				}
				time.Sleep(500 * time.Millisecond)
				src.Put("a", withX())
				c.InvalidateAll()
				time.Sleep(time.Second)
				require.Equal(t, OriginStale, c.Decide("a", "x").Origin)
				time.Sleep(ttl/2 + time.Second)
				require.True(t, c.Allowed("a", "x"), "reloads are spread over half a TTL")
			})
		})
	}
}

func TestRule07_ForgetDuringALoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &spy{answer: func(ctx context.Context, customer string) (*Entitlements, error) {
			return grantedX(customer), nap(ctx, time.Second)
		}}
		c := opened(t, Config{Source: src})
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				d, err := c.Check(context.Background(), "a", "x")
				require.NoError(t, err)
				require.True(t, d.Allowed, "who waits is answered")
				set, err := c.Load(context.Background(), "b")
				require.NoError(t, err)
				require.True(t, set.Features["x"].Enabled)
			})
		}
		time.Sleep(500 * time.Millisecond)
		c.Forget("a")
		time.Sleep(time.Second)
		require.Equal(t, 0, c.Stats().Cache.Customers, "and nothing is kept")
		c.Forget("b")
		wg.Wait()
		require.Equal(t, 0, c.Stats().Cache.Customers)
		require.Equal(t, ReasonLoading, c.Decide("a", "x").Reason)
	})
}

// Who asks after a Forget does not get what was fetched before it, and finds the
// customer cached when its own load returns.
func TestRule07_ALoadAfterAForgetIsANewOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"a": {"x": {}}})
		src.Next(late(time.Second))
		c := opened(t, Config{Source: src})
		c.Decide("a", "x")
		time.Sleep(500 * time.Millisecond)
		src.Put("a", withX())
		c.Forget("a")
		set, err := c.Load(t.Context(), "a")
		require.NoError(t, err)
		require.True(t, set.Features["x"].Enabled, "from before the Forget")
		require.True(t, c.Allowed("a", "x"), "a loaded customer is answerable when its load returns")
	})
}

func TestRule07_ForgetErasesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, capacity := range []int{4, 1000} { // below and above where a policy is used
			src := &spy{}
			c := opened(t, Config{Source: src, MaxCustomers: capacity, TTL: time.Second})
			all := named("c", min(capacity, 500))
			loaded(t, c, all...)
			for i, customer := range all {
				require.True(t, c.Allowed(customer, "x"))
				c.Forget(customer)
				require.Equal(t, len(all)-i-1, c.Stats().Cache.Customers)
			}
			calls := len(src.seen())
			time.Sleep(10 * time.Second)
			require.Len(t, src.seen(), calls, "nor is it refreshed")
			require.Equal(t, ReasonLoading, c.Decide(all[0], "x").Reason)
			require.Zero(t, c.Stats().Cache.Evictions)
			loaded(t, c, all...) // the room is free again
			require.Equal(t, len(all), c.Stats().Cache.Customers)
		}
	})
}

func TestRule09_AFailedLoadCostsOneTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(nil)
		src.Always(entitlementstest.FetchStep{Hang: true})
		c := opened(t, Config{Source: src, FetchTimeout: 2 * time.Second, NegativeTTL: 10 * time.Second, OnUnavailable: FailOpen})
		require.Equal(t, 2*time.Second, took(func() {
			_, err := c.Check(t.Context(), "a", "x")
			require.ErrorIs(t, err, ErrUnavailable)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}))
		for range 99 {
			require.Zero(t, took(func() {
				d, err := c.Check(t.Context(), "a", "x")
				require.ErrorIs(t, err, ErrUnavailable)
				require.True(t, d.Allowed)
				require.Equal(t, ReasonUnavailable, d.Reason)
				require.Equal(t, ReasonUnavailable, c.Decide("a", "x").Reason)
				_, err = c.Load(t.Context(), "a")
				require.ErrorIs(t, err, ErrUnavailable)
			}))
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, 1, src.Calls("a"))
		src.Always(entitlementstest.FetchStep{})
		src.Put("a", withX())
		time.Sleep(101 * time.Millisecond)
		_, err := c.Check(t.Context(), "a", "x")
		require.NoError(t, err)
	})
}

// What is cached does not make it dearer: neither a snapshot past MaxStale, nor
// one that was invalidated.
func TestRule09_AFailedReloadCostsOneTimeout(t *testing.T) {
	for name, usable := range map[string]bool{"too stale": false, "invalidated": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := entitlementstest.NewSource(map[string]map[string]Grant{"a": withX(), "b": withX()})
				cfg := Config{Source: src, TTL: 30 * time.Second, MaxStale: time.Hour, FetchTimeout: 2 * time.Second, NegativeTTL: 10 * time.Second}
				if !usable {
					cfg.MaxStale, cfg.IdleAfter = 30*time.Second, time.Second
				}
				c := opened(t, cfg)
				loaded(t, c, "a")
				if usable {
					time.Sleep(time.Second)
				} else {
					time.Sleep(time.Minute)
				}
				// Only this one hangs, so that the breaker has nothing to do with it.
				for range 10 {
					src.NextFor("a", entitlementstest.FetchStep{Hang: true})
				}
				if usable {
					c.Invalidate("a")
				}
				spent := time.Duration(0)
				for range 5 {
					spent += took(func() {
						d, err := c.Check(t.Context(), "a", "x")
						if usable {
							require.NoError(t, err)
							require.True(t, d.Allowed)
						} else {
							require.ErrorIs(t, err, ErrUnavailable)
						}
					})
				}
				require.LessOrEqual(t, spent, 2*time.Second, "five checks in a row")
			})
		})
	}
}

// Nothing grows while a Source is down and what is cached is too old.
func TestRule09_AnOutageDoesNotPileUpReloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		src := &spy{answer: func(_ context.Context, customer string) (*Entitlements, error) {
			if down.Load() {
				return nil, errDown
			}
			return grantedX(customer), nil
		}}
		c := opened(t, Config{Source: src, TTL: time.Second, MaxStale: 2 * time.Second})
		all := named("c", 20)
		loaded(t, c, all...)
		down.Store(true)
		for range 300 {
			for _, customer := range all {
				_, _ = c.Check(t.Context(), customer, "x")
			}
			time.Sleep(100 * time.Millisecond)
		}
		down.Store(false)
		begin := time.Now()
		time.Sleep(20 * time.Second)
		perCustomer := map[string]int{}
		for _, call := range src.since(begin) {
			perCustomer[call.customer]++
		}
		for customer, n := range perCustomer {
			require.LessOrEqual(t, n, 25, "%s in 20 s at a TTL of 1 s", customer)
		}
	})
}

func TestRule09_RateLimitsAndServerErrorsAreNotUnknown(t *testing.T) {
	for name, err := range map[string]error{
		"429":               RetryAfter(time.Second, errors.New("429")),
		"500":               errors.New("500"),
		"401":               Permanent(errors.New("401")),
		"not modified what": ErrNotModified,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := entitlementstest.NewSource(map[string]map[string]Grant{"a": withX()})
				src.Always(entitlementstest.FetchStep{Err: err})
				c := opened(t, Config{Source: src, OnUnavailable: FailOpen, NegativeTTL: time.Second})
				d, got := c.Check(t.Context(), "a", "x")
				require.ErrorIs(t, got, ErrUnavailable)
				require.ErrorIs(t, got, err)
				require.True(t, d.Allowed, "the policy answers, which it does not for an unknown customer")
				require.Equal(t, ReasonUnavailable, d.Reason)
				require.True(t, c.Allowed("a", "x"))
				src.Always(entitlementstest.FetchStep{})
				time.Sleep(3 * time.Second)
				d, got = c.Check(t.Context(), "a", "x")
				require.NoError(t, got)
				require.Equal(t, ReasonGranted, d.Reason)
			})
		})
	}
}

func TestRule09_UnknownIsDeniedWhateverThePolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(nil)
		c := opened(t, Config{Source: src, OnUnavailable: FailOpen, NegativeTTL: 10 * time.Second})
		d, err := c.Check(t.Context(), "a", "x")
		require.NoError(t, err)
		require.False(t, d.Allowed)
		require.Equal(t, ReasonUnknownCustomer, d.Reason)
		_, err = c.Load(t.Context(), "a")
		require.ErrorIs(t, err, ErrUnknownCustomer)
		require.False(t, c.Allowed("a", "x"))
		cu, err := c.Resolve(t.Context(), "a")
		require.NoError(t, err)
		require.False(t, cu.Allowed(c.Feature("x")))
		require.Equal(t, 1, src.Calls("a"))
		time.Sleep(10 * time.Second)
		_, err = c.Load(t.Context(), "a")
		require.ErrorIs(t, err, ErrUnknownCustomer)
		require.Equal(t, 2, src.Calls("a"))
	})
}

func TestRule09_AScanOfUnknownKeysEvictsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &spy{answer: func(_ context.Context, customer string) (*Entitlements, error) {
			if customer[0] == 'c' {
				return grantedX(customer), nil
			}
			return nil, ErrUnknownCustomer
		}}
		c := opened(t, Config{Source: src, MaxCustomers: 100, TTL: time.Hour})
		all := named("c", 100)
		loaded(t, c, all...)
		scanned := 20_000
		if underRace {
			scanned = 4000
		}
		before := liveHeap()
		for i, key := range named("scan", scanned) {
			if i%2 == 0 {
				_, err := c.Load(t.Context(), key)
				require.ErrorIs(t, err, ErrUnknownCustomer)
			} else {
				c.Allowed(key, key)
				if i%32 == 1 {
					synctest.Wait()
				}
			}
		}
		synctest.Wait()
		src.mu.Lock()
		src.calls = nil
		src.each = nil
		src.mu.Unlock()
		if !underRace {
			require.Less(t, liveHeap()-before, int64(4<<20))
		}
		for _, customer := range all {
			require.True(t, c.Allowed(customer, "x"))
		}
		require.Empty(t, src.seen())
		require.Equal(t, 100, c.Stats().Cache.Customers)
		require.Zero(t, c.Stats().Cache.Evictions)
	})
}

func TestRule09_ABatchWithErrorsFailsOnlyWhatItLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fail atomic.Bool
		fail.Store(true)
		src := batchFunc(func(_ context.Context, customers []string) (map[string]*Entitlements, error) {
			found := map[string]*Entitlements{}
			for _, customer := range customers {
				if customer[0] == 'c' {
					found[customer] = grantedX(customer)
				}
			}
			if fail.Load() {
				return found, errDown
			}
			return found, nil
		})
		c := opened(t, Config{Source: src, FetchConcurrency: 1})
		report, err := c.Warm(t.Context(), slices.Values(append(named("c", 10), named("x", 10)...)))
		require.ErrorIs(t, err, ErrUnavailable)
		require.Equal(t, WarmReport{Loaded: 10, Failed: 10}, report)
		require.Equal(t, ReasonUnavailable, c.Decide("x-000001", "x").Reason)
		fail.Store(false)
		time.Sleep(20 * time.Second)
		loaded(t, c, "c-000001", "c-000010") // a probe, should the failures have tripped the breaker
		report, err = c.Warm(t.Context(), slices.Values(append(named("c", 12), named("x", 10)...)))
		require.NoError(t, err)
		require.Equal(t, WarmReport{Loaded: 1, Cached: 11, Unknown: 10}, report)
		require.Equal(t, ReasonUnknownCustomer, c.Decide("x-000001", "x").Reason)
	})
}

// batchFunc is a function as a BatchSource.
type batchFunc func(ctx context.Context, customers []string) (map[string]*Entitlements, error)

func (f batchFunc) Fetch(ctx context.Context, customer string) (*Entitlements, error) {
	found, err := f(ctx, []string{customer})
	switch {
	case found[customer] != nil:
		return found[customer], nil
	case err == nil:
		return nil, ErrUnknownCustomer
	}
	return nil, err
}

func (f batchFunc) FetchBatch(ctx context.Context, customers []string) (map[string]*Entitlements, error) {
	return f(ctx, customers)
}
