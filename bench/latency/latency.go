// Package latency measures how long a call takes when it takes long: percentiles
// of Client.Allowed and Client.Track while customers are refreshed, usage is
// delivered and another part of the program keeps the garbage collector busy,
// beside those of a call that does nothing, which are the machine's own.
package latency

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/bench/raw"
	"github.com/entitlements-go/entitlements/bench/workload"
)

// Percentiles are those that a row has, by the names of its Figures.
var Percentiles = []struct {
	Name string
	Of   float64
}{
	{"p50", 50},
	{"p75", 75},
	{"p90", 90},
	{"p95", 95},
	{"p99", 99},
	{"p99.5", 99.5},
	{"p99.9", 99.9},
	{"p99.95", 99.95},
	{"p99.99", 99.99},
}

// question is what a call is made with. A request has it at hand, so it is looked
// up before the call is due.
type question struct {
	customer, feature, meter string
	answer                   bool
}

// measured is a call, and how long it took each goroutine.
type measured struct {
	who  string
	call func(*question)
	took []*hdrhistogram.Histogram
}

// Run measures an empty call, Allowed and Track. Of a row, Figures has the
// [Percentiles] and "max" in nanoseconds, "calls", and what the load was:
// "refreshes" and "collections".
func Run(s Setup) ([]raw.Row, error) {
	s = s.withDefaults()
	w := workload.New(s.Customers, 1.1)
	c, err := newClient(w, s.TTL)
	if err != nil {
		return nil, err
	}
	defer c.Close(context.Background()) //nolint:errcheck // the sink takes everything

	var wrong atomic.Int64
	calls := []measured{
		{"an empty call", func(*question) {}, s.histograms()},
		{"Allowed", func(q *question) {
			if c.Allowed(q.customer, q.feature) != q.answer {
				wrong.Add(1)
			}
		}, s.histograms()},
		{"Track", func(q *question) { c.Track(q.customer, q.meter, 1) }, s.histograms()},
	}
	load := s.measure(calls, w, c)
	switch dropped := c.Stats().Usage.Dropped; {
	case wrong.Load() > 0:
		return nil, fmt.Errorf("latency: Allowed answered %d calls otherwise than the model", wrong.Load())
	case dropped > 0:
		return nil, fmt.Errorf("latency: %d calls of Track were dropped", dropped)
	}
	var rows []raw.Row
	for _, m := range calls {
		rows = append(rows, s.row(m, load))
	}
	return rows, nil
}

// metered are the features that usage is recorded of.
var metered = []string{"api-calls", "messages", "tokens"}

// newClient is a Client with every customer cached, whatever is asked of it
// refreshed by TTL, and a sink that takes all at once.
func newClient(w *workload.Workload, ttl time.Duration) (*entitlements.Client, error) {
	source := w.Source()
	meters := make(map[string]entitlements.Grant)
	for _, code := range metered {
		meters[code] = entitlements.Grant{Enabled: true, Kind: entitlements.KindMetered, Limit: entitlements.Unlimited}
	}
	source.Grant(meters, workload.Everybody)
	return w.Warm(context.Background(), entitlements.Config{
		Source:     source,
		Sink:       entitlements.SinkFunc(func(context.Context, entitlements.Batch) error { return nil }),
		TTL:        ttl,
		IdleAfter:  -1,
		MaxPending: 1_000_000,
	})
}

// measure lets the calls take turns under the load, and returns what that was.
func (s Setup) measure(calls []measured, w *workload.Workload, c *entitlements.Client) map[string]float64 {
	var g garbage
	g.fill(int64(s.LiveMB) << 20)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fetches := c.Stats().Source.Fetches

	done := make(chan struct{})
	var load sync.WaitGroup
	load.Go(func() { g.run(int64(s.GarbageMB)<<20, done) })
	rounds := max(1, int(s.Duration/s.Slice))
	each := int(s.Slice.Seconds() * float64(s.PerSecond))
	for round := range rounds {
		for _, m := range calls {
			s.slice(m, w, round*each, each)
		}
	}
	close(done)
	load.Wait()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(g.live)
	return map[string]float64{
		"refreshes":   float64(c.Stats().Source.Fetches - fetches),
		"collections": float64(after.NumGC - before.NumGC),
	}
}

// slice makes a number of calls from each caller, from the first-th on.
func (s Setup) slice(m measured, w *workload.Workload, first, calls int) {
	var wg sync.WaitGroup
	for g, took := range m.took {
		wg.Go(func() {
			i := first + g*104_729 // the same questions from another place
			var q question
			wallPacer(s.PerSecond).run(calls, took, func() {
				q.customer, q.feature = w.Ask(i)
				q.meter, q.answer = metered[i%len(metered)], w.Answer(i)
				i++
			}, func() { m.call(&q) })
		})
	}
	wg.Wait()
}

func (s Setup) histograms() []*hdrhistogram.Histogram {
	all := make([]*hdrhistogram.Histogram, s.Goroutines)
	for g := range all {
		all[g] = newHistogram()
	}
	return all
}

func (s Setup) row(m measured, load map[string]float64) raw.Row {
	took := newHistogram()
	for _, h := range m.took {
		took.Merge(h)
	}
	r := raw.Row{
		Suite: "latency",
		Work: fmt.Sprintf("%s customers, %d × %s calls/s, %d MB/s of garbage, %d MB live",
			thousands(s.Customers), s.Goroutines, thousands(s.PerSecond), s.GarbageMB, s.LiveMB),
		Who: m.who, Cores: runtime.GOMAXPROCS(0),
		Figures: map[string]float64{"calls": float64(took.TotalCount()), "max": float64(took.Max())},
	}
	for _, p := range Percentiles {
		r.Figures[p.Name] = float64(took.ValueAtPercentile(p.Of))
	}
	maps.Copy(r.Figures, load)
	return r
}
