package entitlements_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
)

// The bars: what the hot path may cost, as a ratio to a floor that is measured in
// slices between ours, in the same run. `make bench` runs them.
var bars = flag.Bool("bars", false, "measure the bars and print a table")

const (
	benchPlans    = 10
	benchFeatures = 50
	rounds        = 25
	slice         = 20 * time.Millisecond
)

// floorPlan is what a service without this library would look up in.
type floorPlan struct{ features map[string]bool }

type workload struct {
	customers []string
	features  []string
	asked     []ask // what is asked for, in order; a power of two
	floor     map[string]*floorPlan
}

type ask struct{ customer, feature int32 }

func newWorkload(customers int, zipf float64) *workload {
	w := &workload{floor: make(map[string]*floorPlan, customers)}
	for i := range benchFeatures {
		w.features = append(w.features, fmt.Sprintf("feature-%02d", i))
	}
	plans := make([]*floorPlan, benchPlans)
	for p := range plans {
		plans[p] = &floorPlan{features: make(map[string]bool)}
		for i, f := range w.features {
			plans[p].features[f] = granted(p, i)
		}
	}
	for i := range customers {
		key := fmt.Sprintf("customer-%07d", i)
		w.customers = append(w.customers, key)
		w.floor[strings.Clone(key)] = plans[i%benchPlans]
	}
	rng := rand.New(rand.NewPCG(1, 2))
	next := func() int { return rng.IntN(customers) }
	if zipf > 0 {
		z := rand.NewZipf(rng, zipf, 1, uint64(customers-1))
		perm := rng.Perm(customers)
		next = func() int { return perm[z.Uint64()] }
	}
	w.asked = make([]ask, 1<<20)
	for i := range w.asked {
		w.asked[i] = ask{int32(next()), int32(rng.IntN(benchFeatures))}
	}
	return w
}

// granted says which features a plan has: most of them.
func granted(plan, feature int) bool { return (plan*7+feature)%10 != 0 }

func (w *workload) source(extra func(i int, features map[string]Grant)) Source {
	customers := make(map[string]*Entitlements, len(w.customers))
	var shared [benchPlans]map[string]Grant
	for i, key := range w.customers {
		p := i % benchPlans
		if shared[p] == nil || extra != nil {
			shared[p] = make(map[string]Grant)
			for f, code := range w.features {
				shared[p][code] = Grant{Enabled: granted(p, f)}
			}
		}
		if extra != nil {
			extra(i, shared[p])
		}
		customers[key] = &Entitlements{Customer: key, Plan: fmt.Sprint("plan-", p), Features: shared[p]}
	}
	return Static(customers)
}

func (w *workload) client(tb testing.TB, cfg Config) *Client {
	if cfg.Source == nil {
		cfg.Source = w.source(nil)
	}
	if cfg.MaxCustomers == 0 {
		cfg.MaxCustomers = len(w.customers)
	}
	c, err := New(cfg)
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = c.Close(context.Background()) })
	report, err := c.Warm(context.Background(), nil)
	require.NoError(tb, err)
	require.Equal(tb, len(w.customers), report.Loaded)
	return c
}

// slow is a loop body that is called with an ever growing counter.
type body func(i int) bool

// perCall runs body on n goroutines for about one slice and returns ns per call.
func perCall(goroutines int, body body) float64 {
	var wg sync.WaitGroup
	calls := make([]int, goroutines)
	begin := time.Now()
	for g := range goroutines {
		wg.Go(func() {
			i, n := g*7919, 0
			for time.Since(begin) < slice {
				for range 512 {
					if body(i) {
						n++; n--
					}
					i++
				}
				n += 512
			}
			calls[g] = n
		})
	}
	wg.Wait()
	total := 0
	for _, n := range calls {
		total += n
	}
	return float64(time.Since(begin)) / float64(total) * float64(goroutines)
}

// paired returns the median of ours / floor over the rounds, each slice of ours
// between two of the floor.
func paired(goroutines int, floor, ours body) (ratio, floorNs, oursNs float64) {
	perCall(goroutines, floor)
	perCall(goroutines, ours)
	var ratios, floors, all []float64
	before := perCall(goroutines, floor)
	for range rounds {
		mine := perCall(goroutines, ours)
		after := perCall(goroutines, floor)
		ratios = append(ratios, mine/((before+after)/2))
		floors, all = append(floors, after), append(all, mine)
		before = after
	}
	return median(ratios), median(floors), median(all)
}

func median(xs []float64) float64 {
	slices.Sort(xs)
	return xs[len(xs)/2]
}

func (w *workload) floorBody() body {
	mask := len(w.asked) - 1
	return func(i int) bool {
		a := w.asked[i&mask]
		p := w.floor[w.customers[a.customer]]
		return p != nil && p.features[w.features[a.feature]]
	}
}

func TestBars(t *testing.T) {
	if !*bars {
		t.Skip("run with -bars")
	}
	fmt.Printf("machine: %s/%s, GOMAXPROCS %d, %s\n", runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0), runtime.Version())
	_ = os.Stdout
	for _, size := range []struct {
		n    int
		zipf float64
	}{{10_000, 1.1}, {10_000, 0}, {1_000_000, 1.1}} {
		w := newWorkload(size.n, size.zipf)
		c := w.client(t, Config{})
		mask := len(w.asked) - 1
		ours := func(i int) bool {
			a := w.asked[i&mask]
			return c.Allowed(w.customers[a.customer], w.features[a.feature])
		}
		handles := make([]Customer, len(w.customers))
		for i, key := range w.customers {
			handles[i] = c.Customer(key)
		}
		features := make([]Feature, len(w.features))
		for i, f := range w.features {
			features[i] = c.Feature(f)
		}
		cu := handles[0]
		byHandle := func(i int) bool { return cu.Allowed(features[w.asked[i&mask].feature]) }
		for _, g := range []int{1, 2} {
			r, f, o := paired(g, w.floorBody(), ours)
			fmt.Printf("%d zipf=%v cores=%d: allowed %.2fx (floor %.1f ns, ours %.1f ns)\n", size.n, size.zipf, g, r, f, o)
		}
		r, f, o := paired(1, w.floorBody(), byHandle)
		fmt.Printf("%d zipf=%v handle %.2fx (floor %.1f ns, ours %.1f ns)\n", size.n, size.zipf, r, f, o)
	}
}
