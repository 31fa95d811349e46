package entitlements_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
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

// The bars of work and failure are what the library promises of delivery, limits,
// disks, outages and stampedes: `make bench` measures them and prints a table. Those
// of speed, memory and caching are in bench/speed, beside the peers.
var measureBars = flag.Bool("bars", false, "measure the bars and print a table")

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

func TestBars(t *testing.T) {
	if !*measureBars {
		t.Skip("measured by `make bench`")
	}
	b := &bars{t: t}
	fmt.Printf("%s/%s, %d CPUs, %s, %s\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version(), time.Now().UTC().Format(time.DateOnly))
	t.Run("track", func(t *testing.T) { barTrack(t, b) })
	t.Run("limits", func(t *testing.T) { barLimits(t, b) })
	t.Run("spool", func(t *testing.T) { barSpool(t, b) })
	t.Run("crash", func(t *testing.T) { barCrash(t, b) })
	t.Run("reopen", func(t *testing.T) { barReopen(t, b) })
	t.Run("restore", func(t *testing.T) { barRestore(t, b) })
	t.Run("outage on disk", func(t *testing.T) { barOutageOnDisk(t, b) })
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
	w := newWorkload(10_000)
	sink := new(countingSink)
	source := Static(w.entitlements(func(features map[string]Grant) {
		features["calls"] = Grant{Kind: KindMetered, Enabled: true, Limit: Unlimited}
	}))
	c := w.client(t, Config{Source: source, Sink: sink})
	mask := len(w.asked) - 1
	begin := time.Now()
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Go(func() {
			for i := g; time.Since(begin) < 2*time.Second; {
				for range 256 {
					c.Track(w.customers[w.asked[i&mask]], "calls", 1)
					i++
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, c.Flush(t.Context()))
	u := c.Stats().Usage
	b.row("Track flat out for 2 s: delivered after Flush", "all, nothing dropped",
		fmt.Sprintf("%d of %d, %d dropped", u.Delivered, u.Recorded, u.Dropped), u.Delivered == u.Recorded && u.Dropped == 0)
	deliveries, records := sink.deliveries.Load(), sink.records.Load()
	needed := float64((records + 999) / 1000)
	b.row("Track flat out for 2 s: requests", "≤ 1.10 × distinct cells ÷ 1000",
		fmt.Sprintf("%d for %d records (%.2f ×)", deliveries, records, float64(deliveries)/needed), float64(deliveries) <= 1.1*needed)
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
	w := newWorkload(100_000)
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
		w := newWorkload(customers)
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
