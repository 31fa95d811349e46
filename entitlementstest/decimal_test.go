package entitlementstest_test

import (
	"math"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements/entitlementstest"
)

func TestDecimal(t *testing.T) {
	for text, want := range map[string]string{
		"1": "1", "0": "0", "-1": "-1", "0.001": "0.001", "10": "10", "007": "7", "1.50": "1.5",
		"-0.000000001": "-0.000000001", "123456789012345678901234567890": "123456789012345678901234567890",
	} {
		n, ok := entitlementstest.ParseDecimal(text)
		require.True(t, ok, text)
		require.Equal(t, want, entitlementstest.FormatDecimal(n), text)
	}
	for _, text := range []string{
		"", "-", ".", "1.", ".5", "+1", "1e3", "1E3", " 1", "1 ", "0x1", "1_000", "--1", "NaN", "Inf", "1,5", "1.0000000001", "١",
		"1234567890123456789012345678901234567890123",
	} {
		_, ok := entitlementstest.ParseDecimal(text)
		require.False(t, ok, text)
	}
}

func TestUnitsRoundUpAndSaturate(t *testing.T) {
	units := func(text string, decimals int) int64 {
		n, ok := entitlementstest.ParseDecimal(text)
		require.True(t, ok)
		return entitlementstest.ToUnits(n, decimals)
	}
	require.EqualValues(t, 2, units("1.001", 0))
	require.EqualValues(t, 1001, units("1.001", 3))
	require.EqualValues(t, 1002, units("1.0011", 3))
	require.EqualValues(t, -1, units("-1.5", 0))
	require.EqualValues(t, int64(math.MaxInt64), units("99999999999999999999", 0))
	require.EqualValues(t, int64(math.MinInt64), units("-99999999999999999999", 0))
	require.EqualValues(t, 1500, entitlementstest.ToUnits(entitlementstest.FromUnits(1500, 3), 3))
}

func FuzzDecimal(f *testing.F) {
	f.Add("1")
	f.Add("-0.001")
	f.Add("1e9")
	f.Fuzz(func(t *testing.T, text string) {
		n, ok := entitlementstest.ParseDecimal(text)
		if !ok {
			return
		}
		again, ok := entitlementstest.ParseDecimal(entitlementstest.FormatDecimal(n))
		require.True(t, ok)
		require.Zero(t, n.Cmp(again))
		rational, ok := new(big.Rat).SetString(text)
		require.True(t, ok)
		require.Zero(t, rational.Cmp(new(big.Rat).SetFrac(n, big.NewInt(1_000_000_000))))
	})
}
