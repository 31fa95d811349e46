package entitlementstest_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

func TestUsageDedupes(t *testing.T) {
	b := newBilling(t, entitlementstest.BillingConfig{})
	b.Put("c", grants{"api": metered(10), "other": metered(10)})
	b.Put("d", nil)
	for range 3 {
		require.Equal(t, 202, send(t, b, "POST", "/v1/usage", event("c", "api", "2", "e1")).status)
	}
	// Another meter or subscription is another event.
	require.Equal(t, 202, send(t, b, "POST", "/v1/usage", event("c", "other", "2", "e1")).status)
	require.Equal(t, 202, send(t, b, "POST", "/v1/usage", event("d", "api", "2", "e1")).status)
	require.Equal(t, 202, send(t, b, "POST", "/v1/usage", event("c", "api", "5", "e1")).status)
	for range 2 {
		require.Equal(t, 202, send(t, b, "POST", "/v1/usage", event("c", "api", "0.5", "")).status)
	}
	require.EqualValues(t, 3, b.Total("c", "api"))
	require.EqualValues(t, 2, b.Total("d", "api"))
	require.Len(t, b.Events("c", "api"), 3)
	require.Equal(t, entitlementstest.UsageCounts{Accepted: 5, Duplicates: 3, Conflicts: 1, Anonymous: 2, DoubleBilled: 3}, b.UsageCounts())
}

func TestUsageShowsInTheNextRead(t *testing.T) {
	b := newBilling(t, entitlementstest.BillingConfig{Meters: map[string]entitlementstest.Meter{"gb": {Decimals: 3}}})
	gb := metered(5000)
	gb.Used = 250
	b.Put("c", grants{"gb": gb})
	for _, body := range []string{
		`{"subscription_id":"c","feature_code":"gb","quantity":"1.5"}`,
		`{"customer_id":"c","feature_code":"gb","value":1}`,
		`{"customer_id":"c","feature_code":"gb","value":"-0.0005"}`,
	} {
		r := send(t, b, "POST", "/v1/track", body)
		require.Equal(t, 202, r.status, r.body)
	}
	require.Equal(t, "2.4995", b.TotalDecimal("c", "gb"))
	require.EqualValues(t, 2500, b.Total("c", "gb"))
	require.EqualValues(t, 2750, b.Used("c", "gb"))
	r := send(t, b, "GET", "/v1/subscriptions/c/entitlements", "")
	require.Contains(t, r.body, `"used":2.7495,"remaining":2.2505`)
}

func TestBatchIsAtomic(t *testing.T) {
	b := newBilling(t, entitlementstest.BillingConfig{})
	b.Put("c", grants{"api": metered(10)})
	batch := func(events ...string) string { return `{"events":[` + strings.Join(events, ",") + `]}` }
	good := event("c", "api", "1", "g")
	for name, bad := range map[string]string{
		"subscription": event("nobody", "api", "1", "b"),
		"meter":        event("c", "unheard", "1", "b"),
		"quantity":     event("c", "api", "1e3", "b"),
		"a number":     `{"subscription_id":"c","meter":"api","quantity":1,"timestamp":"` + stamp + `"}`,
		"no quantity":  `{"subscription_id":"c","meter":"api","timestamp":"` + stamp + `"}`,
		"no timestamp": `{"subscription_id":"c","meter":"api","quantity":"1"}`,
		"not in UTC":   `{"subscription_id":"c","meter":"api","quantity":"1","timestamp":"2026-11-20T10:00:00+01:00"}`,
		"no meter":     `{"subscription_id":"c","quantity":"1","timestamp":"` + stamp + `"}`,
		"null":         `null`,
		"long id":      event("c", "api", "1", strings.Repeat("x", 256)),
	} {
		r := send(t, b, "POST", "/v1/usage/batch", batch(good, bad, good))
		require.Equal(t, 422, r.status, "%s: %s", name, r.body)
		require.NotEmpty(t, r.json(t)["errors"], name)
		require.Zero(t, b.Total("c", "api"), name)
	}
	require.Equal(t, 422, send(t, b, "POST", "/v1/usage/batch", batch()).status)
	require.Equal(t, 400, send(t, b, "POST", "/v1/usage/batch", `{"events":7}`).status)
	many := make([]string, 1001)
	for i := range many {
		many[i] = event("c", "api", "1", fmt.Sprint(i))
	}
	require.Equal(t, 422, send(t, b, "POST", "/v1/usage/batch", batch(many...)).status)
	require.Zero(t, b.Total("c", "api"))
	r := send(t, b, "POST", "/v1/usage/batch", batch(append(many[:998], many[0], many[1])...))
	require.Equal(t, 202, r.status)
	require.JSONEq(t, `{"accepted":998,"duplicates":2}`, r.body)
	require.EqualValues(t, 998, b.Total("c", "api"))
}

