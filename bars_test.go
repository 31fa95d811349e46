package entitlements_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
)

// The bars are what the library promises of speed and work. `make bench` measures
// them and prints a table; the hot path as a ratio to the floor, measured in
// slices before and after each of ours, because machines drift.
var measureBars = flag.Bool("bars", false, "measure the bars and print a table")

const (
	rounds    = 25
	sliceTime = 50 * time.Millisecond
)

// bars is the table.
type bars struct {
	t      *testing.T
	rows   []string
	failed int
}

func (b *bars) row(work, bar, measured string, pass bool) {
	verdict := "pass"
	if !pass {
		verdict = "FAIL"
		b.failed++
	}
	b.rows = append(b.rows, fmt.Sprintf("| %-58s | %-28s | %-52s | %s |", work, bar, measured, verdict))
	fmt.Println(b.rows[len(b.rows)-1])
}

// body does one call of the work, the i-th.
type body func(i int) bool

// perCall runs work on some goroutines for a slice of time and returns the
// nanoseconds that a call took one of them.
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
	return float64(time.Since(begin)) * float64(goroutines) / float64(calls.Load())
}

// ratio compares work with the floor and returns the median of the rounds.
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

// noBar is for a ratio that is reported and not judged.
const noBar = math.MaxFloat64

func (b *bars) ratio(name string, goroutines int, most, allocs float64, floor, work body) {
	b.ratioTo("floor", name, goroutines, most, allocs, floor, work)
}

func (b *bars) ratioTo(to, name string, goroutines int, most, allocs float64, floor, work body) {
	x, floorNS, workNS := ratio(name, goroutines, floor, work)
	bar := fmt.Sprintf("≤ %.2f × %s", most, to)
	if most == noBar {
		bar = "reported"
	}
	measured := fmt.Sprintf("%.2f × (%.1f ns, %s %.1f ns)", x, workNS, to, floorNS)
	pass := x <= most
	if allocs >= 0 {
		i := 0
		got := testing.AllocsPerRun(10_000, func() { work(i); i++ })
		bar += fmt.Sprintf(", %.0f allocs", allocs)
		measured += fmt.Sprintf(", %.0f allocs", got)
		pass = pass && got <= allocs
	}
	b.row(name, bar, measured, pass)
}

func (w *workload) floorBody() body {
	mask := len(w.asked) - 1
	return func(i int) bool {
		a := w.asked[i&mask]
		p := w.floor[w.customers[a.customer]]
		return p != nil && p.features[w.features[a.feature]]
	}
}

func (w *workload) allowedBody(c *Client) body {
	mask := len(w.asked) - 1
	return func(i int) bool {
		a := w.asked[i&mask]
		return c.Allowed(w.customers[a.customer], w.features[a.feature])
	}
}

func (w *workload) handleBody(cu Customer, features []Feature) body {
	mask := len(w.asked) - 1
	return func(i int) bool { return cu.Allowed(features[w.asked[i&mask].feature]) }
}

