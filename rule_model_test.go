package entitlements_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	. "github.com/entitlements-go/entitlements"
)

// TestRule19_ModelOfOneProcess drives everything that changes a metered feature,
// in random order, against a sequential reference of the backend and of what one
// process counted. After each step the view that checks read is not below the
// truth, nothing was allowed past the hard limit, and the account balances; at
// quiet moments the view is the truth.
func TestRule19_ModelOfOneProcess(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { inBubble(t, func(t *testing.T) { newMeterModel(t, rt).run(rt) }) })
}

// inBubble runs f in a bubble, and lets rapid have the panic that it stops with.
func inBubble(t *testing.T, f func(t *testing.T)) {
	var stopped any
	synctest.Test(t, func(t *testing.T) {
		defer func() { stopped = recover() }()
		f(t)
	})
	switch p := fmt.Sprintf("%T", stopped); {
	case stopped == nil:
	case p == "rapid.invalidData":
		// Rapid tells failures apart by where they come from, and this is none.
		panic(stopped)
	default:
		panic(stopped)
	}
}

const (
	modelLimit  = 30
	modelPeriod = 2 * time.Minute
	modelHold   = 40*time.Second + time.Microsecond
)

var modelCustomers = []string{"a", "b", "c"}

// meterModel is the reference. What the Client counts is in counted, by the time
// of the call.
type meterModel struct {
	t       *testing.T
	client  *Client
	backend *modelBackend
	counted map[modelCell]int64
	held    []*modelHeld
	events  int
}

type modelCell struct {
	customer string
	period   int64 // its number
}

func periodNumber(t time.Time) int64 { return t.UnixNano() / int64(modelPeriod) }

type modelHeld struct {
	customer string
	r        *Reservation
	n        int64
	due      time.Time
	done     bool
}

func newMeterModel(t *testing.T, rt *rapid.T) *meterModel {
	b := &modelBackend{ids: map[string]bool{}, dead: map[modelCell]int64{}}
	cfg := Config{
		Source: b, Sink: b, MaxCustomers: 2, ReservationTTL: modelHold, FlushTimeout: 5 * time.Second,
		TTL:              time.Duration(rapid.IntRange(1, 20).Draw(rt, "TTL")) * time.Second,
		NegativeTTL:      time.Second,
		FlushInterval:    time.Duration(rapid.IntRange(100, 5000).Draw(rt, "FlushInterval")) * time.Millisecond,
		FlushSize:        rapid.SampledFrom([]int{0, 1, 2}).Draw(rt, "FlushSize"),
		FlushConcurrency: rapid.IntRange(1, 3).Draw(rt, "FlushConcurrency"),
		DeadLetter:       b.deadLetter,
	}
	lag := time.Duration(rapid.IntRange(0, 15_000).Draw(rt, "lag")) * time.Millisecond
	switch rapid.SampledFrom([]string{"current", "AsOf", "UsageLag"}).Draw(rt, "reads") {
	case "AsOf":
		b.lag, b.tellsAsOf = lag, true
	case "UsageLag":
		b.lag, cfg.UsageLag = lag, lag+2*time.Millisecond
	}
	return &meterModel{t: t, client: usageClient(t, cfg), backend: b, counted: map[modelCell]int64{}}
}

func (m *meterModel) cell(customer string) modelCell {
	return modelCell{customer, periodNumber(time.Now())}
}

// holds is what is held now, and whether that is about to change.
func (m *meterModel) holds(customer string) (units int64, soon bool) {
	for _, h := range m.held {
		if h.customer != customer || h.done {
			continue
		}
		left := time.Until(h.due)
		soon = soon || -time.Second < left && left < time.Second
		if left > 0 {
			units += h.n
		}
	}
	return units, soon
}

