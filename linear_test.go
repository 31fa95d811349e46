package entitlements_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// Whatever goroutines do to a quota at the same time, there is an order of their
// calls, one after the other, in which each of them was told the truth. A checker
// looks for that order in what random runs were told.

// quotaCall is one call of a history, and quotaState what the calls before it
// left. They are all that the sequential model knows.
type quotaCall struct {
	op   string
	n    int64 // units asked for, or committed
	held int64 // that a commit or a release returns
}

type quotaState struct{ used, held int64 }

// left is what the next call can have: a commit may bring more than was reserved,
// so it may be none although less was allowed.
func (s quotaState) left(limit int64) int64 { return max(0, limit-s.used-s.held) }

// after is what a call leaves. A denied one leaves everything as it was.
func (s quotaState) after(call quotaCall, d Decision) quotaState {
	switch {
	case call.op == "commit", call.op == "release":
		s.used += call.n
		s.held -= call.held
	case call.op == "use" && d.Allowed:
		s.used += call.n
	case call.op == "reserve" && d.Allowed:
		s.held += call.n
	}
	return s
}

// quotaModel is a quota that calls reach one after the other. told decides about
// what a call was told: the state before it, the state after it, and the answer.
func quotaModel(start quotaState, told func(before, after quotaState, call quotaCall, d Decision) bool) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return start },
		Step: func(state, input, output any) (bool, any) {
			before, call, d := state.(quotaState), input.(quotaCall), output.(Decision)
			after := before.after(call, d)
			if call.op == "commit" || call.op == "release" {
				return true, after // they are told nothing
			}
			return told(before, after, call, d), after
		},
		Hash: func(state any) uint64 {
			s := state.(quotaState)
			return uint64(s.used)<<32 ^ uint64(s.held)
		},
	}
}

// exactly wants the truth and nothing else: no refresh lands, so the local view
// is the truth.
func exactly(limit int64) func(before, after quotaState, call quotaCall, d Decision) bool {
	return func(before, after quotaState, call quotaCall, d Decision) bool {
		return d.Allowed == (call.n <= before.left(limit)) && d.Used == after.used && d.Remaining == after.left(limit)
	}
}

// safely lets the view be above the truth: while usage is on its way a refresh
// cannot tell whether its figure contains it, so it is counted twice until the
// next one. Then a denial is too early, and what is shown as left is too little,
// but nothing is allowed that does not fit.
func safely(limit int64) func(before, after quotaState, call quotaCall, d Decision) bool {
	return func(before, after quotaState, call quotaCall, d Decision) bool {
		fits := !d.Allowed || call.n <= before.left(limit)
		return fits && d.Used >= after.used && d.Remaining <= after.left(limit)
	}
}

// quotaRun is a random history of one customer.
type quotaRun struct {
	customer string
	start    int64 // used before
	limit    int64
	every    time.Duration // goroutines wake at multiples of this

	clock atomic.Int64 // orders the begins and ends of calls, where time stands still
	came  atomic.Int64 // goroutines that are about to call
	mu    sync.Mutex   // guards calls
	calls []porcupine.Operation
	used  atomic.Int64 // what was allowed and what was committed
}

const (
	quotaGoroutines = 8
	quotaCalls      = 12 // by each of them: what a checker can order in no time
)

func newQuotaRun(customer string, rng *rand.Rand, every time.Duration) *quotaRun {
	return &quotaRun{customer: customer, start: rng.Int64N(5), limit: 20 + rng.Int64N(80), every: every}
}

