package entitlements_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// levelLog keeps what OnUsage was told.
type levelLog struct {
	mu   sync.Mutex // guards told
	told []UsageLevel
}

func (l *levelLog) add(u UsageLevel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = append(l.told, u)
}

// take returns what was told since the last take, of a bubble that is idle.
func (l *levelLog) take() []UsageLevel {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	told := l.told
	l.told = nil
	return told
}

// shares is take for who looks at the levels only.
func (l *levelLog) shares() (shares []float64) {
	for _, u := range l.take() {
		shares = append(shares, u.Level)
	}
	return shares
}

// watched is a client with one customer, "c", that is cached, and what OnUsage is
// told.
func watched(t *testing.T, cfg Config, grants map[string]Grant) (*Client, *entitlementstest.Source, *levelLog) {
	t.Helper()
	log := new(levelLog)
	cfg.OnUsage = log.add
	if cfg.TTL == 0 {
		cfg.TTL = 10 * time.Hour // nothing but what the test does
		cfg.DenyTTL = -1
	}
	c, src := spender(t, cfg, grants)
	return c, src, log
}

// reload lets a customer be loaded again.
func reload(t *testing.T, c *Client, customer string) {
	t.Helper()
	time.Sleep(time.Second) // so that it is certain that the answer contains what was delivered
	c.Invalidate(customer)
	_, err := c.Check(t.Context(), customer, "api")
	require.NoError(t, err)
}

func TestOnUsage_FiresOncePerLevelInAscendingOrder(t *testing.T) {
	for name, use := range map[string]func(t *testing.T, c *Client, n int64){
		"Use":          func(_ *testing.T, c *Client, n int64) { c.Use("c", "api", n) },
		"Customer.Use": func(_ *testing.T, c *Client, n int64) { c.Customer("c").Use(c.Feature("api"), n) },
		"UseEvent": func(_ *testing.T, c *Client, n int64) {
			c.UseEvent(Usage{Customer: "c", Feature: "api", Quantity: n, Properties: map[string]string{"k": "v"}})
		},
		"Track":  func(_ *testing.T, c *Client, n int64) { c.Track("c", "api", n) },
		"Record": func(_ *testing.T, c *Client, n int64) { c.Record(Usage{Customer: "c", Feature: "api", Quantity: n}) },
		"Record of an event": func(_ *testing.T, c *Client, n int64) {
			c.Record(Usage{Customer: "c", Feature: "api", Quantity: n, Properties: map[string]string{"k": "v"}})
		},
		"Report": func(t *testing.T, c *Client, n int64) {
			require.NoError(t, c.Report(t.Context(), Usage{Customer: "c", Feature: "api", Quantity: n}))
		},
		"Commit": func(t *testing.T, c *Client, n int64) {
			r, d := c.Reserve("c", "api", 1)
			require.True(t, d.Allowed)
			r.Commit(n)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				soft := usageGrant(100, 0)
				soft.Soft = true
				c, _, log := watched(t, Config{
					Sink: entitlementstest.NewSink(), UsageLevels: []float64{1, 0.5, 0.1, 0.55, 0.5, 1.2},
				}, map[string]Grant{"api": soft})
				for _, step := range []struct {
					n    int64
					want []float64
				}{
					{9, nil},
					{1, []float64{0.1}},
					{1, nil},
					{38, nil},
					{6, []float64{0.5, 0.55}}, // 55
					{44, nil},
					{30, []float64{1, 1.2}},
					{1, nil},
					{1000, nil},
				} {
					use(t, c, step.n)
					require.Equal(t, step.want, log.shares(), "after %d more", step.n)
				}
			})
		})
	}
}

func TestOnUsage_TellsWhatWasUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := time.Now().Add(time.Hour)
		c, _, log := watched(t, Config{Sink: entitlementstest.NewSink()}, map[string]Grant{"api": periodGrant(10, 3, ends), "other": usageGrant(10, 0)})
		reserved(t, c, "api", 7)
		require.Empty(t, log.take(), "what is held is not used")
		c.Track("c", "api", 4)
		require.Empty(t, log.take())
		c.Track("c", "api", 1)
		require.Equal(t, []UsageLevel{{Customer: "c", Feature: "api", Level: 0.8, Used: 8, Limit: 10, ResetsAt: ends.UTC()}}, log.take())
		c.Use("c", "other", 10)
		require.Equal(t, []UsageLevel{
			{Customer: "c", Feature: "other", Level: 0.8, Used: 10, Limit: 10},
			{Customer: "c", Feature: "other", Level: 1, Used: 10, Limit: 10},
		}, log.take(), "0.8 and 1 by default, and each feature has its own")
		require.False(t, c.Use("c", "other", 1).Allowed)
		require.Empty(t, log.take())
	})
}

