package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/entitlements-go/entitlements/trace"
)

// moment is a question, or a use when n is not 0.
type moment struct {
	at                time.Duration // since the first
	customer, feature int32
	n                 int64
}

// mostEvents bounds what a trace takes in memory: 100 bytes an event.
const mostEvents = 10_000_000

// readTrace makes the load of a trace, and tells w what it found in it.
func readTrace(name string, w *Workload) (*load, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("tune: read the trace: %w", err)
	}
	defer func() { _ = file.Close() }() // it was only read
	var events []trace.Event
	for e, err := range trace.Read(file) {
		if err != nil {
			return nil, fmt.Errorf("tune: trace %s: %w", name, err)
		}
		if len(events) == mostEvents {
			return nil, fmt.Errorf("tune: trace %s must have at most %d events, got more", name, mostEvents)
		}
		events = append(events, e)
	}
	return replay(name, events, w)
}

// replay makes the load of events, whose order is that of several goroutines, or
// processes whose traces were put together: it goes by their times.
func replay(name string, events []trace.Event, w *Workload) (*load, error) {
	slices.SortStableFunc(events, func(a, b trace.Event) int { return a.Time.Compare(b.Time) })
	if len(events) < 2 || !events[len(events)-1].Time.After(events[0].Time) {
		return nil, fmt.Errorf("tune: trace %s must have events at two moments or more, got %d events", name, len(events))
	}
	l := &load{metered: make(map[int32][]int32)}
	customers, features := make(map[string]int32), make(map[string]int32)
	number := func(of map[string]int32, list *[]string, key string) int32 {
		i, ok := of[key]
		if !ok {
			i = int32(len(*list))
			of[key], *list = i, append(*list, key)
		}
		return i
	}
	var moments []moment
	var asked []int
	checks, used, cells := 0, 0, make(map[[2]int32]bool)
	for _, e := range events {
		m := moment{e.Time.Sub(events[0].Time), number(customers, &l.customers, e.Customer), number(features, &l.features, e.Feature), e.N}
		moments = append(moments, m)
		if int(m.customer) == len(asked) {
			asked = append(asked, 0)
		}
		if e.N == 0 {
			checks++
			asked[m.customer]++
			continue
		}
		used++
		if cell := [2]int32{m.customer, m.feature}; !cells[cell] {
			cells[cell] = true
			l.metered[m.customer] = append(l.metered[m.customer], m.feature)
		}
	}
	if checks == 0 {
		return nil, fmt.Errorf("tune: trace %s must have a question, got %d uses", name, used)
	}
	for i := range l.customers {
		l.popular = append(l.popular, int32(i))
	}
	slices.SortStableFunc(l.popular, func(a, b int32) int { return cmp.Compare(asked[b], asked[a]) })
	// The next lap begins a usual distance after the last event.
	length := moments[len(moments)-1].at
	length += length / time.Duration(len(moments)-1)
	l.player = func() player { return &replayed{moments: moments, length: length} }
	w.Customers, w.Features, w.Zipf, w.Cells = len(l.customers), len(l.features), 0, max(1, len(cells))
	w.Checks, w.Usage = float64(checks)/length.Seconds(), float64(used)/length.Seconds()
	return l.complete(), nil
}

// replayed plays a trace, over and over.
type replayed struct {
	moments []moment
	length  time.Duration
	next    int
	lap     time.Duration // when this lap began
}

func (r *replayed) play(to time.Duration, ask func(customer, feature int32), use func(customer, feature int32, n int64)) {
	for r.lap+r.moments[r.next].at < to {
		if m := r.moments[r.next]; m.n == 0 {
			ask(m.customer, m.feature)
		} else {
			use(m.customer, m.feature, m.n)
		}
		if r.next++; r.next == len(r.moments) {
			r.next, r.lap = 0, r.lap+r.length
		}
	}
}
