package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/entitlements-go/entitlements/bench/raw"
	"github.com/entitlements-go/entitlements/bench/text"
)

const (
	// slack is how much worse than the baseline a ratio may be: less is the
	// machine's weather.
	slack = 1.25
	// tries is how often a ratio may be measured before it counts as worse.
	tries = 3
)

// baseline is the medians of the ratios that are kept, by the title of their row
// with its suite.
type baseline map[string]float64

func baselineKey(row raw.Row) string { return row.Suite + ": " + text.Title(row) }

// readBaseline reads the results of the suites that have ratios. Each must be there.
func readBaseline(dir string) (baseline, error) {
	b := make(baseline)
	for _, s := range suites() {
		if !s.ratios {
			continue
		}
		path := filepath.Join(dir, s.name+".jsonl")
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read the baseline: %w", err)
		}
		_, rows, err := raw.Read(f)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("read the baseline %s: %w", path, err)
		}
		for _, row := range rows {
			if row.Median > 0 {
				b[baselineKey(row)] = row.Median
			}
		}
	}
	return b, nil
}

// judge measures a row until it is no worse than the baseline, or the tries are
// used up. A row that the baseline lacks is not let through: it may have another
// name there, and would never be compared.
func (b baseline) judge(row *raw.Row, measure func(*raw.Row)) {
	was, ok := b[baselineKey(*row)]
	if !ok {
		measure(row)
		row.Judge("has no baseline: `make bench` measures it", false)
		return
	}
	most, try := slack*was, 0
	for try < tries && (try == 0 || row.Median > most) {
		measure(row)
		try++
	}
	row.Judge(fmt.Sprintf("≤ %.2f × the baseline of %s ×, try %d", slack, text.Times(was), try), row.Median <= most)
}
