package checkers_test

import (
	"bytes"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements/bench/checkers"
	"github.com/entitlements-go/entitlements/bench/workload"
)

const questions = 2000

// load is what all tests ask about. Making it takes longer than asking.
var load = sync.OnceValue(func() *workload.Workload { return workload.New(2000, 1.1) })

// eachPeer runs a test of a Checker that is closed after it.
func eachPeer(t *testing.T, test func(t *testing.T, c Checker)) {
	t.Helper()
	for _, p := range Peers() {
		t.Run(p.Name, func(t *testing.T) {
			c, err := p.New(load())
			require.NoError(t, err)
			defer c.Close()
			test(t, c)
		})
	}
}

func TestPeersAnswerAsTheModelDoes(t *testing.T) {
	eachPeer(t, func(t *testing.T, c Checker) {
		require.NoError(t, Prove(c, load(), questions))
	})
}

func TestPeersAnswerManyAtOnce(t *testing.T) {
	eachPeer(t, func(t *testing.T, c Checker) {
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = Prove(c, load(), questions) })
		}
		wg.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
	})
}

// Those who are asked about seldom are known too: one feature that their plan has
// and one that it does not have, of every customer.
func TestPeersKnowEveryCustomer(t *testing.T) {
	w := load()
	with, without := map[int]string{}, map[int]string{}
	for p := range workload.Plans {
		for f, feature := range w.Features {
			if workload.Granted(p, f) {
				with[p] = feature
			} else {
				without[p] = feature
			}
		}
	}
	eachPeer(t, func(t *testing.T, c Checker) {
		for i, customer := range w.Customers {
			plan := workload.PlanOf(i)
			require.True(t, c.Check(customer, with[plan]), "%s, %s", customer, with[plan])
			require.False(t, c.Check(customer, without[plan]), "%s, %s", customer, without[plan])
		}
	})
}

func TestPeersGrantNothingToStrangers(t *testing.T) {
	w := load()
	eachPeer(t, func(t *testing.T, c Checker) {
		for _, feature := range w.Features {
			require.False(t, c.Check("customer-unheard-of", feature), feature)
		}
		require.False(t, c.Check(w.Customers[0], "feature-unheard-of"))
	})
}

func TestResolversAnswerAsCheckDoes(t *testing.T) {
	w := load()
	resolvers := map[string]bool{}
	eachPeer(t, func(t *testing.T, c Checker) {
		r, ok := c.(Resolver)
		if !ok {
			t.Skip("not a Resolver")
		}
		for _, customer := range append(w.Customers[:2*workload.Plans:2*workload.Plans], "customer-unheard-of") {
			allowed := r.Resolve(customer)
			for f, feature := range w.Features {
				require.Equal(t, c.Check(customer, feature), allowed(f), "%s, %s", customer, feature)
			}
		}
		allowed := r.Resolve(w.Customers[0])
		require.Zero(t, testing.AllocsPerRun(100, func() { allowed(0); allowed(1) }))
		resolvers[t.Name()] = true
	})
	require.Len(t, resolvers, 2, "the library and the plain map")
}

// liar answers one question wrongly.
type liar struct {
	Checker
	asked, lie int
}

func (l *liar) Check(customer, feature string) bool {
	answer := l.Checker.Check(customer, feature) != (l.asked == l.lie)
	l.asked++
	return answer
}

func TestProveFindsOneLie(t *testing.T) {
	w := load()
	c, err := Peers()[0].New(w)
	require.NoError(t, err)
	defer c.Close()
	for _, lie := range []int{0, 1, questions / 2, questions - 1} {
		customer, feature := w.Ask(lie)
		err := Prove(&liar{Checker: c, lie: lie}, w, questions)
		require.ErrorContains(t, err, customer)
		require.ErrorContains(t, err, feature)
	}
	require.NoError(t, Prove(&liar{Checker: c, lie: questions}, w, questions), "a question that is not asked")
}

func TestCloseLeavesNoGoroutine(t *testing.T) {
	// A goroutine that nobody ended could be ended by the collector.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	leaky := map[string]string{
		"Statsig": "leaves those that poll, flush and reset behind",
	}
	for _, p := range Peers() {
		t.Run(p.Name, func(t *testing.T) {
			if why, ok := leaky[p.Name]; ok {
				t.Skip(why)
			}
			live := func() {
				c, err := p.New(load())
				require.NoError(t, err)
				require.NoError(t, Prove(c, load(), questions))
				c.Close()
			}
			live() // what it keeps for the life of the process is there from here on
			before := runtime.NumGoroutine()
			for range 5 {
				live()
			}
			ended(t, before)
		})
	}
}

// ended waits until there are no more goroutines than before: some end a moment
// after they were told to.
func ended(t *testing.T, before int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			var stacks bytes.Buffer
			_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
			require.Failf(t, "goroutines are left", "%d, and there were %d\n%s", runtime.NumGoroutine(), before, stacks.String())
		}
	}
}

func TestPeersAreListedInOrder(t *testing.T) {
	order := map[Kind]int{Ours: 0, Map: 1, Cache: 2, SDK: 3}
	names, last := map[string]bool{}, 0
	for _, p := range Peers() {
		require.False(t, names[p.Name], "%s twice", p.Name)
		names[p.Name] = true
		require.Contains(t, order, p.Kind, p.Name)
		require.GreaterOrEqual(t, order[p.Kind], last, "%s comes after another kind", p.Name)
		last = order[p.Kind]
		require.Equal(t, p.Kind == SDK, p.MaxCustomers > 0, "%s: only what evaluates rules is measured with few customers", p.Name)
	}
	require.Equal(t, Ours, Peers()[0].Kind)
}
