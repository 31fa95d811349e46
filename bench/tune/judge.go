package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// tie is the difference that counts as none.
const tie = 0.02

// A goal is what is better when it is less.
type goal struct {
	of   func(Measured) float64
	slip func(Measured) float64 // a difference that is chance, or nothing to speak of
	text func(difference float64) string
}

var goals = []goal{
	{missed, always(0.001), func(d float64) string { return percent(d) + " of checks answered by policy" }},
	{Measured.requests, Measured.chance, func(d float64) string { return figure(d) + " requests/s" }},
	{func(m Measured) float64 { return float64(m.Memory) }, always(1 << 20), func(d float64) string { return Size(d).String() }},
}

func missed(m Measured) float64 { return 1 - m.HitRatio }

// requests is all that the billing API is asked, per second.
func (m Measured) requests() float64 { return m.Reads + m.Posts }

// chance is two standard deviations of requests if they came independently of each
// other. They are more regular than that, but dozens of runs are compared.
func (m Measured) chance() float64 {
	return 2 * math.Sqrt(m.requests()/max(1, m.Window.Seconds()))
}

func always(v float64) func(Measured) float64 { return func(Measured) float64 { return v } }

// ties reports whether a is no worse than b to speak of.
func (g goal) ties(a, b Measured) bool {
	return g.of(a) <= g.of(b)*(1+tie)+max(g.slip(a), g.slip(b))
}

// choose returns the best row of a table, whose rows are in order of their values
// and have the default among them unless it was interrupted before that. Of those
// that hold all bounds it is one that ties with the best in one goal after the
// other. Where there is none, answers from the cache are not given up for coming
// nearer to a bound.
func choose(w Workload, t Table) int {
	left := make([]int, len(t.Rows))
	for i := range left {
		left[i] = i
	}
	measured := func(i int) Measured { return t.Rows[i].Measured }
	order := goals
	if held := keep(left, func(i int) bool { return len(w.violations(measured(i))) == 0 }); len(held) > 0 {
		left = held
	} else {
		order = slices.Insert(slices.Clone(goals), 1, goal{w.excess, always(tie), nil})
	}
	for _, g := range order {
		best := slices.MinFunc(left, func(a, b int) int { return cmp.Compare(g.of(measured(a)), g.of(measured(b))) })
		left = keep(left, func(i int) bool { return g.ties(measured(i), measured(best)) })
	}
	// What is equally good stays at the default, or as near to it as it can.
	byDefault := slices.IndexFunc(t.Rows, func(row Row) bool { return t.Setting.isDefault(row.Candidate) })
	return slices.MinFunc(left, func(a, b int) int { return cmp.Compare(distance(a, byDefault), distance(b, byDefault)) })
}

func distance(a, b int) int { return max(a-b, b-a) }

func keep(left []int, is func(int) bool) []int {
	return slices.DeleteFunc(slices.Clone(left), func(i int) bool { return !is(i) })
}

// verdict says why a row was chosen, or not.
func verdict(w Workload, t Table, i, best int) string {
	row, chosen := t.Rows[i], t.Rows[best]
	violated, excused := w.violations(row.Measured), w.excess(chosen.Measured) > 0
	switch {
	case i == best && excused:
		return "nearest to the bounds: " + violated[0].text
	case i == best && t.Setting.isDefault(row.Candidate):
		return "stays: the default"
	case i == best:
		return "best"
	case len(violated) > 0:
		return violated[0].text
	}
	for _, g := range goals {
		if !g.ties(row.Measured, chosen.Measured) {
			return g.text(g.of(row.Measured)-g.of(chosen.Measured)) + " more"
		}
	}
	return "ties"
}

// gain is what the chosen row of a table has over the default: what it buys.
func (t Table) gain(w Workload) string {
	var base, chosen *Row
	for i := range t.Rows {
		if t.Rows[i].Chosen {
			chosen = &t.Rows[i]
		}
		if t.Setting.isDefault(t.Rows[i].Candidate) {
			base = &t.Rows[i]
		}
	}
	if base == nil || chosen == nil || base == chosen {
		return ""
	}
	if v := w.violations(base.Measured); len(v) > 0 && w.excess(chosen.Measured) < w.excess(base.Measured) {
		return "by default " + v[0].text
	}
	for _, g := range goals {
		if g.of(chosen.Measured) < g.of(base.Measured) && !g.ties(base.Measured, chosen.Measured) {
			return g.text(g.of(base.Measured)-g.of(chosen.Measured)) + " less than by default"
		}
	}
	return ""
}

func percent(v float64) string { return fmt.Sprintf("%.2f %%", 100*v) }