func TestOnUsage_FiresForWhatOthersUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c, src, log := watched(t, Config{Sink: sink, TTL: time.Minute}, map[string]Grant{"api": usageGrant(10, 0), "users": usageGrant(10, 9)})
		sink.Feed(src)
		require.Equal(t, []float64{0.8}, log.shares(), "with the first snapshot")
		src.AddUsed("c", "api", 8)
		for range 20 {
			time.Sleep(10 * time.Second)
			c.Allowed("c", "api") // in use
		}
		require.Equal(t, []float64{0.8}, log.shares())
		c.Track("c", "api", 1)
		require.Empty(t, log.shares())
		src.AddUsed("c", "api", 1)
		for range 20 {
			time.Sleep(10 * time.Second)
			c.Allowed("c", "api")
		}
		require.Equal(t, []float64{1}, log.shares(), "8 of others, 1 of ours, 1 of others")
		src.AddUsed("c", "api", 100)
		reload(t, c, "c")
		require.Empty(t, log.shares())
	})
}

// A smaller limit can be reached by nobody using anything.
func TestOnUsage_FiresWhenTheLimitShrinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, src, log := watched(t, Config{Sink: entitlementstest.NewSink()}, map[string]Grant{"api": usageGrant(100, 9)})
		src.Put("c", map[string]Grant{"api": usageGrant(10, 9)})
		reload(t, c, "c")
		require.Equal(t, []float64{0.8}, log.shares())
		src.Put("c", map[string]Grant{"api": usageGrant(100, 9)})
		reload(t, c, "c")
		c.Track("c", "api", 90)
		require.Empty(t, log.shares())
		c.Track("c", "api", 1)
		require.Equal(t, []float64{1}, log.shares(), "0.8 was told in this period")
	})
}

func TestOnUsage_FiresAgainInTheNextPeriod(t *testing.T) {
	for name, use := range map[string]func(c *Client, n int64){
		"Use":    func(c *Client, n int64) { c.Use("c", "api", n) },
		"Track":  func(c *Client, n int64) { c.Track("c", "api", n) },
		"Record": func(c *Client, n int64) { c.Record(Usage{Customer: "c", Feature: "api", Quantity: n}) },
		"UseEvent": func(c *Client, n int64) {
			c.UseEvent(Usage{Customer: "c", Feature: "api", Quantity: n, Properties: map[string]string{"k": "v"}})
		},
		"Commit": func(c *Client, n int64) {
			r, _ := c.Reserve("c", "api", n)
			r.Commit(n)
		},
	} {
		for _, startUntold := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", start untold: ", startUntold), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ends := time.Now().Add(2 * time.Minute)
					g := periodGrant(10, 0, ends)
					if startUntold {
						g.PeriodStart = time.Time{}
					}
					sink := entitlementstest.NewSink()
					c, src, log := watched(t, Config{Sink: sink}, map[string]Grant{"api": g})
					use(c, 10)
					require.Equal(t, []float64{0.8, 1}, log.shares())
					time.Sleep(time.Until(ends))
					require.Empty(t, log.shares(), "nothing is used yet")
					use(c, 9)
					require.Equal(t, []float64{0.8}, log.shares(), "without anybody asked")
					// The backend tells of the new period: it is the same one.
					require.NoError(t, c.Flush(t.Context()))
					g.Used, g.ResetsAt = 9, ends.Add(2*time.Minute)
					if !startUntold {
						g.PeriodStart = ends
					}
					src.Put("c", map[string]Grant{"api": g})
					reload(t, c, "c")
					require.Empty(t, log.shares(), "told already")
					use(c, 1)
					require.Equal(t, []float64{1}, log.shares())
					time.Sleep(time.Until(g.ResetsAt))
					use(c, 10)
					require.Equal(t, []float64{0.8, 1}, log.shares())
				})
			})
		}
	}
}

