package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// head is the columns of a table; cells fills a row of it.
var head = []string{"", "hit ratio", "age p50/p99", "requests/s", "memory", "per 1000 events", "at risk", "verdict"}

func cells(s setting, r Row) []string {
	m := r.Measured
	return []string{
		s.text(r.Candidate), percent(m.HitRatio), short(m.P50) + "/" + short(m.P99), figure(m.Reads),
		Size(m.Memory).String(), figure(m.PerThousand), fmt.Sprint(m.AtRisk), r.Verdict,
	}
}

// printResult writes tables, promise and settings.
func printResult(out io.Writer, w Workload, r Result) {
	for _, t := range r.Tables {
		fmt.Fprintf(out, "\n%s: %s\n", t.Setting.name, t.Setting.about)
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "  "+strings.Join(head, "\t"))
		for _, row := range t.Rows {
			mark := "  "
			if row.Chosen {
				mark = "* "
			}
			fmt.Fprintln(table, mark+strings.Join(cells(t.Setting, row), "\t"))
		}
		_ = table.Flush()
	}
	fmt.Fprintln(out)
	for _, line := range conclusion(r) {
		fmt.Fprintln(out, line)
	}
	if len(r.Tables) == 0 {
		return
	}
	for _, p := range w.promises() {
		fmt.Fprintf(out, "  %-20s %s\n", p.name, p.text(p.of(r.Promise)))
	}
	fmt.Fprintf(out, "  %s\n\n%s\n", measuredFor(r), literal(w, r))
}

// conclusion is what there is to say of the figures that follow: that they are
// promised, or why they can't be as the workload wants them.
func conclusion(r Result) []string {
	switch {
	case len(r.Tables) == 0:
		return []string{"Interrupted before anything was compared."}
	case len(r.Unmet) > 0:
		out := []string{"No settings that were tried hold the workload's bounds. The nearest:"}
		for _, v := range r.Unmet {
			out = append(out, "  "+v.text)
		}
		out = append(out, "What would do:")
		for _, advice := range r.Advice {
			out = append(out, "  "+advice)
		}
		return append(out, "They come to:")
	case !r.Final:
		return []string{"Interrupted. The best so far:"}
	}
	return []string{"The recommended settings promise, of one process after its start:"}
}

func measuredFor(r Result) string {
	return fmt.Sprintf("measured for %s after %s of load, in simulated time", short(r.Promise.Window), short(r.Promise.Settled))
}

// A figure that is promised, and how far it may be off before the promise is
// broken, however small it is: below that a difference says nothing.
type promised struct {
	name  string
	of    func(Measured) float64
	floor float64
	text  func(float64) string
	bound string // of the workload, if there is one
}

// promises are all figures of a Measured for this workload.
func (w Workload) promises() []promised {
	seconds := func(v float64) string { return short(time.Duration(v * float64(time.Second)).Round(resolution)) }
	size := func(v float64) string { return Size(v).String() }
	with := func(unit string) func(float64) string {
		return func(v float64) string { return figure(v) + " " + unit }
	}
	return []promised{
		{"answered by policy", func(m Measured) float64 { return 100 * missed(m) }, 0.5, with("% of checks"), ""},
		{"age p50", func(m Measured) float64 { return m.P50.Seconds() }, 1, seconds, ""},
		{"age p99", func(m Measured) float64 { return m.P99.Seconds() }, 1, seconds, "≤ " + short(w.Freshness)},
		{"reads", func(m Measured) float64 { return m.Reads }, 1, with("requests/s"), fmt.Sprintf("≤ %d", w.RateLimit)},
		{"refused", func(m Measured) float64 { return m.Refused }, w.burst() / leastVerify.Seconds(), with("requests/s"), ""},
		{"memory", func(m Measured) float64 { return float64(m.Memory) }, 1 << 20, size, "≤ " + w.Memory.String()},
		{"usage requests", func(m Measured) float64 { return m.PerThousand }, 0.1, with("per 1000 events"), ""},
		{"usage at risk", func(m Measured) float64 { return float64(m.AtRisk) }, max(10, w.Usage/50), func(v float64) string { return fmt.Sprintf("%.0f events", v) }, fmt.Sprintf("≤ %d", w.AtRisk)},
	}
}
