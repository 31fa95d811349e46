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
	longestWarm  = time.Minute // in real time
	verifyWindow = 30 * time.Second
	margin       = 0.1 // by which a promise may be missed
)

// verify runs the recommendation in real time against a billing API on loopback,
// and compares. It returns the program's exit status.
func verify(s *simulator, out io.Writer, r Result) int {
	warm := min(r.Best.TTL, longestWarm)
	fmt.Fprintf(out, "\nVerifying in real time: the cache is filled over %s", short(warm))
	if warm < r.Best.TTL {
		fmt.Fprintf(out, " (capped: ages begin lower than after a TTL of %s)", short(r.Best.TTL))
	}
	fmt.Fprintf(out, ", then %s of load, of which the last %s count.\n", short(leastSettle+verifyWindow), short(verifyWindow))
	m, err := s.inRealTime(r.Best, warm, span{leastSettle, verifyWindow})
	switch {
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case err != nil:
		fmt.Fprintln(out, err)
		return exitMissed
	}
	if missed := compare(out, r.Promise, m); missed > 0 {
		fmt.Fprintf(out, "%d of the promises are missed by more than %.0f %%.\n", missed, 100*margin)
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
func compare(out io.Writer, promise, m Measured) (missed int) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "  \tpromised\tmeasured\tallowed\t")
	for _, p := range promise.figures() {
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