// The first step of a period that nobody has told of yet can be any step.
func TestOnUsage_FiresForTheFirstStepOfAPeriod(t *testing.T) {
	event := Usage{Customer: "c", Feature: "api", Quantity: 9, Properties: map[string]string{"k": "v"}}
	for name, use := range map[string]func(c *Client){
		"Use":                func(c *Client) { c.Use("c", "api", 9) },
		"Customer.Use":       func(c *Client) { c.Customer("c").Use(c.Feature("api"), 9) },
		"UseEvent":           func(c *Client) { c.UseEvent(event) },
		"Track":              func(c *Client) { c.Track("c", "api", 9) },
		"Record of an event": func(c *Client) { c.Record(event) },
		"Report":             func(c *Client) { _ = c.Report(context.Background(), event) },
		"Commit": func(c *Client) {
			r, _ := c.Reserve("c", "api", 9)
			r.Commit(9)
		},
	} {
		for _, before := range []int64{0, 1, 7, 9, 10} {
			t.Run(fmt.Sprint(name, ", before: ", before), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ends := time.Now().Add(20 * time.Second)
					c, _, log := watched(t, Config{Sink: entitlementstest.NewSink()}, map[string]Grant{"api": periodGrant(10, 0, ends)})
					c.Track("c", "api", before)
					log.take()
					time.Sleep(time.Until(ends))
					use(c)
					require.Equal(t, []float64{0.8}, log.shares())
				})
			})
		}
	}
}

// What was told outlives what is cached, and the accounts of a customer that
// nobody has used for a while.
func TestOnUsage_FiresOnceAcrossEvictionForgetAndReload(t *testing.T) {
	for _, startUntold := range []bool{false, true} {
		for name, leaves := range map[string]func(t *testing.T, c *Client){
			"eviction": func(t *testing.T, c *Client) {
				_, err := c.Resolve(t.Context(), "o")
				require.NoError(t, err)
			},
			"Forget": func(_ *testing.T, c *Client) { c.Forget("c") },
			"reload": reloadAll,
		} {
			t.Run(fmt.Sprint(name, ", start untold: ", startUntold), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					start := time.Now()
					g := periodGrant(10, 0, start.Add(6*time.Minute))
					if startUntold {
						g.PeriodStart = time.Time{}
					}
					sink := entitlementstest.NewSink()
					c, src, log := watched(t, Config{Sink: sink, MaxCustomers: 1}, map[string]Grant{"api": g})
					src.Put("o", nil)
					sink.Feed(src)
					for period := range 2 {
						c.Track("c", "api", 9)
						require.Equal(t, []float64{0.8}, log.shares(), "period %d", period)
						for i := range 3 {
							require.NoError(t, c.Flush(t.Context()))
							leaves(t, c)
							if i == 1 {
								time.Sleep(4 * time.Minute)
							}
							reload(t, c, "c")
							require.Empty(t, log.shares(), "period %d: told already", period)
						}
						c.Track("c", "api", 1)
						require.Equal(t, []float64{1}, log.shares(), "period %d", period)
						require.NoError(t, c.Flush(t.Context()))
						time.Sleep(time.Until(g.ResetsAt))
						g.Used = 0
						if !startUntold {
							g.PeriodStart = g.ResetsAt
						}
						g.ResetsAt = g.ResetsAt.Add(6 * time.Minute)
						src.Put("c", map[string]Grant{"api": g})
						leaves(t, c)
						reload(t, c, "c")
						require.Empty(t, log.shares(), "nothing is used yet in period %d", period+1)
					}
				})
			})
		}
	}
}

func reloadAll(t *testing.T, c *Client) { reload(t, c, "c") }

