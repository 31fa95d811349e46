package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/bench/paired"
	"github.com/entitlements-go/entitlements/bench/raw"
	"github.com/entitlements-go/entitlements/bench/text"
	"github.com/entitlements-go/entitlements/bench/workload"
)

// meter is the metered feature that every customer has.
const meter = "calls"

// usage is what counting costs.
func (r *runner) usage() error {
	if r.baseline == nil { // it is no ratio
		if err := r.cells(); err != nil {
			return err
		}
	}
	if err := r.tracks(); err != nil {
		return err
	}
	return r.limits()
}

// countingSink takes everything at once.
type countingSink struct{ requests, records atomic.Int64 }

func (s *countingSink) Deliver(_ context.Context, batch entitlements.Batch) error {
	s.requests.Add(1)
	s.records.Add(int64(len(batch.Usage)))
	return nil
}

const (
	flushSize = 1000 // records in a request: the default
	cellsNS   = 250  // a call, with very many cells
)

// cells is usage of very many cells, flat out: each customer uses each feature. It is
// no ratio, so it is repeated, each time by a new Client, and the median counts.
func (r *runner) cells() error {
	const runs = 5
	w := workload.New(r.few, 0)
	results := make([]flatOut, runs)
	for i := range results {
		var err error
		if results[i], err = r.flatOutOnce(w); err != nil {
			return err
		}
	}
	slices.SortFunc(results, func(a, b flatOut) int { return cmp.Compare(a.ns(), b.ns()) })
	median := results[runs/2]
	row := raw.Row{
		Work: fmt.Sprintf("Track flat out for %v, %s cells", r.flatOut, text.Count(float64(r.few*workload.Features))), Who: ours, Cores: 2,
		Figures: map[string]float64{
			"ns/call": median.ns(), "fastest": results[0].ns(), "slowest": results[runs-1].ns(), "calls": float64(median.usage.Recorded),
			"delivered": float64(median.usage.Delivered), "dropped": float64(median.usage.Dropped),
			"requests": float64(median.requests), "requests needed": median.needed(),
		},
	}
	good := median.ns() <= cellsNS
	for _, f := range results {
		good = good && f.usage.Delivered == f.usage.Recorded && f.usage.Dropped == 0 && float64(f.requests) <= 1.1*f.needed()
	}
	row.Judge(fmt.Sprintf("≤ %d ns/call, all delivered, requests ≤ 1.10 × cells a flush ÷ %d", cellsNS, flushSize), good)
	r.add(row)
	return nil
}

// flatOut is one run of cells.
type flatOut struct {
	took              time.Duration
	usage             entitlements.UsageStats
	requests, records int64
}

func (f flatOut) ns() float64 { return float64(f.took) / float64(f.usage.Recorded) }

// needed is how many requests there must be, were all of them full.
func (f flatOut) needed() float64 { return float64((f.records + flushSize - 1) / flushSize) }

func (r *runner) flatOutOnce(w *workload.Workload) (f flatOut, err error) {
	sink := new(countingSink)
	c, err := w.Warm(context.Background(), entitlements.Config{Sink: sink, MaxPending: 4_000_000, FlushSize: flushSize})
	if err != nil {
		return f, err
	}
	defer closeClient(c)
	var wg sync.WaitGroup
	begin := time.Now()
	for g := range 2 {
		wg.Go(func() {
			first := g * 500_009
			for i := first; i == first || time.Since(begin) < r.flatOut; {
				for range 256 {
					customer, feature := w.Ask(i)
					c.Track(customer, feature, 1)
					i++
				}
			}
		})
	}
	wg.Wait()
	f.took = time.Since(begin)
	err = c.Flush(context.Background())
	f.usage, f.requests, f.records = c.Stats().Usage, sink.requests.Load(), sink.records.Load()
	return f, err
}

// metered is a warm Client whose customers have one metered feature more.
func metered(w *workload.Workload, limit int64) (*entitlements.Client, error) {
	source := w.Source()
	source.Grant(map[string]entitlements.Grant{
		meter: {Kind: entitlements.KindMetered, Enabled: true, Limit: limit},
	}, workload.Everybody)
	return w.Warm(context.Background(), entitlements.Config{Source: source, Sink: new(countingSink)})
}

// tracks is Track without a limit.
func (r *runner) tracks() error {
	w := workload.New(r.few, 0)
	c, err := metered(w, entitlements.Unlimited)
	if err != nil {
		return err
	}
	defer closeClient(c)
	customers := text.Count(float64(r.few)) + " customers"
	r.ratio(
		raw.Row{Work: "Track, " + customers + ", uniform", Who: ours}, paired.Setup{Cores: 2},
		w.Floor, func(i int) bool {
			customer, _ := w.Ask(i)
			c.Track(customer, meter, 1)
			return true
		}, atMost(8, 0))

	hot := w.Customers[:min(1000, len(w.Customers))]
	mask := len(w.Asked) - 1
	r.ratio(
		raw.Row{Work: fmt.Sprintf("Track, %s hot cells", text.Count(float64(len(hot)))), Who: ours}, paired.Setup{},
		w.Floor, func(i int) bool {
			c.Track(hot[int(w.Asked[i&mask].Customer)%len(hot)], meter, 1)
			return true
		}, atMost(2.5, 0))
	return nil
}

// limits is what checks and counts in one step.
func (r *runner) limits() error {
	uniform := workload.New(r.few, 0)
	customers := text.Count(float64(r.few)) + " customers"
	c, err := metered(uniform, 1<<40)
	if err != nil {
		return err
	}
	defer closeClient(c)
	for _, s := range []struct {
		name         string
		w            *workload.Workload
		use, reserve func(*raw.Row)
	}{
		{"Zipf 1.1", uniform.Zipf(1.1), atMost(3, 0), atMost(8, 1)},
		// An account is three lines away that are then in no cache: the bars would not
		// hold every time.
		{"uniform", uniform, reported, reported},
	} {
		r.ratio(
			raw.Row{Work: fmt.Sprintf("Use, %s, %s", customers, s.name), Who: ours}, paired.Setup{},
			s.w.Floor, func(i int) bool {
				customer, _ := s.w.Ask(i)
				return c.Use(customer, meter, 1).Allowed
			}, s.use)
		r.ratio(
			raw.Row{Work: fmt.Sprintf("Reserve and Commit, %s, %s", customers, s.name), Who: ours}, paired.Setup{},
			s.w.Floor, func(i int) bool {
				customer, _ := s.w.Ask(i)
				held, d := c.Reserve(customer, meter, 10)
				held.Commit(1)
				return d.Allowed
			}, s.reserve)
	}

	var counter atomic.Int64
	r.ratio(
		raw.Row{Work: "Use, one counter", Who: ours, To: "a CAS loop"}, paired.Setup{Cores: 2},
		func(int) bool {
			for {
				if n := counter.Load(); counter.CompareAndSwap(n, n+1) {
					return true
				}
			}
		},
		func(int) bool { return c.Use(uniform.Customers[0], meter, 1).Allowed },
		func(row *raw.Row) {
			row.Judge("≤ 200 ns (5 million a second), or ≤ 3 × a CAS loop", row.NS <= 200 || row.Median <= 3)
		})
	return nil
}
