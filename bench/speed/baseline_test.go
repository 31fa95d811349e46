package main

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements/bench/paired"
	"github.com/entitlements-go/entitlements/bench/raw"
)

func TestBaseline(t *testing.T) {
	b := baseline{"usage: Track, 2 cores": 2}
	for _, tc := range []struct {
		name     string
		work     string
		measured []float64 // by each try
		tries    int
		pass     bool
		bar      string
	}{
		{"as it was", "Track", []float64{2}, 1, true, "≤ 1.25 × the baseline of 2.00 ×, try 1"},
		{"faster", "Track", []float64{0.5}, 1, true, "≤ 1.25 × the baseline of 2.00 ×, try 1"},
		{"just as slow as it may be", "Track", []float64{2.5}, 1, true, "≤ 1.25 × the baseline of 2.00 ×, try 1"},
		{"a bad moment", "Track", []float64{9, 2.51, 2.1}, 3, true, "≤ 1.25 × the baseline of 2.00 ×, try 3"},
		{"slower each time", "Track", []float64{2.6, 2.7, 2.51}, 3, false, "≤ 1.25 × the baseline of 2.00 ×, try 3"},
		{"unheard of", "Trick", []float64{1}, 1, false, "has no baseline: `make bench` measures it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			try := 0
			row := raw.Row{Suite: "usage", Work: tc.work, Who: ours, Cores: 2}
			b.judge(&row, func(row *raw.Row) { row.Median = tc.measured[try]; try++ })
			require.Equal(t, tc.tries, try)
			require.Equal(t, tc.pass, *row.Pass)
			require.Equal(t, tc.bar, row.Bar)
			require.InDelta(t, tc.measured[try-1], row.Median, 0)
		})
	}
}

func TestReadBaseline(t *testing.T) {
	dir := t.TempDir()
	for _, s := range suites() {
		if s.ratios {
			require.NoError(t, writeResults(dir, s.name, []raw.Row{
				{Suite: s.name, Work: "a ratio", Who: ours, Cores: 1, Median: 1.5},
				{Suite: s.name, Work: "a figure", Who: ours, Figures: map[string]float64{"calls": 7}},
			}))
		}
	}
	b, err := readBaseline(dir)
	require.NoError(t, err)
	require.Equal(t, baseline{"reads: a ratio, 1 core": 1.5, "usage: a ratio, 1 core": 1.5, "checks: a ratio, 1 core": 1.5}, b)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "usage.jsonl"), []byte("{}\n{"), 0o644))
	_, err = readBaseline(dir)
	require.ErrorContains(t, err, "usage.jsonl: raw: read row 1")
	require.NoError(t, os.Remove(filepath.Join(dir, "usage.jsonl")))
	_, err = readBaseline(dir)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// A ratio that got worse fails -check, whatever its bar allows.
func TestCheckMeasuresAgain(t *testing.T) {
	r := newRunner(io.Discard)
	r.sizes = tiny()
	row := raw.Row{Work: "work", Who: ours}
	r.baseline = baseline{"usage: work, 1 core": 1e-9}
	r.suite = "usage"
	work := func(int) bool { return true }
	r.ratio(row, paired.Setup{}, work, work, reported)
	require.Equal(t, 1, r.missed)
	r.baseline = baseline{"usage: work, 1 core": 1e9}
	r.ratio(row, paired.Setup{}, work, work, reported)
	require.Equal(t, 1, r.missed)
	require.Equal(t, 2, r.judged)
}
