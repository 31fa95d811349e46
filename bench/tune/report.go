package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

//go:embed report.html.tmpl
var page string

// A section is what the report shows of a setting.
type section struct {
	Name, About string
	Plots       []template.HTML
	Head        []string
	Rows        []reportRow
}

type reportRow struct {
	Cells  []string
	Chosen bool
}

// writable makes sure that the report can be written, before there is any.
func writable(name string) error {
	if name == "" {
		return nil
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
	text, err := yaml.Marshal(w)
	if err != nil {
		return fmt.Errorf("tune: write the workload: %w", err)
	}
	var sections []section
	for _, t := range r.Tables {
		s := section{Name: t.Setting.name, About: t.Setting.about, Head: head}
		for _, p := range panels(w) {
			svg, err := p.draw(t)
			if err != nil {
				return err
			}
			s.Plots = append(s.Plots, svg)
		}
		for _, row := range t.Rows {
			s.Rows = append(s.Rows, reportRow{cells(t.Setting, row), row.Chosen})
		}
		sections = append(sections, s)
	}
	data := map[string]any{
		"Command": command, "Go": runtime.Version(), "Date": time.Now().UTC().Format("2006-01-02 15:04 UTC"),
		"Workload": string(text), "Literal": literal(w, r), "Conclusion": strings.Join(conclusion(r), "\n"),
		"Unmet": len(r.Unmet) > 0, "Sections": sections,
	}
	if err := template.Must(template.New("report").Parse(page)).Execute(out, data); err != nil {
		return fmt.Errorf("tune: write the report: %w", err)
	}
	return nil
}
