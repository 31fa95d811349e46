package entitlements_test

import (
	"context"
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

// reserved is a reservation that was allowed.
func reserved(t *testing.T, c *Client, feature string, n int64) *Reservation {
	t.Helper()
	r, d := c.Reserve("c", feature, n)
	require.True(t, d.Allowed, "%+v", d)
	require.NotNil(t, r)
	return r
}

// requireView checks what a check shows of a feature of "c".
func requireView(t *testing.T, c *Client, feature string, used, remaining int64, msg ...any) {
	t.Helper()
	d := c.Decide("c", feature)
	require.Equal(t, []int64{used, remaining}, []int64{d.Used, d.Remaining}, msg...)
	require.Equal(t, remaining > 0, d.Reason == ReasonGranted, msg...)
}

func TestReserve_HeldUnitsAreNotRemainingAndNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := spender(t, Config{Sink: entitlementstest.NewSink(), TTL: time.Hour}, map[string]Grant{"api": usageGrant(10, 2)})
		first, d := c.Reserve("c", "api", 3)
		require.Equal(t, Decision{
			Allowed: true, Reason: ReasonGranted, Origin: OriginFresh, Kind: KindMetered, Limit: 10, Used: 2, Remaining: 5,
		}, d)
		requireView(t, c, "api", 2, 5)
		d = c.Use("c", "api", 1)
		require.EqualValues(t, 3, d.Used)
		require.EqualValues(t, 4, d.Remaining)
		second, d := c.Customer("c").Reserve(c.Feature("api"), 4)
		require.True(t, d.Allowed)
		require.EqualValues(t, 3, d.Used)
		require.Zero(t, d.Remaining)
		for _, denied := range []Decision{c.Use("c", "api", 1), c.Decide("c", "api")} {
			require.False(t, denied.Allowed)
			require.Equal(t, ReasonLimitReached, denied.Reason)
			require.EqualValues(t, 3, denied.Used)
			require.Zero(t, denied.Remaining)
		}
		third, d := c.Reserve("c", "api", 1)
		require.Nil(t, third)
		require.Equal(t, ReasonLimitReached, d.Reason)
		require.False(t, c.Allowed("c", "api"))
		second.Release()
		requireView(t, c, "api", 3, 4)
		first.Commit(2)
		requireView(t, c, "api", 5, 5)
	})
}

func TestReserve_CommitRecordsWhatItTook(t *testing.T) {
	for _, test := range []struct{ actual, used, remaining int64 }{
		{4, 6, 4}, {1, 3, 7}, {7, 9, 1}, {8, 10, 0}, {50, 52, 0}, {0, 2, 8}, {-3, 2, 8},
	} {
		t.Run(fmt.Sprint("4 held, took ", test.actual), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := entitlementstest.NewSink()
				c, _ := spender(t, Config{Sink: sink, TTL: time.Hour}, map[string]Grant{"api": usageGrant(10, 2)})
				r := reserved(t, c, "api", 4)
				requireView(t, c, "api", 2, 4)
				time.Sleep(90 * time.Second)
				committed := time.Now()
				r.Commit(test.actual)
				requireView(t, c, "api", test.used, test.remaining)
				require.NoError(t, c.Flush(t.Context()))
				s := balanced(t, c)
				if test.actual < 1 {
					require.Zero(t, s.Recorded)
					require.Empty(t, sink.Accepted())
					return
				}
				require.EqualValues(t, 1, s.Delivered)
				require.EqualValues(t, test.actual, sink.Total("c", "api"))
				require.True(t, sink.Accepted()[0].Time.Equal(committed), "used when it is known what it took")
				require.Zero(t, s.ReservationsExpired)
			})
		})
	}
}

func TestReserve_FirstOfCommitAndReleaseWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c, _ := spender(t, Config{Sink: sink, TTL: time.Hour, ReservationTTL: time.Minute}, map[string]Grant{"api": usageGrant(1000, 0)})
		r := reserved(t, c, "api", 10)
		r.Commit(4)
		r.Commit(5)
		r.Release()
		r.Renew()
		requireView(t, c, "api", 4, 996)
		r = reserved(t, c, "api", 10)
		r.Release()
		r.Commit(5)
		requireView(t, c, "api", 4, 996)
		r = reserved(t, c, "api", 10)
		r.Commit(-1) // is Release, and the first
		r.Commit(5)
		requireView(t, c, "api", 4, 996)

		used := int64(4)
		for round := range 50 {
			r := reserved(t, c, "api", 10)
			var wg sync.WaitGroup
			for g := range 8 {
				wg.Go(func() {
					switch g % 4 {
					case 0:
						r.Release()
					case 1:
						r.Renew()
					default:
						r.Commit(int64(g))
					}
				})
			}
			wg.Wait()
			d := c.Decide("c", "api")
			took := d.Used - used
			require.Contains(t, []int64{0, 2, 3, 6, 7}, took, "round %d", round)
			require.Equal(t, d.Limit-d.Used, d.Remaining, "round %d: something is still held", round)
			used = d.Used
		}
		require.NoError(t, c.Flush(t.Context()))
		require.Equal(t, used, sink.Total("c", "api"))
		time.Sleep(2 * time.Minute)
		requireView(t, c, "api", used, 1000-used, "nothing is left to return")
		require.Zero(t, balanced(t, c).ReservationsExpired)
	})
}

func TestReserve_NilTakesEveryCall(t *testing.T) {
	var r *Reservation
	r.Commit(5)
	r.Commit(0)
	r.Release()
	r.Renew()
	var nobody Customer
	c := entitlementstest.NewClient(t, map[string]map[string]Grant{"c": {"api": usageGrant(10, 0)}})
	r, d := nobody.Reserve(c.Feature("api"), 5)
	require.Nil(t, r)
	require.Equal(t, Decision{}, d)
	r.Commit(5)
	r, d = c.Customer("c").Reserve(Feature{}, 5)
	require.Nil(t, r)
	require.False(t, d.Allowed)
	r.Commit(5)
	require.Zero(t, c.Stats().Usage.Recorded)
}

func TestReserve_HeldUnitsAreNeverDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c, _ := spender(t, Config{Sink: sink, TTL: time.Second, ReservationTTL: time.Minute}, map[string]Grant{"api": usageGrant(10, 0), "switch": {Enabled: true}})
		for range 3 {
			reserved(t, c, "api", 2)
			reserved(t, c, "switch", 2)
		}
		last := reserved(t, c, "api", 1)
		require.NoError(t, c.Flush(t.Context()))
		time.Sleep(30 * time.Second)
		s := balanced(t, c)
		require.Zero(t, s.Recorded)
		require.Zero(t, s.Pending)
		time.Sleep(5 * time.Minute) // they return, and are no usage either
		reserved(t, c, "api", 10)
		require.NoError(t, c.Close(t.Context()), "what is held is nothing that can be lost")
		require.Zero(t, sink.Deliveries())
		last.Commit(1)
		require.EqualValues(t, 1, balanced(t, c).DroppedBy["closed"])
	})
}

// To the nanosecond, whatever else the client has to do or not to do.
func TestReserve_AForgottenOneReturnsExactlyAfterItsTTL(t *testing.T) {
	for _, test := range []struct{ ttl, flush time.Duration }{
		{2 * time.Minute, time.Second},
		{time.Millisecond, time.Second},
		{300 * time.Millisecond, time.Second},
		{1700 * time.Millisecond, time.Second},
		{3 * time.Second, time.Minute},
		{time.Minute, 7 * time.Second},
	} {
		for _, sink := range []Sink{nil, entitlementstest.NewSink()} {
			t.Run(fmt.Sprint(test.ttl, ", flushes every ", test.flush, ", sink: ", sink != nil), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					cfg := Config{TTL: time.Hour, ReservationTTL: test.ttl, FlushInterval: test.flush, DenyTTL: -1}
					if sink != nil {
						cfg.Sink = entitlementstest.NewSink()
					}
					c, _ := spender(t, cfg, map[string]Grant{"api": usageGrant(10, 1)})
					for round := range 3 {
						r := reserved(t, c, "api", 9)
						time.Sleep(test.ttl - time.Nanosecond)
						synctest.Wait()
						requireView(t, c, "api", 1, 0, "round %d, before", round)
						time.Sleep(time.Nanosecond)
						synctest.Wait()
						requireView(t, c, "api", 1, 9, "round %d, at its end", round)
						require.EqualValues(t, round+1, c.Stats().Usage.ReservationsExpired)
						r.Renew() // what has returned stays returned
						r.Release()
						requireView(t, c, "api", 1, 9, "round %d, released as well", round)
						time.Sleep(333 * time.Millisecond)
					}
				})
			})
		}
	}
}

