package main

import (
	"flag"
	"os"
	"testing"
)

// Minutes of load take seconds in simulated time: in a bubble of testing/synctest
// the clock moves on when nobody has anything left to do. A bubble needs a
// *testing.T, which only package testing makes. So this program is one test to
// it, as far as it can see, and hosts as many bubbles as it likes.
//
// Nothing outside may be waited for in a bubble: a channel or a context from
// outside would stop its clock. What has to get in, such as Ctrl-C, is polled.

// hosted runs main with what bubbles need, and exits with its status.
func hosted(main func(t *testing.T) int) {
	// Package testing has flags of its own. They keep their defaults, and nobody
	// sees them: ours are in a FlagSet of their own.
	testing.Init()
	_ = flag.CommandLine.Parse(nil)
	testing.Main(
		func(string, string) (bool, error) { return true, nil },
		// It exits by itself, before package testing says PASS.
		[]testing.InternalTest{{Name: "tune", F: func(t *testing.T) { os.Exit(main(t)) }}},
		nil, nil)
}
