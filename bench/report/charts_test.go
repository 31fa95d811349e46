package main

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements/bench/raw"
	"github.com/entitlements-go/entitlements/bench/text"
)

func everySuite() []raw.Row {
	check := func(work, who string, cores int, median float64) raw.Row {
		return raw.Row{Suite: "checks", Work: work, Who: who, Cores: cores, Q1: median * 0.9, Median: median, Q3: median * 1.1}
	}
	hits := func(trace, who string, capacity, hits float64) raw.Row {
		return raw.Row{
			Suite: "caching", Work: trace + ", capacity " + text.Count(capacity) + " %", Who: who,
			Figures: map[string]float64{"capacity": capacity, "hits": hits},
		}
	}
	took := func(who string, p50, p99 float64) raw.Row {
		return raw.Row{Suite: "latency", Work: "a load", Who: who, Figures: map[string]float64{"p50": p50, "p99": p99, "max": 5e6, "calls": 7}}
	}
	return []raw.Row{
		check("10 000 customers, Zipf 1.1", "entitlements", 1, 1.09),
		check("10 000 customers, Zipf 1.1", "entitlements", 2, 77),
		check("1 000 000 customers, Zipf 1.1", "entitlements", 1, 88),
		check("10 000 customers, Zipf 1.1", "a handle", 1, 0.28),
		check("10 000 customers, Zipf 1.1", "flags & more", 1, 147),
		hits("steady", "entitlements", 1, 41), hits("steady", "optimum", 1, 66),
		hits("steady", "entitlements", 10, 61), hits("steady", "optimum", 10, 85),
		hits("churn", "entitlements", 1, 50), hits("churn", "optimum", 1, 76),
		hits("scans", "entitlements", 1, 30), hits("scans", "optimum", 1, 50),
		took("an empty call", 90, 2000), took("Allowed", 200, 9000),
	}
}

func TestCharts(t *testing.T) {
	files, err := charts(everySuite())
	require.NoError(t, err)
	again, err := charts(everySuite())
	require.NoError(t, err)
	require.Equal(t, files, again, "the same rows give the same bytes")

	for i, tc := range []struct {
		path  string
		texts []string // in order of appearance, whatever stands between
	}{
		{"docs/img/checks.svg", []string{
			"One check: 10 000 customers, Zipf 1.1, 1 core", "times as long as two map look-ups (logarithmic)",
			"0.2", "1", "10", "100", "200",
			"flags & more", "entitlements", "a handle", "147", "1.09", "0.28",
		}},
		{"docs/img/hitratio.svg", []string{
			"entitlements", "optimum",
			"steady", "capacity, % of the customers", "1", "10", "hits, % of the checks", "100",
			"churn", "scans",
		}},
		{"docs/img/latency.svg", []string{
			"an empty call", "Allowed", "Latency: a load", "percentile of the calls", "50 %", "99 %",
			"time of a call (logarithmic)", "10 ns", "1 µs", "10 µs",
		}},
	} {
		require.Equal(t, tc.path, files[i].path)
		texts := textsOf(t, files[i].content)
		at := 0
		for _, want := range tc.texts {
			next := slices.Index(texts[at:], want)
			require.GreaterOrEqual(t, next, 0, "%s: %q after %q, in %q", tc.path, want, texts[:at], texts)
			at += next + 1
		}
		require.NotContains(t, texts, "77.0", "what was measured on two cores")
		require.NotContains(t, texts, "88.0", "what was measured with more customers")
	}
}

// Labels on one line, of an axis or a legend, have at least the width of their
// text between them.
func TestTicksDoNotTouch(t *testing.T) {
	wide := raw.Row{Suite: "checks", Work: "10 000 customers, Zipf 1.1", Who: "over the network", Cores: 1, Median: 25_000}
	files, err := charts(append(everySuite(), wide))
	require.NoError(t, err)
	for _, f := range files {
		var last label
		for _, x := range decode(t, f.content) {
			if x.Y == last.Y {
				require.Greater(t, x.X-last.X, 5*float64(len([]rune(last.Text))), "%s: %q and %q", f.path, last.Text, x.Text)
			}
			last = x
		}
	}
}

func TestNoRowsNoChart(t *testing.T) {
	files, err := charts([]raw.Row{{Suite: "recorders"}, {Suite: "checks", Work: "10 000 customers", Cores: 2, Median: 1}})
	require.NoError(t, err)
	require.Empty(t, files)
}

// label is a text of a chart.
type label struct {
	X, Y float64
	Text string
}

func decode(t *testing.T, svg []byte) []label {
	t.Helper()
	var texts []label
	in := false
	dec := xml.NewDecoder(strings.NewReader(string(svg)))
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return texts
		}
		require.NoError(t, err)
		switch x := token.(type) {
		case xml.StartElement:
			if in = x.Name.Local == "text"; in {
				texts = append(texts, label{X: attribute(t, x, "x"), Y: attribute(t, x, "y")})
			}
		case xml.EndElement:
			in = false
		case xml.CharData:
			if in {
				texts[len(texts)-1].Text += string(x)
			}
		}
	}
}

func attribute(t *testing.T, e xml.StartElement, name string) float64 {
	t.Helper()
	for _, a := range e.Attr {
		if a.Name.Local == name {
			x, err := strconv.ParseFloat(a.Value, 64)
			require.NoError(t, err)
			return x
		}
	}
	t.Fatalf("no attribute %s in %v", name, e)
	return 0
}

func textsOf(t *testing.T, svg []byte) []string {
	t.Helper()
	var out []string
	for _, x := range decode(t, svg) {
		out = append(out, x.Text)
	}
	return out
}
