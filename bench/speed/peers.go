package main

import (
	"context"
	"fmt"

	"github.com/entitlements-go/entitlements/bench/caching"
	"github.com/entitlements-go/entitlements/bench/checkers"
	"github.com/entitlements-go/entitlements/bench/latency"
	"github.com/entitlements-go/entitlements/bench/raw"
	"github.com/entitlements-go/entitlements/bench/recorders"
	"github.com/entitlements-go/entitlements/bench/text"
	"github.com/entitlements-go/entitlements/bench/workload"
)

// recorders is usage of very many cells recorded flat out, by this library and by
// each peer, and what of it arrives at a server that answers at once, or late.
func (r *runner) recorders() error {
	w := workload.New(r.few, 0)
	cells := text.Count(float64(r.few * workload.Features))
	for _, answers := range r.answers {
		work := cells + " cells, 2 goroutines, a server that answers at once"
		if answers > 0 {
			work = fmt.Sprintf("%s cells, 2 goroutines, a server that answers after %v", cells, answers)
		}
		for _, p := range recorders.Peers() {
			setup := r.sizes.recorders
			setup.Latency = answers
			o, err := recorders.Run(context.Background(), p, w, setup)
			if err != nil {
				return err
			}
			r.add(recorderRow(p, work, o))
		}
	}
	return nil
}

func recorderRow(p recorders.Peer, work string, o recorders.Outcome) raw.Row {
	row := raw.Row{
		Work: work, Who: p.Name, Version: checkers.Version(p.Module), Allocs: &o.Allocs,
		Figures: map[string]float64{
			"ns": o.NS, "longest ns": float64(o.Longest), "ending ns": float64(o.Ending), "allocs to end": o.AllocsToEnd,
			"calls": float64(o.Calls), "delivered": float64(o.Delivered), "told": float64(o.Told), "lost": float64(o.Lost),
			"duplicates": float64(o.Duplicates), "overflowed": float64(o.Overflowed),
			"requests": float64(o.Requests), "bytes": float64(o.Bytes),
		},
	}
	if isOurs(p.Name) {
		row.Judge("all delivered, once", o.Delivered == o.Calls && o.Duplicates == 0)
	}
	return row
}

// caching is how often a bounded cache has the customer that is asked about.
func (r *runner) caching() error {
	return caching.Run(r.sizes.caching, r.add)
}

// latency is how long a call takes when it takes long.
func (r *runner) latency() error {
	r.say("half a minute")
	rows, err := latency.Run(r.sizes.latency)
	for _, row := range rows {
		r.add(row)
	}
	return err
}
