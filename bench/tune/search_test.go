package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
)

// known is a workload whose figures the tests know, whatever is usual.
func known() Workload {
	return Workload{
		Customers: 4000, Features: 30, Checks: 2000, Zipf: 1.1, Usage: 500, Cells: 4000,
		Latency: 40 * time.Millisecond, RateLimit: 100, Family: "core",
		Memory: 64 << 20, Freshness: time.Minute, AtRisk: 2000,
	}
}

// good holds all bounds of the known workload.
var good = Measured{HitRatio: 1, P50: 20 * time.Second, P99: 50 * time.Second, Reads: 50, Posts: 1, AtRisk: 1000, Memory: 10 << 20, Window: 30 * time.Second}

func with(change func(*Measured)) Measured {
	m := good
	change(&m)
	return m
}

// ttls is a table of three TTLs, the default among them.
func ttls(first, byDefault, last Measured) Table {
	ttl := func(d time.Duration) Candidate {
		c := defaults()
		c.TTL = d
		return c
	}
	return Table{settings()[1], []Row{
		{Candidate: ttl(15 * time.Second), Measured: first},
		{Candidate: ttl(30 * time.Second), Measured: byDefault},
		{Candidate: ttl(60 * time.Second), Measured: last},
	}}
}

func TestChoose(t *testing.T) {
	refused := with(func(m *Measured) { m.Refused = 3 })
	old := with(func(m *Measured) { m.P99 = 70 * time.Second })
	fewer := func(reads float64) Measured { return with(func(m *Measured) { m.Reads = reads }) }
	short := func(reads float64) Measured {
		return with(func(m *Measured) { m.Reads, m.Window = reads, 4*time.Second })
	}
	for name, c := range map[string]struct {
		table Table
		want  int
	}{
		"equals stay at the default":              {ttls(good, good, good), 1},
		"nearly fewer requests are a tie":         {ttls(fewer(49.5), good, fewer(49.2)), 1},
		"fewer by chance are a tie":               {ttls(short(38), short(40), short(37)), 1},
		"fewer requests":                          {ttls(good, good, fewer(40)), 2},
		"more hits before fewer requests":         {ttls(good, good, with(func(m *Measured) { m.HitRatio, m.Reads = 0.98, 10 })), 1},
		"nearly as many hits, fewer requests":     {ttls(good, good, with(func(m *Measured) { m.HitRatio, m.Reads = 0.9995, 10 })), 2},
		"less memory last":                        {ttls(with(func(m *Measured) { m.Memory = 5 << 20 }), good, good), 0},
		"fewer requests before less memory":       {ttls(with(func(m *Measured) { m.Memory = 5 << 20 }), good, fewer(40)), 2},
		"bounds before anything":                  {ttls(refused, refused, with(func(m *Measured) { m.HitRatio, m.Reads = 0.5, 90 })), 2},
		"memory is a bound":                       {ttls(good, with(func(m *Measured) { m.Memory = 65 << 20 }), good), 0},
		"usage at risk is a bound":                {ttls(good, with(func(m *Measured) { m.AtRisk = 2001 }), good), 0},
		"ages that grow are over every bound":     {ttls(good, with(func(m *Measured) { m.Later = 4 * time.Second }), good), 0},
		"nearest to the bounds":                   {ttls(with(func(m *Measured) { m.P99 = 90 * time.Second }), with(func(m *Measured) { m.Refused = 50 }), old), 2},
		"equally far stays at the default":        {ttls(old, old, old), 1},
		"hits are not given up for what is short": {ttls(with(func(m *Measured) { m.HitRatio, m.Refused = 0.6, 2 }), with(func(m *Measured) { m.Refused = 30 }), with(func(m *Measured) { m.Refused = 40 })), 1},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, choose(known(), c.table)) })
	}
}

