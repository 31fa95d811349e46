package paired

import (
	"math"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A machine that gets slower all the time slows both down alike: what a round
// compares with is the mean of the floor before and after it.
func TestRoundsAreBracketed(t *testing.T) {
	now := 0.0
	next := func(times float64) func() float64 {
		return func() float64 { now += 10; return times * now }
	}
	r := Setup{Rounds: 4}.compare(next(1), next(3))
	// Two slices warm up. Then the floor takes 30, 50, 70 …, and the work between
	// them three times 40, 60, 80 …
	require.Equal(t, []float64{3, 3, 3, 3}, r.Ratios)
	require.Equal(t, []float64{3, 3, 3}, []float64{r.Q1, r.Median, r.Q3})
	require.InDelta(t, 90, r.FloorNS, 0, "of 50, 70, 90, 110: the floor's after each round")
	require.InDelta(t, 240, r.NS, 0, "of 120, 180, 240, 300")
}

func TestQuartiles(t *testing.T) {
	for _, tc := range []struct{ xs, want []float64 }{
		{[]float64{7}, []float64{7, 7, 7}},
		{[]float64{5, 1, 3, 2, 4}, []float64{2, 3, 4}},
		{[]float64{8, 7, 6, 5, 4, 3, 2, 1}, []float64{3, 5, 7}},
	} {
		q1, median, q3 := Quartiles(tc.xs)
		require.Equal(t, tc.want, []float64{q1, median, q3})
	}
}

// What a call takes is wall time over all calls, however many goroutines made them.
func TestASliceDividesByAllCalls(t *testing.T) {
	for _, goroutines := range []int{1, 3} {
		var calls atomic.Int64
		s := Setup{Slice: 2 * time.Millisecond}
		begin := time.Now()
		ns := s.slice(goroutines, func(int) bool { calls.Add(1); return true })
		took := time.Since(begin)
		total := ns * float64(calls.Load())
		require.GreaterOrEqual(t, total*1.0001, float64(s.Slice))
		require.LessOrEqual(t, total, 1.0001*float64(took))
	}
}

// A goroutine that starts when the slice is over makes calls nevertheless: else the
// work would seem to take no time, or for ever.
func TestASliceHasCalls(t *testing.T) {
	var calls atomic.Int64
	ns := Setup{Slice: 0}.slice(2, func(int) bool { calls.Add(1); return true })
	require.EqualValues(t, 2*256, calls.Load())
	require.Positive(t, ns)
	require.False(t, math.IsInf(ns, 0))
}

func TestBesideRunsWithTheWorkOnly(t *testing.T) {
	var running atomic.Bool
	var runs, alone atomic.Int64
	s := Setup{Rounds: 3, Slice: time.Millisecond, Procs: 2, Beside: func(stop <-chan struct{}) {
		running.Store(true)
		runs.Add(1)
		<-stop
		running.Store(false)
	}}
	before := runtime.GOMAXPROCS(0)
	s.Measure(func(int) bool {
		if running.Load() {
			alone.Add(1)
		}
		return true
	}, func(int) bool { return runtime.GOMAXPROCS(0) == 2 })
	require.Zero(t, alone.Load(), "beside the floor")
	require.EqualValues(t, 4, runs.Load(), "each round, and the one that warms up")
	require.Equal(t, before, runtime.GOMAXPROCS(0))
}

var sink []byte

func TestAllocs(t *testing.T) {
	allocs, bytes := Allocs(func(int) bool { return true })
	require.Zero(t, allocs)
	require.Zero(t, bytes)
	allocs, bytes = Allocs(func(int) bool { sink = make([]byte, 64); return true })
	require.InDelta(t, 1, allocs, 0)
	require.InDelta(t, 64, bytes, 0)
	// A buffer for 64 calls is less than one allocation a call, and still 8 bytes.
	allocs, bytes = Allocs(func(i int) bool {
		if i%64 == 0 {
			sink = make([]byte, 512)
		}
		return true
	})
	require.Zero(t, allocs)
	require.InDelta(t, 8, bytes, 0)
}
