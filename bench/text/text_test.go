package text

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements/bench/raw"
)

func TestTitle(t *testing.T) {
	for want, row := range map[string]raw.Row{
		"Track":                      {Suite: "usage", Work: "Track", Who: "entitlements"},
		"Track, 2 cores":             {Suite: "usage", Work: "Track", Cores: 2},
		"ristretto, uniform, 1 core": {Suite: "checks", Work: "uniform", Who: "ristretto", Version: "v2", Cores: 1},
	} {
		require.Equal(t, want, Title(row))
	}
}

func TestMeasured(t *testing.T) {
	none, few, some := 0.0, 0.00012, 8.0
	for _, tc := range []struct {
		row  raw.Row
		want string
	}{
		{
			raw.Row{Suite: "checks", Median: 1.094, NS: 73.71, FloorNS: 67.2, Allocs: &none, Bytes: &some},
			"1.09 × (73.7 ns, floor 67.2 ns), 0 allocs, 8 B",
		},
		{
			raw.Row{Suite: "reads", Median: 12.34, NS: 500, FloorNS: 40, To: "Allowed", Allocs: &none, Bytes: &none},
			"12.3 × (500.0 ns, Allowed 40.0 ns), 0 allocs",
		},
		{raw.Row{Suite: "caching", Figures: map[string]float64{"hits": 50}, Allocs: &few}, "50.0 % hits, 0 allocs"},
		{
			raw.Row{Suite: "recorders", Figures: map[string]float64{"calls": 1e6, "delivered": 20, "told": 5, "lost": 999_975, "ns": 6}},
			"6 ns/call, < 0.01 % delivered, 5 told of, 999 975 silently lost",
		},
		{
			raw.Row{Suite: "latency", Figures: map[string]float64{"p50": 123, "p99": 1234, "p99.9": 98_765_432, "max": 2e9}},
			"p50 123ns, p99 1.23µs, p99.9 98.8ms, max 2s",
		},
		{raw.Row{Suite: "caching", Figures: map[string]float64{"hits": 77.66, "held": 9}}, "77.7 % hits"},
		{raw.Row{Suite: "memory", Figures: map[string]float64{"bytes": 345.6}}, "346 B a customer"},
		{raw.Row{Suite: "another", Figures: map[string]float64{"bytes": 12_345.6, "a share": 0.12345}}, "a share 0.123, bytes 12 346"},
	} {
		require.Equal(t, tc.want, Measured(tc.row))
	}
}

func TestNumbers(t *testing.T) {
	for want, got := range map[string]string{
		"100 %": Percent(3, 3), "0 %": Percent(0, 3), "33.33 %": Percent(1, 3), "99.99 %": Percent(99_999, 100_000), "–": Percent(0, 0),
		"0": Count(0.4), "999": Count(999), "1 000": Count(999.6), "12 345 678": Count(12_345_678), "−1 234": Count(-1234),
		"9.99": Times(9.99), "10.0": Times(9.999), "99.9": Times(99.94), "100": Times(99.96),
		"1 core": Cores(1), "2 cores": Cores(2),
	} {
		require.Equal(t, want, got)
	}
}
