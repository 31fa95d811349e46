package main

import (
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

//go:embed report.html.tmpl
var page string

// A section is what the report shows of a setting.
type section struct {
	Name, About, Value, Default string
	Plots                       []template.HTML
	Same                        []string // the figures that it makes no difference to
	Head                        []string
	Rows                        []reportRow
}

type reportRow struct {
	Cells  []string
	Chosen bool
}

// reportLine is a name and its value, and what the workload wants of it.
type reportLine struct{ Name, Value, Bound string }

// writable makes sure that the report can be written, before there is any. What
// the file holds so far it keeps until then.
func writable(name string) error {
	if name == "" {
		return nil
	}
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		defer func() { _ = os.Remove(name) }()
	}
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return fmt.Errorf("tune: html must be a file that can be written: %w", err)
	}
	return file.Close()
}

// writeReport writes a page that needs nothing beside itself.
func writeReport(name, command string, w Workload, r Result) error {
	file, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("tune: write the report: %w", err)
	}
	err = report(file, command, w, r)
	if closeErr := file.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("tune: write the report: %w", closeErr)
	}
	return err
}

func report(out io.Writer, command string, w Workload, r Result) error {
	var sections []section
	for _, t := range r.Tables {
		s, err := sectionOf(w, r, t)
		if err != nil {
			return err
		}
		sections = append(sections, s)
	}
	data := map[string]any{
		"Command": command, "Go": runtime.Version(), "Date": time.Now().UTC().Format("2006-01-02 15:04 UTC"),
		"Workload": w.lines(), "Literal": literal(w, r),
		"Conclusion": strings.Join(conclusion(r), "\n"), "Unmet": len(r.Unmet) > 0,
		"Promised": promisedLines(w, r), "Measured": measuredFor(r), "Sections": sections,
	}
	if err := template.Must(template.New("report").Parse(page)).Execute(out, data); err != nil {
		return fmt.Errorf("tune: write the report: %w", err)
	}
	return nil
}

func sectionOf(w Workload, r Result, t Table) (section, error) {
	s := section{
		Name: t.Setting.name, About: t.Setting.about, Head: head,
		Value: t.Setting.text(r.Best), Default: t.Setting.text(defaults()),
	}
	for _, p := range panels(w) {
		if !p.differs(t) {
			s.Same = append(s.Same, strings.ToLower(p.title))
			continue
		}
		svg, err := p.draw(t)
		if err != nil {
			return s, err
		}
		s.Plots = append(s.Plots, svg)
	}
	for _, row := range t.Rows {
		s.Rows = append(s.Rows, reportRow{cells(t.Setting, row), row.Chosen})
	}
	return s, nil
}

func promisedLines(w Workload, r Result) []reportLine {
	var out []reportLine
	for _, p := range w.promises() {
		out = append(out, reportLine{p.name, p.text(p.of(r.Promise)), p.bound})
	}
	return out
}

// lines are the workload's fields as a reader wants them.
func (w Workload) lines() []reportLine {
	number := func(v float64) string { return strconv.FormatFloat(math.Round(100*v)/100, 'f', -1, 64) }
	return []reportLine{
		{"customers", number(float64(w.Customers)), ""},
		{"features", number(float64(w.Features)), ""},
		{"checks", number(w.Checks) + " a second", ""},
		{"zipf", number(w.Zipf), ""},
		{"usage", number(w.Usage) + " events a second", ""},
		{"cells", number(float64(w.Cells)), ""},
		{"latency", short(w.Latency), ""},
		{"rate-limit", number(float64(w.RateLimit)) + " reads a second", ""},
		{"family", w.Family, ""},
		{"memory", w.Memory.String(), ""},
		{"freshness", short(w.Freshness), ""},
		{"at-risk", number(float64(w.AtRisk)) + " events", ""},
	}
}
