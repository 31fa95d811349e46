package entitlements_test

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
)

func (w *workload) decideBody(c *Client) body {
	mask := len(w.asked) - 1
	return func(i int) bool {
		a := w.asked[i&mask]
		return c.Decide(w.customers[a.customer], w.features[a.feature]).Allowed
	}
}

// barHotCustomer: cores that ask about one customer do not get in each other's way.
func barHotCustomer(t *testing.T, b *bars) {
	w := newWorkload(10_000, 0)
	c := w.client(t, Config{})
	mask := len(w.asked) - 1
	hot := func(i int) bool { return c.Allowed(w.customers[0], w.features[w.asked[i&mask].feature]) }
	var all []float64
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	before := perCall(1, hot)
	for range rounds {
		both := perCall(2, hot) / 2
		after := perCall(1, hot)
		all = append(all, 2*both/(before+after))
		before = after
	}
	x := median(all)
	b.row("Allowed, one customer, 2 cores", "≤ 0.60 × 1 core", fmt.Sprintf("%.2f × (%.1f ns)", x, before), x <= 0.6)
}

// failing answers until it is told to fail.
type failing struct {
	workSource
	down atomic.Bool
}

func (s *failing) Fetch(ctx context.Context, customer string) (*Entitlements, error) {
	if s.down.Load() {
		return nil, errDown
	}
	return s.workSource.Fetch(ctx, customer)
}

func (s *failing) FetchBatch(ctx context.Context, customers []string) (map[string]*Entitlements, error) {
	if s.down.Load() {
		return nil, errDown
	}
	return s.workSource.FetchBatch(ctx, customers)
}

// barBusy: what goes on in the background does not slow a reader down.
func barBusy(t *testing.T, b *bars) {
	w := newWorkload(100_000, 0)
	quiet := w.client(t, Config{TTL: time.Hour, MaxStale: 2 * time.Hour})
	busy := w.client(t, Config{TTL: 30 * time.Second})
	src := &failing{workSource: w.source().(workSource)}
	down := w.client(t, Config{Source: src, TTL: 2 * time.Second})
	src.down.Store(true)

	time.Sleep(3 * time.Second) // all that down has is past its TTL
	before := busy.Stats().Source.Fetches
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	for _, c := range []struct {
		name   string
		client *Client
	}{{"while 100 000 customers are refreshed at a TTL of 30 s", busy}, {"while the Source is down", down}} {
		var all []float64
		was := perCall(1, w.allowedBody(quiet))
		for range 2 * rounds {
			ours := perCall(1, w.allowedBody(c.client))
			after := perCall(1, w.allowedBody(quiet))
			all = append(all, 2*ours/(was+after))
			was = after
		}
		x := median(all)
		b.row("Allowed by one reader "+c.name, "≤ 1.15 × quiet", fmt.Sprintf("%.2f × (%.1f ns)", x, was), x <= 1.15)
	}
	require.Greater(t, busy.Stats().Source.Fetches, before)
	s := down.Stats().Decisions
	require.Greater(t, s.Stale, uint64(1e6))
	require.Zero(t, s.ByPolicy)
}

// barCells: usage of very many cells.
func barCells(t *testing.T, b *bars) {
	w := newWorkload(10_000, 0)
	sink := new(countingSink)
	c := w.client(t, Config{Sink: sink, MaxPending: 4_000_000})
	mask := len(w.asked) - 1
	track := func(i int) bool {
		a := w.asked[i&mask]
		c.Track(w.customers[a.customer], w.features[a.feature], 1)
		return true
	}
	var calls atomic.Int64
	begin := time.Now()
	done := make(chan struct{})
	for g := range 2 {
		go func() {
			n := int64(0)
			for i := g * 500_009; time.Since(begin) < 2*time.Second; {
				for range 256 {
					track(i)
					i++
				}
				n += 256
			}
			calls.Add(n)
			done <- struct{}{}
		}()
	}
	<-done
	<-done
	each := 2 * float64(time.Since(begin)) / float64(calls.Load())
	require.NoError(t, c.Flush(t.Context()))
	u := c.Stats().Usage
	needed := float64((sink.records.Load() + 999) / 1000)
	b.row("Track flat out, 500 000 cells, 2 goroutines, 2 s", "≤ 250 ns, all delivered, requests ≤ 1.10 × needed",
		fmt.Sprintf("%.0f ns, %d of %d, %d dropped, %.2f ×", each, u.Delivered, u.Recorded, u.Dropped, float64(sink.deliveries.Load())/needed),
		each <= 250 && u.Delivered == u.Recorded && float64(sink.deliveries.Load()) <= 1.1*needed)
}

func barHotCells(t *testing.T, b *bars) {
	w := newWorkload(10_000, 0)
	c := w.client(t, Config{Sink: new(countingSink)})
	mask := len(w.asked) - 1
	b.ratio("Track on 1 000 hot cells, 1 core", 1, 2.5, 0, w.floorBody(), func(i int) bool {
		c.Track(w.customers[w.asked[i&mask].customer%1000], "calls", 1)
		return true
	})
}

// barMemoryMetered: half of the customers use 3 metered features.
func barMemoryMetered(t *testing.T, b *bars) {
	w := newWorkload(1_000_000, 0)
	source := meteredSource{w.source().(workSource)}
	before := liveHeap()
	c := w.client(t, Config{Source: source, MaxCustomers: len(w.customers)})
	each := float64(liveHeap()-before) / float64(len(w.customers))
	b.row("memory, 1 000 000 customers, half with 3 metered features in use", "≤ 400 B a customer", fmt.Sprintf("%.0f B", each), each <= 400)
	runtime.KeepAlive(c)
}

type meteredSource struct{ workSource }

func (s meteredSource) Fetch(ctx context.Context, customer string) (*Entitlements, error) {
	e, err := s.workSource.Fetch(ctx, customer)
	if err != nil || s.index[customer]%2 == 0 {
		return e, err
	}
	features := make(map[string]Grant, len(e.Features))
	for code, g := range e.Features {
		features[code] = g
	}
	for f := range 3 {
		features[s.w.features[f]] = Grant{Kind: KindMetered, Enabled: true, Limit: 1000, Used: int64(f), ResetsAt: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}
	}
	e.Features = features
	return e, nil
}

func (s meteredSource) FetchBatch(ctx context.Context, customers []string) (map[string]*Entitlements, error) {
	out := make(map[string]*Entitlements, len(customers))
	for _, customer := range customers {
		if e, err := s.Fetch(ctx, customer); err == nil {
			out[customer] = e
		}
	}
	return out, nil
}
