// Package caching measures how often a bounded cache has the customer that is
// asked about: this library's, the caches that teams build on, and the best that
// there is with the whole trace known in advance.
package caching

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/entitlements-go/entitlements/bench/checkers"
	"github.com/entitlements-go/entitlements/bench/raw"
	"github.com/entitlements-go/entitlements/bench/workload"
)

// Setup says how much is measured. Its zero value is what the published numbers
// use.
type Setup struct {
	// Customers defaults to 100 000.
	Customers int
	// Accesses of each trace, a third of which warm the cache. Defaults to 1 000 000.
	Accesses int
	// Percents are the capacities, of Customers. Defaults to 1, 5, 10 and 20.
	Percents []int
}

// judged is the capacity, in percent, that the bars are for.
const judged = 10

// Run measures every cache on every trace and passes each row on as soon as those
// that it is compared with are measured too. Of a row, Figures has "capacity" and
// "hits", both in percent, and "held", the most customers seen cached at once.
func Run(s Setup, row func(raw.Row)) error {
	if s.Customers == 0 {
		s.Customers = 100_000
	}
	if s.Accesses == 0 {
		s.Accesses = 1_000_000
	}
	if s.Percents == nil {
		s.Percents = []int{1, 5, judged, 20}
	}
	w := workload.New(s.Customers, 0)
	for _, t := range Traces(s.Customers, s.Accesses) {
		for _, percent := range s.Percents {
			rows, err := compare(w, t, percent)
			if err != nil {
				return err
			}
			for _, r := range rows {
				row(r)
			}
		}
	}
	return nil
}

// compare is the rows of one trace and one capacity.
func compare(w *workload.Workload, t Trace, percent int) ([]raw.Row, error) {
	capacity := len(w.Customers) * percent / 100
	row := func(who string, hits float64) raw.Row {
		return raw.Row{
			Suite: "caching", Work: fmt.Sprintf("%s, capacity %d %%", t.Name, percent), Who: who,
			Figures: map[string]float64{"capacity": float64(percent), "hits": 100 * hits},
		}
	}
	var rows []raw.Row
	for _, p := range Peers() {
		hits, held, err := measurePeer(p, w, t, capacity)
		if err != nil {
			return nil, fmt.Errorf("caching: %s, %s, capacity %d: %w", p.Name, t.Name, capacity, err)
		}
		r := row(p.Name, hits)
		r.Version = checkers.Version(p.Module)
		r.Figures["held"] = float64(held)
		rows = append(rows, r)
	}
	if percent == judged {
		judge(t.Name, rows)
	}
	return append(rows, row("optimum", Optimum(t, capacity))), nil
}

func measurePeer(p Peer, w *workload.Workload, t Trace, capacity int) (hits float64, held int, err error) {
	c, err := p.New(w, capacity)
	if err != nil {
		return 0, 0, err
	}
	hits, held, err = Measure(t, c)
	return hits, held, errors.Join(err, c.Close())
}

// heldEvery is how many accesses lie between two looks at how many are cached.
const heldEvery = 1000

// Measure runs a trace against an empty cache. It returns the share of hits after
// the warm part, and the most customers that were seen cached at once.
func Measure(t Trace, c Cache) (hits float64, held int, err error) {
	n := 0
	for i, customer := range t.Accesses {
		hit, err := c.Access(customer)
		if err != nil {
			return 0, held, err
		}
		if hit && i >= t.Warm {
			n++
		}
		if i%heldEvery == 0 {
			held = max(held, c.Held())
		}
	}
	return float64(n) / float64(len(t.Accesses)-t.Warm), max(held, c.Held()), nil
}

// points is how much better than ristretto alone, which is a part of it, this
// library's cache must be on a trace, in points of the hit ratio: where popularity
// is steady its window may cost a little, and where it is not the window must pay.
var points = map[string]float64{"Zipf 1.0": -0.5, "Zipf 1.0 with scans": 5, "shifting set": 5}

// behindBest is how many points it may be behind the best peer on any trace.
const behindBest = 3

// judge sets the bar of this library's row.
func judge(trace string, rows []raw.Row) {
	hits := func(who string) float64 {
		return rows[slices.IndexFunc(rows, func(r raw.Row) bool { return r.Who == who })].Figures["hits"]
	}
	best, mine := 0.0, 0
	for i, r := range rows {
		if r.Who == Ours {
			mine = i
		} else {
			best = max(best, r.Figures["hits"])
		}
	}
	bars := []string{fmt.Sprintf("≥ best peer − %d points", behindBest)}
	pass := hits(Ours) >= best-behindBest
	if more, ok := points[trace]; ok {
		sign := "+"
		if more < 0 {
			sign = "−"
		}
		bars = append(bars, fmt.Sprintf("≥ ristretto %s %v points", sign, math.Abs(more)))
		pass = pass && hits(Ours) >= hits("ristretto")+more
	}
	rows[mine].Judge(strings.Join(bars, ", "), pass)
}
