// Speed measures this library side by side with its peers, and judges what it
// promises of speed. It prints each row with its bar as soon as it is measured,
// keeps them as bench/results/SUITE.jsonl, and fails when a bar was not reached.
//
//	go run ./bench/speed                      # all suites: a quarter of an hour, a quiet machine
//	go run ./bench/speed -suite reads,usage   # some of them
//	go run ./bench/speed -check               # is any ratio of ours worse than the one that is kept?
//	go run ./bench/speed -once                # does it all still work? A few seconds, nothing is judged
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	switch err := run(os.Args[1:], os.Stdout); {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "speed:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("speed", flag.ContinueOnError)
	flags.SetOutput(out)
	only := flags.String("suite", "", "suites to run, separated by commas; all by default: "+strings.Join(names(), ", "))
	dir := flags.String("out", filepath.Join("bench", "results"), "the `directory` of the results")
	check := flags.Bool("check", false, "measure our ratios again and compare them with those in the directory; write nothing")
	once := flags.Bool("once", false, "one small round of everything; judge and write nothing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *check && *once {
		return errors.New("-check compares what is measured in full: not with -once")
	}
	chosen, err := choose(*only, *check)
	if err != nil {
		return err
	}
	r := newRunner(out)
	switch {
	case *once:
		r.sizes, r.judging = tiny(), false
	case *check:
		if r.baseline, err = readBaseline(*dir); err != nil {
			return err
		}
	}
	for _, s := range chosen {
		if err := r.run(s); err != nil {
			return err
		}
		if !*once && !*check {
			if err := writeResults(*dir, s.name, r.of(s.name)); err != nil {
				return err
			}
		}
	}
	r.printTable()
	if r.missed > 0 {
		return fmt.Errorf("bars that were not reached: %d of %d", r.missed, r.judged)
	}
	return nil
}
