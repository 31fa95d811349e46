package main

import (
	"bytes"
	"fmt"
	"html/template"
	"image/color"
	"math"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

var (
	ink   = color.RGBA{0x1f, 0x4e, 0x79, 0xff}
	light = color.RGBA{0x8f, 0xb3, 0xd4, 0xff}
	bound = color.RGBA{0xc0, 0x39, 0x2b, 0xff}
	mark  = color.RGBA{0xe6, 0x7e, 0x22, 0xff}
	dark  = color.RGBA{0x1c, 0x27, 0x33, 0xff}

	sans = font.Font{Typeface: "Liberation", Variant: "Sans"}
)

// visible is the part of a figure's height below which a difference is not worth
// a plot.
const visible = 0.1

// A panel is one figure over the values of a setting.
type panel struct {
	title, unit string
	lines       []func(Measured) float64 // the last is the one that counts
	most        float64                  // of the workload; 0 = none
}

func panels(w Workload) []panel {
	one := func(of func(Measured) float64) []func(Measured) float64 { return []func(Measured) float64{of} }
	return []panel{
		{"Answered from the cache", "% of checks", one(func(m Measured) float64 { return 100 * m.HitRatio }), 0},
		{"Age of answers", "seconds", []func(Measured) float64{
			func(m Measured) float64 { return m.P50.Seconds() },
			func(m Measured) float64 { return m.P99.Seconds() },
		}, w.Freshness.Seconds()},
		{"Reads", "requests/s", one(func(m Measured) float64 { return m.Reads }), float64(w.RateLimit)},
		{"Memory", "MiB", one(func(m Measured) float64 { return float64(m.Memory) / (1 << 20) }), float64(w.Memory) / (1 << 20)},
		{"Usage requests", "per 1000 events", one(func(m Measured) float64 { return m.PerThousand }), 0},
		{"Usage at risk", "events", one(func(m Measured) float64 { return float64(m.AtRisk) }), float64(w.AtRisk)},
	}
}

// differs reports whether the values of a setting make a difference to the figure
// that can be seen.
func (p panel) differs(t Table) bool {
	of := p.lines[len(p.lines)-1]
	least, most := math.Inf(1), 0.0
	for _, row := range t.Rows {
		least, most = min(least, of(row.Measured)), max(most, of(row.Measured))
	}
	return most-least > visible*most
}

// top is the highest of the panel's points.
func (p panel) top(t Table) (top float64) {
	for _, row := range t.Rows {
		for _, of := range p.lines {
			top = max(top, of(row.Measured))
		}
	}
	return top
}

// draw plots a panel for a table as an SVG element.
func (p panel) draw(t Table) (template.HTML, error) {
	chart := p.chart(t)
	top := p.top(t)
	for i, of := range p.lines {
		line, dots, err := plotter.NewLinePoints(points(t, of))
		if err != nil {
			return "", fmt.Errorf("tune: plot %s of %s: %w", p.title, t.Setting.name, err)
		}
		line.Color, line.Width = ink, vg.Points(1.5)
		if i < len(p.lines)-1 {
			line.Color = light
		}
		dots.GlyphStyleFunc = func(x int) draw.GlyphStyle {
			style := draw.GlyphStyle{Shape: draw.CircleGlyph{}, Radius: vg.Points(3), Color: line.Color}
			if t.Rows[x].Chosen {
				style.Color, style.Radius = mark, vg.Points(5)
			}
			return style
		}
		chart.Add(line, dots)
	}
	// The bound where it can be seen, and not where it would flatten the rest.
	if p.most > 0 && p.most < 3*top {
		limit := plotter.NewFunction(func(float64) float64 { return p.most })
		limit.Color, limit.Dashes, limit.Width = bound, []vg.Length{vg.Points(4), vg.Points(3)}, vg.Points(1.2)
		chart.Add(limit)
		top = max(top, p.most)
	}
	chart.Y.Max = max(top*1.1, 1)
	canvas := vgsvg.New(10*vg.Centimeter, 6*vg.Centimeter)
	chart.Draw(draw.Crop(draw.New(canvas), vg.Points(4), -vg.Points(8), vg.Points(4), -vg.Points(4)))
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return "", fmt.Errorf("tune: plot %s of %s: %w", p.title, t.Setting.name, err)
	}
	return p.embedded(out.String()), nil
}

// chart is a plot with everything but the figures.
func (p panel) chart(t Table) *plot.Plot {
	plot.DefaultFont, plotter.DefaultFont = sans, sans
	chart := plot.New()
	chart.Title.Text, chart.Title.Padding = p.title, vg.Points(8)
	chart.Title.TextStyle.Font.Size, chart.Title.TextStyle.Color = vg.Points(12), dark
	chart.X.Label.Text, chart.Y.Label.Text = t.Setting.name, p.unit
	for _, axis := range []*plot.Axis{&chart.X, &chart.Y} {
		axis.Label.TextStyle.Font.Size, axis.Label.TextStyle.Color = vg.Points(10.5), dark
		axis.Tick.Label.Font.Size, axis.Tick.Label.Color = vg.Points(10.5), dark
		axis.Label.Padding = vg.Points(3)
		axis.Color, axis.Tick.Color = color.Gray{0x90}, color.Gray{0x90}
	}
	chart.X.Padding, chart.Y.Padding = vg.Points(4), vg.Points(2)
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	grid.Horizontal.Color = color.Gray{0xe4}
	chart.Add(grid)
	var names []string
	for _, row := range t.Rows {
		names = append(names, t.Setting.text(row.Candidate))
	}
	chart.NominalX(names...)
	chart.X.Min, chart.X.Max = -0.4, float64(len(names))-0.6
	chart.Y.Min = 0
	chart.Y.Tick.Marker = plot.TickerFunc(labelled)
	chart.BackgroundColor = nil // the page's
	return chart
}

// embedded is what may stand inside a page: the element without what comes before
// it, in fonts that a browser has, and with a name for who can't see it.
func (p panel) embedded(document string) template.HTML {
	_, svg, _ := strings.Cut(document, "<svg")
	svg = strings.NewReplacer(
		"\n\txmlns:xlink=\"http://www.w3.org/1999/xlink\"", "", // nothing links
		"font-family:Liberation Sans", "font-family:Liberation Sans,Arial,sans-serif",
	).Replace(svg)
	return template.HTML(`<svg role="img" aria-label="` + template.HTMLEscapeString(p.title) + `"` + svg) // of numbers and of our own names
}

func points(t Table, of func(Measured) float64) plotter.XYs {
	var out plotter.XYs
	for x, row := range t.Rows {
		out = append(out, plotter.XY{X: float64(x), Y: of(row.Measured)})
	}
	return out
}

// labelled is the ticks that have a number, as short as it goes.
func labelled(least, most float64) []plot.Tick {
	var out []plot.Tick
	for _, tick := range (plot.DefaultTicks{}).Ticks(least, most) {
		if !tick.IsMinor() {
			tick.Label = strconv.FormatFloat(tick.Value, 'f', -1, 64)
			out = append(out, tick)
		}
	}
	return out
}
