package main

import (
	"context"
	"fmt"
	"time"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/bench/workload"
)

// calls is how many are counted. Few customers are asked about, so that all are
// cached, and none is refreshed meanwhile.
const (
	calls     = 20_000
	customers = 1000
)

// works are what is counted.
var works = []struct {
	name string
	body func(s *setup) func(i int)
}{
	{"two map look-ups (floor)", func(s *setup) func(int) {
		return func(i int) {
			customer, feature := s.w.Ask(i)
			s.granted = s.floor[customer][feature]
		}
	}},
	{"Allowed", func(s *setup) func(int) {
		return func(i int) { s.granted = s.client.Allowed(s.w.Ask(i)) }
	}},
	{"Decide", func(s *setup) func(int) {
		return func(i int) { s.granted = s.client.Decide(s.w.Ask(i)).Allowed }
	}},
	{"Customer.Allowed(Feature)", func(s *setup) func(int) {
		customer, feature := s.client.Customer(s.w.Customers[0]), s.client.Feature(s.w.Features[1])
		return func(int) { s.granted = customer.Allowed(feature) }
	}},
	{"Track", func(s *setup) func(int) {
		return func(i int) {
			customer, _ := s.w.Ask(i)
			s.client.Track(customer, metered, 1)
		}
	}},
	{"Use", func(s *setup) func(int) {
		return func(i int) {
			customer, _ := s.w.Ask(i)
			s.granted = s.client.Use(customer, metered, 1).Allowed
		}
	}},
}

const metered = "calls"

type setup struct {
	w       *workload.Workload
	client  *entitlements.Client
	floor   map[string]map[string]bool
	granted bool
}

type discard struct{}

func (discard) Deliver(context.Context, entitlements.Batch) error { return nil }

// do runs one work, first uncounted and then counted.
func do(name string) error {
	for _, work := range works {
		if work.name != name {
			continue
		}
		s := &setup{w: workload.New(customers, 0), floor: make(map[string]map[string]bool)}
		for i, customer := range s.w.Customers {
			s.floor[customer] = make(map[string]bool)
			for f, feature := range s.w.Features {
				s.floor[customer][feature] = workload.Granted(workload.PlanOf(i), f)
			}
		}
		source := s.w.Source()
		source.Grant(map[string]entitlements.Grant{
			metered: {Kind: entitlements.KindMetered, Enabled: true, Limit: 1 << 40},
		}, workload.Everybody)
		var err error
		s.client, err = s.w.Warm(context.Background(), entitlements.Config{
			Source: source, Sink: discard{}, TTL: time.Hour, MaxStale: 2 * time.Hour, FlushInterval: time.Hour,
		})
		if err != nil {
			return err
		}
		body := work.body(s)
		for i := range calls {
			body(i)
		}
		collect(body)
		return s.client.Close(context.Background())
	}
	return fmt.Errorf("work must be one of those that are counted, got %q", name)
}

// collect is where valgrind counts.
//
//go:noinline
func collect(body func(i int)) {
	for i := range calls {
		body(i)
	}
}
