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
	if len(r.Tables) > 0 {
		fmt.Fprintf(out, "\n%s\n", literal(w, r))
	}
}

// conclusion is what the settings promise, or why there are none that hold the
// bounds.
func conclusion(r Result) []string {
	var out []string
	switch {
	case len(r.Tables) == 0:
		return []string{"Interrupted before anything was compared."}
	case len(r.Unmet) > 0:
		out = append(out, "No settings that were tried hold the workload's bounds. The nearest:")
		for _, v := range r.Unmet {
			out = append(out, "  "+v.text)
		}
		out = append(out, "What would do:")
		for _, advice := range r.Advice {
			out = append(out, "  "+advice)
		}
		out = append(out, "They come to:")
	case !r.Final:
		out = append(out, "Interrupted. The best so far:")
	default:
		out = append(out, "The settings below promise, of one process after its start:")
	}
	m := r.Promise
	for _, p := range m.figures() {
		out = append(out, fmt.Sprintf("  %-28s %s", p.name, p.text(p.of(m))))
	}
	return append(out, fmt.Sprintf("  measured for %s after %s of load, in simulated time", short(m.Window), short(m.Settled)))
}

// A promised figure, and how far it may be off before its promise is broken.
type promised struct {
	name  string
	of    func(Measured) float64
	floor float64 // a difference below it says nothing
	text  func(float64) string
}

func (m Measured) figures() []promised {
	seconds := func(v float64) string { return short(time.Duration(v * float64(time.Second)).Round(sample)) }
	size := func(v float64) string { return Size(v).String() }
	return []promised{
		{"answered by policy", func(m Measured) float64 { return 100 * (1 - m.HitRatio) }, 0.5, func(v float64) string { return figure(v) + " % of checks" }},
		{"age p50", func(m Measured) float64 { return m.P50.Seconds() }, 2, seconds},
		{"age p99", func(m Measured) float64 { return m.P99.Seconds() }, 2, seconds},
		{"reads", func(m Measured) float64 { return m.Reads }, 5, func(v float64) string { return figure(v) + " requests/s" }},
		{"refused", func(m Measured) float64 { return m.Refused }, 0.5, func(v float64) string { return figure(v) + " requests/s" }},
		{"memory", func(m Measured) float64 { return float64(m.Memory) }, 2 << 20, size},
		{"usage requests", func(m Measured) float64 { return m.PerThousand }, 0.3, func(v float64) string { return figure(v) + " per 1000 events" }},
		{"usage at risk", func(m Measured) float64 { return float64(m.AtRisk) }, 200, func(v float64) string { return figure(v) + " events" }},
	}
}
