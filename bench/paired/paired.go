// Package paired measures work against a floor on a machine that drifts: every
// slice of the work lies between two slices of the floor, a round's ratio is the
// work's time over the mean of the floor's around it, and what counts is the
// median of the rounds.
package paired

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Work does one call of what is measured, the i-th. Its result is used, so that
// the compiler can't leave the call out.
type Work func(i int) bool

// Setup says how long and how often is measured. Its zero value is what the
// published numbers use.
type Setup struct {
	// Cores is GOMAXPROCS and the number of goroutines. Defaults to 1.
	Cores int
	// FloorCores is that of the floor. Defaults to Cores.
	FloorCores int
	// Rounds defaults to 25.
	Rounds int
	// Slice is how long one slice lasts. Defaults to 50 ms.
	Slice time.Duration
}

// Result is what was measured.
type Result struct {
	Ratios         []float64 // of each round, in order
	Q1, Median, Q3 float64   // of Ratios
	NS, FloorNS    float64   // medians: what one call took one goroutine
}

// Measure compares work with floor. It changes GOMAXPROCS while it runs.
func (s Setup) Measure(floor, work Work) Result {
	if s.Cores == 0 {
		s.Cores = 1
	}
	if s.FloorCores == 0 {
		s.FloorCores = s.Cores
	}
	if s.Rounds == 0 {
		s.Rounds = 25
	}
	if s.Slice == 0 {
		s.Slice = 50 * time.Millisecond
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(s.Cores, s.FloorCores)))
	s.slice(s.FloorCores, floor)
	s.slice(s.Cores, work)
	var r Result
	var floors, works []float64
	before := s.slice(s.FloorCores, floor)
	for range s.Rounds {
		ours := s.slice(s.Cores, work)
		after := s.slice(s.FloorCores, floor)
		r.Ratios = append(r.Ratios, 2*ours/(before+after))
		floors, works = append(floors, after), append(works, ours)
		before = after
	}
	r.Q1, r.Median, r.Q3 = Quartiles(r.Ratios)
	_, r.FloorNS, _ = Quartiles(floors)
	_, r.NS, _ = Quartiles(works)
	return r
}

// slice runs work on some goroutines for a slice of time and returns the
// nanoseconds that a call took one of them.
func (s Setup) slice(goroutines int, work Work) float64 {
	var wg sync.WaitGroup
	var calls, kept atomic.Int64
	begin := time.Now()
	for g := range goroutines {
		wg.Go(func() {
			// Goroutines ask in the same order, each from a place of its own.
			first := g * 104_729
			i, n := first, int64(0)
			for time.Since(begin) < s.Slice {
				for range 256 {
					if work(i) {
						n++
					}
					i++
				}
			}
			calls.Add(int64(i - first))
			kept.Add(n)
		})
	}
	wg.Wait()
	if kept.Load() < 0 {
		panic("unreachable: keeps the results alive")
	}
	return float64(time.Since(begin)) * float64(goroutines) / float64(calls.Load())
}

// Allocs returns the allocations of a call of work, on average.
func Allocs(work Work) float64 {
	i := 0
	return testing.AllocsPerRun(10_000, func() { work(i); i++ })
}

// Quartiles returns the three of xs, which must not be empty.
func Quartiles(xs []float64) (q1, median, q3 float64) {
	sorted := slices.Sorted(slices.Values(xs))
	at := func(part int) float64 { return sorted[min(len(sorted)*part/4, len(sorted)-1)] }
	return at(1), at(2), at(3)
}
