package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/entitlements-go/entitlements/entitlementstest"
)

const (
	longestWarm = 3 * time.Minute // in real time
	leastVerify = 30 * time.Second
	margin      = 0.1 // by which a promise may be missed
)

// verify runs the recommendation in real time against a billing API on loopback,
// and compares. It returns the program's exit status.
func verify(s *simulator, out io.Writer, r Result) int {
	warm := min(refreshEvery(r.Best.TTL), longestWarm)
	// Most checks are of few customers: how old answers are on average shows once
	// each of those was loaded again.
	sp := span{leastSettle, min(max(leastVerify, r.Promise.P99.Round(time.Second)), longestWarm)}
	fmt.Fprintf(out, "\nVerifying in real time, which takes %s: the cache is filled, then %s of load count.\n",
		short((2*warm + sp.length()).Round(time.Second)), short(sp.window))
	if warm < refreshEvery(r.Best.TTL) {
		fmt.Fprintf(out, "Filling takes less than a TTL of %s: ages and requests are lower than they will be, and prove little.\n", short(r.Best.TTL))
	}
	m, err := s.inRealTime(r.Best, warm, sp)
	switch {
	case errors.Is(err, errInterrupted):
		fmt.Fprintln(out, "Interrupted before anything was verified.")
		return exitInterrupted
	case err != nil:
		fmt.Fprintln(out, err)
		return exitMissed
	}
	if missed := compare(out, s.w, r.Promise, m); missed > 0 {
		fmt.Fprintf(out, "%d of the promises are missed by more than %.0f %%.\n", missed, 100*margin)
		if m.Stalled > resolution {
			fmt.Fprintf(out, "The machine was busy: the load itself came up to %s late.\n", short(m.Stalled.Round(time.Millisecond)))
		}
		return exitMissed
	}
	fmt.Fprintln(out, "All promises are kept.")
	if len(r.Unmet) > 0 {
		return exitMissed
	}
	return 0
}

func (s *simulator) inRealTime(c Candidate, warm time.Duration, sp span) (Measured, error) {
	b, err := s.start(c, entitlementstest.BillingConfig{})
	if err != nil {
		return Measured{}, err
	}
	defer b.stop()
	return b.measure(context.Background(), c, warm, sp)
}

// compare prints what was promised beside what was measured, and returns how
// many figures are worse than promised by more than the margin.
func compare(out io.Writer, w Workload, promise, m Measured) (missed int) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "  \tpromised\tmeasured\tallowed\t")
	for _, p := range w.promises() {
		most := p.of(promise) + max(margin*p.of(promise), p.floor)
		verdict := "kept"
		if p.of(m) > most {
			verdict = "MISSED"
			missed++
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\t≤ %s\t%s\n", p.name, p.text(p.of(promise)), p.text(p.of(m)), p.text(most), verdict)
	}
	_ = table.Flush()
	return missed
}
