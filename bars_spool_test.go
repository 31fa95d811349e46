package entitlements_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
)

func barSpool(t *testing.T, b *bars) {
	w := newWorkload(10_000)
	source := Static(w.entitlements(func(features map[string]Grant) {
		features["calls"] = Grant{Kind: KindMetered, Enabled: true, Limit: Unlimited}
	}))
	plain := w.client(t, Config{Source: source, Sink: new(countingSink)})
	sink := new(countingSink)
	c := w.client(t, Config{Source: source, Sink: sink, SpoolDir: t.TempDir()})
	mask := len(w.asked) - 1
	track := func(c *Client) body {
		return func(i int) bool {
			c.Track(w.customers[w.asked[i&mask]], "calls", 1)
			return true
		}
	}
	x, floorNS, workNS := ratio("Track with a spool", 2, track(plain), track(c))
	spooledTrack := track(c)
	allocs := testing.AllocsPerRun(10_000, func() { spooledTrack(5) })
	b.row("Track with a spool, 10 000 customers, 2 goroutines", "≤ 2.50 × Track without, 0 allocs",
		fmt.Sprintf("%.2f × (%.1f ns, without %.1f ns), %.0f allocs", x, workNS, floorNS, allocs), x <= 2.5 && allocs == 0)

	begin := time.Now()
	before := c.Stats().Usage
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Go(func() {
			for i := g * 104_729; time.Since(begin) < 5*time.Second; {
				for range 256 {
					spooledTrack(i)
					i++
				}
			}
		})
	}
	wg.Wait()
	rate := float64(c.Stats().Usage.Recorded-before.Recorded) / time.Since(begin).Seconds() / 1e6
	require.NoError(t, c.Flush(t.Context()))
	u := c.Stats().Usage
	b.row("the same flat out for 5 s", "≥ 2 million/s, all delivered",
		fmt.Sprintf("%.1f million/s, %d dropped, %d pending", rate, u.Dropped, u.Pending),
		rate >= 2 && u.Dropped == 0 && u.Delivered == u.Recorded)
}

func barCrash(t *testing.T, b *bars) {
	begun, counted, billed := crash(t, 50, rand.Uint64())
	b.row("killed (-9) at 50 random moments", "0 lost, 0 billed twice",
		fmt.Sprintf("%d counted, %d billed, %d begun", counted, billed, begun), billed >= counted && billed <= begun)
}

func barReopen(t *testing.T, b *bars) {
	dir := t.TempDir()
	c := spooled(t, dir, downSink(), Config{})
	for i := range 11_000 {
		c.Track(strconv.Itoa(i), "calls", 1)
	}
	leave(t, c)
	segments := filesIn(t, dir)
	data, err := os.ReadFile(segments[0])
	require.NoError(t, err)
	for i := range 1023 {
		name := filepath.Join(filepath.Dir(segments[0]), fmt.Sprintf("%016x-%024x.segment", i, i))
		require.NoError(t, os.WriteFile(name, CopySegment(data), 0o600))
	}
	first := make(chan struct{})
	var once sync.Once
	gate := SinkFunc(func(ctx context.Context, _ Batch) error {
		once.Do(func() { close(first) })
		<-ctx.Done()
		return ctx.Err()
	})
	begin := time.Now()
	c = spooled(t, dir, gate, Config{SpoolMaxBytes: 2 << 30})
	opened := time.Since(begin)
	<-first
	sent := time.Since(begin)
	leave(t, c)
	b.row("New on 1 GiB of usage that was left", "New ≤ 100 ms, sends in ≤ 1 s",
		fmt.Sprintf("New %v, sends in %v", opened.Round(time.Millisecond), sent.Round(time.Millisecond)),
		opened <= 100*time.Millisecond && sent <= time.Second)
}

func barRestore(t *testing.T, b *bars) {
	w := newWorkload(100_000)
	file := filepath.Join(t.TempDir(), "entitlements")
	c := w.client(t, Config{Source: w.source(), SnapshotFile: file})
	require.NoError(t, c.Close(t.Context()))
	before := liveHeap()
	var most atomic.Int64
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				most.Store(max(most.Load(), heapNow()))
				time.Sleep(time.Millisecond)
			}
		}
	})
	begin := time.Now()
	c, err := New(Config{Source: w.source(), SnapshotFile: file, MaxCustomers: 100_000})
	took := time.Since(begin)
	close(stop)
	watch.Wait()
	require.NoError(t, err)
	live := liveHeap() - before
	peak := most.Load() - before
	known := c.Stats().Cache.Customers
	require.NoError(t, c.Close(t.Context()))
	b.row("New with 100 000 customers in SnapshotFile", "≤ 500 ms, ≤ 2 × its heap",
		fmt.Sprintf("%d in %v, at most %.2f × its heap", known, took.Round(time.Millisecond), float64(peak)/float64(live)),
		took <= 500*time.Millisecond && peak <= 2*live)
}