// Each has a TTL of its own, in whatever order they are made, renewed and ended.
func TestReserve_ManyReturnEachAtItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl = 10 * time.Second
		rng := rand.New(rand.NewPCG(7, 7))
		src := entitlementstest.NewSource(nil)
		customers := named("customer", 20)
		for _, customer := range customers {
			src.Put(customer, map[string]Grant{"api": usageGrant(1_000_000, 0)})
		}
		c := usageClient(t, Config{Source: src, Sink: entitlementstest.NewSink(), TTL: time.Hour, ReservationTTL: ttl})
		loaded(t, c, customers...)
		type held struct {
			r     *Reservation
			units int64
			due   time.Time
		}
		all := map[string][]*held{}
		expired := uint64(0)
		for range 1000 {
			customer := customers[rng.IntN(len(customers))]
			mine := all[customer]
			switch kind := rng.IntN(6); {
			case kind < 2 || len(mine) == 0:
				n := 1 + rng.Int64N(100)
				r, d := c.Reserve(customer, "api", n)
				require.True(t, d.Allowed)
				all[customer] = append(mine, &held{r, n, time.Now().Add(ttl)})
			case kind == 2:
				h := mine[rng.IntN(len(mine))]
				h.r.Renew()
				h.due = time.Now().Add(ttl)
			case kind == 3:
				mine[0].r.Release()
				all[customer] = mine[1:]
			default:
				time.Sleep(time.Duration(rng.IntN(400)) * time.Millisecond)
				synctest.Wait()
			}
			for _, customer := range customers {
				units := int64(0)
				left := all[customer][:0:0]
				for _, h := range all[customer] {
					if !time.Now().Before(h.due) {
						expired++
						continue
					}
					units += h.units
					left = append(left, h)
				}
				all[customer] = left
				require.EqualValues(t, 1_000_000-units, c.Decide(customer, "api").Remaining)
			}
		}
		require.NotZero(t, expired)
		require.Equal(t, expired, c.Stats().Usage.ReservationsExpired)
	})
}

func TestReserve_RenewBeginsTheTTLAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := spender(t, Config{TTL: time.Hour, ReservationTTL: time.Minute, DenyTTL: -1}, map[string]Grant{"api": usageGrant(10, 0)})
		stream := reserved(t, c, "api", 6)
		forgotten := reserved(t, c, "api", 4)
		for range 10 {
			time.Sleep(time.Minute - time.Nanosecond)
			stream.Renew()
			require.GreaterOrEqual(t, int64(4), c.Decide("c", "api").Remaining)
		}
		requireView(t, c, "api", 0, 4)
		forgotten.Renew()
		requireView(t, c, "api", 0, 4, "what has returned stays returned")
		time.Sleep(time.Minute - time.Nanosecond)
		synctest.Wait()
		requireView(t, c, "api", 0, 4)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		requireView(t, c, "api", 0, 10)
		require.EqualValues(t, 2, c.Stats().Usage.ReservationsExpired)
	})
}

func TestReserve_ACommitAfterTheTTLIsRecorded(t *testing.T) {
	for _, after := range []time.Duration{time.Minute, 10 * time.Minute} { // by then nothing is known of it any more
		t.Run(after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := entitlementstest.NewSink()
				c, _ := spender(t, Config{Sink: sink, TTL: time.Hour, MaxStale: 3 * time.Hour, ReservationTTL: time.Minute}, map[string]Grant{"api": usageGrant(10, 1)})
				late, never := reserved(t, c, "api", 4), reserved(t, c, "api", 5)
				time.Sleep(after)
				synctest.Wait()
				requireView(t, c, "api", 1, 9)
				require.EqualValues(t, 3, useUp(c, "api", 3))
				late.Commit(4)
				requireView(t, c, "api", 8, 2, "it returned once")
				late.Commit(4)
				never.Release()
				requireView(t, c, "api", 8, 2)
				require.NoError(t, c.Flush(t.Context()))
				require.EqualValues(t, 7, sink.Total("c", "api"))
				s := balanced(t, c)
				require.EqualValues(t, 4, s.Recorded)
				require.EqualValues(t, 2, s.ReservationsExpired)
			})
		})
	}
}

