// Package raw is the form in which results are kept: JSON Lines, one row of a
// table each, with everything that a table or a chart of them needs. The first
// line of a file says where and when it was measured.
package raw

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// Header is the first line of a file.
type Header struct {
	Command string    `json:"command"` // that measures it again
	Time    time.Time `json:"time"`
	Go      string    `json:"go"`
	OS      string    `json:"os"`
	Arch    string    `json:"arch"`
	CPU     string    `json:"cpu"`
	CPUs    int       `json:"cpus"`
	Commit  string    `json:"commit,omitempty"` // of this repository, when the program knows
}

// Row is a measurement.
type Row struct {
	Suite   string `json:"suite"`             // the table that it belongs to: "checks", "recorders", "memory" …
	Work    string `json:"work"`              // what was done
	Who     string `json:"who"`               // who did it: "entitlements", "ristretto" …
	Version string `json:"version,omitempty"` // of whom
	Cores   int    `json:"cores,omitempty"`

	// Of a paired measurement: each round's ratio, their quartiles, the medians
	// of what a call took and of what one of the floor took. Nanoseconds are wall
	// time divided by the calls of all goroutines.
	Ratios  []float64 `json:"ratios,omitempty"`
	Q1      float64   `json:"q1,omitempty"`
	Median  float64   `json:"median,omitempty"`
	Q3      float64   `json:"q3,omitempty"`
	NS      float64   `json:"ns,omitempty"`
	FloorNS float64   `json:"floor_ns,omitempty"`
	To      string    `json:"to,omitempty"`     // what the ratios are to; "" is the floor
	Allocs  *float64  `json:"allocs,omitempty"` // a call
	Bytes   *float64  `json:"bytes,omitempty"`  // allocated a call

	// Figures is what else there is to say, by name: "delivered", "p99" …
	Figures map[string]float64 `json:"figures,omitempty"`

	// Bar is what was to be reached and Pass whether it was; nil for what is only reported.
	Bar  string `json:"bar,omitempty"`
	Pass *bool  `json:"pass,omitempty"`
}

// Judge sets the bar and whether it was reached.
func (r *Row) Judge(bar string, pass bool) { r.Bar, r.Pass = bar, &pass }

// A Writer writes a file of rows.
type Writer struct{ enc *json.Encoder }

// NewWriter writes the header at once.
func NewWriter(w io.Writer, command string) (*Writer, error) {
	enc := json.NewEncoder(w)
	h := Header{
		Command: command, Time: time.Now().UTC().Truncate(time.Second), Go: runtime.Version(),
		OS: runtime.GOOS, Arch: runtime.GOARCH, CPU: cpu(), CPUs: runtime.NumCPU(), Commit: commit(),
	}
	return &Writer{enc}, enc.Encode(h)
}

// Write adds a row.
func (w *Writer) Write(r Row) error { return w.enc.Encode(r) }

// Read reads a file that a Writer wrote.
func Read(r io.Reader) (Header, []Row, error) {
	var h Header
	var rows []Row
	dec := json.NewDecoder(bufio.NewReader(r))
	if err := dec.Decode(&h); err != nil {
		return h, nil, fmt.Errorf("raw: read the header: %w", err)
	}
	for dec.More() {
		var row Row
		if err := dec.Decode(&row); err != nil {
			return h, rows, fmt.Errorf("raw: read row %d: %w", len(rows)+1, err)
		}
		rows = append(rows, row)
	}
	return h, rows, nil
}

// cpu is the processor's name, where the system tells it.
func cpu() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	var revision, modified string
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value[:min(len(s.Value), 12)]
		case "vcs.modified":
			if s.Value == "true" {
				modified = "+"
			}
		}
	}
	return revision + modified
}