func TestViolationsAreToldInOrder(t *testing.T) {
	var told []string
	for _, v := range known().violations(Measured{
		Reads: 98.2, Refused: 17.5, P99: 64 * time.Second, Memory: 96 << 20, AtRisk: 2100, Window: 30 * time.Second, Later: 10 * time.Second,
	}) {
		told = append(told, v.text)
	}
	require.Equal(t, []string{
		"17.5 requests/s refused or held back: the limit is 100",
		"age p99 is 1m4s: 4s more than 1m",
		"refreshes fall behind: 10s later in 30s",
		"memory is 96 MiB: 32 MiB more than 64 MiB",
		"2100 usage events at risk: 100 more than 2000",
	}, told)
	require.Empty(t, known().violations(good))
	refused := func(m *Measured) { m.Refused = 24.0 / 30 }
	require.Empty(t, known().violations(with(refused)), "one burst in 30 s is chance")
	refused = func(m *Measured) { m.Refused = 26.0 / 30 }
	require.Len(t, known().violations(with(refused)), 1)
}

// modelled is a service without surprises: what is kept is loaded once a TTL.
func modelled(w Workload, c Candidate) Measured {
	m := good
	kept := min(c.MaxCustomers, w.Customers)
	m.HitRatio = float64(kept) / float64(w.Customers)
	m.Reads = float64(kept)/c.TTL.Seconds() + float64(w.Customers-kept)
	m.P99 = c.TTL
	m.Refused = max(0, m.Reads-float64(w.RateLimit))
	m.Memory = int64(c.MaxCustomers) * 200
	m.AtRisk = int(w.Usage * c.FlushInterval.Seconds())
	return m
}

func TestSearchFindsWhatAModelSays(t *testing.T) {
	w := known()
	w.Customers = 4000
	var asked []Candidate
	var left []int
	r, err := search(w, false, func(_ string, to int, c Candidate) (Measured, error) {
		asked, left = append(asked, c), append(left, to)
		return modelled(w, c), nil
	})
	require.NoError(t, err)
	want := defaults()
	want.MaxCustomers, want.TTL = 5000, time.Minute
	require.Equal(t, want, r.Best)
	require.Empty(t, r.Unmet)
	require.True(t, r.Final)
	require.Equal(t, modelled(w, want), r.Promise)
	require.Equal(t, defaults(), asked[0], "the defaults come first")
	require.Equal(t, time.Minute, asked[2].TTL, "they hold nothing: the rest is tried with what does")
	require.Equal(t, want, asked[len(asked)-1], "what is recommended is run once more")
	require.InDelta(t, len(asked), left[0], 5, "about how many runs there will be is known from the start")
	require.Equal(t, 1, left[len(left)-1])
	require.Equal(t, "best", verdictOf(t, r, "MaxCustomers", "5000"))
	require.Equal(t, "33.3 requests/s refused or held back: the limit is 100", verdictOf(t, r, "TTL", "30s"))
	require.Equal(t, "22.2 requests/s more", verdictOf(t, r, "TTL", "45s"))
	require.Equal(t, "stays: the default", verdictOf(t, r, "FlushInterval", "1s"))
	require.Equal(t, "ties", verdictOf(t, r, "FlushInterval", "3.6s"))
}

// What is chosen while nothing holds the bounds is the least bad. Once something
// does it is asked again.
func TestHastyChoicesAreMadeAgain(t *testing.T) {
	w := known()
	w.AtRisk = 400 // FlushInterval, the last but one, has to come down
	runs := make(map[Candidate]int)
	r, err := search(w, false, func(_ string, _ int, c Candidate) (Measured, error) {
		runs[c]++
		return modelled(w, c), nil
	})
	require.NoError(t, err)
	require.Empty(t, r.Unmet)
	require.Equal(t, 720*time.Millisecond, r.Best.FlushInterval)
	require.Equal(t, "best", verdictOf(t, r, "MaxCustomers", "5000"))
	require.Equal(t, "stays: the default", verdictOf(t, r, "FetchConcurrency", "64"))
	for _, table := range r.Tables {
		for _, row := range table.Rows {
			if row.Chosen {
				require.Empty(t, w.violations(row.Measured), table.Setting.name)
			}
		}
	}
}

