package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// small is a workload whose figures can be worked out by hand: every customer is
// in use all the time, and nothing is near a bound.
func small() Workload {
	w := usual()
	w.Customers, w.Features, w.Checks, w.Zipf, w.Usage, w.Cells = 20, 10, 400, 0, 100, 10
	return w
}

func simulate(t *testing.T, w Workload, c Candidate, sp span) Measured {
	t.Helper()
	require.NoError(t, w.validate())
	s := &simulator{t: t, w: w, load: synthetic(w), stopped: func() bool { return false }}
	m, err := s.run(c, sp)
	require.NoError(t, err)
	return m
}

func TestSimulatedFigures(t *testing.T) {
	c := defaults()
	c.MaxCustomers, c.TTL, c.DenyTTL = 100, 4*time.Second, time.Minute
	m := simulate(t, small(), c, span{5 * time.Second, 20 * time.Second})
	require.InDelta(t, 1, m.HitRatio, 1e-9)
	// Each customer is refreshed every 85 to 100 % of a TTL, less a tick.
	require.InDelta(t, 20/(0.925*3.9), m.Reads, 0.5)
	require.Zero(t, m.Refused)
	require.InDelta(t, 1.8, m.P50.Seconds(), 0.3)
	require.InDelta(t, 3.5, m.P99.Seconds(), 0.4)
	// A flush a second takes all ten cells in one request.
	require.InDelta(t, 1, m.Posts, 0.1)
	require.InDelta(t, 10, m.PerThousand, 1)
	// What gathers in a second, and what is on its way for 40 ms meanwhile.
	require.InDelta(t, 104, float64(m.AtRisk), 2)
	require.LessOrEqual(t, m.Later, 100*time.Millisecond)
	require.Greater(t, m.Memory, int64(10<<10))
	require.Less(t, m.Memory, int64(4<<20))
}

func TestSimulatedDelivery(t *testing.T) {
	c := defaults()
	c.MaxCustomers, c.FlushInterval, c.FlushSize = 100, 2*time.Second, 5
	m := simulate(t, small(), c, span{5 * time.Second, 20 * time.Second})
	require.InDelta(t, 1, m.Posts, 0.1, "ten cells every two seconds, five a request")
	require.InDelta(t, 204, float64(m.AtRisk), 4)

	w := small()
	w.Family = "sdk"
	c = defaults()
	c.MaxCustomers = 100
	m = simulate(t, w, c, span{5 * time.Second, 10 * time.Second})
	require.InDelta(t, 10, m.Posts, 1, "each cell a request of its own, every second")
}

// The workload that is meant where nothing is said can be held, if not by defaults.
func TestTheUsualWorkloadCanBeHeld(t *testing.T) {
	w, sp := usual(), span{5 * time.Second, 10 * time.Second}
	require.NotEmpty(t, w.violations(simulate(t, w, defaults(), sp)))
	c := defaults()
	c.MaxCustomers, c.DenyTTL = 2500, c.TTL
	require.Empty(t, w.violations(simulate(t, w, c, sp)))
}

// A cache that was just filled is as it will be: nothing that a later window shows
// is not in the first.
func TestTheFirstWindowIsLikeAnyOther(t *testing.T) {
	w := small()
	w.Customers, w.Cells = 200, 200
	c := defaults()
	c.MaxCustomers, c.TTL, c.DenyTTL = 300, 10*time.Second, time.Minute
	first := simulate(t, w, c, span{leastSettle, 10 * time.Second})
	later := simulate(t, w, c, span{50 * time.Second, 10 * time.Second})
	require.InEpsilon(t, later.Reads, first.Reads, 0.1)
	require.InEpsilon(t, later.P99.Seconds(), first.P99.Seconds(), 0.05)
	require.InDelta(t, later.AtRisk, first.AtRisk, 3)
	require.InDelta(t, later.Memory, first.Memory, 256<<10)
}

// Where half of the customers fit, the others are loaded when they come and pushed
// out again: at most as often as the billing API lets them.
func TestSimulatedLimits(t *testing.T) {
	c := defaults()
	c.MaxCustomers = 10
	m := simulate(t, small(), c, span{5 * time.Second, 10 * time.Second})
	require.Less(t, m.HitRatio, 0.9)
	require.Greater(t, m.Reads, 5.0, "to keep ten fresh takes one in three seconds")

	w := small()
	w.RateLimit = 2 // of 20 customers, all due every 4 s
	c = defaults()
	c.MaxCustomers, c.TTL = 100, 4*time.Second
	m = simulate(t, w, c, span{5 * time.Second, 20 * time.Second})
	require.InDelta(t, 1, m.HitRatio, 1e-9, "an old answer is an answer")
	require.LessOrEqual(t, m.Reads, 4.5, "the limit, and what is refused")
	require.Positive(t, m.Refused)
	require.Greater(t, m.P99, 6*time.Second)
	require.NotEmpty(t, w.violations(m))
}

