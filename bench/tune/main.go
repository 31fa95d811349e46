// Tune finds settings for a workload. It says what they promise, and prints them
// as an entitlements.Config:
//
//	go run ./bench/tune -customers 5000 -checks 4000 -freshness 60s
//	go run ./bench/tune -workload bench/tune/testdata/example.yaml
//	go run ./bench/tune -trace monday.jsonl -verify
//
// Every candidate is the real library with the Paylera adapter, against a billing
// API that answers as late, and refuses as early, as the workload says. It runs
// in simulated time: minutes take seconds, and on a busy machine it is measured for
// shorter, not otherwise. What is left to chance is the jitter of the refreshes.
// The start of a process is not measured: the cache is filled first, as evenly as
// it is filled after hours.
//
// One setting after the other is tried, beginning with the defaults, or where
// those do not hold the workload's bounds with the settings that ask least. What
// holds the bounds is better than what does not; then more answers from the cache,
// fewer requests and less memory are, in that order. What differs by less than 2 %,
// by one check in a thousand or by what is chance stays at the library's default, or
// as near to it as it can. What was chosen while nothing held the bounds is asked
// again in the end.
//
// A workload is a YAML file, or flags of the same names, which win over it:
//
//	customers:  2000     # who are asked about
//	features:   30       # of each
//	checks:     2000     # a second
//	zipf:       1.1      # how uneven customers are: the exponent, 0 = all alike
//	usage:      500      # usage events a second
//	cells:      2000     # distinct customers and features that usage falls on
//	latency:    40ms     # of the billing API
//	rate-limit: 100      # reads that it takes a second
//	family:     core     # its contract: core takes usage in batches, sdk one by one
//	memory:     64MiB    # the Client may hold
//	freshness:  30s      # age of what answers, at most, in 99 of 100 checks
//	at-risk:    2000     # usage events that wait to be delivered, at most, in 99 of 100 moments
//
// With -trace customers, features, rates and who is popular are those of a trace
// that package trace recorded. Each run plays it from its beginning, in order of
// time, and again when it is over. A minute of the busiest hour says more than a day.
//
// The search ends within -time, 2m30s, or little later. -verify then takes about
// three TTLs more: the cache of the recommended Config is filled over one, refreshed
// over another, and measured for a third, at least 30 s.
//
// The exit status is 1 when no settings hold the bounds or -verify finds a
// promise broken, 2 when the workload makes no sense, 130 after Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"testing"
	"time"
)

const (
	exitMissed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	hosted(func(t *testing.T) int {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait for what there is
		return run(ctx, t, os.Args[1:], os.Stdout, os.Stderr)
	})
}

// run is the program.
func run(ctx context.Context, t *testing.T, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		help(stdout)
		return 0
	case err != nil:
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	if err := writable(o.HTML); err != nil { // better now than after minutes
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	s := &simulator{t: t, w: o.Workload, load: o.load, stopped: func() bool { return ctx.Err() != nil }}
	result, err := tune(s, o, stdout)
	if err != nil && !errors.Is(err, errInterrupted) {
		fmt.Fprintln(stderr, err)
		return exitMissed
	}
	printResult(stdout, o.Workload, result)
	if o.HTML != "" && len(result.Tables) > 0 {
		command := strings.TrimSpace("go run ./bench/tune " + strings.Join(args, " "))
		if err := writeReport(o.HTML, command, o.Workload, result); err != nil {
			fmt.Fprintln(stderr, err)
			return exitMissed
		}
		fmt.Fprintf(stdout, "\nReport: %s\n", o.HTML)
	}
	switch {
	case err != nil:
		return exitInterrupted
	case o.Verify:
		return verify(s, stdout, result)
	case len(result.Unmet) > 0:
		return exitMissed
	}
	return 0
}

// tune searches within the time that there is, and shows how far it is.
func tune(s *simulator, o options, stdout io.Writer) (Result, error) {
	b, p := newBudget(o.Time), newProgress(stdout)
	defer p.close()
	timed := func(c Candidate, sp span) (Measured, error) {
		began := time.Now()
		m, err := s.run(c, sp)
		b.ran(time.Since(began), sp)
		return m, err
	}
	return search(o.Workload, o.Quick, func(what string, left int, c Candidate) (Measured, error) {
		p.begin(what, left)
		if b.perSecond == 0 { // the first of all
			if _, err := timed(c, shortest()); err != nil {
				return Measured{}, err
			}
		}
		m, err := timed(c, b.next(c, left))
		if err == nil {
			p.end(what, m)
		}
		return m, err
	})
}