// do makes the calls. All that they still hold is released at the end.
func (q *quotaRun) do(c *Client, seed uint64) {
	var wg sync.WaitGroup
	for g := range quotaGoroutines {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(g)))
			// Handles have a way of their own.
			var client asker = byName{c, q.customer}
			if g%2 == 0 {
				client = byHandle{c.Customer(q.customer), c.Feature("api")}
			}
			type holding struct {
				*Reservation
				n int64
			}
			var held []holding
			for range quotaCalls {
				time.Sleep(time.Duration(rng.IntN(3)) * q.every)
				q.meet()
				switch kind := rng.IntN(10); {
				case kind < 4:
					call := quotaCall{op: "use", n: 1 + rng.Int64N(3)}
					q.note(g, call, func() Decision {
						if rng.IntN(4) == 0 { // one that folds into no other record
							return c.UseEvent(Usage{ID: fmt.Sprintf("%s-%d-%d", q.customer, g, rng.Uint64()), Customer: q.customer, Feature: "api", Quantity: call.n})
						}
						return client.use(call.n)
					})
				case kind < 7:
					call := quotaCall{op: "reserve", n: 1 + rng.Int64N(4)}
					q.note(g, call, func() Decision {
						r, d := client.reserve(call.n)
						if d.Allowed {
							held = append(held, holding{r, call.n})
						}
						return d
					})
				case kind < 9 && len(held) > 0:
					r := held[0]
					held = held[1:]
					call := quotaCall{op: "release", held: r.n}
					if actual := rng.Int64N(r.n + 2); actual > 0 { // sometimes more than was reserved
						call.op, call.n = "commit", actual
					}
					q.note(g, call, func() Decision {
						r.Commit(call.n)
						return Decision{}
					})
				default:
					q.note(g, quotaCall{op: "decide", n: 1}, client.decide)
				}
			}
			for _, r := range held {
				q.note(g, quotaCall{op: "release", held: r.n}, func() Decision {
					r.Release()
					return Decision{}
				})
			}
		})
	}
	wg.Wait()
}

// meet waits a moment for another goroutine, so that both call at once: a call is
// so short that by chance hardly two would be under way together.
func (q *quotaRun) meet() {
	spins := 5000
	if underRace {
		spins = 500
	}
	for n := q.came.Add(1); n%2 == 1 && q.came.Load() == n && spins > 0; spins-- {
	}
}

// note makes one call and writes down when it was made and what it was told.
func (q *quotaRun) note(g int, call quotaCall, ask func() Decision) {
	began := q.clock.Add(1)
	d := ask()
	ended := q.clock.Add(1)
	if call.op == "commit" || call.op == "use" && d.Allowed {
		q.used.Add(call.n)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.calls = append(q.calls, porcupine.Operation{ClientId: g, Input: call, Call: began, Output: d, Return: ended})
}

// denied is how many calls were, and met how many began while another went on.
func (q *quotaRun) denied() (denied, met int) {
	slices.SortFunc(q.calls, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	busy := int64(0)
	for _, o := range q.calls {
		if call := o.Input.(quotaCall); call.op != "commit" && call.op != "release" && !o.Output.(Decision).Allowed {
			denied++
		}
		if o.Call < busy {
			met++
		}
		busy = max(busy, o.Return)
	}
	return denied, met
}

// String is the history in the order in which the calls began.
func (q *quotaRun) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "limit %d, %d used before\n", q.limit, q.start)
	for _, o := range q.calls {
		call, d := o.Input.(quotaCall), o.Output.(Decision)
		fmt.Fprintf(&b, "%4d-%4d goroutine %d: %s %d", o.Call, o.Return, o.ClientId, call.op, call.n)
		if call.held > 0 {
			fmt.Fprintf(&b, " of %d\n", call.held)
		} else {
			fmt.Fprintf(&b, ": %v, %d used, %d remaining\n", d.Reason, d.Used, d.Remaining)
		}
	}
	return b.String()
}

// check looks for an order of the calls that explains what they were told.
func (q *quotaRun) check(t *testing.T, seed uint64, told func(limit int64) func(before, after quotaState, call quotaCall, d Decision) bool) {
	t.Helper()
	model := quotaModel(quotaState{used: q.start}, told(q.limit))
	result := porcupine.CheckOperationsTimeout(model, q.calls, time.Minute)
	require.Equal(t, porcupine.Ok, result, "seed %d: %s: no order of these calls explains what they were told: %v", seed, q.customer, q)
}

// asker is one of the two ways to ask: by name, or through handles.
type asker interface {
	use(n int64) Decision
	reserve(n int64) (*Reservation, Decision)
	decide() Decision
}

type byName struct {
	c        *Client
	customer string
}

func (a byName) use(n int64) Decision                     { return a.c.Use(a.customer, "api", n) }
func (a byName) reserve(n int64) (*Reservation, Decision) { return a.c.Reserve(a.customer, "api", n) }
func (a byName) decide() Decision                         { return a.c.Decide(a.customer, "api") }

type byHandle struct {
	customer Customer
	feature  Feature
}

