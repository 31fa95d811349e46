package main

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements/bench/raw"
)

func TestAtMostAndNoGarbage(t *testing.T) {
	row := func(median, allocs, bytes float64) *raw.Row {
		return &raw.Row{Median: median, Allocs: &allocs, Bytes: &bytes}
	}
	for _, tc := range []struct {
		judge func(*raw.Row)
		row   *raw.Row
		bar   string
		pass  bool
	}{
		{atMost(8, 1), row(8, 1, 64), "≤ 8.00 × floor, 1 allocs", true},
		{atMost(8, 1), row(8.01, 1, 64), "≤ 8.00 × floor, 1 allocs", false},
		{atMost(8, 1), row(8, 2, 64), "≤ 8.00 × floor, 1 allocs", false},
		{noGarbage(1.4), row(1.4, 0, 0), "≤ 1.40 × floor, 0 allocs, 0 B", true},
		{noGarbage(1.4), row(1.41, 0, 0), "≤ 1.40 × floor, 0 allocs, 0 B", false},
		{noGarbage(1.4), row(1.4, 0, 8), "≤ 1.40 × floor, 0 allocs, 0 B", false},
	} {
		tc.judge(tc.row)
		require.Equal(t, tc.bar, tc.row.Bar)
		require.Equal(t, tc.pass, *tc.row.Pass, tc.bar)
	}
	quiet := row(1, 0, 0)
	quiet.To = "quiet"
	atMost(1.15, 0)(quiet)
	require.Equal(t, "≤ 1.15 × quiet, 0 allocs", quiet.Bar)
	reported(quiet)
	require.Equal(t, "reported", quiet.Bar)
}

// An SDK is compared with this library at the same work on as many cores.
func TestSDKsAreJudgedByOurRow(t *testing.T) {
	r := newRunner(io.Discard)
	r.rows = []raw.Row{
		{Suite: "checks", Work: "few, uniform", Who: ours, Cores: 1, Median: 1.2},
		{Suite: "checks", Work: "few, uniform", Who: ours + byHandle, Cores: 1, Median: 0.3},
		{Suite: "checks", Work: "few, uniform", Who: ours, Cores: 2, Median: 2},
		{Suite: "checks", Work: "many, uniform", Who: ours, Cores: 1, Median: 3},
	}
	for median, pass := range map[float64]bool{12: true, 11.9: false} {
		row := raw.Row{Suite: "checks", Work: "few, uniform", Who: "flags", Cores: 1, Median: median}
		r.slowerThanOurs(&row)
		require.Equal(t, "≥ 10 × ours, so ≥ 12.0 × floor", row.Bar)
		require.Equal(t, pass, *row.Pass)
	}
}

func TestOurs(t *testing.T) {
	for who, want := range map[string]bool{
		"entitlements": true, "entitlements, handle": true, "entitlements, on disk": true, "ristretto": false, "map, handle": false, "": false,
	} {
		require.Equal(t, want, isOurs(who), who)
	}
}