func TestBars(t *testing.T) {
	if !*measureBars {
		t.Skip("measured by `make bench`")
	}
	b := &bars{t: t}
	fmt.Printf("%s/%s, %d CPUs, %s, %s\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version(), time.Now().UTC().Format(time.DateOnly))
	t.Run("hot path", func(t *testing.T) { barHotPath(t, b) })
	t.Run("million", func(t *testing.T) { barMillion(t, b) })
	t.Run("hot customer", func(t *testing.T) { barHotCustomer(t, b) })
	t.Run("busy", func(t *testing.T) { barBusy(t, b) })
	t.Run("cells", func(t *testing.T) { barCells(t, b) })
	t.Run("hot cells", func(t *testing.T) { barHotCells(t, b) })
	t.Run("memory metered", func(t *testing.T) { barMemoryMetered(t, b) })
	t.Run("track", func(t *testing.T) { barTrack(t, b) })
	t.Run("use", func(t *testing.T) { barUse(t, b) })
	t.Run("limits", func(t *testing.T) { barLimits(t, b) })
	t.Run("spool", func(t *testing.T) { barSpool(t, b) })
	t.Run("crash", func(t *testing.T) { barCrash(t, b) })
	t.Run("reopen", func(t *testing.T) { barReopen(t, b) })
	t.Run("restore", func(t *testing.T) { barRestore(t, b) })
	t.Run("outage on disk", func(t *testing.T) { barOutageOnDisk(t, b) })
	t.Run("memory", func(t *testing.T) { barMemory(t, b) })
	t.Run("stampede", func(t *testing.T) { barStampede(t, b) })
	t.Run("warm", func(t *testing.T) { barWarm(t, b) })
	t.Run("cold checks", func(t *testing.T) { barColdChecks(t, b) })
	t.Run("outage", func(t *testing.T) { barOutage(t, b) })
	fmt.Println()
	for _, row := range b.rows {
		fmt.Println(row)
	}
	require.Zero(t, b.failed, "bars that were not reached")
}

func barHotPath(t *testing.T, b *bars) {
	for _, shape := range []struct {
		name string
		zipf float64
	}{{"Zipf 1.1", 1.1}, {"uniform", 0}} {
		w := newWorkload(10_000, shape.zipf)
		c := w.client(t, Config{})
		for goroutines, most := range []float64{1: 1.4, 2: 1.6} {
			if goroutines > 0 {
				name := fmt.Sprintf("Allowed, 10 000 customers, %s, %d core(s)", shape.name, goroutines)
				b.ratio(name, goroutines, most, 0, w.floorBody(), w.allowedBody(c))
			}
		}
		if shape.zipf == 0 {
			features := make([]Feature, len(w.features))
			for i, code := range w.features {
				features[i] = c.Feature(code)
			}
			b.ratio("Customer.Allowed(Feature), 1 core", 1, 0.3, 0, w.floorBody(), w.handleBody(c.Customer(w.customers[0]), features))
			b.ratioTo("Allowed", "Decide, 10 000 customers, uniform, 1 core", 1, 1.2, 0, w.allowedBody(c), w.decideBody(c))
		}
	}
}

func barMillion(t *testing.T, b *bars) {
	for _, shape := range []struct {
		name string
		zipf float64
		most float64
	}{{"Zipf 1.1", 1.1, 1.5}, {"uniform", 0, 2}} {
		w := newWorkload(1_000_000, shape.zipf)
		c := w.client(t, Config{TTL: time.Hour, MaxStale: 2 * time.Hour}) // no refresh has its turn
		b.ratio("Allowed, 1 000 000 customers, "+shape.name+", 1 core", 1, shape.most, 0, w.floorBody(), w.allowedBody(c))
	}
}

// countingSink counts what it is given.
type countingSink struct{ deliveries, records, calls atomic.Int64 }

func (s *countingSink) Deliver(_ context.Context, batch Batch) error {
	s.deliveries.Add(1)
	s.records.Add(int64(len(batch.Usage)))
	for i := range batch.Usage {
		s.calls.Add(batch.Usage[i].Count)
	}
	return nil
}

func barTrack(t *testing.T, b *bars) {
	w := newWorkload(10_000, 0)
	sink := new(countingSink)
	source := Static(w.entitlements(func(features map[string]Grant) {
		features["calls"] = Grant{Kind: KindMetered, Enabled: true, Limit: Unlimited}
	}))
	c := w.client(t, Config{Source: source, Sink: sink})
	mask := len(w.asked) - 1
	track := func(i int) bool {
		c.Track(w.customers[w.asked[i&mask].customer], "calls", 1)
		return true
	}
	b.ratio("Track, 10 000 customers, 2 goroutines, per call", 2, 8, 0, w.floorBody(), track)

	// Two seconds flat out, and what came of it.
	require.NoError(t, c.Flush(t.Context()))
	before, deliveries, records := c.Stats().Usage, sink.deliveries.Load(), sink.records.Load()
	begin := time.Now()
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Go(func() {
			for i := g; time.Since(begin) < 2*time.Second; {
				for range 256 {
					track(i)
					i++
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, c.Flush(t.Context()))
	after := c.Stats().Usage
	calls := after.Recorded - before.Recorded
	b.row("Track flat out for 2 s: delivered after Flush", "all, nothing dropped",
		fmt.Sprintf("%d of %d, %d dropped", after.Delivered-before.Delivered, calls, after.Dropped-before.Dropped),
		after.Delivered-before.Delivered == calls && after.Dropped == before.Dropped)
	deliveries, records = sink.deliveries.Load()-deliveries, sink.records.Load()-records
	needed := float64((records + 999) / 1000)
	b.row("Track flat out for 2 s: requests", "≤ 1.10 × distinct cells ÷ 1000",
		fmt.Sprintf("%d for %d records (%.2f ×)", deliveries, records, float64(deliveries)/needed), float64(deliveries) <= 1.1*needed)
}

func barUse(t *testing.T, b *bars) {
	for _, shape := range []struct {
		name         string
		zipf         float64
		use, reserve float64 // bars
	}{{"Zipf 1.1", 1.1, 3, 8}, {"uniform", 0, noBar, noBar}} {
		w := newWorkload(10_000, shape.zipf)
		source := Static(w.entitlements(func(features map[string]Grant) {
			features["calls"] = Grant{Kind: KindMetered, Enabled: true, Limit: 1 << 40}
		}))
		c := w.client(t, Config{Source: source, Sink: new(countingSink)})
		mask := len(w.asked) - 1
		use := func(i int) bool { return c.Use(w.customers[w.asked[i&mask].customer], "calls", 1).Allowed }
		reserve := func(i int) bool {
			r, d := c.Reserve(w.customers[w.asked[i&mask].customer], "calls", 10)
			r.Commit(1)
			return d.Allowed
		}
		b.ratio("Use, 10 000 customers, "+shape.name+", 1 core", 1, shape.use, 0, w.floorBody(), use)
		b.ratio("Reserve and Commit, 10 000 customers, "+shape.name+", 1 core", 1, shape.reserve, 1, w.floorBody(), reserve)
		if shape.zipf == 0 {
			continue
		}
		var counter atomic.Int64
		cas := func(int) bool {
			for {
				if n := counter.Load(); counter.CompareAndSwap(n, n+1) {
					return true
				}
			}
		}
		x, casNS, useNS := ratio("Use by 2 goroutines on one counter", 2, cas, func(int) bool { return c.Use(w.customers[0], "calls", 1).Allowed })
		rate := 2e3 / useNS // both goroutines: millions a second
		b.row("Use by 2 goroutines on one counter", "≥ 5 million/s, or ≤ 3 × a CAS loop",
			fmt.Sprintf("%.1f million/s, %.2f × (%.1f ns, CAS %.1f ns)", rate, x, useNS, casNS), rate >= 5 || x <= 3)
	}
}

func barLimits(t *testing.T, b *bars) {
	during, once := attemptsAtLimit(t, 1_000_000)
	b.row("64 goroutines at a limit of 10 000, a million attempts", "never more, exactly that once quiet",
		fmt.Sprintf("%d, then %d", during, once), during <= 10_000 && once == 10_000)
	const ms = time.Millisecond
	f := fleet{processes: 8, rate: 20, limit: 1500, ttl: time.Second, flush: 200 * ms, delivery: 300 * ms, fetch: 200 * ms}
	bound := f.bound(f.ttl + f.fetch)
	most := int64(0)
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			overshoot, _ := f.run(t, seed)
			most = max(most, overshoot)
		})
	}
	b.row("8 processes on one hard limit, 20 attempts a second each", "passed by no more than stated",
		fmt.Sprintf("by %d, bound %.0f", most, bound), float64(most) <= bound)
}

func barMemory(t *testing.T, b *bars) {
	w := newWorkload(100_000, 0)
	source := w.source()
	before := liveHeap()
	c := w.client(t, Config{Source: source})
	each := float64(liveHeap()-before) / float64(len(w.customers))
	b.row("memory, 100 000 customers × 50 features on 10 plans", "≤ 400 B a customer", fmt.Sprintf("%.0f B", each), each <= 400)
	runtime.KeepAlive(c)
}

func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// heapNow is what is in use and not yet collected.
func heapNow() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64())
}

