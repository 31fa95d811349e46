package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/entitlements-go/entitlements/bench/raw"
	"github.com/entitlements-go/entitlements/bench/text"
)

// reference is how what the others are measured by is drawn.
var reference = draw.LineStyle{Color: ink, Width: 1.5, Dashes: []vg.Length{4, 3}}

// hitRatioChart has a panel for each trace: the hit ratio of each cache against
// its capacity. The optimum is a dashed line above them.
func hitRatioChart(rows []raw.Row) (drawing, bool) {
	rows = ofSuite(rows, "caching")
	if len(rows) == 0 {
		return drawing{}, false
	}
	trace := func(r raw.Row) string { name, _, _ := strings.Cut(r.Work, ", capacity"); return name }
	traces, caches := distinct(rows, trace), distinct(rows, func(r raw.Row) string { return r.Who })
	lines := make([]draw.LineStyle, len(caches))
	for i, cache := range caches {
		lines[i] = lineOf(i)
		if cache == "optimum" {
			lines[i] = reference
		}
	}

	const columns = 2
	panels := make([][]*plot.Plot, (len(traces)+columns-1)/columns)
	for n := range panels {
		panels[n] = make([]*plot.Plot, columns)
	}
	least := 100.0
	for _, r := range rows {
		least = min(least, 20*math.Floor(r.Figures["hits"]/20))
	}
	for n, name := range traces {
		p := newPlot(name, "capacity, % of the customers", "hits, % of the checks")
		p.Add(newGrid())
		of := slices.DeleteFunc(slices.Clone(rows), func(r raw.Row) bool { return trace(r) != name })
		// The last is drawn on top, and that is to be ours.
		for i := len(caches) - 1; i >= 0; i-- {
			var points plotter.XYs
			for _, r := range of {
				if r.Who == caches[i] {
					points = append(points, plotter.XY{X: r.Figures["capacity"], Y: r.Figures["hits"]})
				}
			}
			addLine(p, points, lines[i])
		}
		p.X.Tick.Marker = capacityTicks(of)
		p.X.Min, p.Y.Min, p.Y.Max = 0, least, 100
		p.Y.Tick.Marker = within(p.Y, percentTicks())
		panels[n/columns][n%columns] = p
	}
	return drawing{760, vg.Length(300*len(panels) + 30), func(c draw.Canvas) {
		c = drawLegend(c, caches, lines)
		tiles := draw.Tiles{Rows: len(panels), Cols: columns, PadX: 20, PadY: 20}
		at := plot.Align(panels, tiles, c)
		for row := range panels {
			for column, p := range panels[row] {
				if p != nil {
					p.Draw(at[row][column])
				}
			}
		}
	}}, true
}

// capacityTicks are where something was measured.
func capacityTicks(rows []raw.Row) plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for _, r := range rows {
		tick := plot.Tick{Value: r.Figures["capacity"], Label: text.Figure(r.Figures["capacity"])}
		if !slices.Contains(ticks, tick) {
			ticks = append(ticks, tick)
		}
	}
	return ticks
}

func percentTicks() []plot.Tick {
	var ticks []plot.Tick
	for percent := 0; percent <= 100; percent += 20 {
		ticks = append(ticks, plot.Tick{Value: float64(percent), Label: strconv.Itoa(percent)})
	}
	return ticks
}

// latencyChart is a curve for each call: how long it took at most in this share of
// all calls. Each step to the right of 90, 99, 99.9 is ten times as rare.
func latencyChart(rows []raw.Row) (drawing, bool) {
	rows = ofSuite(rows, "latency")
	if len(rows) == 0 {
		return drawing{}, false
	}
	p := newPlot("Latency: "+rows[0].Work, "percentile of the calls", "time of a call (logarithmic)")
	p.Add(newGrid())
	names, lines := make([]string, len(rows)), make([]draw.LineStyle, len(rows))
	var ticks plot.ConstantTicks
	for i, r := range rows {
		names[i] = r.Who
		lines[i] = reference // an empty call comes first: the machine's own
		if i > 0 {
			lines[i] = lineOf(i - 1)
		}
		var points plotter.XYs
		for name, ns := range r.Figures {
			percentile, err := strconv.ParseFloat(strings.TrimPrefix(name, "p"), 64)
			if err != nil || !strings.HasPrefix(name, "p") || percentile >= 100 || ns <= 0 {
				continue
			}
			points = append(points, plotter.XY{X: rarity(percentile), Y: math.Log10(ns)})
			// Between the powers of ten the labels would touch.
			tick := plot.Tick{Value: rarity(percentile)}
			if tens := tick.Value; math.Abs(tens-math.Round(tens)) < 1e-6 || percentile == 50 {
				tick.Label = strings.TrimPrefix(name, "p") + " %"
			}
			ticks = append(ticks, tick)
		}
		slices.SortFunc(points, func(a, b plotter.XY) int { return int(math.Copysign(1, a.X-b.X)) })
		addLine(p, points, lines[i])
	}
	slices.SortFunc(ticks, func(a, b plot.Tick) int { return int(math.Copysign(1, a.Value-b.Value)) })
	p.X.Tick.Marker = slices.CompactFunc(ticks, func(a, b plot.Tick) bool { return a.Value == b.Value })
	p.Y.Min, p.Y.Max = math.Floor(p.Y.Min), math.Ceil(p.Y.Max)
	p.Y.Tick.Marker = within(p.Y, timeTicks())
	return drawing{760, 380, func(c draw.Canvas) { p.Draw(drawLegend(c, names, lines)) }}, true
}

// rarity is where a percentile lies: 90 at 1, 99 at 2.
func rarity(percentile float64) float64 { return -math.Log10(1 - percentile/100) }

// timeTicks are the powers of ten of a nanosecond.
func timeTicks() []plot.Tick {
	var ticks []plot.Tick
	unit := []string{"ns", "µs", "ms", "s"}
	for power := range 12 {
		label := fmt.Sprintf("%.0f %s", math.Pow10(power%3), unit[power/3])
		ticks = append(ticks, plot.Tick{Value: float64(power), Label: label})
	}
	return ticks
}

// addLine adds a line and widens the axes for it. No points are no line.
func addLine(p *plot.Plot, points plotter.XYs, style draw.LineStyle) {
	if len(points) > 0 {
		p.Add(&plotter.Line{XYs: points, LineStyle: style})
	}
}
