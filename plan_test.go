package entitlements_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
)

func TestPlansAreInternedByContent(t *testing.T) {
	base := func() *Entitlements {
		return &Entitlements{Customer: "a", Plan: "p", Features: map[string]Grant{
			"b": {Enabled: true}, "n": {Kind: KindNumeric, Enabled: true, Limit: 5},
			"t": {Kind: KindText, Enabled: true, Text: "eu"}, "m": {Kind: KindMetered, Enabled: true, Limit: 5},
		}}
	}
	grant := func(code string, change func(*Grant)) func(*Entitlements) {
		return func(e *Entitlements) {
			g := e.Features[code]
			change(&g)
			e.Features[code] = g
		}
	}
	now := time.Now()
	for _, test := range []struct {
		name   string
		same   bool
		change func(*Entitlements)
	}{
		{"nothing", true, func(*Entitlements) {}},
		{"version, as of, server time", true, func(e *Entitlements) { e.Version, e.AsOf, e.ServerTime = "v2", now, now }},
		{"used", true, grant("m", func(g *Grant) { g.Used = 4 })},
		{"period", true, grant("m", func(g *Grant) { g.PeriodStart, g.ResetsAt = now, now.Add(time.Hour) })},
		{"expiry of a metered grant", true, grant("m", func(g *Grant) { g.ExpiresAt = now })},
		{"name", false, func(e *Entitlements) { e.Plan = "q" }},
		{"enabled", false, grant("b", func(g *Grant) { g.Enabled = false })},
		{"kind", false, grant("b", func(g *Grant) { g.Kind = KindText })},
		{"limit", false, grant("n", func(g *Grant) { g.Limit = 6 })},
		{"text", false, grant("t", func(g *Grant) { g.Text = "us" })},
		{"soft", false, grant("m", func(g *Grant) { g.Soft = true })},
		{"one more", false, func(e *Entitlements) { e.Features["z"] = Grant{} }},
		{"one less", false, func(e *Entitlements) { delete(e.Features, "b") }},
		{"renamed", false, func(e *Entitlements) { e.Features["c"] = e.Features["b"]; delete(e.Features, "b") }},
		{"none", false, func(e *Entitlements) { e.Features = nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			changed := base()
			test.change(changed)
			changed.Customer = ""
			first, again := base(), base()
			first.Customer, again.Customer = "", ""
			c := opened(t, Config{Source: Static(map[string]*Entitlements{"first": first, "changed": changed, "again": again})})
			loaded(t, c, "first", "changed", "again")
			require.Equal(t, test.same, SamePlan(c, "first", "changed"))
			require.True(t, SamePlan(c, "first", "again"), "it is still known")
		})
	}
}

func TestPlanFindsAllOfItsFeaturesAndNoOther(t *testing.T) {
	for _, features := range []int{0, 1, 2, 3, 4, 5, 8, 50, 1000} {
		e := &Entitlements{Features: make(map[string]Grant)}
		for i := range features {
			e.Features[fmt.Sprint("f", i)] = Grant{Enabled: i%3 != 0, Kind: KindNumeric, Limit: int64(i)}
		}
		c := opened(t, Config{Source: Static(map[string]*Entitlements{"a": e})})
		loaded(t, c, "a")
		for i := range features {
			code, want := fmt.Sprint("f", i), int64(i)
			if i%3 == 0 {
				want = -1
			}
			require.Equal(t, want, c.Number("a", code, -1))
			require.Equal(t, i%3 != 0, c.Allowed("a", code))
			require.Equal(t, want, c.Customer("a").Number(c.Feature(code), -1))
		}
		for i := range 2000 {
			require.Equal(t, ReasonNotGranted, c.Decide("a", fmt.Sprint("g", i)).Reason)
			require.False(t, c.Allowed("a", fmt.Sprint("g", i)))
		}
	}
}

// Plans that differ in their switches only are known side by side: that many are
// off says nothing.
func TestPlansThatDifferInASwitchAreInternedApart(t *testing.T) {
	const plans = 50
	all := make(map[string]*Entitlements)
	for _, round := range []string{"first", "again"} {
		for off := range plans {
			features := make(map[string]Grant)
			for f := range plans {
				features[fmt.Sprintf("feature-%02d", f)] = Grant{Enabled: f != off}
			}
			all[fmt.Sprint(round, off)] = &Entitlements{Plan: "p", Features: features}
		}
	}
	c := opened(t, Config{Source: Static(all)})
	for _, round := range []string{"first", "again"} {
		for off := range plans {
			loaded(t, c, fmt.Sprint(round, off))
		}
	}
	for off := range plans {
		require.True(t, SamePlan(c, fmt.Sprint("first", off), fmt.Sprint("again", off)), off)
	}
}
