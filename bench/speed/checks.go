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

// sdkTimes is how much slower than this library an SDK has to be.
const sdkTimes = 10

// crowd is customers, and the orders in which they are asked about.
type crowd struct {
	customers int
	shapes    []shape
}

type shape struct {
	name   string
	w      *workload.Workload
	most   [3]float64 // ours is to take at most so many times the floor, by cores; 0 is not judged
	handle [3]float64 // the same for a customer who is resolved
	sdk    bool       // SDKs are judged here
}

func (r *runner) crowds() []crowd {
	few, many := workload.New(r.few, 0), workload.New(r.many, 0)
	return []crowd{
		{r.few, []shape{
			{name: "uniform", w: few, most: [3]float64{1: 1.4, 2: 1.6}, handle: [3]float64{1: 0.3}, sdk: true},
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
		for cores := 1; cores <= 2; cores++ {
			r.checkShape(p, checker, c, s, cores)
		}
	}
	return nil
}

func (r *runner) checkShape(p checkers.Peer, checker checkers.Checker, c crowd, s shape, cores int) {
	row := raw.Row{
		Work: fmt.Sprintf("%s customers, %s", text.Count(float64(c.customers)), s.name),
		Who:  p.Name, Version: checkers.Version(p.Module), Cores: cores,
	}
	if p.Kind == checkers.Ours {
		row.Version = ""
	}
	var judge, judgeHandle func(*raw.Row)
	switch {
	case p.Kind == checkers.Ours:
		if s.most[cores] > 0 {
			judge = noGarbage(s.most[cores])
		}
		if s.handle[cores] > 0 {
			judgeHandle = noGarbage(s.handle[cores])
		}
	case p.Kind == checkers.SDK && s.sdk:
		judge = r.slowerThanOurs
	}
	setup := paired.Setup{Cores: cores}
	r.ratio(row, setup, s.w.Floor, func(i int) bool { return checker.Check(s.w.Ask(i)) }, judge)

	// A handle is on one customer: which of them are asked about makes no difference.
	resolver, ok := checker.(checkers.Resolver)
	if !ok || !s.sdk {
		return
	}
	row.Who += byHandle
	allowed := resolver.Resolve(s.w.Customers[0])
	mask := len(s.w.Asked) - 1
	r.ratio(row, setup, s.w.Floor, func(i int) bool { return allowed(int(s.w.Asked[i&mask].Feature)) }, judgeHandle)
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