func TestReserve_WhereUsageDoesNotAddUpIsInvalid(t *testing.T) {
	for _, fold := range []Aggregation{AggregateMax, AggregateLast, AggregateUnique} {
		t.Run(fold.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				soft := usageGrant(10, 10)
				soft.Soft = true
				sink := entitlementstest.NewSink()
				c, _ := spender(t, Config{Sink: sink, Aggregations: map[string]Aggregation{"api": fold, "soft": fold, "free": fold}}, map[string]Grant{
					"api": usageGrant(10, 0), "soft": soft, "free": usageGrant(Unlimited, 0),
				})
				for _, feature := range []string{"api", "soft", "free"} {
					r, d := c.Reserve("c", feature, 1)
					require.Nil(t, r)
					require.False(t, d.Allowed)
					require.Equal(t, ReasonInvalid, d.Reason)
					r.Commit(1)
					r, d = c.Customer("c").Reserve(c.Feature(feature), 1)
					require.Nil(t, r)
					require.Equal(t, ReasonInvalid, d.Reason)
				}
				require.EqualValues(t, 10, c.Decide("c", "api").Remaining)
				require.Zero(t, balanced(t, c).Recorded)
				require.EqualValues(t, 2, c.Stats().Decisions.DeniedBy[Denial{Feature: "api", Reason: ReasonInvalid}])
			})
		})
	}
}

func TestReserve_SoftAndUnlimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		soft := usageGrant(10, 8)
		soft.Soft = true
		sink := entitlementstest.NewSink()
		c, _ := spender(t, Config{Sink: sink, TTL: time.Hour}, map[string]Grant{"soft": soft, "free": usageGrant(Unlimited, 8)})
		r, d := c.Reserve("c", "soft", 2)
		require.Equal(t, ReasonGranted, d.Reason)
		require.Zero(t, d.Remaining)
		over, d := c.Reserve("c", "soft", 7)
		require.True(t, d.Allowed)
		require.Equal(t, ReasonOverage, d.Reason)
		require.EqualValues(t, 8, d.Used)
		require.Equal(t, ReasonOverage, c.Use("c", "soft", 1).Reason)
		over.Commit(7)
		r.Release()
		require.EqualValues(t, 16, c.Decide("c", "soft").Used)
		r, d = c.Reserve("c", "free", 100)
		require.Equal(t, ReasonGranted, d.Reason)
		require.Equal(t, Unlimited-108, d.Remaining)
		r.Commit(50)
		require.EqualValues(t, 58, c.Decide("c", "free").Used)
		require.NoError(t, c.Flush(t.Context()))
		require.EqualValues(t, 8, sink.Total("c", "soft"))
		require.EqualValues(t, 50, sink.Total("c", "free"))
	})
}

func TestReserve_OfWhatIsNotMeteredRecordsWhatIsCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c, _ := spender(t, Config{Sink: sink, TTL: time.Hour}, map[string]Grant{
			"switch": {Enabled: true}, "seats": {Kind: KindNumeric, Enabled: true, Limit: 3}, "off": {},
		})
		for _, feature := range []string{"switch", "seats"} {
			want := c.Decide("c", feature)
			r, d := c.Reserve("c", feature, 1000)
			require.Equal(t, want, d)
			other := reserved(t, c, feature, 1000)
			r.Commit(7)
			other.Release()
			require.Equal(t, want, c.Decide("c", feature))
		}
		r, d := c.Reserve("c", "off", 1)
		require.Nil(t, r)
		require.Equal(t, ReasonNotGranted, d.Reason)
		require.NoError(t, c.Flush(t.Context()))
		require.EqualValues(t, 7, sink.Total("c", "switch"))
		require.EqualValues(t, 7, sink.Total("c", "seats"))
		require.EqualValues(t, 2, balanced(t, c).Recorded)
	})
}

