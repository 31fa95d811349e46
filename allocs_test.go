package entitlements_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// Whatever is documented not to allocate doesn't, and a Reserve allocates its
// Reservation alone. Each case makes a Client in the steady state, and its calls
// by name.
func TestAllocs(t *testing.T) {
	if underRace {
		t.Skip("the race detector allocates")
	}
	for name, tc := range map[string]struct {
		most  float64 // allocations a call
		calls func(t *testing.T) map[string]func()
	}{
		"checks, cached or not": {0, checksOfEveryKind},
		"checks, stale":         {0, staleChecks},
		"checks, closed":        {0, closedChecks},
		"checks, shadow mode":   {0, shadowedCalls},
		"usage":                 {0, usageOfEveryKind},
		"usage, not cached":     {0, strangersUsage},
		"usage, many features":  {0, manyCells},
		"usage, on disk":        {0, spooledUsage},
		"reservations":          {1, reservations},
		"reservations, denied":  {0, deniedReservations},
		"reservations, nil":     {0, nilReservation},
	} {
		t.Run(name, func(t *testing.T) {
			for what, call := range tc.calls(t) {
				call() // what there is to be made the first time
				require.LessOrEqual(t, testing.AllocsPerRun(300, call), tc.most, what)
			}
		})
	}
}

// quietly keeps a Client from refreshing and delivering meanwhile.
func quietly(cfg Config) Config {
	cfg.TTL, cfg.DenyTTL, cfg.NegativeTTL, cfg.FlushInterval = time.Hour, -1, time.Hour, time.Hour
	return cfg
}

func checksOfEveryKind(t *testing.T) map[string]func() {
	src := SourceFunc(func(_ context.Context, customer string) (*Entitlements, error) {
		switch customer {
		case "unknown":
			return nil, ErrUnknownCustomer
		case "failed":
			return nil, errDown
		}
		return &Entitlements{Customer: customer, Version: "v", Features: map[string]Grant{
			"x": {Enabled: true}, "y": {}, "soon": {Enabled: true, ExpiresAt: time.Now().Add(time.Hour)},
			"m":    {Kind: KindMetered, Enabled: true, Limit: 10, ResetsAt: time.Now().Add(time.Hour)},
			"full": usageGrant(10, 10),
			"n":    {Kind: KindNumeric, Enabled: true, Limit: 5}, "t": {Kind: KindText, Enabled: true, Text: "eu"},
		}}, nil
	})
	c := opened(t, quietly(Config{Source: src}))
	long, tooLong := strings.Repeat("long", 30), strings.Repeat("k", MaxKeyLength+1)
	loaded(t, c, "a", long)
	c.Track("a", "m", 1)
	for _, customer := range []string{"unknown", "failed"} {
		_, _ = c.Load(t.Context(), customer)
	}
	calls := map[string]func(){}
	for name, customer := range map[string]string{
		"cached": "a", "long key": long, "unknown": "unknown", "failed": "failed", "invalid": tooLong,
	} {
		for _, feature := range []string{"x", "y", "soon", "m", "full", "n", "t", "absent", tooLong} {
			cu, f := c.Customer(customer), c.Feature(feature)
			for what, call := range map[string]func(){
				"Allowed":          func() { c.Allowed(customer, feature) },
				"Decide":           func() { c.Decide(customer, feature) },
				"Number":           func() { c.Number(customer, feature, 1) },
				"Text":             func() { c.Text(customer, feature, "") },
				"Customer":         func() { c.Customer(customer) },
				"Customer.Allowed": func() { cu.Allowed(f) },
				"Customer.Decide":  func() { cu.Decide(f) },
				"Customer.Number":  func() { cu.Number(f, 1) },
				"Customer.Text":    func() { cu.Text(f, "") },
			} {
				calls[fmt.Sprintf("%s of %.6s, %s", what, feature, name)] = call
			}
		}
	}
	return calls
}

func staleChecks(t *testing.T) map[string]func() {
	var down atomic.Bool
	src := SourceFunc(func(_ context.Context, customer string) (*Entitlements, error) {
		if down.Load() {
			return nil, RetryAfter(time.Minute, errDown)
		}
		return grantedX(customer), nil
	})
	c := opened(t, Config{Source: src, TTL: 100 * time.Millisecond})
	loaded(t, c, "a")
	down.Store(true)
	c.Invalidate("a")
	require.Eventually(t, func() bool { return c.Decide("a", "x").Origin == OriginStale }, 5*time.Second, time.Millisecond)
	cu, x, y := c.Customer("a"), c.Feature("x"), c.Feature("y")
	return map[string]func(){
		"Allowed":                  func() { c.Allowed("a", "x") },
		"Decide":                   func() { c.Decide("a", "x") },
		"Decide, denied":           func() { c.Decide("a", "y") },
		"Customer.Allowed":         func() { cu.Allowed(x) },
		"Customer.Allowed, denied": func() { cu.Allowed(y) },
	}
}

func closedChecks(t *testing.T) map[string]func() {
	c := opened(t, Config{Source: Static(map[string]*Entitlements{"a": grantedX("a")})})
	loaded(t, c, "a")
	require.NoError(t, c.Close(t.Context()))
	return map[string]func(){
		"Allowed": func() { c.Allowed("a", "x") },
		"Decide":  func() { c.Decide("a", "x") },
	}
}