// A customer leaves the cache in one period, and comes back in the next one with
// usage of others.
func TestOnUsage_FiresInThePeriodInWhichACustomerComesBack(t *testing.T) {
	for _, startUntold := range []bool{false, true} {
		t.Run(fmt.Sprint("start untold: ", startUntold), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ends := time.Now().Add(time.Minute)
				g := periodGrant(10, 10, ends)
				if startUntold {
					g.PeriodStart = time.Time{}
				}
				c, src, log := watched(t, Config{Sink: entitlementstest.NewSink()}, map[string]Grant{"api": g})
				require.Equal(t, []float64{0.8, 1}, log.shares())
				c.Forget("c")
				time.Sleep(time.Until(ends.Add(time.Second)))
				g.Used, g.ResetsAt = 9, ends.Add(10*time.Minute)
				if !startUntold {
					g.PeriodStart = ends
				}
				src.Put("c", map[string]Grant{"api": g})
				reload(t, c, "c")
				require.Equal(t, []float64{0.8}, log.shares())
				c.Track("c", "api", 1)
				require.Equal(t, []float64{1}, log.shares())

				// Once more, when it was this process that saw the period begin.
				require.NoError(t, c.Flush(t.Context()))
				ends = g.ResetsAt
				time.Sleep(time.Until(ends))
				c.Track("c", "api", 10)
				require.Equal(t, []float64{0.8, 1}, log.shares())
				require.NoError(t, c.Flush(t.Context()))
				g.Used, g.ResetsAt = 10, ends.Add(10*time.Minute)
				if !startUntold {
					g.PeriodStart = ends
				}
				src.Put("c", map[string]Grant{"api": g})
				reload(t, c, "c")
				require.Empty(t, log.shares())
				c.Forget("c")
				ends = g.ResetsAt
				time.Sleep(time.Until(ends.Add(time.Second)))
				g.Used, g.ResetsAt = 9, ends.Add(10*time.Minute)
				if !startUntold {
					g.PeriodStart = ends
				}
				src.Put("c", map[string]Grant{"api": g})
				reload(t, c, "c")
				require.Equal(t, []float64{0.8}, log.shares())
			})
		})
	}
}

// Used before the first snapshot: told when there is something to compare it
// with.
func TestOnUsage_FiresForWhatWasUsedBeforeTheSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(levelLog)
		src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": usageGrant(10, 1)}})
		c := usageClient(t, Config{Source: src, Sink: entitlementstest.NewSink(), TTL: time.Hour, OnUsage: log.add, OnUnavailable: FailOpen})
		c.Track("c", "api", 4)
		require.True(t, c.Use("c", "api", 4).Allowed)
		_, err := c.Check(t.Context(), "c", "api")
		require.NoError(t, err)
		require.Equal(t, []float64{0.8}, log.shares())
	})
}

func TestOnUsage_DoesNotFireForWhatHasNoLimit(t *testing.T) {
	off := usageGrant(10, 10)
	off.Enabled = false
	expired := usageGrant(10, 10)
	expired.ExpiresAt = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, g := range map[string]Grant{
		"unlimited":           usageGrant(Unlimited, 0),
		"unlimited, used up":  usageGrant(Unlimited, Unlimited),
		"zero":                usageGrant(0, 0),
		"negative":            usageGrant(-10, 0),
		"switched off":        off,
		"expired":             expired,
		"numeric":             {Kind: KindNumeric, Enabled: true, Limit: 1},
		"a switch":            {Enabled: true},
		"much, and not 0.001": usageGrant(math.MaxInt64-1, 1<<40),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _, log := watched(t, Config{Sink: entitlementstest.NewSink(), UsageLevels: []float64{0.001, 1}}, map[string]Grant{"api": g})
				c.Use("c", "api", 5)
				c.Track("c", "api", 5)
				if g.Limit == Unlimited {
					c.Track("c", "api", math.MaxInt64)
					c.Use("c", "api", math.MaxInt64)
				}
				reload(t, c, "c")
				require.Empty(t, log.take())
			})
		})
	}
}

// A level is reached by the unit that reaches it, and by none before.
func TestOnUsage_FiresAtTheUnitThatReachesTheLevel(t *testing.T) {
	for _, test := range []struct {
		level float64
		limit int64
		at    int64
	}{
		{0.8, 10, 8},
		{0.55, 100, 55}, // 0.55 × 100 is a little more than 55
		{0.29, 100, 29},
		{0.1, 3, 1},
		{0.5, 3, 2},
		{1.0 / 3, 3, 1},
		{0.07, 100, 7},
		{1, 1, 1},
		{0.8, 1, 1},
		{1, 7, 7},
		{1e-9, 10, 1},
		{1e-300, 10, 1},
		{1.1, 10, 11},
		{2, 5, 10},
		{1, 1_000_000_007, 1_000_000_007},
		{0.5, 2_000_000_000_000, 1_000_000_000_000},
		{1, 10_000_000_000_000, 10_000_000_000_000}, // 10 TB in bytes
		{1, 1 << 52, 1 << 52},
	} {
		t.Run(fmt.Sprint(test.level, " of ", test.limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := usageGrant(test.limit, test.at-1)
				g.Soft = true
				c, _, log := watched(t, Config{UsageLevels: []float64{test.level}}, map[string]Grant{"api": g})
				require.Empty(t, log.take(), "a unit early")
				c.Track("c", "api", 1)
				told := log.take()
				require.Len(t, told, 1)
				require.Equal(t, test.at, told[0].Used)
			})
		})
	}
}

