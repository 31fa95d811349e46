package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/entitlements-go/entitlements/bench/raw"
	"github.com/entitlements-go/entitlements/bench/text"
)

// results is all that was measured.
type results struct {
	headers []raw.Header // of each file of rows
	rows    []raw.Row
	bars    []bar  // of bars.txt
	machine string // that they were measured on, and when: its first line
}

// bar is what was to be reached, and what was.
type bar struct{ work, bar, measured, verdict string }

const (
	passed = "pass"
	failed = "FAIL"
)

// readResults reads the files of rows, suite by suite, and bars.txt. Either may be
// missing, not both.
func readResults(dir string) (results, error) {
	var r results
	paths, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return r, err
	}
	for _, path := range paths {
		if err := readFile(path, func(f io.Reader) error {
			h, rows, err := raw.Read(f)
			r.headers, r.rows = append(r.headers, h), append(r.rows, rows...)
			return err
		}); err != nil {
			return r, err
		}
	}
	slices.SortStableFunc(r.rows, bySuite)
	err = readFile(filepath.Join(dir, "bars.txt"), func(f io.Reader) (err error) {
		r.machine, r.bars, err = parseBars(f)
		return err
	})
	if len(paths) > 0 && errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return r, err
}

func readFile(path string, read func(io.Reader) error) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := read(bytes.NewReader(data)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// parseBars reads the lines of a table of bars from between others, and the first
// line, which says where and when they were measured. A line of the table that is
// there twice counts once: the rows are printed when they are measured, and again
// at the end.
func parseBars(r io.Reader) (machine string, bars []bar, err error) {
	seen := map[bar]bool{}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if !strings.HasPrefix(line, "|") {
			if n == 1 {
				machine = line
			}
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) != 4 {
			return "", nil, fmt.Errorf("line %d has %d cells, must be 4: work, bar, measured, verdict", n, len(cells))
		}
		b := bar{cells[0], cells[1], cells[2], cells[3]}
		if b.verdict != passed && b.verdict != failed {
			return "", nil, fmt.Errorf("line %d has the verdict %q, must be %q or %q", n, b.verdict, passed, failed)
		}
		if !seen[b] {
			seen[b] = true
			bars = append(bars, b)
		}
	}
	return machine, bars, lines.Err()
}

// suites are in the order in which a reader wants them. Others come last.
var suites = []string{"checks", "reads", "usage", "memory", "caching", "recorders", "latency"}

func bySuite(a, b raw.Row) int {
	place := func(r raw.Row) int {
		if i := slices.Index(suites, r.Suite); i >= 0 {
			return i
		}
		return len(suites)
	}
	return place(a) - place(b)
}

// titled is what a row is about, for who does not know its suite.
func titled(r raw.Row) string {
	title := text.Title(r)
	switch {
	case r.Suite == "checks" && r.Who == "entitlements":
		return "Allowed, " + title
	case r.Suite == "checks" && r.Who == "entitlements, handle":
		r.Who = "Customer.Allowed(Feature)"
		return text.Title(r)
	case r.Suite == "recorders" && r.Who == "entitlements":
		return "Track, " + title
	case r.Suite == "recorders" && r.Who == "entitlements, on disk":
		r.Who = "Track with SpoolDir"
		return text.Title(r)
	case r.Suite == "memory":
		return "memory, " + title
	case r.Suite == "caching":
		return "hit ratio, " + title
	default:
		return title
	}
}

// judged are the rows that have a bar.
func judged(rows []raw.Row) []bar {
	var bars []bar
	for _, r := range rows {
		if r.Bar == "" {
			continue
		}
		b := bar{work: titled(r), bar: r.Bar, measured: text.Measured(r), verdict: "–"}
		if r.Pass != nil {
			b.verdict = failed
			if *r.Pass {
				b.verdict = passed
			}
		}
		bars = append(bars, b)
	}
	return bars
}
