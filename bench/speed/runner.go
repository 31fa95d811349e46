package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/entitlements-go/entitlements/bench/paired"
	"github.com/entitlements-go/entitlements/bench/raw"
	"github.com/entitlements-go/entitlements/bench/text"
)

// runner measures rows, judges them and shows them.
type runner struct {
	sizes
	judging  bool     // else bars are left out: what is measured is too small
	baseline baseline // what to compare ratios with, instead of their bars; nil without -check

	out    io.Writer
	begun  time.Time
	suite  string // that is running
	rows   []raw.Row
	judged int // of rows
	missed int // of judged
}

func newRunner(out io.Writer) *runner {
	return &runner{sizes: full(), judging: true, out: out, begun: time.Now()}
}

func (r *runner) run(s suite) error {
	r.suite = s.name
	if err := s.run(r); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}

// of is the rows of a suite.
func (r *runner) of(suite string) []raw.Row {
	return slices.DeleteFunc(slices.Clone(r.rows), func(row raw.Row) bool { return row.Suite != suite })
}

// ratio measures work against floor and judges it; nil only reports. s has no
// Rounds and no Slice: these are the runner's.
func (r *runner) ratio(row raw.Row, s paired.Setup, floor, work paired.Work, judge func(*raw.Row)) {
	s.Slice, s.Rounds = r.slice, r.rounds
	if !isOurs(row.Who) {
		s.Rounds = r.peerRounds
	}
	row.Suite, row.Cores = r.suite, max(1, s.Cores)
	measure := func(row *raw.Row) {
		m := s.Measure(floor, work)
		row.Ratios, row.Q1, row.Median, row.Q3 = m.Ratios, m.Q1, m.Median, m.Q3
		row.NS, row.FloorNS = m.NS, m.FloorNS
	}
	if r.baseline != nil {
		r.baseline.judge(&row, measure)
		r.add(row)
		return
	}
	measure(&row)
	allocs, bytes := paired.Allocs(work)
	row.Allocs, row.Bytes = &allocs, &bytes
	if judge != nil {
		judge(&row)
	}
	r.add(row)
}

// add takes a row that is measured, and shows it.
func (r *runner) add(row raw.Row) {
	row.Suite = r.suite
	if isOurs(row.Who) {
		row.Version = "" // as it is here
	}
	if !r.judging {
		row.Bar, row.Pass = "", nil
	}
	r.rows = append(r.rows, row)
	if row.Pass != nil {
		r.judged++
		if !*row.Pass {
			r.missed++
		}
	}
	r.say("%-4s  %s", verdict(row), strings.Join(cells(row), "  "))
}

// say shows how far it is.
func (r *runner) say(format string, args ...any) {
	fmt.Fprintf(r.out, "%6s  %-9s  %s\n", time.Since(r.begun).Round(time.Second), r.suite, fmt.Sprintf(format, args...))
}

// printTable shows all rows, aligned.
func (r *runner) printTable() {
	fmt.Fprint(r.out, "\nns are wall time divided by the calls of all goroutines, as in go test -bench.\n\n")
	w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	for _, row := range r.rows {
		fmt.Fprintf(w, "%s\t%s\t%s\n", verdict(row), row.Suite, strings.Join(cells(row), "\t"))
	}
	_ = w.Flush() // a program's own output: there is nobody to tell
}

// cells are a row's texts.
func cells(row raw.Row) []string {
	bar := row.Bar
	if bar != "" {
		bar = "(" + bar + ")"
	}
	return []string{text.Title(row), text.Measured(row), bar}
}
