package entitlementstest

import (
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Quantities travel as decimal strings. They are kept as integers in units of
// 10^-9, so that totals are exact whatever was added to them: a test that counts
// money in floats finds differences that nobody made.
const (
	decimalPlaces = 9
	one           = 1_000_000_000 // 10^decimalPlaces
)

// maxDecimalDigits bounds a quantity's text, as a real API does; without it one
// request could make every later sum slow.
const maxDecimalDigits = 40

// parseDecimal reads "1", "0.001" or "-1". Exponents, a plus sign, blanks and a
// bare point are refused, as the API's pages say or imply.
func parseDecimal(s string) (*big.Int, bool) {
	digits, negative := strings.CutPrefix(s, "-")
	whole, fraction, point := strings.Cut(digits, ".")
	if whole == "" || point && fraction == "" || len(digits) > maxDecimalDigits || len(fraction) > decimalPlaces {
		return nil, false
	}
	for _, part := range []string{whole, fraction} {
		for i := range len(part) {
			if part[i] < '0' || part[i] > '9' {
				return nil, false
			}
		}
	}
	n, ok := new(big.Int).SetString(whole+fraction+strings.Repeat("0", decimalPlaces-len(fraction)), 10)
	if ok && negative {
		n.Neg(n)
	}
	return n, ok
}

// formatDecimal is the shortest text of n that parseDecimal reads back.
func formatDecimal(n *big.Int) string {
	// Whole numbers that fit are nearly all there are, and a read formats three
	// for every feature.
	if n.IsInt64() && n.Int64()%one == 0 {
		return strconv.FormatInt(n.Int64()/one, 10)
	}
	digits := new(big.Int).Abs(n).String()
	if short := decimalPlaces + 1 - len(digits); short > 0 {
		digits = strings.Repeat("0", short) + digits
	}
	whole, fraction := digits[:len(digits)-decimalPlaces], strings.TrimRight(digits[len(digits)-decimalPlaces:], "0")
	if fraction != "" {
		whole += "." + fraction
	}
	if n.Sign() < 0 {
		return "-" + whole
	}
	return whole
}

// fromUnits is n of a feature's smallest units, of which 10^decimals make one of
// the wire's.
func fromUnits(n int64, decimals int) *big.Int {
	return new(big.Int).Mul(big.NewInt(n), powerOfTen(decimalPlaces-decimals))
}

// toUnits is n in a feature's smallest units, rounded up: a part of a unit that
// was used is a unit that is gone. It saturates.
func toUnits(n *big.Int, decimals int) int64 {
	units, rest := new(big.Int).DivMod(n, powerOfTen(decimalPlaces-decimals), new(big.Int))
	if rest.Sign() > 0 {
		units.Add(units, big.NewInt(1))
	}
	switch {
	case units.IsInt64():
		return units.Int64()
	case units.Sign() > 0:
		return math.MaxInt64
	default:
		return math.MinInt64
	}
}

// powerOfTen is 10^n for n up to decimalPlaces.
func powerOfTen(n int) *big.Int {
	power := int64(1)
	for range n {
		power *= 10
	}
	return big.NewInt(power)
}
