package entitlements_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// shadowGrants has a feature for each way to be denied by a snapshot.
func shadowGrants() map[string]Grant {
	expired := usageGrant(10, 0)
	expired.ExpiresAt = time.Now().Add(-time.Second)
	off := usageGrant(10, 0)
	off.Enabled = false
	return map[string]Grant{
		"off": {}, "trial": {Enabled: true, ExpiresAt: time.Now().Add(-time.Second)},
		"full": usageGrant(10, 10), "expired": expired, "no_quota": off,
		"seats": {Kind: KindNumeric, Limit: 25}, "region": {Kind: KindText, Text: "eu"},
		"on": {Enabled: true}, "api": usageGrant(10, 0),
	}
}

var shadowReasons = map[string]Reason{
	"off": ReasonNotGranted, "trial": ReasonExpired, "full": ReasonLimitReached, "expired": ReasonExpired,
	"no_quota": ReasonNotGranted, "seats": ReasonNotGranted, "region": ReasonNotGranted, "absent": ReasonNotGranted,
}

func TestShadow_LetsThroughWhatWouldBeDenied(t *testing.T) {
	for name, shadow := range map[string][]string{
		"all":  {"*"},
		"each": {"off", "trial", "full", "expired", "no_quota", "seats", "region", "absent"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := spender(t, Config{Sink: entitlementstest.NewSink(), TTL: time.Hour, Shadow: shadow}, shadowGrants())
				handle := c.Customer("c")
				for feature, reason := range shadowReasons {
					f := c.Feature(feature)
					c.SetShadow()
					denied := c.Decide("c", feature)
					require.False(t, denied.Allowed, feature)
					require.Equal(t, reason, denied.Reason, feature)
					c.SetShadow(shadow...)
					want := denied
					want.Allowed, want.Shadowed = true, true
					require.Equal(t, want, c.Decide("c", feature), feature)
					require.Equal(t, want, handle.Decide(f), feature)
					checked, err := c.Check(t.Context(), "c", feature)
					require.NoError(t, err)
					require.Equal(t, want, checked, feature)
					require.True(t, c.Allowed("c", feature), feature)
					require.True(t, handle.Allowed(f), feature)
				}
				for _, feature := range []string{"on", "api"} {
					d := c.Decide("c", feature)
					require.True(t, d.Allowed)
					require.False(t, d.Shadowed, "it would not be denied")
				}
				require.EqualValues(t, 7, c.Number("c", "seats", 7), "a number that nobody granted")
				require.EqualValues(t, 7, handle.Number(c.Feature("seats"), 7))
				require.Equal(t, "us", c.Text("c", "region", "us"))
				require.Equal(t, "us", handle.Text(c.Feature("region"), "us"))
				for feature, d := range handle.All() {
					require.True(t, d.Allowed, feature)
					require.Equal(t, shadowReasons[feature] != ReasonUnset, d.Shadowed, feature)
				}
			})
		})
	}
}

func TestShadow_LetsThroughWithoutASnapshot(t *testing.T) {
	for _, policy := range []Policy{FailClosed, LastKnown} {
		t.Run(policy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := entitlementstest.NewSource(map[string]map[string]Grant{"old": {"api": {}, "on": {Enabled: true}}})
				c := usageClient(t, Config{Source: src, Sink: entitlementstest.NewSink(), Shadow: []string{"api"}, TTL: time.Second, MaxStale: time.Minute, OnUnavailable: policy})
				shadowed := func(customer string, reason Reason) {
					t.Helper()
					handle := c.Customer(customer)
					for _, d := range []Decision{c.Decide(customer, "api"), handle.Decide(c.Feature("api"))} {
						require.True(t, d.Allowed)
						require.True(t, d.Shadowed)
						require.Equal(t, reason, d.Reason)
					}
					require.True(t, c.Allowed(customer, "api"))
					require.True(t, handle.Allowed(c.Feature("api")))
					require.False(t, c.Allowed(customer, "other"), "which is not in shadow mode")
				}
				_, err := c.Resolve(t.Context(), "old")
				require.NoError(t, err)
				src.Always(entitlementstest.FetchStep{Latency: time.Second})
				shadowed("nobody", ReasonLoading)
				time.Sleep(2 * time.Second)
				shadowed("nobody", ReasonUnknownCustomer)
				d, err := c.Check(t.Context(), "nobody either", "api")
				require.NoError(t, err)
				require.True(t, d.Allowed)
				require.True(t, d.Shadowed)
				require.Equal(t, ReasonUnknownCustomer, d.Reason)

				src.Always(entitlementstest.FetchStep{Err: errSinkDown})
				d, err = c.Check(t.Context(), "down", "api")
				require.ErrorIs(t, err, ErrUnavailable)
				require.True(t, d.Allowed)
				require.True(t, d.Shadowed)
				shadowed("down", ReasonUnavailable)
				time.Sleep(2 * time.Minute)
				shadowed("old", ReasonTooStale)
				require.Equal(t, policy == LastKnown, c.Allowed("old", "on"))

				handle := c.Customer("old")
				require.NoError(t, c.Close(t.Context()))
				shadowed("old", ReasonClosed)
				shadowed("anybody", ReasonClosed)
				require.True(t, handle.Allowed(c.Feature("api")))
				d, err = c.Check(t.Context(), "old", "api")
				require.ErrorIs(t, err, ErrClosed)
				require.True(t, d.Allowed)
				require.Equal(t, ReasonClosed, d.Reason)
				c.SetShadow()
				require.False(t, c.Allowed("old", "api"), "it can be switched after Close too")
			})
		})
	}
}

