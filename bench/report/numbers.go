package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/entitlements-go/entitlements/bench/raw"
)

// measured is what a row says, for the table of bars.
func measured(r raw.Row) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	f := r.Figures
	switch {
	case r.Median > 0:
		add("%s × (%.1f ns, floor %.1f ns)", times(r.Median), r.NS, r.FloorNS)
	case r.Suite == "caching":
		add("%.1f %% hits", f["hits"])
	case r.Suite == "recorders":
		add("%s ns/call", count(f["ns"]))
		add("%s delivered", percent(f["delivered"], f["calls"]))
		add("%s told of", count(f["told"]))
		add("%s silently lost", count(f["lost"]))
	case r.Suite == "latency":
		for _, p := range []string{"p50", "p99", "p99.9", "max"} {
			add("%s %s", p, took(f[p]))
		}
	default:
		for _, name := range slices.Sorted(maps.Keys(f)) {
			add("%s %s", name, figure(f[name]))
		}
	}
	if r.Allocs != nil {
		add("%s allocs", figure(*r.Allocs))
	}
	return strings.Join(parts, ", ")
}

func cores(n int) string {
	if n == 1 {
		return "1 core"
	}
	return fmt.Sprintf("%d cores", n)
}

// times is a ratio with three digits, or more of what lies before the point.
func times(x float64) string {
	switch {
	case x < 9.995:
		return fmt.Sprintf("%.2f", x)
	case x < 99.95:
		return fmt.Sprintf("%.1f", x)
	default:
		return count(x)
	}
}

// percent is a share. It is 0 or 100 only when it is exactly that.
func percent(part, whole float64) string {
	if whole == 0 {
		return "–"
	}
	share := 100 * part / whole
	switch {
	case share == math.Trunc(share):
		return fmt.Sprintf("%.0f %%", share)
	case share > 0 && share < 0.01:
		return "< 0.01 %"
	default:
		return fmt.Sprintf("%.2f %%", math.Floor(share*100)/100)
	}
}

// count is a whole number with its thousands apart.
func count(x float64) string {
	digits := strconv.FormatFloat(math.Abs(math.Round(x)), 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + " " + digits[i:]
	}
	if math.Round(x) < 0 {
		return "−" + digits
	}
	return digits
}

// figure is a number of which nothing is known.
func figure(x float64) string {
	if x == math.Trunc(x) {
		return count(x)
	}
	return strconv.FormatFloat(x, 'g', 3, 64)
}

// took is a time with three digits: 830ns, 1.25ms.
func took(ns float64) string {
	d := time.Duration(ns)
	for unit := time.Duration(1); unit < time.Hour; unit *= 10 {
		if d < 1000*unit {
			return d.Round(unit).String()
		}
	}
	return d.String()
}
