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
	"time"
)

// Work does one call of what is measured, the i-th. Its result is used, so that
// the compiler can't leave the call out.
type Work func(i int) bool

// Setup says how long and how often is measured. Its zero value is what the
// published numbers use.
type Setup struct {
	// Cores is how many goroutines call the work at once. Defaults to 1.
	Cores int
	// FloorCores is how many call the floor. Defaults to Cores.
	FloorCores int
	// Procs is GOMAXPROCS meanwhile. Defaults to the larger of both.
	Procs int
	// Rounds defaults to 25.
	Rounds int
	// Slice is how long one slice lasts. Defaults to 50 ms.
	Slice time.Duration
	// Beside, when set, runs during each slice of the work and during none of the
	// floor: on a goroutine of its own, until stop is closed. The slice is over when
	// it has returned.
	Beside func(stop <-chan struct{})
}

// Result is what was measured.
type Result struct {
	Ratios         []float64 // of each round, in order
	Q1, Median, Q3 float64   // of Ratios
	// NS and FloorNS are medians of the nanoseconds a call: wall time divided by the
	// calls of all goroutines, as `go test -bench` has it.
	NS, FloorNS float64
}

// Measure compares work with floor. It changes GOMAXPROCS while it runs.
func (s Setup) Measure(floor, work Work) Result {
	s = s.withDefaults()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(s.Procs))
	return s.compare(
		func() float64 { return s.slice(s.FloorCores, floor) },
		func() float64 { return s.workSlice(work) },
	)
}

func (s Setup) withDefaults() Setup {
	def := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	def(&s.Cores, 1)
	def(&s.FloorCores, s.Cores)
	def(&s.Procs, max(s.Cores, s.FloorCores))
	def(&s.Rounds, 25)
	if s.Slice == 0 {
		s.Slice = 50 * time.Millisecond
	}
	return s
}

// compare takes the rounds, after a slice of each that warms up. Both return the
// nanoseconds of a call.
func (s Setup) compare(floor, work func() float64) Result {
	floor()
	work()
	var r Result
	var floors, works []float64
	before := floor()
	for range s.Rounds {
		ours := work()
		after := floor()
		r.Ratios = append(r.Ratios, 2*ours/(before+after))
		floors, works = append(floors, after), append(works, ours)
		before = after
	}
	r.Q1, r.Median, r.Q3 = Quartiles(r.Ratios)
	_, r.FloorNS, _ = Quartiles(floors)
	_, r.NS, _ = Quartiles(works)
	return r
}

// workSlice is a slice of the work, with what runs beside it.
func (s Setup) workSlice(work Work) float64 {
	if s.Beside == nil {
		return s.slice(s.Cores, work)
	}
	stop := make(chan struct{})
	var beside sync.WaitGroup
	beside.Go(func() { s.Beside(stop) })
	defer beside.Wait()
	defer close(stop)
	return s.slice(s.Cores, work)
}

// slice runs work on some goroutines for a slice of time and returns the
// nanoseconds of a call.
func (s Setup) slice(goroutines int, work Work) float64 {
	var wg sync.WaitGroup
	var calls, kept atomic.Int64
	begin := time.Now()
	for g := range goroutines {
		wg.Go(func() {
			// Goroutines ask in the same order, each from a place of its own.
			first := g * 104_729
			i, n := first, int64(0)
			// Who starts late, on a busy machine, still calls: none would take no time.
			for i == first || time.Since(begin) < s.Slice {
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
	return float64(time.Since(begin)) / float64(calls.Load())
}

// Allocs returns the allocations of a call of work and their bytes: whole ones on
// average, as `go test -bench` has it, so that what the background allocates now
// and then does not count.
func Allocs(work Work) (allocs, bytes float64) {
	const calls = 10_000
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	work(0)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range calls {
		work(i)
	}
	runtime.ReadMemStats(&after)
	return float64((after.Mallocs - before.Mallocs) / calls), float64((after.TotalAlloc - before.TotalAlloc) / calls)
}

// Quartiles returns the three of xs, which must not be empty.
func Quartiles(xs []float64) (q1, median, q3 float64) {
	sorted := slices.Sorted(slices.Values(xs))
	at := func(part int) float64 { return sorted[min(len(sorted)*part/4, len(sorted)-1)] }
	return at(1), at(2), at(3)
}
