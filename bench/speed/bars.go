package main

import (
	"fmt"
	"strings"

	"github.com/entitlements-go/entitlements/bench/raw"
)

const (
	// ours is this library in the column of who.
	ours = "entitlements"
	// byHandle is what follows the name of who holds on to a customer.
	byHandle = ", handle"
)

// isOurs also knows "entitlements, handle" and "entitlements, on disk".
func isOurs(who string) bool {
	name, _, _ := strings.Cut(who, ",")
	return name == ours
}

// atMost judges a ratio row: its median, and whole allocations a call. Bytes are
// not judged: the background makes records of what is counted, and a few of
// theirs fall to each call.
func atMost(times, allocs float64) func(*raw.Row) {
	return func(row *raw.Row) {
		row.Judge(barAtMost(row, times, allocs), row.Median <= times && *row.Allocs <= allocs)
	}
}

// noGarbage is atMost for what allocates nothing, not a byte.
func noGarbage(times float64) func(*raw.Row) {
	return func(row *raw.Row) {
		row.Judge(barAtMost(row, times, 0)+", 0 B", row.Median <= times && *row.Allocs == 0 && *row.Bytes == 0)
	}
}

func barAtMost(row *raw.Row, times, allocs float64) string {
	to := row.To
	if to == "" {
		to = "floor"
	}
	return fmt.Sprintf("≤ %.2f × %s, %.0f allocs", times, to, allocs)
}

// reported says that there is no bar on purpose.
func reported(row *raw.Row) { row.Bar = "reported" }

// verdict is "pass", "FAIL", or nothing for a row that is not judged.
func verdict(row raw.Row) string {
	switch {
	case row.Pass == nil:
		return ""
	case *row.Pass:
		return "pass"
	default:
		return "FAIL"
	}
}
