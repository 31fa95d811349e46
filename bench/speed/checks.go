package main

import (
	"fmt"
	"runtime"

	"github.com/entitlements-go/entitlements/bench/checkers"
	"github.com/entitlements-go/entitlements/bench/paired"
	"github.com/entitlements-go/entitlements/bench/raw"
	"github.com/entitlements-go/entitlements/bench/text"
	"github.com/entitlements-go/entitlements/bench/workload"
)

// proven is how many questions a peer must answer as the model does before it is
// measured.
const proven = 2000

const (
	// sdkTimes is how much slower than this library an SDK has to be, on one core.
	sdkTimes = 10
	// handleTimes is what a check by handle may take, on one core, of the floor: what
	// a service does for each check that has no handles.
	handleTimes = 0.3
)

// crowd is customers, and the orders in which they are asked about.
type crowd struct {
	customers int
	shapes    []shape
}

type shape struct {
	name  string
	w     *workload.Workload
	most  [3]float64 // ours is to take at most so many times the floor, by cores; 0 is not judged
	usual bool       // handles are measured, and SDKs judged, here and nowhere else
}

func (r *runner) crowds() []crowd {
	few, many := workload.New(r.few, 0), workload.New(r.many, 0)
	return []crowd{
		{r.few, []shape{
			{name: "uniform", w: few, most: [3]float64{1: 1.4, 2: 1.6}, usual: true},
			{name: "Zipf 1.1", w: few.Zipf(1.1), most: [3]float64{1: 1.4, 2: 1.6}},
			{name: "all about one", w: few.One()},
		}},
		{r.many, []shape{
			{name: "Zipf 1.1", w: many.Zipf(1.1), most: [3]float64{1: 1.5, 2: 1.5}},
			{name: "uniform", w: many, most: [3]float64{1: 2, 2: 2}},
		}},
	}
}

// checks is one check, by this library and by each peer, with the same customers,
// plans and questions.
func (r *runner) checks() error {
	crowds := r.crowds()
	for _, p := range checkers.Peers() {
		if r.baseline != nil && p.Kind != checkers.Ours {
			continue
		}
		for _, c := range crowds {
			if p.MaxCustomers > 0 && c.customers > p.MaxCustomers {
				continue
			}
			if err := r.checkPeer(p, c); err != nil {
				return fmt.Errorf("%s, %d customers: %w", p.Name, c.customers, err)
			}
			runtime.GC() // what it held is not for the next one to clean up
		}
	}
	return nil
}

// checkPeer measures a peer with the customers of a crowd, which it loads once.
func (r *runner) checkPeer(p checkers.Peer, c crowd) error {
	r.say("load %s customers into %s", text.Count(float64(c.customers)), p.Name)
	checker, err := p.New(c.shapes[0].w)
	if err != nil {
		return err
	}
	defer checker.Close()
	for _, s := range c.shapes {
		if err := checkers.Prove(checker, s.w, proven); err != nil {
			return err
		}
		resolver, ok := checker.(checkers.Resolver)
		for cores := 1; cores <= 2; cores++ {
			row := raw.Row{
				Work: fmt.Sprintf("%s customers, %s", text.Count(float64(c.customers)), s.name),
				Who:  p.Name, Version: checkers.Version(p.Module),
			}
			setup := paired.Setup{Cores: cores}
			r.ratio(row, setup, s.w.Floor, func(i int) bool { return checker.Check(s.w.Ask(i)) }, r.judgeOf(p.Kind, s, cores))
			if ok && s.usual {
				r.checkHandle(row, setup, resolver, s.w)
			}
		}
	}
	return nil
}

// checkHandle measures a handle. It is on one customer: which of them are asked
// about makes no difference.
func (r *runner) checkHandle(row raw.Row, setup paired.Setup, resolver checkers.Resolver, w *workload.Workload) {
	var judge func(*raw.Row)
	if isOurs(row.Who) && setup.Cores == 1 {
		judge = noGarbage(handleTimes)
	}
	row.Who += byHandle
	allowed := resolver.Resolve(w.Customers[0])
	mask := len(w.Asked) - 1
	r.ratio(row, setup, w.Floor, func(i int) bool { return allowed(int(w.Asked[i&mask].Feature)) }, judge)
}

// judgeOf is what judges a peer at a shape: nil when nothing is promised.
func (r *runner) judgeOf(kind checkers.Kind, s shape, cores int) func(*raw.Row) {
	switch {
	case kind == checkers.Ours && s.most[cores] > 0:
		return noGarbage(s.most[cores])
	case kind == checkers.SDK && s.usual && cores == 1:
		return r.slowerThanOurs
	}
	return nil
}

// slowerThanOurs judges an SDK by the row of this library that was measured with
// the same work.
func (r *runner) slowerThanOurs(row *raw.Row) {
	for _, mine := range r.rows {
		if mine.Suite == row.Suite && mine.Who == ours && mine.Work == row.Work && mine.Cores == row.Cores {
			least := sdkTimes * mine.Median
			row.Judge(fmt.Sprintf("≥ %d × ours, so ≥ %s × floor", sdkTimes, text.Times(least)), row.Median >= least)
		}
	}
}