func TestOnUsage_CorrectionsDoNotRepeatALevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, log := watched(t, Config{Sink: entitlementstest.NewSink()}, map[string]Grant{"api": usageGrant(10, 0), "level": usageGrant(10, 0)})
		c.Track("c", "api", 10)
		require.Len(t, log.take(), 2)
		for range 5 {
			c.Track("c", "api", -10)
			c.Track("c", "api", 10)
			require.NoError(t, c.Flush(t.Context()))
			reload(t, c, "c")
		}
		require.Empty(t, log.take())
	})
}

func TestOnUsage_FoldsAsTheBackendDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, log := watched(t, Config{Sink: entitlementstest.NewSink(), Aggregations: map[string]Aggregation{
			"peak": AggregateMax, "last": AggregateLast, "users": AggregateUnique,
		}}, map[string]Grant{"peak": usageGrant(10, 1), "last": usageGrant(10, 1), "users": usageGrant(10, 1)})
		for range 4 {
			c.Track("c", "peak", 7)
			c.Use("c", "last", 7)
			c.Track("c", "users", 7)
		}
		require.Empty(t, log.take())
		c.Use("c", "peak", 8)
		require.Equal(t, []float64{0.8}, log.shares())
		c.Track("c", "last", 10)
		require.Equal(t, []float64{0.8, 1}, log.shares())
		c.Use("c", "last", 1)
		c.Use("c", "last", 10)
		c.Track("c", "peak", 9)
		require.Empty(t, log.take())
		c.Track("c", "peak", 10)
		require.Equal(t, []float64{1}, log.shares())
	})
}

// The callback may call the client, whatever it was called for.
func TestOnUsage_MayCallTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *Client
		log := new(levelLog)
		ready := make(chan struct{})
		sink := entitlementstest.NewSink()
		src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": usageGrant(10, 7)}})
		c = usageClient(t, Config{
			Source: src, Sink: sink, TTL: time.Second, UsageLevels: []float64{0.7, 0.8, 0.9, 1},
			OnUsage: func(u UsageLevel) {
				log.add(u)
				<-ready
				ctx := context.Background()
				c.Decide("c", "api")
				c.Stats()
				c.Use("c", "api", 1) // which reaches the next level
				r, _ := c.Reserve("c", "api", 1)
				r.Release()
				c.Invalidate("c")
				_, _ = c.Check(ctx, "c", "api")
				_ = c.Flush(ctx)
				c.SetShadow()
				c.Subscribe(func(Change) {})()
				for range c.Customer("c").All() {
					c.Health()
				}
				if u.Level == 1 {
					c.Forget("c")
				}
			},
		})
		_, err := c.Resolve(t.Context(), "c")
		require.NoError(t, err)
		close(ready)
		time.Sleep(time.Minute)
		require.Equal(t, []float64{0.7, 0.8, 0.9, 1}, log.shares())
		require.EqualValues(t, 3, sink.Total("c", "api"))
	})
}

func TestOnUsage_APanicIsRecovered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged strings.Builder
		log := new(levelLog)
		src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": usageGrant(100, 0)}})
		c := usageClient(t, Config{
			Source: src, Sink: entitlementstest.NewSink(), TTL: time.Hour, UsageLevels: []float64{0.1, 0.2, 0.3, 0.4},
			Logger: slog.New(slog.NewTextHandler(&logged, nil)),
			OnUsage: func(u UsageLevel) {
				log.add(u)
				switch u.Level {
				case 0.1:
					panic("at 10 %")
				case 0.2:
					runtime.Goexit()
				case 0.3:
					var none *UsageLevel
					log.add(*none)
				}
			},
		})
		_, err := c.Resolve(t.Context(), "c")
		require.NoError(t, err)
		for _, want := range []float64{0.1, 0.2, 0.3, 0.4} {
			require.True(t, c.Use("c", "api", 10).Allowed)
			require.Equal(t, []float64{want}, log.shares())
		}
		require.NoError(t, c.Close(t.Context()))
		require.Contains(t, logged.String(), "at 10 %")
	})
}

