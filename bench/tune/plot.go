package main

import (
	"bytes"
	"fmt"
	"html/template"
	"image/color"
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

	sans = font.Font{Typeface: "Liberation", Variant: "Sans"}
)

// A panel is one figure over the values of a setting.
type panel struct {
	title string
	lines []func(Measured) float64 // the last is the one that counts
	most  float64                  // of the workload; 0 = none
}

func panels(w Workload) []panel {
	return []panel{
		{"hit ratio, %", []func(Measured) float64{func(m Measured) float64 { return 100 * m.HitRatio }}, 0},
		{"age p50 and p99, s", []func(Measured) float64{
			func(m Measured) float64 { return m.P50.Seconds() },
			func(m Measured) float64 { return m.P99.Seconds() },
		}, w.Freshness.Seconds()},
		{"requests/s", []func(Measured) float64{func(m Measured) float64 { return m.Reads }}, float64(w.RateLimit)},
		{"usage events at risk", []func(Measured) float64{func(m Measured) float64 { return float64(m.AtRisk) }}, float64(w.AtRisk)},
	}
}

// draw plots a panel for a table as an SVG element.
func (p panel) draw(t Table) (template.HTML, error) {
	plot.DefaultFont, plotter.DefaultFont = sans, sans
	chart := plot.New()
	chart.Title.Text, chart.Title.Padding = p.title, vg.Points(6)
	chart.Title.TextStyle.Font.Size = vg.Points(11)
	chart.X.Padding, chart.Y.Padding = vg.Points(8), vg.Points(2)
	var names []string
	for _, row := range t.Rows {
		names = append(names, t.Setting.text(row.Candidate))
	}
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	grid.Horizontal.Color = color.Gray{0xe4}
	chart.Add(grid)
	top := 0.0
	for i, of := range p.lines {
		var points plotter.XYs
		for x, row := range t.Rows {
			points = append(points, plotter.XY{X: float64(x), Y: of(row.Measured)})
			top = max(top, of(row.Measured))
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return "", fmt.Errorf("tune: plot %s of %s: %w", p.title, t.Setting.name, err)
		}
		line.Color, line.Width = ink, vg.Points(1.5)
		if i < len(p.lines)-1 {
			line.Color = light
		}
		dots.Shape, dots.Radius = draw.CircleGlyph{}, vg.Points(3)
		dots.GlyphStyleFunc = func(x int) draw.GlyphStyle {
			style := draw.GlyphStyle{Shape: draw.CircleGlyph{}, Radius: vg.Points(3), Color: line.Color}
			if t.Rows[x].Chosen {
				style.Color, style.Radius = mark, vg.Points(4.5)
			}
			return style
		}
		chart.Add(line, dots)
	}
	// The bound where it can be seen, and not where it would flatten the rest.
	if p.most > 0 && p.most < 3*top {
		limit := plotter.NewFunction(func(float64) float64 { return p.most })
		limit.Color, limit.Dashes = bound, []vg.Length{vg.Points(4), vg.Points(3)}
		chart.Add(limit)
		top = max(top, p.most)
	}
	chart.NominalX(names...)
	chart.X.Min, chart.X.Max = -0.4, float64(len(names))-0.6
	chart.Y.Min, chart.Y.Max = 0, max(top*1.12, 1)
	chart.Y.Tick.Marker = plot.TickerFunc(labelled)
	chart.BackgroundColor = nil // the page's
	canvas := vgsvg.New(7.6*vg.Centimeter, 5.2*vg.Centimeter)
	chart.Draw(draw.Crop(draw.New(canvas), vg.Points(4), -vg.Points(8), vg.Points(4), -vg.Points(4)))
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return "", fmt.Errorf("tune: plot %s of %s: %w", p.title, t.Setting.name, err)
	}
	// Inside a page there is no place for what comes before the element.
	_, svg, _ := strings.Cut(out.String(), "<svg")
	svg = strings.NewReplacer(
		"\n\txmlns:xlink=\"http://www.w3.org/1999/xlink\"", "", // nothing links
		"font-family:Liberation Sans", "font-family:Liberation Sans,Arial,sans-serif",
	).Replace(svg)
	return template.HTML("<svg" + svg), nil // of numbers and of our own names
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