func TestReserve_OnAColdMissIsHeldWhenTheSnapshotArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": usageGrant(10, 1)}})
		src.Always(entitlementstest.FetchStep{Latency: time.Second})
		sink := entitlementstest.NewSink()
		c := usageClient(t, Config{Source: src, Sink: sink, OnUnavailable: FailOpen, TTL: time.Hour, ReservationTTL: time.Minute})
		r, d := c.Reserve("c", "api", 4)
		require.True(t, d.Allowed)
		require.Equal(t, ReasonLoading, d.Reason)
		forgotten := reserved(t, c, "api", 2)
		early := reserved(t, c, "api", 1)
		early.Commit(2)
		_, err := c.Check(t.Context(), "c", "api")
		require.NoError(t, err)
		requireView(t, c, "api", 3, 1)
		require.EqualValues(t, 1, useUp(c, "api", 20))
		r.Commit(1)
		requireView(t, c, "api", 5, 3)
		time.Sleep(time.Minute)
		synctest.Wait()
		requireView(t, c, "api", 5, 5)
		forgotten.Release()
		requireView(t, c, "api", 5, 5)
		require.NoError(t, c.Flush(t.Context()))
		require.EqualValues(t, 4, sink.Total("c", "api"))
	})
}

// What is held is held, whatever becomes of the snapshot that it was held from.
func TestReserve_StaysHeldWhateverHappensToTheSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := time.Now().Add(20 * time.Minute)
		sink := entitlementstest.NewSink()
		src := entitlementstest.NewSource(map[string]map[string]Grant{"o": nil, "c": {"api": periodGrant(10, 1, ends)}})
		sink.Feed(src)
		c := usageClient(t, Config{Source: src, Sink: sink, TTL: 10 * time.Second, DenyTTL: -1, MaxCustomers: 1, ReservationTTL: time.Hour})
		resolve := func(customer string) {
			t.Helper()
			_, err := c.Resolve(t.Context(), customer)
			require.NoError(t, err)
		}
		resolve("c")
		handle, api := c.Customer("c"), c.Feature("api")
		r := reserved(t, c, "api", 6)
		for name, happens := range map[string]func(){
			"nothing":     func() {},
			"refreshes":   func() { time.Sleep(30 * time.Second) },
			"Invalidate":  func() { c.Invalidate("c"); resolve("c") },
			"Forget":      func() { c.Forget("c"); resolve("c") },
			"eviction":    func() { resolve("o"); time.Sleep(4 * time.Minute); resolve("c") },
			"Flush":       func() { require.NoError(t, c.Flush(t.Context())) },
			"plan change": func() { src.Put("c", map[string]Grant{"api": {Enabled: true}}); c.Invalidate("c"); resolve("c") },
		} {
			happens()
			src.Put("c", map[string]Grant{"api": periodGrant(10, 1, ends)})
			time.Sleep(time.Millisecond)
			c.Invalidate("c")
			resolve("c")
			requireView(t, c, "api", 1, 3, name)
			require.EqualValues(t, 3, handle.Decide(api).Remaining, name)
			require.False(t, c.Use("c", "api", 4).Allowed, name)
		}
		time.Sleep(time.Until(ends))
		requireView(t, c, "api", 0, 4, "units held when a period ends are held in the next one")
		require.EqualValues(t, 4, useUp(c, "api", 20))
		r.Commit(5)
		requireView(t, c, "api", 9, 1)
		require.NoError(t, c.Flush(t.Context()))
		for _, u := range sink.Accepted() {
			require.False(t, u.Time.Before(ends), "usage of the new period is billed to it")
		}
		require.EqualValues(t, 9, sink.Total("c", "api"))
	})
}

