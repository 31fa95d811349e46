package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/bench/raw"
	"github.com/entitlements-go/entitlements/bench/text"
	"github.com/entitlements-go/entitlements/bench/workload"
)

// bytesACustomer is the bar, all included: key, cache, table, accounts, meters.
const bytesACustomer = 400

// memory is what a cached customer takes: with the features that ten plans switch
// on and off, and when half of the customers have three metered ones besides.
func (r *runner) memory() error {
	w := workload.New(r.many, 0)
	if err := r.heap(w, nil); err != nil {
		return err
	}
	return r.heap(w, w.Features[:3])
}

// heap measures what a Client holds that has every customer, before and after
// every other one uses what is metered of them.
func (r *runner) heap(w *workload.Workload, metered []string) error {
	work := fmt.Sprintf("%s customers, %d features, %d plans", text.Count(float64(len(w.Customers))), workload.Features, workload.Plans)
	r.say("load %s", work)
	source := halfMetered(w, metered)
	before := liveHeap()
	cfg := quietly()
	cfg.Source, cfg.Sink, cfg.MaxPending = source, new(countingSink), 4*len(w.Customers)
	c, err := w.Warm(context.Background(), cfg)
	if err != nil {
		return err
	}
	defer closeClient(c)
	row := func(what string, judged bool) {
		bytes := float64(liveHeap()-before) / float64(len(w.Customers))
		row := raw.Row{Work: work + what, Who: ours, Figures: map[string]float64{"bytes": bytes}}
		reported(&row)
		if judged {
			row.Judge(fmt.Sprintf("≤ %d B a customer", bytesACustomer), bytes <= bytesACustomer)
		}
		r.add(row)
	}
	if len(metered) == 0 {
		row("", true)
		return nil
	}
	row(fmt.Sprintf(", half with %d metered", len(metered)), false)
	for i := 1; i < len(w.Customers); i += 2 {
		for _, code := range metered {
			c.Track(w.Customers[i], code, 1)
		}
	}
	if err := c.Flush(context.Background()); err != nil {
		return err
	}
	row(fmt.Sprintf(", half with %d metered in use", len(metered)), true)
	return nil
}

// halfMetered is the workload's source, for which some features of every other
// customer are metered.
func halfMetered(w *workload.Workload, metered []string) *workload.Source {
	meters := make(map[string]entitlements.Grant)
	for used, code := range metered {
		meters[code] = entitlements.Grant{
			Kind: entitlements.KindMetered, Enabled: true, Limit: 1000, Used: int64(used),
			ResetsAt: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		}
	}
	source := w.Source()
	source.Grant(meters, func(customer int) bool { return customer%2 == 1 })
	return source
}

// liveHeap is what is reachable now. What a pool holds goes with the second
// collection.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