func TestSimulatedTrace(t *testing.T) {
	name := filepath.Join(t.TempDir(), "trace.jsonl")
	begin := time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	var text strings.Builder
	for i := range 100 { // ten seconds
		at := begin.Add(time.Duration(i) * 100 * time.Millisecond).Format(time.RFC3339Nano)
		text.WriteString(`{"time":"` + at + `","customer":"c` + string(rune('0'+i%5)) + `","feature":"export"}` + "\n")
		text.WriteString(`{"time":"` + at + `","customer":"c0","feature":"calls","n":2}` + "\n")
	}
	require.NoError(t, os.WriteFile(name, []byte(text.String()), 0o600))
	o, err := parse([]string{"-trace", name})
	require.NoError(t, err)
	s := &simulator{t: t, w: o.Workload, load: o.load, stopped: func() bool { return false }}
	c := defaults()
	c.MaxCustomers = 100
	m, err := s.run(c, span{5 * time.Second, 30 * time.Second})
	require.NoError(t, err)
	require.InDelta(t, 1, m.HitRatio, 1e-9)
	require.InDelta(t, 10, float64(m.AtRisk), 2, "ten uses a second")
	require.InDelta(t, 100, m.PerThousand, 10, "one request a second")
}

// A moment in a hundred is one late flush.
func TestAtRiskPassesOverOneMomentInAHundred(t *testing.T) {
	var some tally
	for n := range uint64(200) {
		some.sample(n % 100)
	}
	require.Equal(t, 99, some.atRisk())
	some.sample(100_000)
	require.Equal(t, 99, some.atRisk())
	require.Zero(t, new(tally).atRisk())
}

var link = regexp.MustCompile(`https?://[^"<\s]*`)

// One search from the flags to the page, over a workload that is small enough.
func TestAQuickSearch(t *testing.T) {
	page := filepath.Join(t.TempDir(), "tune.html")
	var out, errs bytes.Buffer
	code := run(t.Context(), t, []string{
		"-quick", "-time", "3s", "-customers", "20", "-features", "10", "-checks", "200", "-usage", "50", "-cells", "10", "-html", page,
	}, &out, &errs)
	require.Zero(t, code, "%s%s", &out, &errs)
	for _, part := range []string{"defaults  ", "FlushSize: smaller batches", "* ", "promise", "usage at risk", "entitlements.Config{", "Report: " + page} {
		require.Contains(t, out.String(), part)
	}
	require.NotContains(t, out.String(), "PASS")
	html, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Contains(t, string(html), "<svg")
	for _, address := range link.FindAllString(string(html), -1) {
		require.Equal(t, "http://www.w3.org/2000/svg", address)
	}
	require.NotContains(t, string(html), "<script")
	require.NotContains(t, string(html), "<link")
	for _, part := range []string{"go run ./bench/tune -quick", "<td>customers</td><td>20</td>", "≤ 100", "entitlements.Config{", "MaxCustomers", "go1."} {
		require.Contains(t, string(html), part)
	}
}

// Ctrl-C in the middle of a run.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &cancelling{cancel: cancel, after: 4}
	code := run(ctx, t, []string{"-customers", "20", "-checks", "200", "-usage", "50", "-cells", "10", "-time", "3s", "-html", ""}, out, io.Discard)
	require.Equal(t, exitInterrupted, code)
	require.Contains(t, out.String(), "MaxCustomers: customers who do not fit")
	require.NotContains(t, out.String(), "FlushSize")
	require.Contains(t, out.String(), "Interrupted. The best so far:")
}

// cancelling cancels when it was written to so often.
type cancelling struct {
	bytes.Buffer
	cancel func()
	after  int
}

func (c *cancelling) Write(p []byte) (int, error) {
	if c.after--; c.after == 0 {
		c.cancel()
	}
	return c.Buffer.Write(p)
}

func TestComparePromises(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Measured)
		missed int
	}{
		"kept":                    {func(*Measured) {}, 0},
		"a little worse":          {func(m *Measured) { m.P99 += 4 * time.Second; m.Reads += 4; m.AtRisk += 90; m.Memory += 1 << 20 }, 0},
		"better":                  {func(m *Measured) { m.P99, m.Reads, m.Memory, m.AtRisk = 0, 0, 0, 0 }, 0},
		"tiny figures":            {func(m *Measured) { m.HitRatio, m.Refused = 0.996, 0.4 }, 0},
		"hits":                    {func(m *Measured) { m.HitRatio = 0.99 }, 1},
		"age":                     {func(m *Measured) { m.P99 += 6 * time.Second }, 1},
		"requests and refusals":   {func(m *Measured) { m.Reads += 6; m.Refused = 1 }, 2},
		"memory":                  {func(m *Measured) { m.Memory += 2 << 20 }, 1},
		"usage at risk":           {func(m *Measured) { m.AtRisk += 110 }, 1},
		"usage requests per 1000": {func(m *Measured) { m.PerThousand += 1 }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			require.Equal(t, c.missed, compare(&out, known(), good, with(c.change)))
			require.Equal(t, c.missed, strings.Count(out.String(), "MISSED"))
		})
	}
}