func TestShadow_IsCountedAsAllowedAndByWhatItLifted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := spender(t, Config{Sink: entitlementstest.NewSink(), TTL: time.Hour, Shadow: []string{"full", "absent", "off"}}, shadowGrants())
		_, err := c.Check(t.Context(), "nobody", "on")
		require.NoError(t, err)
		before := c.Stats().Decisions
		handle := c.Customer("c")
		for range 3 {
			c.Allowed("c", "off")
			handle.Allowed(c.Feature("off"))
			c.Decide("c", "full")
			c.Use("c", "full", 1)
			r, _ := c.Reserve("c", "full", 1)
			r.Release()
			c.Number("c", "absent", 0)
			c.Decide("nobody", "full")
			c.Decide("c", "no_quota") // denied, as ever
			c.Decide("c", "on")
		}
		for range handle.All() {
			continue // counts as no check
		}
		after := c.Stats().Decisions
		require.EqualValues(t, 3*8, after.Allowed-before.Allowed)
		require.EqualValues(t, 3, after.Denied-before.Denied)
		require.Equal(t, map[Denial]uint64{
			{Feature: "off", Reason: ReasonNotGranted}:       6,
			{Feature: "full", Reason: ReasonLimitReached}:    9,
			{Feature: "absent", Reason: ReasonNotGranted}:    3,
			{Feature: "full", Reason: ReasonUnknownCustomer}: 3,
		}, after.ShadowedBy)
		require.EqualValues(t, 3, after.DeniedBy[Denial{Feature: "no_quota", Reason: ReasonNotGranted}])
		for denial := range after.DeniedBy {
			require.NotContains(t, after.ShadowedBy, denial)
		}
		clear(after.ShadowedBy)
		require.Len(t, c.Stats().Decisions.ShadowedBy, 4, "the map is a copy")
	})
}

// What is let through is used: it counts as it would have, had it been granted.
func TestShadow_UseCountsWhatItLetsThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c, src := spender(t, Config{
			Sink: sink, TTL: time.Hour, Shadow: []string{"*"}, Aggregations: map[string]Aggregation{"peak": AggregateMax},
		}, shadowGrants())
		handle := c.Customer("c")
		used := int64(10)
		for range 3 {
			for _, d := range []Decision{
				c.Use("c", "full", 2), handle.Use(c.Feature("full"), 2),
				c.UseEvent(Usage{Customer: "c", Feature: "full", Quantity: 2, Properties: map[string]string{"k": "v"}}),
			} {
				used += 2
				require.True(t, d.Allowed)
				require.True(t, d.Shadowed)
				require.Equal(t, ReasonLimitReached, d.Reason)
				require.Equal(t, used, d.Used)
				require.Zero(t, d.Remaining)
			}
		}
		require.True(t, c.Use("c", "api", 11).Shadowed, "more than is left")
		require.EqualValues(t, 11, c.Decide("c", "api").Used)
		for _, feature := range []string{"expired", "no_quota", "off", "seats", "absent"} {
			d := c.Use("c", feature, 3)
			require.True(t, d.Allowed, feature)
			require.True(t, d.Shadowed, feature)
			require.Equal(t, shadowReasons[feature], d.Reason, feature)
		}
		require.True(t, c.Use("nobody", "api", 3).Allowed)
		_, err := c.Check(t.Context(), "nobody", "api")
		require.NoError(t, err)
		require.Equal(t, ReasonUnknownCustomer, c.Use("nobody", "api", 4).Reason)
		require.NoError(t, c.Flush(t.Context()))
		require.EqualValues(t, 18, sink.Total("c", "full"))
		require.EqualValues(t, 11, sink.Total("c", "api"))
		for _, feature := range []string{"expired", "no_quota", "off", "seats", "absent"} {
			require.EqualValues(t, 3, sink.Total("c", feature), feature)
		}
		require.EqualValues(t, 7, sink.Total("nobody", "api"))
		require.EqualValues(t, 9+1+5+2, balanced(t, c).Delivered)

		// What a miss let through is on top of the snapshot that arrives.
		src.Put("cold", map[string]Grant{"api": usageGrant(10, 1)})
		src.Always(entitlementstest.FetchStep{Latency: time.Second})
		require.Equal(t, ReasonLoading, c.Use("cold", "api", 5).Reason)
		d, err := c.Check(t.Context(), "cold", "api")
		require.NoError(t, err)
		require.EqualValues(t, 6, d.Used)

		// Neither quantities nor keys that nobody can use are used.
		require.NoError(t, c.Flush(t.Context()))
		before := balanced(t, c)
		c.Use("c", "api", 0)
		c.Use("c", "api", -5)
		c.UseEvent(Usage{Customer: "c", Feature: "api", Quantity: -5})
		after := balanced(t, c)
		require.Equal(t, before.Recorded, after.Recorded)
		require.EqualValues(t, 11, c.Decide("c", "api").Used)
	})
}

func TestShadow_ReserveHoldsWhatItLetsThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		c, _ := spender(t, Config{
			Sink: sink, TTL: time.Hour, ReservationTTL: time.Minute, Shadow: []string{"*"}, Aggregations: map[string]Aggregation{"full": AggregateMax},
		}, shadowGrants())
		first, d := c.Reserve("c", "api", 7)
		require.False(t, d.Shadowed)
		over, d := c.Reserve("c", "api", 7)
		require.NotNil(t, over)
		require.True(t, d.Allowed)
		require.True(t, d.Shadowed)
		require.Equal(t, ReasonLimitReached, d.Reason)
		require.Zero(t, d.Used)
		require.Zero(t, d.Remaining)
		first.Release()
		require.EqualValues(t, 3, c.Decide("c", "api").Remaining, "7 are held")
		over.Commit(9)
		require.EqualValues(t, 9, c.Decide("c", "api").Used)
		require.EqualValues(t, 1, c.Decide("c", "api").Remaining)

		for feature, reason := range shadowReasons {
			if feature == "full" {
				reason = ReasonInvalid // there is no sum to hold a part of
			}
			r, d := c.Customer("c").Reserve(c.Feature(feature), 3)
			require.True(t, d.Allowed, feature)
			require.True(t, d.Shadowed, feature)
			require.Equal(t, reason, d.Reason, feature)
			require.NotNil(t, r, feature)
			r.Commit(2)
		}
		r, d := c.Reserve("nobody", "api", 3)
		require.True(t, d.Shadowed)
		r.Commit(2)
		require.NoError(t, c.Flush(t.Context()))
		require.EqualValues(t, 9, sink.Total("c", "api"))
		for feature := range shadowReasons {
			require.EqualValues(t, 2, sink.Total("c", feature), feature)
		}
		require.EqualValues(t, 2, sink.Total("nobody", "api"))
		_, d = c.Reserve("c", "api", 50)
		require.True(t, d.Shadowed)
		require.Zero(t, c.Decide("c", "api").Remaining)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.EqualValues(t, 1, c.Decide("c", "api").Remaining)
		balanced(t, c)
	})
}

func TestShadow_SetShadowReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mine := []string{"off", "full"}
		c, _ := spender(t, Config{TTL: time.Hour, Shadow: mine}, shadowGrants())
		handle := c.Customer("c")
		allowed := func(want ...string) {
			t.Helper()
			got := []string{}
			for _, feature := range []string{"off", "trial", "full", "absent"} {
				d := c.Decide("c", feature)
				require.Equal(t, d.Allowed, d.Shadowed)
				require.Equal(t, d.Allowed, c.Allowed("c", feature))
				require.Equal(t, d.Allowed, handle.Allowed(c.Feature(feature)))
				if d.Allowed {
					got = append(got, feature)
				}
			}
			require.Equal(t, append([]string{}, want...), got)
		}
		allowed("off", "full")
		mine[0] = "trial" // the caller's slice stays the caller's
		allowed("off", "full")
		set := []string{"trial"}
		c.SetShadow(set...)
		set[0] = "off"
		allowed("trial")
		c.SetShadow("trial", "trial", "unheard of")
		allowed("trial")
		c.SetShadow("absent", "*")
		allowed("off", "trial", "full", "absent")
		c.SetShadow("absent")
		allowed("absent")
		c.SetShadow("of", "FULL", "full ", "**", "f*", "")
		allowed()
		c.SetShadow("*")
		allowed("off", "trial", "full", "absent")
		c.SetShadow()
		allowed()
		c.SetShadow(nil...)
		allowed()
	})
}