func (a byHandle) use(n int64) Decision                     { return a.customer.Use(a.feature, n) }
func (a byHandle) reserve(n int64) (*Reservation, Decision) { return a.customer.Reserve(a.feature, n) }
func (a byHandle) decide() Decision                         { return a.customer.Decide(a.feature) }

// quotaRuns is several customers of one Client, each with a history of its own.
type quotaRuns struct {
	runs []*quotaRun
	src  *entitlementstest.Source
	sink *entitlementstest.Sink
}

func newQuotaRuns(seed uint64, every time.Duration) *quotaRuns {
	rng := rand.New(rand.NewPCG(seed, 20))
	rs := &quotaRuns{src: entitlementstest.NewSource(nil), sink: entitlementstest.NewSink()}
	rs.sink.Feed(rs.src)
	for i := range 6 {
		q := newQuotaRun(fmt.Sprint("c", i), rng, every)
		rs.src.Put(q.customer, map[string]Grant{"api": usageGrant(q.limit, q.start)})
		rs.runs = append(rs.runs, q)
	}
	return rs
}

// do makes the histories, with each of beside going on meanwhile.
func (rs *quotaRuns) do(t *testing.T, c *Client, seed uint64, beside ...func(ctx context.Context, customer string, rng *rand.Rand)) {
	for _, q := range rs.runs {
		_, err := c.Resolve(t.Context(), q.customer)
		require.NoError(t, err)
	}
	for i, q := range rs.runs {
		ctx, stop := context.WithCancel(t.Context())
		var others sync.WaitGroup
		for j, f := range beside {
			others.Go(func() {
				for rng := rand.New(rand.NewPCG(seed, uint64(100*i+j))); ctx.Err() == nil; {
					f(ctx, q.customer, rng)
				}
			})
		}
		q.do(c, seed<<8|uint64(i))
		stop()
		others.Wait()
	}
}

// delivered checks that what was allowed is what the backend got.
func (rs *quotaRuns) delivered(t *testing.T, c *Client, seed uint64) {
	t.Helper()
	require.NoError(t, c.Flush(t.Context()))
	for _, q := range rs.runs {
		require.Equal(t, q.used.Load(), rs.sink.Total(q.customer, "api"), "seed %d: %s: delivered", seed, q.customer)
	}
	synctest.Wait() // until the deliveries themselves have ended
	requireBalancedUsage(t, c, "seed", seed)
}

func (rs *quotaRuns) check(t *testing.T, seed uint64, told func(limit int64) func(before, after quotaState, call quotaCall, d Decision) bool) {
	t.Helper()
	denied, met, calls := 0, 0, 0
	for _, q := range rs.runs {
		d, m := q.denied()
		denied, met, calls = denied+d, met+m, calls+len(q.calls)
		q.check(t, seed, told)
	}
	require.NotZero(t, denied, "seed %d: no limit was reached", seed)
	t.Logf("%d calls, %d denied, %d began while another went on", calls, denied, met)
}

// While no refresh lands the view is the truth: every answer is exactly what an
// order of the calls explains, whatever is delivered meanwhile.
func TestRule19_UseAndReserveAreOneStep(t *testing.T) { eachSeed(t, *seeds, oneStepRun) }

func oneStepRun(t *testing.T, seed uint64) {
	rs := newQuotaRuns(seed, time.Millisecond)
	synctest.Test(t, func(t *testing.T) {
		rs.sink.Always(entitlementstest.DeliverStep{Latency: time.Millisecond, Late: time.Millisecond})
		c := usageClient(t, Config{Source: rs.src, Sink: rs.sink, TTL: time.Hour, DenyTTL: -1, FlushInterval: time.Millisecond})
		rs.do(t, c, seed, func(ctx context.Context, _ string, _ *rand.Rand) {
			_ = c.Flush(ctx)
			_ = nap(ctx, time.Millisecond)
		})
		for _, q := range rs.runs {
			d := c.Decide(q.customer, "api")
			require.Equal(t, q.start+q.used.Load(), d.Used, "seed %d: %s", seed, q.customer)
			require.Equal(t, 1, rs.src.Calls(q.customer), "a refresh landed: the view may be above the truth")
		}
		rs.delivered(t, c, seed)
	})
	rs.check(t, seed, exactly)
}

// With refreshes and deliveries under way the view may be above the truth. Never
// is it below, and once it is quiet it is the truth again.
func TestRule19_UseAndReserveFitWhileRefreshesLand(t *testing.T) { eachSeed(t, *seeds, refreshedRun) }

