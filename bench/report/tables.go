package main

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/entitlements-go/entitlements/bench/raw"
	"github.com/entitlements-go/entitlements/bench/text"
)

// how says what the numbers are.
const how = "The floor is a look-up of the same keys in a plain `map[string]*plan`, and in the plan's `map[string]bool`: what a " +
	"service would do without a library. Each slice of the work lies between two slices of the floor; a ratio is the median of the " +
	"rounds. ns are wall time divided by the calls of all goroutines."

// speedText is what README.md has of the rows: what has a bar, and the first chart.
func speedText(r results) string {
	var b strings.Builder
	if line := provenance(r.headers); line != "" {
		fmt.Fprintf(&b, "%s\n\n%s\n\n", how, line)
	}
	barTable(&b, judged(r.rows))
	images(&b, r.rows, allCharts[:1], "")
	fmt.Fprintf(&b, "\n[%s](%[1]s) has every peer, workload and trace.\n", numbersPath)
	return b.String()
}

// numbersPath is where the rest of the rows is.
const numbersPath = "docs/numbers.md"

// numbersText is that file.
func numbersText(r results) string {
	var b strings.Builder
	fmt.Fprint(&b, "# Numbers\n\nWhat `make bench` measured besides what [README.md](../README.md) shows, which says where, and what the floor is.\n")
	checkTables(&b, ofSuite(r.rows, "checks"))
	recorderTables(&b, ofSuite(r.rows, "recorders"))
	latencyTable(&b, ofSuite(r.rows, "latency"))
	images(&b, r.rows, allCharts[1:], path.Dir(numbersPath)+"/")
	return b.String()
}

// images shows charts on a page in a directory.
func images(b *strings.Builder, rows []raw.Row, charts []chart, dir string) {
	for _, c := range charts {
		if _, ok := c.make(rows); ok {
			fmt.Fprintf(b, "\n![%s](%s)\n", c.alt, strings.TrimPrefix(c.path, dir))
		}
	}
}

// barsText is what README.md has of bars.txt.
func barsText(r results) string {
	var b strings.Builder
	if r.machine != "" {
		fmt.Fprintf(&b, "%s · `make bench` · [raw output](bench/results/bars.txt)\n\n", r.machine)
	}
	barTable(&b, r.bars)
	return b.String()
}

// provenance says where, when and by which commands it was measured.
func provenance(headers []raw.Header) string {
	var machines, dates, commands []string
	for _, h := range headers {
		machines = append(machines, fmt.Sprintf("%s, %d CPUs, %s/%s, %s", h.CPU, h.CPUs, h.OS, h.Arch, h.Go))
		dates = append(dates, h.Time.UTC().Format("2006-01-02"))
		commands = append(commands, "`"+h.Command+"`")
	}
	var parts []string
	for _, all := range [][]string{machines, dates, commands} {
		if len(all) > 0 {
			parts = append(parts, strings.Join(unique(all), "; "))
		}
	}
	if len(parts) > 0 {
		parts = append(parts, "[raw results](bench/results)")
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

// checkTables are one for each number of customers: a line for each peer and a
// column for each workload.
func checkTables(b *strings.Builder, rows []raw.Row) {
	customers := func(r raw.Row) string { size, _, _ := strings.Cut(r.Work, ","); return size }
	column := func(r raw.Row) string {
		_, shape, _ := strings.Cut(r.Work+", "+text.Cores(r.Cores), ", ")
		return shape
	}
	for _, size := range distinct(rows, customers) {
		fmt.Fprintf(b, "\nA check, %s, in times the floor: the median, and in brackets the quartiles.\n\n", size)
		of := slices.DeleteFunc(slices.Clone(rows), func(r raw.Row) bool { return customers(r) != size })
		columns := distinct(of, column)
		row(b, append([]string{""}, columns...)...)
		rule(b, len(columns)+1, 1)
		for _, who := range distinct(of, named) {
			cells := []string{who}
			for _, c := range columns {
				cell := "–"
				for _, r := range of {
					if named(r) == who && column(r) == c {
						cell = fmt.Sprintf("%s (%s–%s)", text.Times(r.Median), text.Times(r.Q1), text.Times(r.Q3))
					}
				}
				cells = append(cells, cell)
			}
			row(b, cells...)
		}
	}
}

// recorderTables are one for each work, with a line for each peer: what became of
// the calls.
func recorderTables(b *strings.Builder, rows []raw.Row) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprint(b, "\nUsage, recorded flat out and counted at the server that it is sent to. `entitlements` sends as its Paylera "+
		"adapter does, without that API's limit on the rate: else the limit would be measured.\n")
	for _, work := range distinct(rows, func(r raw.Row) string { return r.Work }) {
		fmt.Fprintf(b, "\n%s:\n\n", strings.ToUpper(work[:1])+work[1:])
		row(b, "", "ns/call", "delivered", "told of", "silently lost", "requests", "MB sent")
		rule(b, 7, 1)
		for _, r := range rows {
			if r.Work != work {
				continue
			}
			f := r.Figures
			row(b, named(r), text.Count(f["ns"]), text.Percent(f["delivered"], f["calls"]), text.Count(f["told"]), text.Count(f["lost"]),
				text.Count(f["requests"]), text.Figure(f["bytes"]/1e6))
		}
	}
}

// latencyTable has a line for each call.
func latencyTable(b *strings.Builder, rows []raw.Row) {
	if len(rows) == 0 {
		return
	}
	percentiles := []string{"p50", "p99", "p99.9", "max"}
	fmt.Fprintf(b, "\nLatency: %s.\n\n", rows[0].Work)
	row(b, append([]string{""}, percentiles...)...)
	rule(b, len(percentiles)+1, 1)
	for _, r := range rows {
		cells := []string{named(r)}
		for _, p := range percentiles {
			cells = append(cells, text.Took(r.Figures[p]))
		}
		row(b, cells...)
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