// A slow callback holds up nobody but the callbacks after it.
func TestOnUsage_HoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(levelLog)
		src := entitlementstest.NewSource(nil)
		customers := named("customer", 50)
		for _, customer := range customers {
			src.Put(customer, map[string]Grant{"api": usageGrant(10, 0)})
		}
		c := usageClient(t, Config{Source: src, Sink: entitlementstest.NewSink(), TTL: time.Hour, OnUsage: func(u UsageLevel) {
			time.Sleep(time.Second)
			log.add(u)
		}})
		loaded(t, c, customers...)
		began := time.Now()
		for _, customer := range customers {
			require.True(t, c.Use(customer, "api", 10).Allowed)
		}
		require.Zero(t, time.Since(began))
		time.Sleep(10*time.Second + time.Millisecond)
		require.Len(t, log.take(), 10, "one call at a time")
		c.Track(customers[0], "api", 1)
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		require.NoError(t, c.Close(ctx))
		told := log.take()
		require.Len(t, told, 90, "Close waits for those that were on their way")
		for i := range told {
			require.Equal(t, customers[5+i/2], told[i].Customer, "in order")
		}
	})
}

// Sixteen goroutines step over the same levels.
func TestOnUsage_FiresOnceWhoeverStepsOverTheLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		levels := []float64{0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 0.8, 0.9, 0.99, 1}
		c, src, log := watched(t, Config{Sink: sink, TTL: 200 * time.Millisecond, UsageLevels: levels, FlushInterval: 20 * time.Millisecond}, map[string]Grant{"api": usageGrant(2000, 0)})
		sink.Feed(src)
		var wg sync.WaitGroup
		for g := range 16 {
			wg.Go(func() {
				for i := range 150 {
					switch (g + i) % 3 {
					case 0:
						c.Track("c", "api", 1)
					case 1:
						c.Use("c", "api", 1)
					default:
						r, _ := c.Reserve("c", "api", 2)
						r.Commit(1)
					}
					if i%10 == 0 {
						time.Sleep(time.Duration(1+g) * time.Millisecond)
						c.Invalidate("c")
					}
				}
			})
		}
		wg.Wait()
		time.Sleep(10 * time.Second)
		told := log.take()
		require.True(t, slices.IsSortedFunc(told, func(a, b UsageLevel) int {
			if a.Level < b.Level {
				return -1
			}
			return 1
		}))
		var shares []float64
		for _, u := range told {
			shares = append(shares, u.Level)
			require.GreaterOrEqual(t, float64(u.Used), u.Level*2000)
		}
		require.Equal(t, levels, shares)
	})
}

func TestUsageLevels_AreValidated(t *testing.T) {
	for _, bad := range []float64{0, -0.5, math.Inf(1), math.Inf(-1), math.NaN(), math.MaxFloat64} {
		_, err := New(Config{Source: Static(nil), UsageLevels: []float64{0.5, bad}})
		require.ErrorContains(t, err, fmt.Sprint("Config.UsageLevels must be above 0, got ", bad))
	}
	for _, good := range [][]float64{nil, {}, {1e-300}, {0.5}, {1, 1, 1}, {5, 0.1}} {
		c, err := New(Config{Source: Static(nil), UsageLevels: good, MaxCustomers: 10})
		require.NoError(t, err)
		require.NoError(t, c.Close(t.Context()))
	}
}

func TestUsageLevels_StayTheCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		levels := []float64{1, 0.5, 0.5, 0.2}
		c, _, log := watched(t, Config{Sink: entitlementstest.NewSink(), UsageLevels: levels}, map[string]Grant{"api": usageGrant(10, 0)})
		require.Equal(t, []float64{1, 0.5, 0.5, 0.2}, levels)
		clear(levels)
		c.Use("c", "api", 10)
		require.Equal(t, []float64{0.2, 0.5, 1}, log.shares())
	})
}
