package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/entitlements-go/entitlements/bench/raw"
)

// tables is what stands in README.md.
func tables(r results) string {
	var b strings.Builder
	if line := provenance(r); line != "" {
		fmt.Fprintf(&b, "%s\n\n", line)
	}
	barTable(&b, slices.Concat(r.bars, judged(r.rows)))
	checks, recorders := ofSuite(r.rows, "checks"), ofSuite(r.rows, "recorders")
	if len(checks)+len(recorders) > 0 {
		fmt.Fprint(&b, "\n### Side by side\n")
	}
	if len(checks) > 0 {
		fmt.Fprint(&b, "\nA check, in times the floor: the median, and in brackets the quartiles.\n\n")
		checkTable(&b, checks)
	}
	for _, work := range distinct(recorders, func(r raw.Row) string { return r.Work }) {
		fmt.Fprintf(&b, "\nUsage recorded: %s.\n\n", work)
		recorderTable(&b, recorders, work)
	}
	return b.String()
}

// provenance says where, when and by which commands it was measured.
func provenance(r results) string {
	var machines, dates, commands []string
	for _, h := range r.headers {
		machines = append(machines, fmt.Sprintf("%s, %d CPUs, %s/%s, %s", h.CPU, h.CPUs, h.OS, h.Arch, h.Go))
		dates = append(dates, h.Time.UTC().Format("2006-01-02"))
		commands = append(commands, "`"+h.Command+"`")
	}
	var parts []string
	for _, all := range [][]string{machines, dates, commands} {
		if all = unique(all); len(all) > 0 {
			parts = append(parts, strings.Join(all, "; "))
		}
	}
	if r.machine != "" {
		parts = append(parts, fmt.Sprintf("bars: %s, `make bench`", r.machine))
	}
	return strings.Join(parts, " · ")
}

func barTable(b *strings.Builder, bars []bar) {
	if len(bars) == 0 {
		return
	}
	row(b, "work", "bar", "measured", "")
	rule(b, 4, 4)
	for _, x := range bars {
		verdict := x.verdict
		if verdict == failed {
			verdict = "**" + failed + "**"
		}
		row(b, x.work, x.bar, x.measured, verdict)
	}
}

// checkTable has a line for each peer and a column for each workload.
func checkTable(b *strings.Builder, rows []raw.Row) {
	column := func(r raw.Row) string { return r.Work + ", " + cores(r.Cores) }
	columns := distinct(rows, column)
	row(b, append([]string{""}, columns...)...)
	rule(b, len(columns)+1, 1)
	for _, who := range distinct(rows, named) {
		cells := []string{who}
		for _, c := range columns {
			cell := "–"
			for _, r := range rows {
				if named(r) == who && column(r) == c {
					cell = fmt.Sprintf("%s (%s–%s)", times(r.Median), times(r.Q1), times(r.Q3))
				}
			}
			cells = append(cells, cell)
		}
		row(b, cells...)
	}
}

// recorderTable has a line for each peer: what became of the calls.
func recorderTable(b *strings.Builder, rows []raw.Row, work string) {
	row(b, "", "ns/call", "delivered", "told of", "silently lost", "requests")
	rule(b, 6, 1)
	for _, r := range rows {
		if r.Work != work {
			continue
		}
		f := r.Figures
		row(b, named(r), count(f["ns"]), percent(f["delivered"], f["calls"]), count(f["told"]), count(f["lost"]), count(f["requests"]))
	}
}

func row(b *strings.Builder, cells ...string) {
	fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
}

// rule is the line below a table's heading; columns from the numbers-th on are
// aligned to the right.
func rule(b *strings.Builder, columns, numbers int) {
	for i := range columns {
		b.WriteString("|---")
		if i >= numbers {
			b.WriteString(":")
		}
	}
	b.WriteString("|\n")
}

// named is who it was, and in which version.
func named(r raw.Row) string {
	if r.Version == "" {
		return r.Who
	}
	return r.Who + " " + r.Version
}

func ofSuite(rows []raw.Row, suite string) []raw.Row {
	return slices.DeleteFunc(slices.Clone(rows), func(r raw.Row) bool { return r.Suite != suite })
}

// distinct is what rows have in a column, in order.
func distinct(rows []raw.Row, column func(raw.Row) string) []string {
	var all []string
	for _, r := range rows {
		all = append(all, column(r))
	}
	return unique(all)
}

// unique is xs without those that came before.
func unique(xs []string) []string {
	var out []string
	for _, x := range xs {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}
