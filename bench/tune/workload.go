package main

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"
	"go.yaml.in/yaml/v3"
)

// Workload is what a service asks of its Client, what it can spend, and what it
// wants. The package's documentation says what the fields are.
type Workload struct {
	Customers int           `yaml:"customers"`
	Features  int           `yaml:"features"`
	Checks    float64       `yaml:"checks"`
	Zipf      float64       `yaml:"zipf"`
	Usage     float64       `yaml:"usage"`
	Cells     int           `yaml:"cells"`
	Latency   time.Duration `yaml:"latency"`
	RateLimit int           `yaml:"rate-limit"`
	Family    string        `yaml:"family"`
	Memory    Size          `yaml:"memory"`
	Freshness time.Duration `yaml:"freshness"`
	AtRisk    int           `yaml:"at-risk"`
}

// usual is the workload that is meant where nothing else is said: one of ten
// processes of a service for businesses.
//
//   - 2000 of them pay. A few are very large and most are small, which is what an
//     exponent just above 1 says. A plan lists some thirty features.
//   - A process serves two hundred requests a second and asks about ten features in
//     each. Every fourth check is of something that is metered, and is used then.
//   - The billing API takes 1000 reads a second in production, which ten processes
//     share.
//   - A plan that was changed by hand is seen within half a minute, and a process
//     that is killed takes four seconds of usage with it.
//   - The cache is a small part of a process's memory.
//
// The library's defaults do not hold that: its TTL does, but the denials that look
// again after DenyTTL make more requests than the limit. What does is not far away.
func usual() Workload {
	return Workload{
		Customers: 2000, Features: 30, Checks: 2000, Zipf: 1.1, Usage: 500, Cells: 2000,
		Latency: 40 * time.Millisecond, RateLimit: 100, Family: "core",
		Memory: 64 << 20, Freshness: 30 * time.Second, AtRisk: 2000,
	}
}

const (
	mostGrants = 5_000_000 // what the billing API keeps in memory: 200 bytes a grant
	mostMeters = 1000      // of one customer, whose answer lists them all
)

// validate reports everything that is wrong, each with its field, bound and value.
func (w Workload) validate() error {
	var errs []error
	within := func(field string, v, least, most float64, text string) {
		if !(v >= least && v <= most) {
			errs = append(errs, fmt.Errorf("tune: %s must be %s", field, text))
		}
	}
	number := func(field string, v, least, most float64) {
		text := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
		within(field, v, least, most, fmt.Sprintf("%s to %s, got %s", text(least), text(most), text(v)))
	}
	duration := func(field string, v, least, most time.Duration) {
		within(field, float64(v), float64(least), float64(most), fmt.Sprintf("%v to %v, got %v", least, most, v))
	}
	number("customers", float64(w.Customers), 1, 1_000_000)
	number("features", float64(w.Features), 1, 1000)
	number("checks", w.Checks, 0.001, 1_000_000)
	number("usage", w.Usage, 0, 100_000)
	number("cells", float64(w.Cells), 1, 1_000_000)
	number("rate-limit", float64(w.RateLimit), 1, 1_000_000)
	number("at-risk", float64(w.AtRisk), 1, 1_000_000_000)
	duration("latency", w.Latency, 0, 4*time.Second)
	duration("freshness", w.Freshness, time.Second, 24*time.Hour)
	within("memory", float64(w.Memory), 1<<20, 1<<40, fmt.Sprintf("1.0 MiB to 1.0 TiB, got %v", w.Memory))
	if w.Zipf != 0 && !(w.Zipf > 1 && w.Zipf <= 10) {
		errs = append(errs, fmt.Errorf("tune: zipf must be 0 or above 1 and at most 10, got %v", w.Zipf))
	}
	if w.Family != "core" && w.Family != "sdk" {
		errs = append(errs, fmt.Errorf("tune: family must be core or sdk, got %q", w.Family))
	}
	if len(errs) == 0 && w.Cells > mostMeters*w.Customers {
		errs = append(errs, fmt.Errorf("tune: cells must be at most %d for each of %d customers, got %d", mostMeters, w.Customers, w.Cells))
	}
	if grants := w.Customers*w.Features + w.Cells; len(errs) == 0 && grants > mostGrants {
		errs = append(errs, fmt.Errorf("tune: customers × features + cells must be at most %d, got %d", mostGrants, grants))
	}
	return errors.Join(errs...)
}

// Size is a number of bytes, as text "64 MiB".
type Size int64

// String is a binary size.
func (s Size) String() string { return humanize.IBytes(uint64(max(0, s))) }

// MarshalText is String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads "64MiB", "64 MB" and plain numbers.
func (s *Size) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	if err != nil || n > 1<<62 {
		return fmt.Errorf("must be a size like 64MiB, got %q", text)
	}
	*s = Size(n)
	return nil
}

// UnmarshalYAML is UnmarshalText, whose error alone would not say where.
func (s *Size) UnmarshalYAML(node *yaml.Node) error {
	if err := s.UnmarshalText([]byte(node.Value)); err != nil {
		return fmt.Errorf("line %d: %w", node.Line, err)
	}
	return nil
}
