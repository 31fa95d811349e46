package paylera_test

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements/adapters/paylera"
)

func TestFormatDecimal(t *testing.T) {
	for _, c := range []struct {
		q        int64
		decimals int
		want     string
	}{
		{0, 0, "0"},
		{0, 3, "0"},
		{1, 0, "1"},
		{12345, 3, "12.345"},
		{12300, 3, "12.3"},
		{12000, 3, "12"},
		{1, 3, "0.001"},
		{-1, 3, "-0.001"},
		{-1500, 3, "-1.5"},
		{100, 0, "100"},
		{math.MaxInt64, 0, "9223372036854775807"},
		{math.MaxInt64, 18, "9.223372036854775807"},
		{math.MinInt64, 0, "-9223372036854775808"},
		{math.MinInt64, 3, "-9223372036854775.808"},
		{math.MinInt64, 18, "-9.223372036854775808"},
	} {
		require.Equal(t, c.want, paylera.FormatDecimal(c.q, c.decimals), "%d with %d decimals", c.q, c.decimals)
	}
}

func TestParseDecimal(t *testing.T) {
	for _, c := range []struct {
		s        string
		decimals int
		down, up int64
	}{
		{"0", 0, 0, 0},
		{"-0", 2, 0, 0},
		{"0.000", 2, 0, 0},
		{"12.345", 3, 12345, 12345},
		{"12.345", 2, 1234, 1235},
		{"12.340", 2, 1234, 1234},
		{"-12.345", 2, -1235, -1234},
		{"0.001", 0, 0, 1},
		{"-0.001", 0, -1, 0},
		{"007", 1, 70, 70},
		{"1e3", 0, 1000, 1000},
		{"1.5E+2", 0, 150, 150},
		{"15e-1", 0, 1, 2},
		{"1e-400000000000000000000", 0, 0, 1},
		{"1e400000000000000000000", 0, math.MaxInt64, math.MaxInt64},
		{"-1e99", 0, math.MinInt64, math.MinInt64},
		{"9223372036854775807", 0, math.MaxInt64, math.MaxInt64},
		{"9223372036854775808", 0, math.MaxInt64, math.MaxInt64},
		{"9223372036854775806.5", 0, math.MaxInt64 - 1, math.MaxInt64},
		{"-9223372036854775808", 0, math.MinInt64, math.MinInt64},
		{"-9223372036854775807.5", 0, math.MinInt64, math.MinInt64 + 1},
		{"99999999999999999999", 0, math.MaxInt64, math.MaxInt64},
		{"-99999999999999999999", 0, math.MinInt64, math.MinInt64},
		{"9999999999999999999", 0, math.MaxInt64, math.MaxInt64},
		{"99999999999999999999999", 18, math.MaxInt64, math.MaxInt64},
	} {
		down, err := paylera.ParseDecimalDown(c.s, c.decimals)
		require.NoError(t, err, c.s)
		up, err := paylera.ParseDecimalUp(c.s, c.decimals)
		require.NoError(t, err, c.s)
		require.Equal(t, c.down, down, "%s with %d decimals, down", c.s, c.decimals)
		require.Equal(t, c.up, up, "%s with %d decimals, up", c.s, c.decimals)
	}
	for _, s := range []string{"", "-", ".", "1.", ".5", "1e", "e5", "1e1.5", "--1", "+1", "1,5", " 1", "0x10", "NaN", "1_000", "٣"} {
		_, err := paylera.ParseDecimalDown(s, 0)
		require.Error(t, err, "%q", s)
	}
}

// What is written is read back exactly, whatever the digits.
func TestDecimalRoundTrip(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	quantities := []int64{math.MinInt64, math.MinInt64 + 1, -1, 0, 1, math.MaxInt64}
	for range 10_000 {
		quantities = append(quantities, int64(random.Uint64())>>random.IntN(64))
	}
	for _, q := range quantities {
		decimals := random.IntN(19)
		s := paylera.FormatDecimal(q, decimals)
		down, err := paylera.ParseDecimalDown(s, decimals)
		require.NoError(t, err)
		up, err := paylera.ParseDecimalUp(s, decimals)
		require.NoError(t, err)
		require.Equal(t, [2]int64{q, q}, [2]int64{down, up}, "%s with %d decimals", s, decimals)
	}
}

func TestSaturation(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	numbers := []int64{math.MinInt64, math.MinInt64 + 1, -1, 0, 1, math.MaxInt64 - 1, math.MaxInt64}
	for range 50 {
		numbers = append(numbers, int64(random.Uint64()))
	}
	held := func(n *big.Int) int64 {
		if n.IsInt64() {
			return n.Int64()
		}
		if n.Sign() < 0 {
			return math.MinInt64
		}
		return math.MaxInt64
	}
	for _, a := range numbers {
		for _, b := range numbers {
			x, y := big.NewInt(a), big.NewInt(b)
			require.Equal(t, held(new(big.Int).Add(x, y)), paylera.AddSaturated(a, b), "%d + %d", a, b)
			require.Equal(t, held(new(big.Int).Sub(x, y)), paylera.SubtractSaturated(a, b), "%d - %d", a, b)
		}
	}
}