// allowed checks an allowance, and reports whether there was one.
func (m *meterModel) allowed(rt *rapid.T, d Decision, customer string, n int64) bool {
	if !d.Allowed {
		return false
	}
	held, soon := m.holds(customer)
	if used := m.counted[m.cell(customer)]; !soon && used+held+n > modelLimit {
		rt.Fatalf("%s: %d more were allowed, with %d used and %d held of %d: %+v", customer, n, used, held, modelLimit, d)
	}
	return true
}

func (m *meterModel) run(rt *rapid.T) {
	customer := rapid.SampledFrom(modelCustomers)
	units := rapid.Int64Range(1, 12)
	c := m.client
	rt.Repeat(map[string]func(*rapid.T){
		"": m.check,
		"track": func(rt *rapid.T) {
			who, n := customer.Draw(rt, "customer"), rapid.Int64Range(-6, 12).Draw(rt, "n")
			c.Track(who, "api", n)
			m.counted[m.cell(who)] += n
		},
		"record": func(rt *rapid.T) {
			who, n := customer.Draw(rt, "customer"), units.Draw(rt, "n")
			m.events++
			c.Record(Usage{ID: fmt.Sprint("event-", m.events), Customer: who, Feature: "api", Quantity: n})
			m.counted[m.cell(who)] += n
		},
		"use": func(rt *rapid.T) {
			who, n := customer.Draw(rt, "customer"), units.Draw(rt, "n")
			if m.allowed(rt, c.Use(who, "api", n), who, n) {
				m.counted[m.cell(who)] += n
			}
		},
		"use event": func(rt *rapid.T) {
			who, n := customer.Draw(rt, "customer"), units.Draw(rt, "n")
			m.events++
			d := c.UseEvent(Usage{ID: fmt.Sprint("event-", m.events), Customer: who, Feature: "api", Quantity: n})
			if m.allowed(rt, d, who, n) {
				m.counted[m.cell(who)] += n
			}
		},
		"reserve": func(rt *rapid.T) {
			who, n := customer.Draw(rt, "customer"), units.Draw(rt, "n")
			r, d := c.Reserve(who, "api", n)
			if m.allowed(rt, d, who, n) {
				m.held = append(m.held, &modelHeld{customer: who, r: r, n: n, due: time.Now().Add(modelHold)})
			} else if r != nil {
				rt.Fatal("denied, and something is held")
			}
		},
		"commit": func(rt *rapid.T) {
			h := m.draw(rt)
			actual := rapid.Int64Range(0, 15).Draw(rt, "actual")
			h.r.Commit(actual)
			if !h.done {
				m.counted[m.cell(h.customer)] += actual
			}
			h.done = true
		},
		"release": func(rt *rapid.T) {
			h := m.draw(rt)
			h.r.Release()
			h.done = true
		},
		"renew": func(rt *rapid.T) {
			h := m.draw(rt)
			h.r.Renew()
			if time.Until(h.due) > 0 {
				h.due = time.Now().Add(modelHold)
			}
		},
		"sleep": func(rt *rapid.T) {
			time.Sleep(time.Duration(rapid.IntRange(1, 20_000).Draw(rt, "ms")) * time.Millisecond)
		},
		"rollover": func(rt *rapid.T) {
			next := time.Now().Truncate(modelPeriod).Add(modelPeriod)
			time.Sleep(time.Until(next) - time.Duration(rapid.IntRange(0, 2).Draw(rt, "ms before"))*time.Millisecond)
		},
		"invalidate": func(rt *rapid.T) { c.Invalidate(customer.Draw(rt, "customer")) },
		"forget":     func(rt *rapid.T) { c.Forget(customer.Draw(rt, "customer")) },
		"load": func(rt *rapid.T) { // and evict another
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			_, _ = c.Check(ctx, customer.Draw(rt, "customer"), "api")
		},
		"flush": func(rt *rapid.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rapid.IntRange(1, 3000).Draw(rt, "ms"))*time.Millisecond)
			defer cancel()
			_ = c.Flush(ctx)
		},
		"next fetch": func(rt *rapid.T) {
			m.backend.plan(&m.backend.fetches, modelStep{
				fault:  rapid.SampledFrom([]modelFault{faultNone, faultNone, faultUnsent}).Draw(rt, "fault"),
				before: modelPause(rt), after: modelPause(rt),
			})
		},
		"next delivery": func(rt *rapid.T) {
			m.backend.plan(&m.backend.deliveries, modelStep{
				fault:  modelFault(rapid.IntRange(0, int(faults)-1).Draw(rt, "fault")),
				before: modelPause(rt), after: modelPause(rt),
			})
		},
		"quiet": m.quiet,
	})
	m.quiet(rt)
}

