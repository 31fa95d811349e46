package main

import (
	"fmt"
	"slices"
	"strings"
)

// A suite is rows that belong together, and one file of results.
type suite struct {
	name   string
	ratios bool // has rows that -check compares
	run    func(r *runner) error
}

// suites are in the order in which they run. Memory is first: nothing that another
// suite leaves behind may end while the heap is measured. Checks are last, since
// some SDKs leave goroutines behind.
func suites() []suite {
	return []suite{
		{"memory", false, (*runner).memory},
		{"reads", true, (*runner).reads},
		{"usage", true, (*runner).usage},
		{"caching", false, (*runner).caching},
		{"latency", false, (*runner).latency},
		{"recorders", false, (*runner).recorders},
		{"checks", true, (*runner).checks},
	}
}

func names() []string {
	var all []string
	for _, s := range suites() {
		all = append(all, s.name)
	}
	return all
}

// choose returns those that are named, all when none is, and only those that
// have ratios to be compared when that is what for.
func choose(named string, compared bool) ([]suite, error) {
	chosen := suites()
	if named != "" {
		wanted := strings.Split(named, ",")
		for _, name := range wanted {
			if !slices.Contains(names(), name) {
				return nil, fmt.Errorf("-suite must be of %s, got %q", strings.Join(names(), ", "), name)
			}
		}
		chosen = slices.DeleteFunc(chosen, func(s suite) bool { return !slices.Contains(wanted, s.name) })
	}
	if compared {
		chosen = slices.DeleteFunc(chosen, func(s suite) bool { return !s.ratios })
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("-suite %s has no ratios that -check could compare", named)
	}
	return chosen, nil
}
