package main

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/entitlements-go/entitlements/bench/raw"
	"github.com/entitlements-go/entitlements/bench/text"
)

// charted is the workload of checks.svg.
const charted = "10 000 customers"

// checksChart is a bar for each peer: how many times as long as the floor a check
// takes on one core. A bar begins at the floor, so that what is faster than a
// plain map points the other way.
func checksChart(rows []raw.Row) (drawing, bool) {
	rows = ofSuite(rows, "checks")
	first := slices.IndexFunc(rows, func(r raw.Row) bool {
		return r.Cores == 1 && r.Median > 0 && strings.HasPrefix(r.Work, charted)
	})
	if first < 0 {
		return drawing{}, false
	}
	work := rows[first].Work
	ours := rows[first].Who
	rows = slices.DeleteFunc(rows, func(r raw.Row) bool { return r.Cores != 1 || r.Median <= 0 || r.Work != work })
	slices.SortStableFunc(rows, func(a, b raw.Row) int {
		if a.Median > b.Median {
			return -1 // the y axis goes up: the fastest is the last
		}
		return 1
	})

	p := newPlot("One check: "+work+", 1 core", "times as long as two map look-ups (logarithmic)", "")
	p.Y.Width, p.Y.Tick.Length = 0, 0
	names := make([]string, len(rows))
	for i, r := range rows {
		names[i] = named(r)
	}
	p.NominalY(names...)
	bars := ratioBars{rows, ours}
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = bars.DataRange()
	p.X.Tick.Marker = within(p.X, ratioTicks(p.X.Max-p.X.Min))
	grid := newGrid()
	grid.Horizontal.Width = 0
	p.Add(grid, bars)
	height := 90 + vg.Length(len(rows))*20
	return drawing{640, height, p.Draw}, true
}

// ratioTicks are for an axis of this many powers of ten.
func ratioTicks(powers float64) []plot.Tick {
	digits := []float64{1, 2, 5}
	if powers > 3.5 {
		digits = digits[:1] // more would touch
	}
	var ticks []plot.Tick
	for decade := 0.01; decade < 1e6; decade *= 10 {
		for _, digit := range digits {
			x := decade * digit
			label := fmt.Sprintf("%.2g", x)
			if x >= 1 {
				label = text.Count(x)
			}
			ticks = append(ticks, plot.Tick{Value: math.Log10(x), Label: label})
		}
	}
	return ticks
}

// ratioBars draws the rows from the bottom up. Its x axis is in powers of ten.
type ratioBars struct {
	rows []raw.Row
	ours string
}

// DataRange leaves room for the number at the end of each bar.
func (b ratioBars) DataRange() (xmin, xmax, ymin, ymax float64) {
	xmin, xmax = 0.5, 2
	for _, r := range b.rows {
		xmin, xmax = min(xmin, r.Median/1.8), max(xmax, r.Median*1.8, r.Q3*1.8)
		if r.Q1 > 0 {
			xmin = min(xmin, r.Q1/1.8)
		}
	}
	return math.Log10(xmin), math.Log10(xmax), -0.6, float64(len(b.rows)) - 0.4
}

// Plot draws bars, their quartiles and their numbers.
func (b ratioBars) Plot(c draw.Canvas, p *plot.Plot) {
	ofLog, toY := p.Transforms(&c)
	toX := func(ratio float64) vg.Length { return ofLog(math.Log10(ratio)) }
	thick := (toY(1) - toY(0)) * 0.62
	number := p.X.Tick.Label
	number.YAlign = draw.YCenter
	whisker := draw.LineStyle{Color: ink, Width: 1}
	for i, r := range b.rows {
		y := toY(float64(i))
		fill := muted
		if strings.HasPrefix(r.Who, b.ours) { // its handles too
			fill = inks[0]
		}
		x0, x1 := toX(1), toX(r.Median)
		c.FillPolygon(fill, []vg.Point{{X: x0, Y: y - thick/2}, {X: x1, Y: y - thick/2}, {X: x1, Y: y + thick/2}, {X: x0, Y: y + thick/2}})
		if r.Q1 > 0 && r.Q3 > r.Q1 {
			c.StrokeLine2(whisker, toX(r.Q1), y, toX(r.Q3), y)
		}
		number.XAlign = draw.XLeft
		at := max(x1, toX(max(r.Q3, r.Median))) + 4
		if r.Median < 1 {
			number.XAlign, at = draw.XRight, min(x1, toX(min(r.Q1, r.Median)))-4
		}
		c.FillText(number, vg.Point{X: at, Y: y + 1}, text.Times(r.Median))
	}
	c.StrokeLine2(draw.LineStyle{Color: ink, Width: 1}, toX(1), c.Min.Y, toX(1), c.Max.Y)
}
