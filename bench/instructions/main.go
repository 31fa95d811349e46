// Instructions counts how many instructions a call takes, function by function:
//
//	go run ./bench/instructions
//
// Unlike a time, the count is the same on a busy machine and the next day. It says
// nothing of memory, which is what a call waits for where there are many customers.
// It runs itself under valgrind, which must be installed; on linux.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	child := flag.String("work", "", "do this work and nothing else: what runs under valgrind")
	flag.Parse()
	err := errors.New("there are only flags")
	switch {
	case flag.NArg() > 0:
	case *child != "":
		err = do(*child)
	default:
		err = count(os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "instructions:", err)
		os.Exit(1)
	}
}

// count prints what each work takes.
func count(out io.Writer) error {
	dir, err := os.MkdirTemp("", "instructions-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // of the system's temporary files
	self := filepath.Join(dir, "instructions")
	build := exec.CommandContext(context.Background(), "go", "build", "-o", self, "github.com/entitlements-go/entitlements/bench/instructions")
	if said, err := build.CombinedOutput(); err != nil { // go run leaves out the names of functions
		return fmt.Errorf("%w\n%s", err, said)
	}
	for _, w := range works {
		file := filepath.Join(dir, "out")
		if err := callgrind(self, w.name, file); err != nil {
			return err
		}
		costs, err := readCosts(file)
		if err != nil {
			return err
		}
		report(out, w.name, costs)
	}
	return nil
}

// callgrind counts the instructions of collect, and of what it calls.
func callgrind(self, work, file string) error {
	c := exec.CommandContext(context.Background(), "valgrind", "--tool=callgrind", "--toggle-collect=main.collect",
		"--callgrind-out-file="+file, self, "-work", work)
	// Signals, and other goroutines on the same thread, confuse it.
	c.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=1", "GOGC=off")
	said, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", work, err, said)
	}
	return nil
}

// least is the fewest instructions a call that get a line of their own.
const least = 2

func report(out io.Writer, work string, costs []cost) {
	total := 0.0
	for _, c := range costs {
		if !strings.HasPrefix(c.function, "main.") { // the loop, and which question is next
			total += c.each()
		}
	}
	fmt.Fprintf(out, "%-26s %5.0f\n", work, total)
	for _, c := range costs {
		if !strings.HasPrefix(c.function, "main.") && c.each() >= least {
			fmt.Fprintf(out, "    %5.0f  %s\n", c.each(), c.function[strings.LastIndexByte(c.function, '/')+1:])
		}
	}
}

func (c cost) each() float64 { return float64(c.instructions) / calls }
