package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// options is what the command line says.
type options struct {
	Workload Workload
	load     *load
	File     string // of the workload
	Trace    string
	HTML     string
	Quick    bool
	Verify   bool
	Time     time.Duration
}

// told is what a trace says in place of flags.
var told = []string{"customers", "features", "checks", "zipf", "usage", "cells"}

// flags are those of the command line, with what o says as their defaults.
func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("tune", flag.ContinueOnError)
	f.SetOutput(io.Discard) // an error is one line, and not all flags before it
	w := &o.Workload
	f.IntVar(&w.Customers, "customers", w.Customers, "customers who are asked about")
	f.IntVar(&w.Features, "features", w.Features, "features of each")
	f.Float64Var(&w.Checks, "checks", w.Checks, "checks a second")
	f.Float64Var(&w.Zipf, "zipf", w.Zipf, "exponent of the customers' popularity, 0 = all alike")
	f.Float64Var(&w.Usage, "usage", w.Usage, "usage events a second")
	f.IntVar(&w.Cells, "cells", w.Cells, "distinct customers and features that usage falls on")
	f.DurationVar(&w.Latency, "latency", w.Latency, "of the billing API")
	f.IntVar(&w.RateLimit, "rate-limit", w.RateLimit, "reads that the billing API takes a second")
	f.StringVar(&w.Family, "family", w.Family, "contract of the billing API: core takes usage in batches, sdk one by one")
	f.TextVar(&w.Memory, "memory", w.Memory, "that the Client may hold")
	f.DurationVar(&w.Freshness, "freshness", w.Freshness, "age of what answers, at most, in 99 of 100 checks")
	f.IntVar(&w.AtRisk, "at-risk", w.AtRisk, "usage events that wait to be delivered, at most, in 99 of 100 moments")
	f.StringVar(&o.File, "workload", "", "YAML `file` with fields of the names above; flags win over it")
	f.StringVar(&o.Trace, "trace", "", "`file` of package trace, replayed in place of a drawn workload")
	f.StringVar(&o.HTML, "html", "tune.html", "`file` of the report, empty = none")
	f.BoolVar(&o.Quick, "quick", false, "fewer values and shorter runs, some 15 s")
	f.BoolVar(&o.Verify, "verify", false, "run what is recommended in real time, and compare, which takes about three TTLs more")
	f.DurationVar(&o.Time, "time", 150*time.Second, "how long the search may take; 14s with -quick")
	return f
}

// help says what can be said.
func help(output io.Writer) {
	o := options{Workload: usual()}
	f := o.flags()
	f.SetOutput(output)
	fmt.Fprintln(output, "Tune finds settings of the library for a workload.\n\nFlags:")
	f.PrintDefaults()
	fmt.Fprint(output, "\nA workload as a file:\n\n", example())
}

// example is the usual workload as a file.
func example() string {
	text, err := yaml.Marshal(usual())
	if err != nil {
		panic(err) // of a struct of numbers
	}
	return string(text)
}

// parse reads flags and files, and makes the load. Its error is flag.ErrHelp when
// that is all that is wanted.
func parse(args []string) (options, error) {
	o := options{Workload: usual()}
	switch err := o.flags().Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return o, err
	case err != nil:
		return o, fmt.Errorf("tune: %w; -h lists the flags", err)
	}
	if o.File != "" {
		o.Workload = usual()
		if err := readWorkload(o.File, &o.Workload); err != nil {
			return o, err
		}
	}
	// Once more over the file: what is given explicitly wins.
	given := o.flags()
	if err := given.Parse(args); err != nil {
		return o, err
	}
	if given.NArg() > 0 {
		return o, fmt.Errorf("tune: there are only flags, got %q", given.Arg(0))
	}
	var set []string
	given.Visit(func(f *flag.Flag) { set = append(set, f.Name) })
	if o.Quick && !slices.Contains(set, "time") {
		o.Time = 14 * time.Second
	}
	if o.Time < time.Second {
		return o, fmt.Errorf("tune: time must be at least 1s, got %v", o.Time)
	}
	if o.Trace != "" {
		for _, name := range set {
			if slices.Contains(told, name) {
				return o, fmt.Errorf("tune: %s must not be set beside trace, which says it", name)
			}
		}
		var err error
		if o.load, err = readTrace(o.Trace, &o.Workload); err != nil {
			return o, err
		}
	}
	if err := o.Workload.validate(); err != nil {
		return o, err
	}
	if o.load == nil {
		o.load = synthetic(o.Workload)
	}
	return o, nil
}

// readWorkload reads a YAML file over w. A field that there is not is an error.
func readWorkload(name string, w *Workload) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("tune: read the workload: %w", err)
	}
	fields := yaml.NewDecoder(bytes.NewReader(data))
	fields.KnownFields(true)
	if err := fields.Decode(w); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("tune: workload %s: %s", name, strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), " in type main.Workload", ""))
	}
	return nil
}