// slowSource counts fetches and takes its time.
func slowSource(latency time.Duration, fetches *atomic.Int64) Source {
	return SourceFunc(func(ctx context.Context, customer string) (*Entitlements, error) {
		fetches.Add(1)
		select {
		case <-time.After(latency):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return &Entitlements{Customer: customer, Features: map[string]Grant{"export": {Enabled: true}}}, nil
	})
}

func barStampede(t *testing.T, b *bars) {
	for _, over := range []time.Duration{0, 40 * time.Millisecond} {
		var fetches, answered atomic.Int64
		synctest.Test(t, func(t *testing.T) {
			c, err := New(Config{Source: slowSource(20*time.Millisecond, &fetches)})
			require.NoError(t, err)
			var wg sync.WaitGroup
			for i := range 1000 {
				wg.Go(func() {
					time.Sleep(over * time.Duration(i) / 1000)
					if d, err := c.Check(t.Context(), "acme", "export"); err == nil && d.Allowed {
						answered.Add(1)
					}
				})
			}
			wg.Wait()
			require.NoError(t, c.Close(t.Context()))
		})
		b.row(fmt.Sprintf("1 000 goroutines on one missing customer, over %v", over), "1 Fetch",
			fmt.Sprintf("%d, %d answered", fetches.Load(), answered.Load()), fetches.Load() == 1 && answered.Load() == 1000)
	}
}

// countedSource counts the customers that are asked for.
type countedSource struct {
	workSource
	customers atomic.Int64
}

func (s *countedSource) Fetch(ctx context.Context, customer string) (*Entitlements, error) {
	s.customers.Add(1)
	return s.workSource.Fetch(ctx, customer)
}

func (s *countedSource) FetchBatch(ctx context.Context, customers []string) (map[string]*Entitlements, error) {
	s.customers.Add(int64(len(customers)))
	return s.workSource.FetchBatch(ctx, customers)
}

func barWarm(t *testing.T, b *bars) {
	w := newWorkload(100_000, 0)
	source := &countedSource{workSource: w.source().(workSource)}
	begin := time.Now()
	c := w.client(t, Config{Source: source})
	took := time.Since(begin)
	answerable := 0
	for _, customer := range w.customers {
		if c.Decide(customer, "feature-01").Origin == OriginFresh {
			answerable++
		}
	}
	fetched := source.customers.Load()
	b.row("Warm of 100 000 customers from an instant BatchSource", "all answerable, 1 fetch each",
		fmt.Sprintf("%d answerable, %d fetched, %v", answerable, fetched, took.Round(time.Millisecond)),
		answerable == len(w.customers) && fetched == int64(len(w.customers)))
}

func barColdChecks(t *testing.T, b *bars) {
	const latency = 100 * time.Millisecond
	took := func(n int) time.Duration {
		var fetches atomic.Int64
		c, err := New(Config{Source: slowSource(latency, &fetches)})
		require.NoError(t, err)
		defer func() { require.NoError(t, c.Close(t.Context())) }()
		begin := time.Now()
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { _, _ = c.Check(t.Context(), fmt.Sprint("customer-", i), "export") })
		}
		wg.Wait()
		return time.Since(begin)
	}
	one, ten := took(1), took(10)
	x := float64(ten) / float64(one)
	b.row("10 concurrent cold Checks, 100 ms upstream", "≤ 1.2 × one", fmt.Sprintf("%.2f ×", x), x <= 1.2)
}