func shadowedCalls(t *testing.T) map[string]func() {
	calls := map[string]func(){}
	for _, shadow := range [][]string{{"*"}, {"off", "full"}, {"something else"}} {
		c, _ := spender(t, quietly(Config{Shadow: shadow}), shadowGrants())
		handle := c.Customer("c")
		for _, code := range []string{"on", "off", "full", "api", "absent"} {
			feature := c.Feature(code)
			for what, call := range map[string]func(){
				"Allowed":          func() { c.Allowed("c", code) },
				"Customer.Allowed": func() { handle.Allowed(feature) },
				"Decide":           func() { c.Decide("c", code) },
				"Use":              func() { c.Use("c", code, 1) },
				"Customer.Use":     func() { handle.Use(feature, 1) },
			} {
				calls[fmt.Sprintf("%s of %s with %v in shadow mode", what, code, shadow)] = call
			}
		}
	}
	return calls
}

func usageOfEveryKind(t *testing.T) map[string]func() {
	soft := usageGrant(10, 10)
	soft.Soft = true
	calls := map[string]func(){}
	for name, cfg := range map[string]Config{
		"plain":          {},
		"levels, shadow": {OnUsage: func(UsageLevel) {}, Shadow: []string{"something"}},
	} {
		cfg.Sink, cfg.Aggregations = entitlementstest.NewSink(), map[string]Aggregation{"peak": AggregateMax}
		c, _ := spender(t, quietly(cfg), map[string]Grant{
			"api": usageGrant(1<<60, 0), "other": usageGrant(1<<60, 0), "full": usageGrant(10, 10), "soft": soft, "peak": usageGrant(10, 0), "switch": {Enabled: true},
		})
		handle := c.Customer("c")
		for _, code := range []string{"api", "other", "full", "soft", "peak", "switch", "absent"} {
			feature := c.Feature(code)
			for what, call := range map[string]func(){
				"Use":             func() { c.Use("c", code, 1) },
				"Customer.Use":    func() { handle.Use(feature, 1) },
				"Track":           func() { c.Track("c", code, 1) },
				"Customer.Track":  func() { handle.Track(feature, 1) },
				"Decide":          func() { c.Decide("c", code) },
				"Customer.Decide": func() { handle.Decide(feature) },
				"Allowed":         func() { c.Allowed("c", code) },
			} {
				calls[fmt.Sprintf("%s of %s, %s", what, code, name)] = call
			}
		}
	}
	return calls
}

func strangersUsage(t *testing.T) map[string]func() {
	c := usageClient(t, quietly(Config{Sink: entitlementstest.NewSink()}))
	return map[string]func(){"Track": func() { c.Track("uncached", "api", 1) }}
}

// manyCells is a customer with so many meters that they have slots.
func manyCells(t *testing.T) map[string]func() {
	const features = 50
	grants, codes := map[string]Grant{}, make([]string, features)
	for i := range codes {
		codes[i] = fmt.Sprint("meter-", i)
		grants[codes[i]] = usageGrant(1<<60, 0)
	}
	c, _ := spender(t, quietly(Config{Sink: entitlementstest.NewSink()}), grants)
	each := func(call func(code string)) func() {
		return func() {
			for _, code := range codes {
				call(code)
			}
		}
	}
	return map[string]func(){
		"Track": each(func(code string) { c.Track("c", code, 1) }),
		"Use":   each(func(code string) { c.Use("c", code, 1) }),
	}
}

func spooledUsage(t *testing.T) map[string]func() {
	cfg := quietly(Config{Sink: entitlementstest.NewSink(), SpoolDir: t.TempDir()})
	c, _ := spender(t, cfg, map[string]Grant{"api": usageGrant(1<<60, 0)})
	handle, feature := c.Customer("c"), c.Feature("api")
	return map[string]func(){
		"Track":          func() { c.Track("c", "api", 1) },
		"Customer.Track": func() { handle.Track(feature, 1) },
		"Use":            func() { c.Use("c", "api", 1) },
	}
}

func reservations(t *testing.T) map[string]func() {
	calls := map[string]func(){}
	for _, code := range []string{"api", "switch"} {
		for what, call := range reserving(t, code) {
			calls[what+" of "+code] = call
		}
	}
	return calls
}

func deniedReservations(t *testing.T) map[string]func() {
	calls := map[string]func(){}
	for _, code := range []string{"full", "absent"} {
		for what, call := range reserving(t, code) {
			calls[what+" of "+code] = call
		}
	}
	return calls
}

func reserving(t *testing.T, code string) map[string]func() {
	c, _ := spender(t, quietly(Config{Sink: entitlementstest.NewSink(), OnUsage: func(UsageLevel) {}}), map[string]Grant{
		"api": usageGrant(1<<60, 0), "full": usageGrant(10, 10), "switch": {Enabled: true},
	})
	handle, feature := c.Customer("c"), c.Feature(code)
	return map[string]func(){
		"Reserve, Commit":         func() { r, _ := c.Reserve("c", code, 5); r.Commit(3) },
		"Reserve, Renew, Release": func() { r, _ := c.Reserve("c", code, 5); r.Renew(); r.Release() },
		"Customer.Reserve":        func() { r, _ := handle.Reserve(feature, 5); r.Commit(5) },
	}
}

func nilReservation(*testing.T) map[string]func() {
	var none *Reservation
	return map[string]func(){"Commit": func() { none.Commit(1) }, "Renew": func() { none.Renew() }, "Release": func() { none.Release() }}
}
