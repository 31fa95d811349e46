package entitlements_test

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
)

const (
	workPlans    = 10
	workFeatures = 50
)

// workload is customers on a few plans, and what is asked of them in which order,
// from a fixed seed.
type workload struct {
	customers []string
	features  []string
	asked     []int32 // indexes of customers, a power of two of them
}

// newWorkload asks about customers uniformly.
func newWorkload(customers int) *workload {
	w := &workload{asked: make([]int32, 1<<20)}
	for i := range workFeatures {
		w.features = append(w.features, fmt.Sprintf("feature-%02d", i))
	}
	for i := range customers {
		w.customers = append(w.customers, fmt.Sprintf("customer-%07d", i))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range w.asked {
		w.asked[i] = int32(rng.IntN(customers))
	}
	return w
}

// granted says which features a plan has: nine in ten.
func granted(plan, feature int) bool { return (plan*7+feature)%10 != 0 }

// entitlements answers for the workload's customers. Customers of one plan share
// no map, as they would not when each was decoded from an answer of its own.
func (w *workload) entitlements(add func(features map[string]Grant)) map[string]*Entitlements {
	out := make(map[string]*Entitlements, len(w.customers))
	for i, key := range w.customers {
		features := make(map[string]Grant, workFeatures+1)
		for f, code := range w.features {
			features[code] = Grant{Enabled: granted(i%workPlans, f)}
		}
		if add != nil {
			add(features)
		}
		out[key] = &Entitlements{Customer: key, Plan: fmt.Sprint("plan-", i%workPlans), Features: features}
	}
	return out
}

// client is warm: every customer is cached.
func (w *workload) client(tb testing.TB, cfg Config) *Client {
	tb.Helper()
	if cfg.Source == nil {
		cfg.Source = w.source()
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

// source makes each answer when it is asked, so that a workload of a million
// customers does not hold them twice.
func (w *workload) source() Source {
	plans := (&workload{customers: w.customers[:workPlans], features: w.features}).entitlements(nil)
	index := make(map[string]int32, len(w.customers))
	for i, key := range w.customers {
		index[key] = int32(i)
	}
	return workSource{w: w, plans: plans, index: index}
}

type workSource struct {
	w     *workload
	plans map[string]*Entitlements
	index map[string]int32
}

func (s workSource) Fetch(_ context.Context, customer string) (*Entitlements, error) {
	i, ok := s.index[customer]
	if !ok {
		return nil, ErrUnknownCustomer
	}
	e := *s.plans[s.w.customers[int(i)%workPlans]]
	e.Customer = customer
	return &e, nil
}

func (s workSource) FetchBatch(ctx context.Context, customers []string) (map[string]*Entitlements, error) {
	out := make(map[string]*Entitlements, len(customers))
	for _, customer := range customers {
		if e, err := s.Fetch(ctx, customer); err == nil {
			out[customer] = e
		}
	}
	return out, nil
}

func (s workSource) List(context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, customer := range s.w.customers {
			if !yield(customer, nil) {
				return
			}
		}
	}
}
