package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// cost is what a function took by itself, with what was inlined into it.
type cost struct {
	function     string
	instructions int
}

func readCosts(file string) ([]cost, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	return parseCosts(f)
}

// parseCosts reads callgrind's format: lines "fn=(1) name", later "fn=(1)", and
// below each the cost of its lines, "+3 12". A line "calls=…" is followed by one
// with the cost of what was called, which has a place of its own.
// https://valgrind.org/docs/manual/cl-format.html
func parseCosts(r io.Reader) ([]cost, error) {
	names, byName := make(map[string]string), make(map[string]int)
	function, called := "", false
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		key, value, isField := strings.Cut(line, "=")
		switch {
		case isField && (key == "fn" || key == "cfn"):
			id, name, _ := strings.Cut(value, " ")
			if name != "" {
				names[id] = name
			}
			if key == "fn" {
				function = names[id]
			}
		case isField && key == "calls":
			called = true
		case line == "" || !strings.ContainsAny(line[:1], "0123456789+-*"):
		case called:
			called = false
		default:
			position, n, ok := strings.Cut(line, " ")
			instructions, err := strconv.Atoi(n)
			if !ok || err != nil {
				return nil, fmt.Errorf("read callgrind's output: position %q has cost %q", position, n)
			}
			byName[function] += instructions
		}
	}
	costs := make([]cost, 0, len(byName))
	for name, n := range byName {
		costs = append(costs, cost{name, n})
	}
	slices.SortFunc(costs, func(a, b cost) int {
		return cmp.Or(cmp.Compare(b.instructions, a.instructions), cmp.Compare(a.function, b.function))
	})
	return costs, lines.Err()
}