// An account of which nothing is missing any more is let go after a while. What is
// held then is held for everybody.
func TestReserve_HoldsForEverybodyAfterALongPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c, src := spender(t, Config{Sink: sink, TTL: time.Hour, ReservationTTL: time.Hour, DenyTTL: -1}, map[string]Grant{"api": usageGrant(10, 0)})
		sink.Feed(src)
		handle, api := c.Customer("c"), c.Feature("api")
		require.True(t, c.Use("c", "api", 1).Allowed)
		require.NoError(t, c.Flush(t.Context()))
		for _, reserve := range []func(n int64) (*Reservation, Decision){
			func(n int64) (*Reservation, Decision) { return c.Reserve("c", "api", n) },
			func(n int64) (*Reservation, Decision) { return handle.Reserve(api, n) },
		} {
			time.Sleep(time.Second)
			c.Invalidate("c")
			_, err := c.Check(t.Context(), "c", "api")
			require.NoError(t, err)
			time.Sleep(5 * time.Minute)
			r, d := reserve(8)
			require.True(t, d.Allowed)
			require.EqualValues(t, 1, c.Decide("c", "api").Remaining)
			require.False(t, c.Use("c", "api", 2).Allowed)
			require.EqualValues(t, 1, c.Decide("c", "api").Remaining)
			require.False(t, c.UseEvent(Usage{Customer: "c", Feature: "api", ID: "mine", Quantity: 2}).Allowed)
			other, _ := reserve(2)
			require.Nil(t, other)
			require.EqualValues(t, 1, handle.Decide(api).Remaining)
			r.Release()
			require.EqualValues(t, 9, c.Decide("c", "api").Remaining)
		}
	})
}

// Sixteen workers that reserve more than they need, on a limit that is too small
// for them.
func TestReserve_NeverHoldsMoreThanTheLimitAndAllOfItOnceQuiet(t *testing.T) {
	const limit = 300
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": usageGrant(limit, 0)}, "o1": nil, "o2": nil})
		src.Always(entitlementstest.FetchStep{Latency: 20 * time.Millisecond, Late: 20 * time.Millisecond})
		sink := entitlementstest.NewSink()
		sink.Feed(src)
		sink.Always(entitlementstest.DeliverStep{Latency: 50 * time.Millisecond, Late: 50 * time.Millisecond})
		c := usageClient(t, Config{
			Source: src, Sink: sink, TTL: 500 * time.Millisecond, DenyTTL: 100 * time.Millisecond, MaxCustomers: 2,
			FlushInterval: 30 * time.Millisecond, ReservationTTL: 5 * time.Second,
		})
		// What is out is counted before it is given back and after it is taken, so it
		// is never less than it looks.
		var out, forgotten, committed atomic.Int64
		var wg sync.WaitGroup
		for g := range 16 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(3, uint64(g)))
				for i := range 50 {
					n := 1 + rng.Int64N(10)
					r, d := c.Reserve("c", "api", n)
					if d.Allowed {
						if now := out.Add(n); now > limit {
							t.Errorf("%d units are out", now)
						}
						time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond)
						took := rng.Int64N(n + 1)
						switch rng.IntN(8) {
						case 0:
							forgotten.Add(1)
							continue // its units stay out: that they return is another test's
						case 1:
							took = 0
							out.Add(-n)
							r.Release()
						default:
							out.Add(took - n)
							r.Commit(took)
						}
						committed.Add(took)
					}
					switch {
					case g == 0:
						_, _ = c.Resolve(t.Context(), "c")
					case g == 1 && i%3 == 0:
						c.Invalidate("c")
					case g == 2 && i%5 == 0:
						_, _ = c.Resolve(t.Context(), fmt.Sprint("o", 1+i%2))
					}
					time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond)
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Minute)
		total := committed.Load()
		for range 5 {
			_, err := c.Check(t.Context(), "c", "api")
			require.NoError(t, err)
			for {
				r, d := c.Reserve("c", "api", 1)
				if !d.Allowed {
					break
				}
				r.Commit(1)
				total++
			}
			time.Sleep(10 * time.Second)
		}
		require.EqualValues(t, limit, total)
		require.NoError(t, c.Flush(t.Context()))
		require.EqualValues(t, limit, sink.Total("c", "api"))
		s := balanced(t, c)
		require.EqualValues(t, forgotten.Load(), s.ReservationsExpired)
		require.Equal(t, s.Recorded, s.Delivered)
	})
}

