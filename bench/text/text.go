// Package text is how results are written, on the terminal and in tables: one
// row's title and figures, and numbers that people read.
package text

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

// Title is what a row is about, without its suite: who it was, unless that is
// this library, the work, and on how many cores.
func Title(r raw.Row) string {
	title := r.Work
	if r.Who != "" && r.Who != "entitlements" {
		title = r.Who + ", " + title
	}
	if r.Cores > 0 {
		title += ", " + Cores(r.Cores)
	}
	return title
}

// Measured is what a row says, on one line.
func Measured(r raw.Row) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	f := r.Figures
	switch {
	case r.Median > 0:
		to := r.To
		if to == "" {
			to = "floor"
		}
		add("%s × (%.1f ns, %s %.1f ns)", Times(r.Median), r.NS, to, r.FloorNS)
	case r.Suite == "caching":
		add("%.1f %% hits", f["hits"])
	case r.Suite == "recorders":
		add("%s ns/call", Count(f["ns"]))
		add("%s delivered", Percent(f["delivered"], f["calls"]))
		add("%s told of", Count(f["told"]))
		add("%s silently lost", Count(f["lost"]))
	case r.Suite == "memory":
		add("%s B a customer", Count(f["bytes"]))
	case r.Suite == "latency":
		for _, p := range []string{"p50", "p99", "p99.9", "max"} {
			add("%s %s", p, Took(f[p]))
		}
	default:
		for _, name := range slices.Sorted(maps.Keys(f)) {
			add("%s %s", name, Figure(f[name]))
		}
	}
	if r.Allocs != nil {
		add("%s allocs", Figure(math.Round(100**r.Allocs)/100))
	}
	if r.Bytes != nil && *r.Bytes > 0 {
		add("%s B", Figure(*r.Bytes))
	}
	return strings.Join(parts, ", ")
}

// Cores is a number of them.
func Cores(n int) string {
	if n == 1 {
		return "1 core"
	}
	return fmt.Sprintf("%d cores", n)
}

// Times is a ratio with three digits, or more of what lies before the point.
func Times(x float64) string {
	switch {
	case x < 9.995:
		return fmt.Sprintf("%.2f", x)
	case x < 99.95:
		return fmt.Sprintf("%.1f", x)
	default:
		return Count(x)
	}
}

// Percent is a share. It is 0 or 100 only when it is exactly that.
func Percent(part, whole float64) string {
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

// Count is a whole number with its thousands apart.
func Count(x float64) string {
	digits := strconv.FormatFloat(math.Abs(math.Round(x)), 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + " " + digits[i:]
	}
	if math.Round(x) < 0 {
		return "−" + digits
	}
	return digits
}

// Figure is a number of which nothing is known.
func Figure(x float64) string {
	if x == math.Trunc(x) || math.Abs(x) >= 1000 {
		return Count(x)
	}
	return strconv.FormatFloat(x, 'g', 3, 64)
}

// Took is a time with three digits: 830ns, 1.25ms.
func Took(ns float64) string {
	d := time.Duration(ns)
	for unit := time.Duration(1); unit < time.Hour; unit *= 10 {
		if d < 1000*unit {
			return d.Round(unit).String()
		}
	}
	return d.String()
}