func verdictOf(t *testing.T, r Result, setting, value string) string {
	t.Helper()
	for _, table := range r.Tables {
		for _, row := range table.Rows {
			if table.Setting.name == setting && table.Setting.text(row.Candidate) == value {
				return row.Verdict
			}
		}
	}
	require.Failf(t, "not tried", "%s %s", setting, value)
	return ""
}

func TestWhatCannotBeIsExplained(t *testing.T) {
	w := known()
	w.Customers, w.AtRisk, w.Memory = 10_000, 20, 1<<20
	r, err := search(w, false, func(_ string, _ int, c Candidate) (Measured, error) { return modelled(w, c), nil })
	require.NoError(t, err)
	text := strings.Join(conclusion(r), "\n")
	for _, part := range []string{
		"No settings that were tried hold the workload's bounds.",
		"66.7 requests/s refused or held back: the limit is 100",
		"10000 customers at TTL 1m need 167 requests/s, since each is one; the limit is 100: a freshness of 1m41s or more, " +
			"a limit above 167, or a BatchSource, which needs 1.67 for 100 customers at a time",
		"memory is ", "or fewer customers a process",
		"usage events at risk", "or SpoolDir, which keeps them on disk",
	} {
		require.Contains(t, text, part)
	}
}

// The best so far stays the best, whatever was tried last.
func TestAnInterruptedSearchSaysWhatItHas(t *testing.T) {
	w, runs := known(), 0
	w.Customers = 2000
	r, err := search(w, false, func(_ string, _ int, c Candidate) (Measured, error) {
		if runs++; runs == 8 {
			return Measured{}, errInterrupted
		}
		return modelled(w, c), nil
	})
	require.ErrorIs(t, err, errInterrupted)
	require.False(t, r.Final)
	require.Len(t, r.Tables, 3)
	require.Len(t, r.Tables[1].Rows, 4)
	require.Len(t, r.Tables[2].Rows, 1, "what was known before")
	require.Equal(t, 2500, r.Best.MaxCustomers)
	require.Equal(t, time.Minute, r.Best.TTL)
	require.Contains(t, conclusion(r), "Interrupted. The best so far:")

	runs = 5
	r, err = search(w, false, func(_ string, _ int, c Candidate) (Measured, error) {
		if runs++; runs == 8 {
			return Measured{}, errInterrupted
		}
		return modelled(w, c), nil
	})
	require.ErrorIs(t, err, errInterrupted)
	require.Equal(t, defaults(), r.Best, "and not the one that was run after the defaults")
	require.Len(t, r.Tables[0].Rows, 2)
}

func TestTriedFollowsFromTheWorkload(t *testing.T) {
	for _, w := range []Workload{known(), {Customers: 1, RateLimit: 1, Freshness: time.Second, AtRisk: 1, Usage: 0.1, Family: "sdk"}} {
		best := defaults()
		best.MaxCustomers = 10 // a Client for 100 000 takes its time
		for _, s := range settings()[1:] {
			full, quick := s.tried(w, best, false), s.tried(w, best, true)
			require.True(t, slices.ContainsFunc(quick, s.isDefault), "%s has its default", s.name)
			require.LessOrEqual(t, len(quick), 2)
			require.GreaterOrEqual(t, len(full), len(quick))
			for i, c := range full {
				require.True(t, i == 0 || s.rank(full[i-1]) < s.rank(c), "%s rises", s.name)
				cfg := c.Config()
				cfg.Source = entitlements.Static(nil)
				client, err := entitlements.New(cfg)
				require.NoError(t, err, "%s %s", s.name, s.text(c))
				require.NoError(t, client.Close(t.Context()))
			}
		}
	}
}
