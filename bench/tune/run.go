package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

const (
	pace       = 10 * time.Millisecond  // how often what is due is asked and used, and pending usage is looked at
	resolution = 100 * time.Millisecond // of ages: the Client's clock ticks so
)

// refreshEvery is how long after its last load a customer in use is loaded again,
// on average: the Client begins up to 15 % of a TTL early. A cache that is filled
// over that time is refreshed at an even rate. Over a whole TTL it is not: while
// the last customers are loaded, the first are for the second time.
func refreshEvery(ttl time.Duration) time.Duration { return ttl * 925 / 1000 }

// A span says how long a run lasts in simulated time.
type span struct{ settle, window time.Duration }

func (s span) length() time.Duration { return s.settle + s.window }

// errInterrupted says that a run was not finished.
var errInterrupted = errors.New("interrupted")

// simulator runs candidates in simulated time.
type simulator struct {
	t       *testing.T
	w       Workload
	load    *load
	stopped func() bool // polled: see simulate.go
}

func (s *simulator) run(c Candidate, sp span) (m Measured, err error) {
	synctest.Test(s.t, func(t *testing.T) {
		b, startErr := s.start(c, entitlementstest.BillingConfig{InMemory: true})
		if startErr != nil {
			err = startErr
			return
		}
		defer b.stop()
		m, err = b.measure(t.Context(), c, refreshEvery(c.TTL), sp)
	})
	return m, err
}

// A bench is one Client and the billing API that it talks to.
type bench struct {
	*simulator
	billing *entitlementstest.Billing
	adapter *paylera.Adapter
	client  *entitlements.Client
	warming atomic.Bool
	stalled time.Duration // by how much a step of the load came late, at most: 0 in simulated time
}

// door is the adapter. While the cache is filled it answers by itself, what the
// adapter would: ten thousand answers over HTTP take longer than all that is
// measured after them.
type door struct {
	*paylera.Adapter
	*bench
}

func (d *door) Fetch(ctx context.Context, customer string) (*entitlements.Entitlements, error) {
	if !d.warming.Load() {
		return d.Adapter.Fetch(ctx, customer)
	}
	now := time.Now()
	return &entitlements.Entitlements{
		Customer: customer, Features: d.load.grants(d.load.index[customer]), AsOf: now, ServerTime: now,
	}, nil
}

func (d *door) Deliver(ctx context.Context, batch entitlements.Batch) error {
	if !d.warming.Load() {
		return d.Adapter.Deliver(ctx, batch)
	}
	return nil
}

func (s *simulator) start(c Candidate, cfg entitlementstest.BillingConfig) (*bench, error) {
	// The limits of a live account, not those of the test environment.
	cfg.Token, cfg.CoreToken = "pl_live_tune", "sk_live_tune"
	b := &bench{simulator: s, billing: entitlementstest.NewBilling(cfg)}
	for i, customer := range s.load.customers {
		b.billing.Put(customer, s.load.grants(int32(i)))
	}
	b.billing.Always(entitlementstest.RouteAny, entitlementstest.Fault{Latency: s.w.Latency})
	if pool, ok := b.billing.Client().Transport.(*http.Transport); ok {
		pool.MaxIdleConnsPerHost = 1024 // a new connection costs more than the request
	}
	account := paylera.Config{Token: cfg.Token, BaseURL: b.billing.URL, Transport: b.billing.Client().Transport}
	if s.w.Family == "core" {
		account.Token, account.Family = cfg.CoreToken, paylera.Core
	}
	var err error
	if b.adapter, err = paylera.New(account); err == nil {
		settings := c.Config()
		billing := &door{b.adapter, b}
		settings.Source, settings.Sink = billing, billing
		b.client, err = entitlements.New(settings)
	}
	if err != nil {
		b.billing.Close()
		return nil, err
	}
	return b, nil
}

// stop leaves nobody behind: a bubble ends when all that began in it has.
func (b *bench) stop() {
	if b.client != nil {
		_ = b.client.Close(context.Background())
	}
	b.billing.Close()
}