// A day without billing, in simulated time.
func barOutageOnDisk(t *testing.T, b *bars) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		const pairs, sinkRate = 1000, 5000
		customers := make([]string, pairs)
		for i := range customers {
			customers[i] = "customer-" + strconv.Itoa(i)
		}
		sink := &limitedSink{rate: sinkRate}
		c := spooled(t, dir, sink, Config{TTL: 24 * time.Hour, MaxStale: 100 * time.Hour, SpoolSync: time.Minute})
		calls := uint64(0)
		outage := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
				for _, customer := range customers {
					c.Track(customer, "api", 1)
				}
				calls += pairs
			}
		}
		outage(3 * time.Hour)
		before := liveHeap()
		outage(21 * time.Hour)
		grown := liveHeap() - before
		disk := int64(0)
		for _, name := range filesIn(t, dir) {
			if info, err := os.Stat(name); err == nil {
				disk += info.Size()
			}
		}
		sink.up.Store(true)
		begin := time.Now()
		require.NoError(t, c.Flush(t.Context()))
		u := c.Stats().Usage
		fastest := sink.fastest()
		require.NoError(t, c.Close(t.Context()))
		b.row("24 h of outage, 1 000 pairs used every second", "memory flat, all delivered within the rate",
			fmt.Sprintf("%+d KiB, disk %d MiB, %d of %d in %v, ≤ %d/s", grown>>10, disk>>20, u.Delivered, calls, time.Since(begin).Round(time.Second), fastest),
			grown < 8<<20 && disk <= 1<<30 && u.Delivered == calls && fastest <= sinkRate*11/10)
	})
}

// limitedSink accepts all when it is up, and knows how fast it came.
type limitedSink struct {
	rate   float64
	up     atomic.Bool
	mu     sync.Mutex // guards second
	second map[int64]int
}

func (s *limitedSink) Limits() SinkLimits {
	return SinkLimits{MaxBatch: 1000, Rate: s.rate, DedupWindow: 48 * time.Hour}
}

func (s *limitedSink) Deliver(_ context.Context, batch Batch) error {
	if !s.up.Load() {
		return Unsent(errSinkDown)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.second == nil {
		s.second = make(map[int64]int)
	}
	s.second[time.Now().Unix()] += len(batch.Usage)
	return nil
}

func (s *limitedSink) fastest() (most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.second {
		most = max(most, n)
	}
	return most
}

const (
	rounds    = 25
	sliceTime = 50 * time.Millisecond
)

// body does one call of the work, the i-th.
type body func(i int) bool

// perCall runs work on some goroutines for a slice of time and returns the
// nanoseconds of a call: wall time divided by the calls of all of them.
func perCall(goroutines int, work body) float64 {
	var wg sync.WaitGroup
	var calls, kept atomic.Int64
	begin := time.Now()
	for g := range goroutines {
		wg.Go(func() {
			i, n := g*104_729, int64(0)
			for time.Since(begin) < sliceTime {
				for range 256 {
					if work(i) {
						n++
					}
					i++
				}
			}
			calls.Add(int64(i - g*104_729))
			kept.Add(n)
		})
	}
	wg.Wait()
	if kept.Load() < 0 {
		panic("unreachable: keeps the results alive")
	}
	return float64(time.Since(begin)) / float64(calls.Load())
}

// ratio compares work with a floor and returns the median of the rounds: each
// slice of the work lies between two of the floor, because machines drift.
func ratio(name string, goroutines int, floor, work body) (times, floorNS, workNS float64) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(goroutines))
	perCall(goroutines, floor)
	perCall(goroutines, work)
	var all, floors, works []float64
	before := perCall(goroutines, floor)
	for range rounds {
		ours := perCall(goroutines, work)
		after := perCall(goroutines, floor)
		all = append(all, 2*ours/(before+after))
		floors, works = append(floors, after), append(works, ours)
		before = after
	}
	fmt.Printf("raw %s: ratios %.2f\n", name, all)
	return median(all), median(floors), median(works)
}

func median(xs []float64) float64 { return slices.Sorted(slices.Values(xs))[len(xs)/2] }
