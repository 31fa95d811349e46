package latency

import (
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// longest is what the histograms reach up to, in nanoseconds.
const longest = int64(time.Minute)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, longest, 3) }

// pacer makes calls at fixed times, whether or not the one before has returned
// by then, as requests from elsewhere come: an open loop.
//
// A caller that waits for its own answer asks less while it waits, and so leaves
// out just those calls that would have been slow: coordinated omission. Here a
// call that begins late has waited since the time that was meant for it, and that
// wait counts. One stall of 1 ms at a call every 50 µs is 20 slow calls, not one.
type pacer struct {
	every time.Duration
	now   func() time.Duration
	yield func() // called while it is too early for the next call
}

// run makes this many calls and records how long after its intended time each one
// ended, in nanoseconds. It prepares one while it waits for its time.
func (p pacer) run(calls int, h *hdrhistogram.Histogram, prepare, call func()) {
	intended := p.now() + p.every
	for range calls {
		prepare()
		for p.now() < intended {
			p.yield()
		}
		call()
		// What is longer than the histogram reaches is not to be lost.
		_ = h.RecordValue(min(int64(p.now()-intended), longest))
		intended += p.every
	}
}

// wallPacer is a pacer on the real clock. It gives its processor away while it
// waits rather than sleeping: a timer's granularity is a thousand times a call.
func wallPacer(perSecond int) pacer {
	begin := time.Now()
	return pacer{
		every: time.Second / time.Duration(perSecond),
		now:   func() time.Duration { return time.Since(begin) },
		yield: runtime.Gosched,
	}
}

// block is a piece of garbage: 1 KiB that the collector has to look into.
type block struct {
	target *int64
	_      [1024 - 8]byte
}

// garbage allocates at a steady rate, with a heap of live blocks that each new
// one takes a place in: what is dropped was in use for a while, as in a service.
type garbage struct {
	live    []*block
	targets [1024]int64 // of the blocks' pointers: a block keeps no other block alive
	rng     *rand.Rand
	made    int64 // bytes, since fill
}

// fill makes the heap live.
func (g *garbage) fill(bytes int64) {
	g.rng = rand.New(rand.NewPCG(5, 6))
	g.live = make([]*block, max(1, bytes/1024))
	for i := range g.live {
		g.live[i] = g.block()
	}
}

func (g *garbage) block() *block {
	return &block{target: &g.targets[g.rng.IntN(len(g.targets))]}
}

// replace allocates up to a total, yielding so often that it never holds a
// processor for long.
func (g *garbage) replace(total int64, yield func()) {
	for n := 0; g.made < total; n++ {
		g.live[g.rng.IntN(len(g.live))] = g.block()
		g.made += 1024
		if n%16 == 15 {
			yield()
		}
	}
}

// run keeps the rate until done is closed.
func (g *garbage) run(bytesPerSecond int64, done <-chan struct{}) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); ; {
		select {
		case <-done:
			return
		case <-tick.C:
			g.replace(int64(time.Since(begin).Seconds()*float64(bytesPerSecond)), runtime.Gosched)
		}
	}
}