func barOutage(t *testing.T, b *bars) {
	const customers, minutes = 10_000, 10
	var down atomic.Bool
	var probes atomic.Int64
	answered, asked := 0, 0
	synctest.Test(t, func(t *testing.T) {
		w := newWorkload(customers, 0)
		good := w.source()
		c, err := New(Config{Source: SourceFunc(func(ctx context.Context, customer string) (*Entitlements, error) {
			if down.Load() {
				probes.Add(1)
				return nil, errors.New("billing is down")
			}
			return good.Fetch(ctx, customer)
		})})
		require.NoError(t, err)
		_, err = c.Warm(t.Context(), slices.Values(w.customers))
		require.NoError(t, err)
		down.Store(true)
		for range minutes * 60 {
			time.Sleep(time.Second)
			for i := range 200 {
				asked++
				if c.Decide(w.customers[(asked*7+i)%customers], "feature-01").Origin != OriginPolicy {
					answered++
				}
			}
		}
		require.NoError(t, c.Close(t.Context()))
	})
	rate := float64(probes.Load()) / (minutes * 60)
	b.row("10 000 cached customers, Source down for 10 minutes", "all answered, ≤ 1 probe/s",
		fmt.Sprintf("%d of %d answered, %.2f probes/s", answered, asked, rate), answered == asked && rate <= 1)
}
