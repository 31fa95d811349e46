package recorders

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/entitlements-go/entitlements/bench/workload"
)

const (
	flushWithin = 30 * time.Second
	closeWithin = 10 * time.Second

	// timedOneIn keeps the clock out of the measurement.
	timedOneIn = 64
)

// Setup says what a Run does. Its zero value is what the published numbers use.
type Setup struct {
	// Goroutines record flat out at once. Defaults to 2.
	Goroutines int
	// For is how long. Defaults to 2 s.
	For time.Duration
	// Latency is what the server takes for an answer. Defaults to none.
	Latency time.Duration
}

// Outcome is what became of a Run. Calls = Delivered + Told + Lost.
type Outcome struct {
	Calls   int64
	NS      float64       // wall time divided by the calls of all goroutines, the look-up of the question included
	Longest time.Duration // of the calls that were timed: one in 64
	Ending  time.Duration // of Flush, of at most 30 s, and Close

	// Allocations of a call: while calls were made, and until Close had returned.
	// They include those of the recorder's background and of the server.
	Allocs, AllocsToEnd float64

	Delivered int64 // counted by the server, each once where the wire has IDs
	Told      int64 // not delivered, as the recorder itself says
	// Lost is what nobody tells of. Below 0 something arrived twice that has no ID,
	// or arrived and was told as dropped.
	Lost int64

	Duplicates int64 // arrived again, on top of Delivered
	Overflowed int64 // of Delivered, those of which the customer and the feature are gone
	Requests   int64
	Bytes      int64 // of bodies, as sent
}

// Run records the workload's questions with a peer for a while, flushes, and
// counts what has arrived at a server of its own.
func Run(ctx context.Context, peer Peer, w *workload.Workload, setup Setup) (Outcome, error) {
	setup, err := setup.withDefaults()
	if err != nil {
		return Outcome{}, err
	}
	s, err := NewServer(setup.Latency)
	if err != nil {
		return Outcome{}, err
	}
	defer s.Close()
	r, err := peer.New(s, w)
	if err != nil {
		return Outcome{}, fmt.Errorf("recorders: make %s: %w", peer.Name, err)
	}
	runtime.GC() // what was made before is not this run's to clean up
	before := mallocs()
	o := setup.load(ctx, r, w)
	after := mallocs()

	begin := time.Now()
	flush, cancel := context.WithTimeout(ctx, flushWithin)
	defer cancel()
	r.Flush(flush)
	// Time of its own: a flush that took all of its may still be ended in order.
	end, cancel := context.WithTimeout(ctx, closeWithin)
	defer cancel()
	o.Told = r.Close(end)
	o.Ending = time.Since(begin)

	o.Allocs = float64(after-before) / float64(o.Calls)
	o.AllocsToEnd = float64(mallocs()-before) / float64(o.Calls)
	counts, err := s.Counts()
	o.Delivered, o.Lost = counts.Delivered, o.Calls-counts.Delivered-o.Told
	o.Duplicates, o.Overflowed = counts.Duplicates, counts.Overflowed
	o.Requests, o.Bytes = counts.Requests, counts.Bytes
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return o, fmt.Errorf("recorders: run %s: %w", peer.Name, err)
	}
	return o, nil
}

func (s Setup) withDefaults() (Setup, error) {
	if s.Goroutines == 0 {
		s.Goroutines = 2
	}
	if s.For == 0 {
		s.For = 2 * time.Second
	}
	switch {
	case s.Goroutines < 0:
		return s, fmt.Errorf("recorders: Setup.Goroutines must be at least 1, got %d", s.Goroutines)
	case s.For < 0:
		return s, fmt.Errorf("recorders: Setup.For must be above 0, got %v", s.For)
	case s.Latency < 0:
		return s, fmt.Errorf("recorders: Setup.Latency must be at least 0, got %v", s.Latency)
	}
	return s, nil
}

// load calls Record flat out.
func (s Setup) load(ctx context.Context, r Recorder, w *workload.Workload) Outcome {
	var wg sync.WaitGroup
	var mu sync.Mutex // guards o
	var o Outcome
	begin := time.Now()
	for g := range s.Goroutines {
		wg.Go(func() {
			// Goroutines ask in the same order, each from a place of its own.
			calls, longest := s.loadOne(ctx, r, w, g*104_729)
			mu.Lock()
			defer mu.Unlock()
			o.Calls += calls
			o.Longest = max(o.Longest, longest)
		})
	}
	wg.Wait()
	o.NS = float64(time.Since(begin)) / float64(o.Calls)
	return o
}

func (s Setup) loadOne(ctx context.Context, r Recorder, w *workload.Workload, first int) (calls int64, longest time.Duration) {
	begin := time.Now()
	for i := first; ; {
		before := time.Now()
		r.Record(w.Ask(i))
		after := time.Now()
		i++
		longest = max(longest, after.Sub(before))
		if after.Sub(begin) >= s.For || ctx.Err() != nil {
			return int64(i - first), longest
		}
		for range timedOneIn - 1 {
			r.Record(w.Ask(i))
			i++
		}
	}
}

// mallocs is how many objects were allocated since the program started.
func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}
