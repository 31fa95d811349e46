package paylera

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// Quantities are integers on our side and decimal strings on the wire. Both
// directions are exact on the digits: a float would lose units above 2^53 and
// bill 0.1 + 0.2 as 0.30000000000000004.

type rounding uint8

const (
	roundDown rounding = iota // towards -∞: a limit never grows by being read
	roundUp                   // towards +∞: usage never shrinks by being read
)

var errNotDecimal = errors.New("not a decimal number")

// formatDecimal writes q smallest units as a decimal number with that many
// decimals, without trailing zeros and never with an exponent, which the API
// refuses.
func formatDecimal(q int64, decimals int) string {
	magnitude := uint64(q)
	if q < 0 {
		// Two's complement: right for MinInt64 too, which -q is not.
		magnitude = -magnitude
	}
	digits := strconv.FormatUint(magnitude, 10)
	if decimals > 0 {
		// At least one digit stays before the point: "0.001", never ".001".
		if len(digits) <= decimals {
			digits = strings.Repeat("0", decimals+1-len(digits)) + digits
		}
		point := len(digits) - decimals
		if fraction := strings.TrimRight(digits[point:], "0"); fraction != "" {
			digits = digits[:point] + "." + fraction
		} else {
			digits = digits[:point]
		}
	}
	if q < 0 {
		return "-" + digits
	}
	return digits
}

// parseDecimal reads a decimal number as a count of smallest units. What does
// not fit saturates. An exponent is read, since it is a legal way to write a
// JSON number.
func parseDecimal(s string, decimals int, round rounding) (int64, error) {
	s, negative := strings.CutPrefix(s, "-")
	mantissa, shift := s, 0
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		var err error
		// A shift past the int range saturates just as well at the bound that
		// Atoi leaves behind on ErrRange, once that is cut to what can matter.
		if shift, err = strconv.Atoi(s[i+1:]); err != nil && !errors.Is(err, strconv.ErrRange) {
			return 0, errNotDecimal
		}
		mantissa, shift = s[:i], min(max(shift, -1<<30), 1<<30)
	}
	whole, fraction, hasPoint := strings.Cut(mantissa, ".")
	// One string of digits and where its point is: scaling then only moves the
	// point, and nothing is computed before it is known to fit.
	digits := whole + fraction
	if digits == "" || hasPoint && (whole == "" || fraction == "") || strings.Trim(digits, "0123456789") != "" {
		return 0, errNotDecimal
	}
	point := len(whole) + shift + decimals // digits before the point, once scaled
	// Leading zeros go, so that the number of digits before the point is the
	// magnitude: "000…01" of any length is still 1.
	significant := strings.TrimLeft(digits, "0")
	point -= len(digits) - len(significant)
	if significant == "" {
		return 0, nil
	}

	var magnitude uint64
	rest := significant
	switch {
	case point > 19: // at least 10^19, past any int64
		return saturated(negative), nil
	case point > 0:
		// Up to 19 digits, which an uint64 always holds.
		for i := range point {
			magnitude *= 10
			if i < len(significant) {
				magnitude += uint64(significant[i] - '0')
			}
		}
		rest = significant[min(point, len(significant)):]
	}
	// What is cut off counts only when the wanted direction leads away from zero.
	if awayFromZero := (round == roundUp) != negative; awayFromZero && strings.Trim(rest, "0") != "" {
		magnitude++
	}
	// MinInt64 itself is among the saturated: its magnitude has no int64.
	switch {
	case negative && magnitude >= 1<<63, !negative && magnitude > math.MaxInt64:
		return saturated(negative), nil
	case negative:
		return -int64(magnitude), nil
	}
	return int64(magnitude), nil
}

func saturated(negative bool) int64 {
	if negative {
		return math.MinInt64
	}
	return math.MaxInt64
}

// addSaturated is a + b, held at the ends of int64. Unlimited plus anything
// that is not negative stays Unlimited.
func addSaturated(a, b int64) int64 {
	sum := a + b // wraps, and by its sign shows that it did
	if a > 0 && b > 0 && sum < 0 {
		return math.MaxInt64
	}
	if a < 0 && b < 0 && sum >= 0 {
		return math.MinInt64
	}
	return sum
}

// subtractSaturated is a - b, held at the ends of int64.
func subtractSaturated(a, b int64) int64 {
	difference := a - b
	if a >= 0 && b < 0 && difference < 0 {
		return math.MaxInt64
	}
	if a < 0 && b > 0 && difference >= 0 {
		return math.MinInt64
	}
	return difference
}