func (m *meterModel) draw(rt *rapid.T) *modelHeld {
	if len(m.held) == 0 {
		rt.Skip("nothing is held")
	}
	return rapid.SampledFrom(m.held).Draw(rt, "reservation")
}

func modelPause(rt *rapid.T) time.Duration {
	return time.Duration(rapid.IntRange(0, 3000).Draw(rt, "pause")) * time.Millisecond
}

// check holds at every moment.
func (m *meterModel) check(rt *rapid.T) {
	synctest.Wait()
	for _, customer := range modelCustomers {
		d := m.client.Decide(customer, "api")
		if d.Origin == OriginPolicy {
			continue
		}
		used := m.counted[m.cell(customer)]
		if d.Used < used {
			rt.Fatalf("%s at %v: %d used in the view, %d in truth: %+v", customer, time.Now(), d.Used, used, d)
		}
		held, soon := m.holds(customer)
		if most := max(0, modelLimit-max(0, used)-held); !soon && d.Remaining > most {
			rt.Fatalf("%s at %v: %d remain in the view, %d in truth: %+v", customer, time.Now(), d.Remaining, most, d)
		}
	}
	requireBalancedUsage(m.t, m.client)
}

// quiet lets everything arrive and compares.
func (m *meterModel) quiet(rt *rapid.T) {
	b := m.backend
	b.heal()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	require.NoError(rt, m.client.Flush(ctx))
	time.Sleep(b.lag + 10*time.Second) // late requests, lagging reads
	for _, customer := range modelCustomers {
		m.client.Invalidate(customer)
		d, err := m.client.Check(ctx, customer, "api")
		require.NoError(rt, err)
		at := m.cell(customer)
		accepted, dead := b.total(at)
		require.Equal(rt, m.counted[at], accepted+b.lost(at), "%s: what the backend has, and what it refused for good: %+v", customer, m.client.Stats().Usage)
		require.Equal(rt, accepted+dead, d.Used, "%s at %v: quiet, and the view is not the truth", customer, time.Now())
		if held, soon := m.holds(customer); !soon {
			require.Equal(rt, max(0, modelLimit-max(0, d.Used)-held), d.Remaining, "%s: %d held", customer, held)
		}
	}
}

// modelBackend is a billing API whose next faults are planned. It counts by a
// record's Time.
type modelBackend struct {
	lag       time.Duration // its reads are this old
	tellsAsOf bool

	mu         sync.Mutex // guards the fields below
	fetches    []modelStep
	deliveries []modelStep
	ids        map[string]bool
	accepted   []acceptedUsage
	dead       map[modelCell]int64 // positive quantities that were refused for good
	refused    map[modelCell]int64 // all of them
}

type modelFault int

const (
	faultNone    modelFault = iota
	faultUnsent             // refused, may be sent again
	faultLost               // accepted, and the answer is lost
	faultDropped            // lost before it was accepted, with no word of it
	faultLate               // accepted after the client gave up
	faultHalf               // half of it is accepted
	faultBad                // refused for good
	faults
)

type modelStep struct {
	fault         modelFault
	before, after time.Duration
}

func (b *modelBackend) plan(queue *[]modelStep, s modelStep) {
	b.mu.Lock()
	defer b.mu.Unlock()
	*queue = append(*queue, s)
}

