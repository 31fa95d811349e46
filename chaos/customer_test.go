package chaos_test

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/entitlements-go/entitlements"
)

// cell is a metered feature of a customer, and what was had of it.
type cell struct {
	customer, feature string
	limit             int64
	used              atomic.Int64 // to be billed
	counted           atomic.Int64 // the part of used whose call has returned
	taken             atomic.Int64 // used and held; less than that while a reservation ends, never more
	most              atomic.Int64 // that taken has been
}

func (c *cell) take(n int64) {
	taken := c.taken.Add(n)
	for most := c.most.Load(); taken > most && !c.most.CompareAndSwap(most, taken); most = c.most.Load() {
	}
}

// count notes usage that a call has counted.
func (c *cell) count(n int64) {
	c.used.Add(n)
	c.counted.Add(n)
}

// customer has what the tests use: a gate, two hard limits, and two features
// without a limit, of which one takes corrections and the other events with IDs.
type customer struct {
	key          string
	calls        *cell
	tokens       *cell
	events, jobs *cell
}

func newCustomers(rng *rand.Rand, n int) []*customer {
	all := make([]*customer, n)
	for i := range all {
		key := fmt.Sprintf("customer-%d", i)
		of := func(feature string, limit int64) *cell { return &cell{customer: key, feature: feature, limit: limit} }
		all[i] = &customer{
			key:   key,
			calls: of("calls", 50+rng.Int64N(500)), tokens: of("tokens", 100+rng.Int64N(1000)),
			events: of("events", entitlements.Unlimited), jobs: of("jobs", entitlements.Unlimited),
		}
	}
	return all
}

func (c *customer) cells() []*cell { return []*cell{c.calls, c.tokens, c.events, c.jobs} }

func (c *customer) grants() map[string]entitlements.Grant {
	grants := map[string]entitlements.Grant{
		"export": {Enabled: true},
		"seats":  {Kind: entitlements.KindNumeric, Enabled: true, Limit: 7},
	}
	for _, cell := range c.cells() {
		grants[cell.feature] = entitlements.Grant{Kind: entitlements.KindMetered, Enabled: true, Limit: cell.limit}
	}
	return grants
}

// program is the goroutines of a service that use a Client.
type program struct {
	t        testing.TB
	client   *entitlements.Client
	cached   bool          // every customer is, all the time
	recorded atomic.Uint64 // calls that Stats counts as Recorded
	made     atomic.Int64  // calls
	longest  atomic.Int64  // that a call took, in ns
}

// call makes one call that must not block.
func (p *program) call(f func()) {
	begin := time.Now()
	f()
	took := int64(time.Since(begin))
	for most := p.longest.Load(); took > most && !p.longest.CompareAndSwap(most, took); most = p.longest.Load() {
	}
	p.made.Add(1)
}

// step is one thing that a service does for a customer.
func (p *program) step(c *customer, rng *rand.Rand) {
	switch rng.IntN(6) {
	case 0:
		p.use(c.calls, 1+rng.Int64N(6))
	case 1:
		p.reserve(c.tokens, 1+rng.Int64N(20), rng)
	case 2:
		p.track(c.events, rng.Int64N(12)-2)
	case 3:
		p.record(c.jobs, 1+rng.Int64N(5), rng)
	case 4:
		p.check(c)
	case 5:
		if rng.IntN(10) == 0 {
			p.call(func() { p.client.Invalidate(c.key) })
		}
	}
}

func (p *program) use(c *cell, n int64) {
	var d entitlements.Decision
	p.call(func() { d = p.client.Use(c.customer, c.feature, n) })
	p.look(c, d)
	if d.Allowed {
		p.recorded.Add(1)
		c.take(n)
		c.count(n)
	}
}

func (p *program) reserve(c *cell, n int64, rng *rand.Rand) {
	var r *entitlements.Reservation
	var d entitlements.Decision
	p.call(func() { r, d = p.client.Reserve(c.customer, c.feature, n) })
	p.look(c, d)
	if !d.Allowed {
		return
	}
	c.take(n)
	time.Sleep(time.Duration(rng.IntN(10)) * time.Millisecond) // the work
	actual := rng.Int64N(n + 1)
	c.take(actual - n) // before the units can be had by others
	if actual == 0 {
		p.call(r.Release)
		return
	}
	p.recorded.Add(1)
	p.call(func() { r.Commit(actual) })
	c.count(actual)
}

// track counts, or corrects: what is checked of the view is that of limits.
func (p *program) track(c *cell, n int64) {
	p.recorded.Add(1)
	p.call(func() { p.client.Track(c.customer, c.feature, n) })
	c.count(n)
}

// record has an ID of its own, and now and then the program itself says it twice.
func (p *program) record(c *cell, n int64, rng *rand.Rand) {
	u := entitlements.Usage{
		ID: fmt.Sprintf("job-%016x", rng.Uint64()), Customer: c.customer, Feature: c.feature, Quantity: n,
		Time: time.Now().Truncate(time.Millisecond), // what the wire carries: the second one is the same
	}
	for range 1 + rng.IntN(4)/3 {
		p.recorded.Add(1)
		p.call(func() { p.client.Record(u) })
	}
	c.count(n)
}

func (p *program) check(c *customer) {
	counted := c.calls.counted.Load()
	var d entitlements.Decision
	p.call(func() { d = p.client.Decide(c.key, "calls") })
	p.look(c.calls, d)
	if d.Origin != entitlements.OriginPolicy {
		assert.GreaterOrEqual(p.t, d.Used, counted, "the view of %s is below the truth", c.key)
	}
	p.call(func() {
		if allowed := p.client.Allowed(c.key, "export"); p.cached {
			assert.True(p.t, allowed, "%s", c.key)
		}
	})
	p.call(func() {
		if seats := p.client.Number(c.key, "seats", 0); p.cached {
			assert.EqualValues(p.t, 7, seats, "%s", c.key)
		}
	})
}

// look checks what holds of every answer about a hard limit. The view itself may
// pass it: what was sent without an answer counts beside a figure that may have it.
func (p *program) look(c *cell, d entitlements.Decision) {
	if d.Origin == entitlements.OriginPolicy {
		assert.False(p.t, p.cached, "%s of %s was answered by policy: %v", c.feature, c.customer, d.Reason)
		assert.False(p.t, d.Allowed, "%s of %s was allowed by a policy that denies", c.feature, c.customer)
		return
	}
	if d.Allowed {
		assert.LessOrEqual(p.t, d.Used, c.limit, "%s of %s", c.feature, c.customer)
	}
}
