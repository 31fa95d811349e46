package main

import (
	"bytes"
	"image/color"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/entitlements-go/entitlements/bench/raw"
)

// drawing is a chart: its size, and how it is drawn on a canvas of that.
type drawing struct {
	width, height vg.Length
	draw          func(draw.Canvas)
}

// chart is one that can be drawn. make returns false when there are no rows for it.
type chart struct {
	path string // below the root
	alt  string // what it shows, for who does not see it
	make func([]raw.Row) (drawing, bool)
}

// allCharts has that of README.md first.
var allCharts = []chart{
	{"docs/img/checks.svg", "A check, by peer", checksChart},
	{"docs/img/hitratio.svg", "Hits by capacity of the cache, by trace and peer", hitRatioChart},
	{"docs/img/latency.svg", "Percentiles of the latency of a call", latencyChart},
}

// charts are the files of all charts that there are rows for.
func charts(rows []raw.Row) ([]file, error) {
	var files []file
	for _, c := range allCharts {
		d, ok := c.make(rows)
		if !ok {
			continue
		}
		content, err := d.svg()
		if err != nil {
			return nil, err
		}
		files = append(files, file{c.path, content})
	}
	return files, nil
}

func (d drawing) svg() ([]byte, error) {
	canvas := vgsvg.New(d.width, d.height)
	whole := draw.New(canvas)
	// A page may be dark: a chart brings its own paper.
	whole.SetColor(color.White)
	whole.Fill(whole.Path())
	d.draw(draw.Crop(whole, margin, -margin, margin, -margin))
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, err
	}
	// The typeface that the text was measured with, or one of the same widths.
	return []byte(strings.ReplaceAll(out.String(),
		"font-family:Liberation Sans", "font-family:Liberation Sans,Arial,Helvetica,sans-serif")), nil
}

const (
	margin   = vg.Length(10)
	textSize = vg.Length(11)
)

var (
	ink   = color.NRGBA{R: 0x24, G: 0x29, B: 0x2f, A: 0xff}
	faint = color.NRGBA{R: 0xd0, G: 0xd7, B: 0xde, A: 0xff}
	muted = color.NRGBA{R: 0x8c, G: 0x95, B: 0x9f, A: 0xff}
)

// inks are the colours of those who are compared, ours first: they can be told
// apart by those who do not see red and green apart, and by their lightness.
var inks = []color.NRGBA{
	{R: 0x00, G: 0x5a, B: 0xb5, A: 0xff},
	{R: 0xd5, G: 0x5e, B: 0x00, A: 0xff},
	{R: 0x00, G: 0x9e, B: 0x73, A: 0xff},
	{R: 0xcc, G: 0x79, B: 0xa7, A: 0xff},
	{R: 0xe6, G: 0x9f, B: 0x00, A: 0xff},
	{R: 0x56, G: 0xb4, B: 0xe9, A: 0xff},
}

func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.Padding = 8
	p.X.Padding, p.Y.Padding = 0, 0
	for _, style := range []*draw.TextStyle{
		&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle,
		&p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle,
	} {
		style.Font, style.Color = sans(textSize), ink
	}
	p.Title.TextStyle.Font = sans(textSize + 2)
	for _, line := range []*draw.LineStyle{&p.X.LineStyle, &p.Y.LineStyle, &p.X.Tick.LineStyle, &p.Y.Tick.LineStyle} {
		line.Color = muted
	}
	return p
}

func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}

func newGrid() *plotter.Grid {
	g := plotter.NewGrid()
	g.Horizontal.Color, g.Vertical.Color = faint, faint
	return g
}

// lineOf is how the i-th of those who are compared is drawn. The first is ours.
func lineOf(i int) draw.LineStyle {
	line := draw.LineStyle{Color: inks[i%len(inks)], Width: 1.5}
	if i == 0 {
		line.Width = 3
	}
	return line
}

// within are the ticks that lie on an axis. The others would still take room.
func within(axis plot.Axis, ticks []plot.Tick) plot.ConstantTicks {
	return slices.DeleteFunc(ticks, func(t plot.Tick) bool { return t.Value < axis.Min || t.Value > axis.Max })
}

// drawLegend draws names and their lines side by side across the top of a canvas
// and returns what is left of it.
func drawLegend(c draw.Canvas, names []string, lines []draw.LineStyle) draw.Canvas {
	const sample, gap = vg.Length(22), vg.Length(6)
	style := newPlot("", "", "").Legend.TextStyle
	style.YAlign = draw.YCenter
	at, y := c.Min.X, c.Max.Y-textSize/2
	for i, name := range names {
		width := sample + gap + style.Width(name)
		if at+width > c.Max.X {
			at, y = c.Min.X, y-1.6*textSize
		}
		c.StrokeLine2(lines[i], at, y, at+sample, y)
		c.FillText(style, vg.Point{X: at + sample + gap, Y: y}, name)
		at += width + 3*gap
	}
	return draw.Crop(c, 0, 0, 0, y-2*textSize-c.Max.Y)
}