// Everything at once, and Close in the middle of it. Every unit is one call here,
// so that calls and quantities can be compared.
func TestReserve_EverythingAtOnceAddsUp(t *testing.T) {
	for name, test := range map[string]struct{ closes, sinkIsOff bool }{
		"to the end":                      {},
		"closed meanwhile":                {closes: true},
		"closed meanwhile, a sink is off": {closes: true, sinkIsOff: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const limit = 150
				customers := named("customer", 8)
				src := entitlementstest.NewSource(nil)
				for _, customer := range customers {
					src.Put(customer, map[string]Grant{"api": usageGrant(limit, 0), "free": usageGrant(Unlimited, 0), "switch": {Enabled: true}})
				}
				src.Always(entitlementstest.FetchStep{Latency: 5 * time.Millisecond})
				sink := entitlementstest.NewSink()
				sink.Feed(src)
				step := entitlementstest.DeliverStep{Latency: 20 * time.Millisecond}
				if test.sinkIsOff {
					step.Refuse = errSinkDown
				}
				sink.Always(step)
				c := usageClient(t, Config{
					Source: src, Sink: sink, TTL: 200 * time.Millisecond, DenyTTL: 50 * time.Millisecond, MaxCustomers: 6,
					FlushInterval: 25 * time.Millisecond, ReservationTTL: 80 * time.Millisecond,
					OnUsage: func(UsageLevel) {}, UsageLevels: []float64{0.1, 0.5, 1},
				})
				type cell struct{ customer, feature string }
				var mu sync.Mutex
				counted := map[cell]int64{}
				calls := uint64(0)
				var wg sync.WaitGroup
				for g := range 20 {
					wg.Go(func() {
						rng := rand.New(rand.NewPCG(4, uint64(g)))
						mine := map[cell]int64{}
						var held []*Reservation
						var of []cell
						for range 300 {
							at := cell{customers[rng.IntN(len(customers))], []string{"api", "free", "switch"}[rng.IntN(3)]}
							handle, feature := c.Customer(at.customer), c.Feature(at.feature)
							switch rng.IntN(14) {
							case 0, 1:
								if c.Use(at.customer, at.feature, 1).Allowed {
									mine[at]++
								}
							case 2, 3:
								if handle.Use(feature, 1).Allowed {
									mine[at]++
								}
							case 4:
								if c.UseEvent(Usage{Customer: at.customer, Feature: at.feature, Quantity: 1, Properties: map[string]string{"k": "v"}}).Allowed {
									mine[at]++
								}
							case 5, 6:
								if r, d := handle.Reserve(feature, 1); d.Allowed {
									held, of = append(held, r), append(of, at)
								}
							case 7, 8:
								if len(held) > 0 {
									held[0].Commit(1)
									mine[of[0]]++
									held, of = held[1:], of[1:]
								}
							case 9:
								if len(held) > 0 {
									held[0].Release()
									held, of = held[1:], of[1:]
								}
							case 10:
								for _, r := range held {
									r.Renew()
								}
							case 11:
								_, _ = c.Resolve(t.Context(), at.customer)
							case 12:
								c.Invalidate(at.customer)
							case 13:
								switch rng.IntN(10) {
								case 0:
									c.Forget(at.customer)
								case 1:
									ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
									_ = c.Flush(ctx)
									cancel()
								case 2:
									c.Stats()
									c.SetShadow("something")
								}
							}
							if d := c.Decide(at.customer, at.feature); d.Remaining < 0 || d.Kind == KindMetered && d.Remaining > d.Limit {
								t.Errorf("%+v", d)
							}
							if rng.IntN(4) == 0 {
								time.Sleep(time.Duration(rng.IntN(10)) * time.Millisecond)
							}
						}
						mu.Lock()
						defer mu.Unlock()
						for at, n := range mine {
							counted[at] += n
							calls += uint64(n)
						}
					})
				}
				if test.closes {
					wg.Go(func() {
						time.Sleep(150 * time.Millisecond)
						ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
						defer cancel()
						_ = c.Close(ctx) // the account says what it left
					})
				}
				wg.Wait()
				if test.closes {
					s := balanced(t, c)
					require.Equal(t, calls, s.Recorded)
					require.Zero(t, s.Pending)
					if test.sinkIsOff {
						require.Zero(t, sink.TotalCalls())
						require.NotZero(t, s.InDoubt)
						return
					}
					require.Equal(t, s.Recorded, s.Delivered+s.Dropped)
					require.Equal(t, s.Dropped, s.DroppedBy["closed"], "Close had the time to deliver the rest")
					require.EqualValues(t, s.Delivered, sink.TotalCalls())
					require.NotZero(t, s.Delivered)
					require.NotZero(t, s.Dropped)
					return
				}
				require.NoError(t, c.Flush(t.Context()))
				s := balanced(t, c)
				require.Equal(t, calls, s.Recorded)
				require.Equal(t, calls, s.Delivered)
				require.Zero(t, s.Pending)
				for at, n := range counted {
					require.Equal(t, n, sink.Total(at.customer, at.feature), "%+v", at)
				}
				require.Zero(t, sink.Duplicates())
				// Once quiet, nothing is held and the views are the truth.
				time.Sleep(10 * time.Second)
				for _, customer := range customers {
					d, err := c.Check(t.Context(), customer, "api")
					require.NoError(t, err)
					if d.Used != counted[cell{customer, "api"}] {
						time.Sleep(time.Second)
						c.Invalidate(customer)
						d, err = c.Check(t.Context(), customer, "api")
						require.NoError(t, err)
					}
					require.Equal(t, counted[cell{customer, "api"}], d.Used)
					require.Equal(t, max(0, limit-d.Used), d.Remaining, "something is still held")
				}
			})
		})
	}
}

