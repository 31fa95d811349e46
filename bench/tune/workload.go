package main

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"
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

// usual is the workload that is meant where nothing else is said.
func usual() Workload {
	return Workload{
		Customers: 10_000, Features: 50, Checks: 5000, Zipf: 1.1, Usage: 1000, Cells: 5000,
		Latency: 40 * time.Millisecond, RateLimit: 100, Family: "core",
		Memory: 64 << 20, Freshness: time.Minute, AtRisk: 5000,
	}
}

// mostGrants bounds what the billing API keeps in memory: 200 bytes a grant.
const mostGrants = 5_000_000

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
	if grants := w.Customers * w.Features; len(errs) == 0 && grants > mostGrants {
		errs = append(errs, fmt.Errorf("tune: customers × features must be at most %d, got %d", mostGrants, grants))
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