// measure fills the cache over a while and lets it be refreshed over as much, lets
// the limits of the billing API work and then counts.
func (b *bench) measure(ctx context.Context, c Candidate, warm time.Duration, sp span) (Measured, error) {
	player := b.load.player()
	if err := b.warm(ctx, c, player, warm); err != nil {
		return Measured{}, err
	}
	b.billing.SetRateLimits(entitlementstest.RateLimits{Reads: b.w.RateLimit})
	if err := b.play(player, 2*warm, sp.settle, b.ask, nil); err != nil {
		return Measured{}, err
	}
	var t tally
	b.stalled = 0
	counted := func(customer, feature int32) { t.decision(b.decide(customer, feature)) }
	before, behind := b.counts(), b.client.Stats().Source.BehindBy
	if err := b.play(player, 2*warm+sp.settle, sp.window, counted, t.sample); err != nil {
		return Measured{}, err
	}
	m := t.measured(b.counts().minus(before), sp)
	m.Stalled = b.stalled
	m.Later = b.client.Stats().Source.BehindBy - behind
	// What is on its way is no part of what the Client holds. What a sink that can't
	// keep up leaves behind is.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_ = b.client.Flush(ctx)
	m.Memory = b.memory(ctx)
	return m, nil
}

// warm loads the most popular customers, as many as the cache holds, spread over a
// while: then their refreshes are spread as those of a Client that runs for long.
// The rate limit does not count yet, since a start is not what is measured.
//
// The load goes on meanwhile, so that what was asked about and used lately is known
// in the end as it will be ever after. Who has not had their turn is not asked
// about: the question would load them at once.
func (b *bench) warm(ctx context.Context, c Candidate, p player, over time.Duration) error {
	customers := b.load.popular[:min(c.MaxCustomers, len(b.load.popular))]
	turn := make([]atomic.Bool, len(b.load.customers))
	b.warming.Store(true)
	defer b.warming.Store(false)
	var both errgroup.Group
	both.Go(func() error {
		if _, err := b.client.Warm(ctx, b.spread(customers, over, turn)); err != nil && !b.stopped() {
			return fmt.Errorf("tune: warm: %w", err)
		}
		return nil
	})
	both.Go(func() error {
		return b.play(p, 0, over, func(customer, feature int32) {
			if turn[customer].Load() {
				b.ask(customer, feature)
			}
		}, nil)
	})
	if err := both.Wait(); err != nil {
		return err
	}
	// Once more: who was idle when it was due, and comes back, is loaded then.
	return b.play(p, over, over, b.ask, nil)
}

// spread yields customers over a time, the popular ones not together, and marks
// whose turn has come.
func (b *bench) spread(customers []int32, over time.Duration, turn []atomic.Bool) iter.Seq[string] {
	return func(yield func(string) bool) {
		begin, n := time.Now(), int64(len(customers))
		// A stride that has no factor in common with their number reaches all.
		stride := strideOf(n)
		for i := range n {
			customer := customers[i*stride%n]
			turn[customer].Store(true)
			if b.stopped() || !yield(b.load.customers[customer]) {
				return
			}
			time.Sleep(time.Duration(float64(over)*float64(i+1)/float64(n)) - time.Since(begin))
		}
	}
}

// strideOf is a number near n's golden section without a factor in common with it.
func strideOf(n int64) int64 {
	for s := max(1, int64(float64(n)*0.618)); ; s++ {
		a, b := s, n
		for b > 0 {
			a, b = b, a%b
		}
		if a == 1 {
			return s
		}
	}
}

// play asks and uses what is due from one moment of the load on, for a while. It
// tells pending how much usage waits, unless that is nil: Stats takes its time.
func (b *bench) play(p player, from, lasts time.Duration, ask func(customer, feature int32), pending func(uint64)) error {
	begin := time.Now()
	for done := time.Duration(0); done < lasts; {
		if b.stopped() {
			return errInterrupted
		}
		time.Sleep(done + pace - time.Since(begin)) // nothing, when it is behind
		b.stalled = max(b.stalled, time.Since(begin)-done-pace)
		// In real time a step may come late: it does then what is due by now.
		done = min(max(done+pace, time.Since(begin)), lasts)
		p.play(from+done, ask, b.use)
		if pending != nil {
			pending(b.client.Stats().Usage.Pending)
		}
	}
	return nil
}

func (b *bench) decide(customer, feature int32) entitlements.Decision {
	return b.client.Decide(b.load.customers[customer], b.load.features[feature])
}

func (b *bench) ask(customer, feature int32) { b.decide(customer, feature) }

func (b *bench) use(customer, feature int32, n int64) {
	b.client.Track(b.load.customers[customer], b.load.features[feature], n)
}