func TestReserve_AfterCloseThePolicyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c, _ := spender(t, Config{Sink: sink, FeaturePolicy: map[string]Policy{"open": FailOpen}}, map[string]Grant{"api": usageGrant(10, 0)})
		before := reserved(t, c, "api", 3)
		kept := reserved(t, c, "api", 2)
		require.NoError(t, c.Close(t.Context()))
		r, d := c.Reserve("c", "api", 1)
		require.Nil(t, r)
		require.Equal(t, ReasonClosed, d.Reason)
		r, d = c.Reserve("c", "open", 1)
		require.True(t, d.Allowed)
		require.Equal(t, ReasonClosed, d.Reason)
		r.Renew()
		r.Commit(4)
		before.Renew()
		before.Commit(1)
		kept.Release()
		s := balanced(t, c)
		require.EqualValues(t, 2, s.Recorded)
		require.EqualValues(t, 2, s.DroppedBy["closed"])
		require.Zero(t, sink.Deliveries())
	})
}

func TestReserve_ACommitThatFindsNoRoomStaysCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.Always(entitlementstest.DeliverStep{Refuse: errSinkDown})
		c, _ := spender(t, Config{Sink: sink, TTL: time.Minute, MaxPending: 1, DenyTTL: -1}, map[string]Grant{"api": usageGrant(10, 0)})
		c.Track("other", "api", 1)
		r := reserved(t, c, "api", 8)
		r.Commit(5)
		requireView(t, c, "api", 5, 5)
		require.EqualValues(t, 1, balanced(t, c).DroppedBy["overflow"])
		time.Sleep(10 * time.Minute)
		require.EqualValues(t, 5, useUp(c, "api", 20))
	})
}

func TestReserve_TheTTLIsValidated(t *testing.T) {
	for _, bad := range []time.Duration{-1, -time.Hour, 1, time.Millisecond - 1} {
		_, err := New(Config{Source: Static(nil), ReservationTTL: bad})
		require.ErrorContains(t, err, "Config.ReservationTTL must be at least 1ms, got "+bad.String())
	}
	synctest.Test(t, func(t *testing.T) {
		c, _ := spender(t, Config{TTL: time.Hour, DenyTTL: -1}, map[string]Grant{"api": usageGrant(10, 0)})
		reserved(t, c, "api", 10)
		time.Sleep(15*time.Minute - time.Nanosecond)
		synctest.Wait()
		require.Zero(t, c.Decide("c", "api").Remaining)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.EqualValues(t, 10, c.Decide("c", "api").Remaining, "15 min by default")
	})
}