func refreshedRun(t *testing.T, seed uint64) {
	const every = 5 * time.Millisecond
	rs := newQuotaRuns(seed, every)
	synctest.Test(t, func(t *testing.T) { refreshedQuotaRuns(t, rs, seed, every) })
	rs.check(t, seed, safely)
}

func refreshedQuotaRuns(t *testing.T, rs *quotaRuns, seed uint64, every time.Duration) {
	var mu sync.Mutex // guards rng: the doors' goroutines share it
	rng := rand.New(rand.NewPCG(seed, 21))
	pause := func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(1+rng.IntN(4)) * every
	}
	src := SourceFunc(func(ctx context.Context, customer string) (*Entitlements, error) {
		if err := nap(ctx, pause()); err != nil {
			return nil, err
		}
		e, err := rs.src.Fetch(ctx, customer)
		if late := nap(ctx, pause()); late != nil {
			return nil, late
		}
		return e, err // as it was before the second wait
	})
	sink := SinkFunc(func(ctx context.Context, b Batch) error {
		if err := nap(ctx, pause()); err != nil {
			return err
		}
		err := rs.sink.Deliver(ctx, b)
		if late := nap(ctx, pause()); late != nil {
			return late
		}
		return err
	})
	c := usageClient(t, Config{Source: src, Sink: sink, TTL: 100 * time.Millisecond, FlushInterval: 10 * time.Millisecond, FlushConcurrency: 4})
	invalidate := func(ctx context.Context, customer string, rng *rand.Rand) {
		c.Invalidate(customer)
		_ = nap(ctx, time.Duration(1+rng.IntN(2))*every)
		_, _ = c.Check(ctx, customer, "api")
	}
	flush := func(ctx context.Context, _ string, rng *rand.Rand) {
		_ = c.Flush(ctx)
		_ = nap(ctx, time.Duration(1+rng.IntN(2))*every)
	}
	rs.do(t, c, seed, invalidate, flush)
	for _, q := range rs.runs {
		require.Greater(t, rs.src.Calls(q.customer), 3, "seed %d: %s was hardly refreshed", seed, q.customer)
	}
	rs.delivered(t, c, seed)
	time.Sleep(time.Second) // what is acknowledged leaves the view with a fetch that began a tick later
	for _, q := range rs.runs {
		c.Invalidate(q.customer)
		d, err := c.Check(t.Context(), q.customer, "api")
		require.NoError(t, err)
		require.Equal(t, q.start+q.used.Load(), d.Used, "seed %d: %s: quiet, and the view is not the truth", seed, q.customer)
		require.Equal(t, max(0, q.limit-d.Used), d.Remaining, "seed %d: %s", seed, q.customer)
	}
}

// A commit turns what is held into what is used. Whoever looks meanwhile sees the
// units as one or as the other: not as both, which denies what fits, and not as
// neither.
func TestRule19_ACommitIsOneStepForEveryCheck(t *testing.T) {
	// Several, because it matters which of their parts share a cache line.
	features := named("f", 6)
	grants := map[string]Grant{}
	for _, feature := range features {
		grants[feature] = usageGrant(1<<40, 0)
	}
	c := usageClient(t, Config{Source: entitlementstest.NewSource(map[string]map[string]Grant{"c": grants}), TTL: time.Hour})
	loaded(t, c, "c")
	rounds := 20_000
	if underRace {
		rounds = 1000
	}
	// One writer goes round in six steps, so that each amount used, modulo 4, has
	// its own amounts held.
	steps := [4][]int64{0: {0, 5}, 1: {5}, 2: {0, 7}, 3: {7}}
	looked, odd, example := 0, 0, ""
	for _, feature := range features {
		var stop atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			for ; !stop.Load(); looked++ {
				d := c.Decide("c", feature)
				if held := d.Limit - d.Used - d.Remaining; !slices.Contains(steps[d.Used%4], held) {
					odd++
					example = fmt.Sprintf("%d used, %d held", d.Used, held)
				}
			}
		})
		for i := range rounds {
			r, _ := c.Reserve("c", feature, int64(5+2*(i%2)))
			c.Use("c", feature, 1)
			r.Commit(1)
		}
		stop.Store(true)
		wg.Wait()
	}
	require.Zero(t, odd, "of %d checks saw a state that never was, the last of them %s", looked, example)
}
