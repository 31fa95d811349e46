package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/bench/paired"
	"github.com/entitlements-go/entitlements/bench/raw"
	"github.com/entitlements-go/entitlements/bench/text"
	"github.com/entitlements-go/entitlements/bench/workload"
)

// quietly is a configuration by which nothing is refreshed while it is measured,
// not even after a denial.
func quietly() entitlements.Config {
	return entitlements.Config{TTL: time.Hour, MaxStale: 2 * time.Hour, DenyTTL: -1}
}

// reads is what a check costs beside a plain one: with more cores on one customer,
// with its reason, and while something else goes on.
func (r *runner) reads() error {
	if err := r.alone(); err != nil {
		return err
	}
	return r.besides()
}

func allowed(c *entitlements.Client, w *workload.Workload) paired.Work {
	return func(i int) bool { return c.Allowed(w.Ask(i)) }
}

// alone is nothing but checks.
func (r *runner) alone() error {
	w := workload.New(r.few, 0)
	c, err := w.Warm(context.Background(), quietly())
	if err != nil {
		return err
	}
	defer closeClient(c)
	customers := text.Count(float64(r.few)) + " customers"
	r.ratio(
		raw.Row{Work: "Decide, " + customers + ", uniform", Who: ours, To: "Allowed"}, paired.Setup{},
		allowed(c, w), func(i int) bool { return c.Decide(w.Ask(i)).Allowed }, noGarbage(1.2))
	one := allowed(c, w.One())
	r.ratio(
		raw.Row{Work: "Allowed, all about one customer", Who: ours, To: "1 core"}, paired.Setup{Cores: 2, FloorCores: 1},
		one, one, noGarbage(0.6))
	return nil
}

// refreshes is how many customers are refreshed a second: 100 000 at the default
// TTL of 30 s.
const refreshes = 3300

// besides is one reader on two cores, and what goes on in the background. The
// floor is the same reader while it is quiet.
func (r *runner) besides() error {
	w := workload.New(r.some, 0)
	source := &counted{Source: w.Source()}
	cfg := quietly()
	cfg.Source = source
	cfg.Sink = new(countingSink)
	c, err := w.Warm(context.Background(), cfg)
	if err != nil {
		return err
	}
	defer closeClient(c)

	row := raw.Row{Who: ours, To: "quiet"}
	row.Work = fmt.Sprintf("Allowed while %s refreshes a second run", text.Count(refreshes))
	before, background := source.customers.Load(), refresher{c: c, customers: w.Customers}
	r.ratio(row, paired.Setup{Procs: 2, Beside: background.run}, allowed(c, w), allowed(c, w), func(row *raw.Row) {
		atMost(1.15, 0)(row)
		ran := float64(source.customers.Load()-before) / background.ran.Seconds()
		row.Judge(fmt.Sprintf("%s, %s refreshes a second", row.Bar, text.Count(ran)), *row.Pass && ran > 0.9*refreshes)
	})

	row.Work = "Allowed while another goroutine calls Track flat out"
	r.ratio(row, paired.Setup{Procs: 2, Beside: tracker(c, w)}, allowed(c, w), allowed(c, w), reported)
	return r.whileDown(w, c)
}

// refresher invalidates customers at a steady rate, so that there are as many
// refreshes in each slice of the work, and none in those of the floor.
type refresher struct {
	c         *entitlements.Client
	customers []string
	next      int           // index of the customer whose turn it is
	due       float64       // customers, now
	ran       time.Duration // in all
}

func (r *refresher) run(stop <-chan struct{}) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-stop:
			return
		case now := <-tick.C:
			r.due += refreshes * now.Sub(last).Seconds()
			r.ran += now.Sub(last)
			last = now
			for ; r.due >= 1; r.due-- {
				r.c.Invalidate(r.customers[r.next%len(r.customers)])
				r.next++
			}
		}
	}
}

func tracker(c *entitlements.Client, w *workload.Workload) func(stop <-chan struct{}) {
	i := 0
	return func(stop <-chan struct{}) {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for range 256 {
				customer, feature := w.Ask(i)
				c.Track(customer, feature, 1)
				i++
			}
		}
	}
}

// whileDown compares a Client whose Source fails, and whose customers are all past
// their TTL, with a quiet one.
func (r *runner) whileDown(w *workload.Workload, quiet *entitlements.Client) error {
	source := &counted{Source: w.Source()}
	c, err := w.Warm(context.Background(), entitlements.Config{Source: source, TTL: r.ttl})
	if err != nil {
		return err
	}
	defer closeClient(c)
	source.down.Store(true)
	r.say("wait until every customer is past the TTL")
	for _, customer := range w.Customers {
		for c.Decide(customer, w.Features[0]).Origin != entitlements.OriginStale {
			time.Sleep(10 * time.Millisecond)
		}
	}
	r.ratio(
		raw.Row{Work: "Allowed while the Source is down", Who: ours, To: "quiet"}, paired.Setup{Procs: 2},
		allowed(quiet, w), allowed(c, w), atMost(1.15, 0))
	if s := c.Stats().Decisions; s.ByPolicy > 0 || s.Stale == 0 {
		return fmt.Errorf("while the Source is down %d answers were stale and %d by policy, must be all and none", s.Stale, s.ByPolicy)
	}
	return nil
}

// counted is a Source that counts the customers it is asked for, and fails while
// it is down.
type counted struct {
	*workload.Source
	customers atomic.Int64
	down      atomic.Bool
}

var errDown = errors.New("the Source is down")

func (s *counted) Fetch(ctx context.Context, customer string) (*entitlements.Entitlements, error) {
	s.customers.Add(1)
	if s.down.Load() {
		return nil, errDown
	}
	return s.Source.Fetch(ctx, customer)
}

func (s *counted) FetchBatch(ctx context.Context, customers []string) (map[string]*entitlements.Entitlements, error) {
	s.customers.Add(int64(len(customers)))
	if s.down.Load() {
		return nil, errDown
	}
	return s.Source.FetchBatch(ctx, customers)
}

// closeClient ends a Client whose usage nobody waits for.
func closeClient(c *entitlements.Client) { _ = c.Close(context.Background()) }