// A denial that is let through is a denial still: the customer may have paid.
func TestShadow_ADenialAsksForARefreshAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, src := spender(t, Config{TTL: time.Hour, DenyTTL: time.Second, Shadow: []string{"*"}}, shadowGrants())
		src.Put("c", map[string]Grant{"off": {Enabled: true}})
		time.Sleep(2 * time.Second)
		require.True(t, c.Decide("c", "off").Shadowed)
		synctest.Wait()
		require.False(t, c.Decide("c", "off").Shadowed)
		require.Equal(t, 2, src.Calls("c"))
	})
}

func TestShadow_AFailOpenPolicyNeedsNoShadow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(nil)
		src.Always(entitlementstest.FetchStep{Err: errSinkDown})
		c := usageClient(t, Config{Source: src, Shadow: []string{"*"}, OnUnavailable: FailOpen, FeaturePolicy: map[string]Policy{"shut": FailClosed}})
		d := c.Decide("cold", "api")
		require.True(t, d.Allowed)
		require.False(t, d.Shadowed)
		d = c.Decide("cold", "shut")
		require.True(t, d.Allowed)
		require.True(t, d.Shadowed)
		require.Equal(t, map[Denial]uint64{{Feature: "shut", Reason: ReasonLoading}: 1}, c.Stats().Decisions.ShadowedBy)
	})
}

func TestShadow_ZeroHandlesStillDeny(t *testing.T) {
	c := entitlementstest.NewClient(t, map[string]map[string]Grant{"c": {"on": {Enabled: true}, "off": {}}})
	c.SetShadow("*", "")
	var nobody Customer
	var nothing Feature
	off := c.Feature("off")
	require.False(t, nobody.Allowed(off))
	require.Equal(t, Decision{}, nobody.Decide(off))
	require.Equal(t, Decision{}, nobody.Use(off, 1))
	r, d := nobody.Reserve(off, 1)
	require.Nil(t, r)
	require.Equal(t, Decision{}, d)
	require.EqualValues(t, 3, nobody.Number(off, 3))
	for _, handle := range []Customer{c.Customer("c"), c.Customer("nobody"), c.Customer("")} {
		require.False(t, handle.Allowed(nothing))
		require.False(t, handle.Decide(nothing).Allowed)
		require.False(t, handle.Use(nothing, 1).Allowed)
		r, d := handle.Reserve(nothing, 1)
		require.Nil(t, r)
		require.False(t, d.Allowed)
	}
	require.False(t, c.Decide("c", strings.Repeat("k", MaxKeyLength+1)).Allowed, "nor is there such a feature")
	require.Zero(t, c.Stats().Usage.Recorded)
	require.True(t, c.Customer("c").Allowed(off))
}

func TestShadow_ValidatesFeatureCodes(t *testing.T) {
	for _, bad := range []string{"", strings.Repeat("k", MaxKeyLength+1)} {
		_, err := New(Config{Source: Static(nil), Shadow: []string{"fine", bad}})
		require.ErrorContains(t, err, fmt.Sprintf("Config.Shadow has a feature code of %d bytes, must be 1 to 255", len(bad)))
	}
}

func TestShadow_SetShadowWhileEverybodyAsks(t *testing.T) {
	c := entitlementstest.NewClient(t, map[string]map[string]Grant{"c": {"off": {}, "full": usageGrant(10, 10), "on": {Enabled: true}}})
	off, handle := c.Feature("off"), c.Customer("c")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 300 {
				for _, d := range []Decision{c.Decide("c", "off"), handle.Decide(off), c.Decide("c", "full"), c.Use("c", "full", 1)} {
					if d.Allowed != d.Shadowed || d.Reason != ReasonNotGranted && d.Reason != ReasonLimitReached {
						t.Errorf("%+v", d)
					}
				}
				c.Allowed("c", "off")
				handle.Allowed(off)
				if !c.Allowed("c", "on") {
					t.Error("a granted feature is denied")
				}
			}
		})
	}
	for i := range 300 {
		c.SetShadow([][]string{nil, {"*"}, {"off"}, {"full", "off"}}[i%4]...)
		if i%50 == 0 {
			c.Stats()
		}
	}
	wg.Wait()
	s := c.Stats()
	var shadowed, denied uint64
	for _, n := range s.Decisions.ShadowedBy {
		shadowed += n
	}
	for _, n := range s.Decisions.DeniedBy {
		denied += n
	}
	require.Equal(t, denied, s.Decisions.Denied)
	require.EqualValues(t, 8*300*7, s.Decisions.Denied+s.Decisions.Allowed)
	require.Equal(t, s.Decisions.Allowed, shadowed+8*300)
	require.EqualValues(t, s.Usage.Recorded, c.Decide("c", "full").Used-10, "each call that was let through is counted, and no other")
}