func TestAggregations(t *testing.T) {
	for how, want := range map[entitlements.Aggregation]int64{
		entitlements.AggregateSum: 11, entitlements.AggregateMax: 5, entitlements.AggregateLast: 4, entitlements.AggregateUnique: 3,
	} {
		t.Run(how.String(), func(t *testing.T) {
			b := newBilling(t, entitlementstest.BillingConfig{Meters: map[string]entitlementstest.Meter{"m": {Aggregation: how}}})
			b.Put("c", grants{"m": metered(100)})
			for i, e := range []struct {
				quantity string
				second   int
			}{{"1", 1}, {"5", 2}, {"4", 9}, {"1", 3}} {
				require.Equal(t, 202, send(t, b, "POST", "/v1/usage", fmt.Sprintf(
					`{"subscription_id":"c","meter":"m","quantity":%q,"timestamp":"2026-11-20T10:00:0%dZ","external_id":"%d"}`, e.quantity, e.second, i)).status)
			}
			require.Equal(t, want, b.Used("c", "m"))
			require.EqualValues(t, 11, b.Total("c", "m"), "a total is what was sent, however it is folded")
		})
	}
}

// TestPeriods runs in memory, inside a bubble: the clock is the bubble's.
func TestPeriods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := entitlementstest.NewBilling(entitlementstest.BillingConfig{InMemory: true})
		defer b.Close()
		start := time.Now()
		grant := metered(10)
		grant.Used, grant.PeriodStart, grant.ResetsAt = 2, start, start.Add(time.Hour)
		b.Put("c", grants{"m": grant})
		use := func(at time.Time) {
			r := send(t, b, "POST", "/v1/usage", fmt.Sprintf(
				`{"subscription_id":"c","meter":"m","quantity":"1","timestamp":%q}`, at.UTC().Format(time.RFC3339Nano)))
			require.Equal(t, 202, r.status, r.body)
		}
		use(start)
		use(start.Add(-time.Minute)) // billed, but in an earlier period
		use(start.Add(time.Hour))    // a clock ahead of the backend's: the next period
		require.EqualValues(t, 3, b.Used("c", "m"))
		time.Sleep(time.Hour)
		require.EqualValues(t, 1, b.Used("c", "m"))
		use(start.Add(time.Hour - time.Second)) // late, for the period that has ended
		require.EqualValues(t, 1, b.Used("c", "m"))
		r := send(t, b, "GET", "/v1/subscriptions/c/entitlements", "")
		require.Contains(t, r.body, `"resets_at":"`+start.Add(2*time.Hour).UTC().Format(time.RFC3339)+`"`)
		time.Sleep(5*time.Hour + time.Minute)
		require.Zero(t, b.Used("c", "m"))
		require.EqualValues(t, 4, b.Total("c", "m"))
	})
}

func TestUsageLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := entitlementstest.NewBilling(entitlementstest.BillingConfig{InMemory: true, UsageLag: time.Second})
		defer b.Close()
		b.Put("c", grants{"api": metered(10)})
		require.Equal(t, 202, send(t, b, "POST", "/v1/track", `{"subscription_id":"c","feature_code":"api","quantity":"1"}`).status)
		require.Zero(t, b.Used("c", "api"))
		require.EqualValues(t, 1, b.Total("c", "api"))
		time.Sleep(time.Second)
		require.EqualValues(t, 1, b.Used("c", "api"))
	})
}

func TestDedupWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := entitlementstest.NewBilling(entitlementstest.BillingConfig{InMemory: true, DedupWindow: time.Hour})
		defer b.Close()
		b.Put("c", grants{"api": metered(10)})
		for i, wait := range []time.Duration{0, time.Hour - 1, 1, time.Minute} {
			time.Sleep(wait)
			require.Equal(t, 202, send(t, b, "POST", "/v1/usage", event("c", "api", "1", "e")).status)
			require.Equal(t, []int64{1, 1, 2, 2}[i], b.Total("c", "api"))
		}
	})
}

// TestAsOfIsExact has writers and readers at once: a read shows exactly what was
// accepted before its as_of.
func TestAsOfIsExact(t *testing.T) {
	b := newBilling(t, entitlementstest.BillingConfig{})
	b.Put("c", grants{"api": metered(1_000_000)})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				_, _ = try(b, "POST", "/v1/track", `{"subscription_id":"c","feature_code":"api","quantity":"1"}`)
			}
		})
	}
	type read struct {
		asOf time.Time
		used int
	}
	reads := make([]read, 100)
	for i := range reads {
		v := send(t, b, "GET", "/v1/subscriptions/c/entitlements", "").json(t)
		asOf, err := time.Parse(time.RFC3339Nano, v["as_of"].(string))
		require.NoError(t, err)
		reads[i] = read{asOf, int(v["features"].(object)["api"].(object)["used"].(float64))}
	}
	wg.Wait()
	events := b.Events("c", "api")
	require.Len(t, events, 200)
	for _, r := range reads {
		before := 0
		for _, e := range events {
			if e.AcceptedAt.Round(0).Before(r.asOf) {
				before++
			}
		}
		require.GreaterOrEqual(t, r.used, before)
		require.LessOrEqual(t, r.used-before, 1, "more is included than as_of says")
	}
}
