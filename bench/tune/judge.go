package main

import (
	"cmp"
	"fmt"
	"slices"
)

// tie is the difference that counts as none.
const tie = 0.02

// A goal is what is better when it is less. floor is what is nothing, however
// large a part of the figure.
type goal struct {
	of    func(Measured) float64
	floor float64
	text  func(Measured) string
}

var goals = []goal{
	{func(m Measured) float64 { return 1 - m.HitRatio }, 0.001, func(m Measured) string { return percent(m.HitRatio) + " from the cache" }},
	{func(m Measured) float64 { return m.Reads + m.Posts }, 0.1, func(m Measured) string { return figure(m.Reads+m.Posts) + " requests/s with usage" }},
	{func(m Measured) float64 { return float64(m.Memory) }, 256 << 10, func(m Measured) string { return Size(m.Memory).String() }},
}

// ties reports whether a is no worse than b to speak of.
func (g goal) ties(a, b Measured) bool { return g.of(a) <= g.of(b)*(1+tie)+g.floor }

// choose returns the best row. Of those that hold all bounds it is one that ties
// with the best in one goal after the other. Where there is none, answers from
// the cache are not given up for coming nearer to a bound.
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
		order = slices.Insert(slices.Clone(goals), 1, goal{w.excess, tie, nil})
	}
	for _, g := range order {
		best := slices.MinFunc(left, func(a, b int) int { return cmp.Compare(g.of(measured(a)), g.of(measured(b))) })
		left = keep(left, func(i int) bool { return g.ties(measured(i), measured(best)) })
	}
	for _, i := range left {
		if t.Setting.isDefault(t.Rows[i].Candidate) {
			return i
		}
	}
	return left[0]
}

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
			return fmt.Sprintf("%s, not %s", g.text(row.Measured), g.text(chosen.Measured))
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
		return "else " + v[0].text
	}
	for _, g := range goals {
		if g.of(chosen.Measured) < g.of(base.Measured) && !g.ties(base.Measured, chosen.Measured) {
			return fmt.Sprintf("%s, else %s", g.text(chosen.Measured), g.text(base.Measured))
		}
	}
	return ""
}

func percent(v float64) string { return fmt.Sprintf("%.2f %%", 100*v) }