func (b *modelBackend) next(queue *[]modelStep) modelStep {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(*queue) == 0 {
		return modelStep{before: 3 * time.Millisecond, after: 3 * time.Millisecond}
	}
	s := (*queue)[0]
	*queue = (*queue)[1:]
	return s
}

func (b *modelBackend) heal() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fetches, b.deliveries = nil, nil
}

func (b *modelBackend) accept(usage []Usage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range usage {
		if !b.ids[u.ID] {
			b.ids[u.ID] = true
			b.accepted = append(b.accepted, acceptedUsage{time.Now(), u})
		}
	}
}

func (b *modelBackend) knows(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ids[id]
}

func (b *modelBackend) know(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ids[id] = true
}

func cellOf(u Usage) modelCell { return modelCell{u.Customer, periodNumber(u.Time)} }

func (b *modelBackend) deadLetter(u Usage, _ error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refused == nil {
		b.refused = map[modelCell]int64{}
	}
	b.dead[cellOf(u)] += max(0, u.Quantity)
	b.refused[cellOf(u)] += u.Quantity
}

func (b *modelBackend) used(at modelCell, before time.Time) (sum int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.accepted {
		if a.at.Before(before) && cellOf(a.usage) == at {
			sum += a.usage.Quantity
		}
	}
	return sum
}

// total is what was accepted, and what was refused and had all the same.
func (b *modelBackend) total(at modelCell) (accepted, dead int64) {
	accepted = b.used(at, time.Now().Add(time.Hour))
	b.mu.Lock()
	defer b.mu.Unlock()
	return accepted, b.dead[at]
}

func (b *modelBackend) lost(at modelCell) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refused[at]
}

func (b *modelBackend) Fetch(ctx context.Context, customer string) (*Entitlements, error) {
	s := b.next(&b.fetches)
	if err := sleepFor(ctx, s.before); err != nil {
		return nil, err
	}
	if s.fault != faultNone {
		return nil, errSinkDown
	}
	asOf := time.Now().Add(-b.lag)
	period := time.Now().Truncate(modelPeriod)
	e := &Entitlements{Customer: customer, Features: map[string]Grant{"api": {
		Kind: KindMetered, Enabled: true, Limit: modelLimit, Used: b.used(modelCell{customer, periodNumber(period)}, asOf),
		PeriodStart: period, ResetsAt: period.Add(modelPeriod),
	}}}
	if b.tellsAsOf {
		e.AsOf = asOf
	}
	return e, sleepFor(ctx, s.after)
}

func (b *modelBackend) Deliver(ctx context.Context, batch Batch) error {
	s := b.next(&b.deliveries)
	if err := sleepFor(ctx, s.before); err != nil {
		return err
	}
	switch s.fault {
	case faultUnsent:
		return Unsent(errSinkDown)
	case faultDropped:
		return errSinkDown
	case faultLost:
		b.accept(batch.Usage)
		return errSinkDown
	case faultLate:
		late := batch.Usage
		go func() {
			time.Sleep(s.after)
			b.accept(late)
		}()
		return errSinkDown
	case faultHalf:
		half := len(batch.Usage) / 2
		b.accept(batch.Usage[:half])
		e := &DeliveryError{Err: errSinkDown}
		for i := half; i < len(batch.Usage); i++ {
			e.Retry = append(e.Retry, i)
		}
		return e
	case faultBad:
		if b.knows(batch.Usage[0].ID) {
			break // a duplicate is accepted
		}
		b.know(batch.Usage[0].ID) // and refused if it arrives once more, from an earlier attempt
		return &DeliveryError{Rejected: []Rejection{{0, errSinkDown}}, Retry: rest(len(batch.Usage))}
	}
	b.accept(batch.Usage)
	return sleepFor(ctx, s.after)
}

// rest is all indexes but the first.
func rest(n int) (indexes []int) {
	for i := 1; i < n; i++ {
		indexes = append(indexes, i)
	}
	return indexes
}

func sleepFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
