// Package workload makes what is measured: customers on a few plans, and which of
// them are asked about in which order. Everything comes from fixed seeds, so that
// whoever is compared answers the same questions.
package workload

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"strings"

	"github.com/entitlements-go/entitlements"
)

const (
	// Plans and Features are how many of them a workload has.
	Plans    = 10
	Features = 50
)

// A Workload is customers, features and questions.
type Workload struct {
	Customers []string
	Features  []string
	Asked     []Question // a power of two of them

	floor map[string]*plan
}

// A Question is an index into Customers and one into Features.
type Question struct{ Customer, Feature int32 }

// plan is what a service without a library would look up in: a plain map.
type plan struct{ features map[string]bool }

// questions is how many a workload asks before it starts again: more than any
// cache of the processor holds.
const questions = 1 << 20

// New asks about customers by Zipf's law with this exponent (above 1), or
// uniformly when it is 0. Keys are "customer-0000123" and "feature-07".
func New(customers int, zipf float64) *Workload {
	w := &Workload{floor: make(map[string]*plan, customers)}
	for i := range Features {
		w.Features = append(w.Features, fmt.Sprintf("feature-%02d", i))
	}
	plans := make([]*plan, Plans)
	for p := range plans {
		plans[p] = &plan{features: make(map[string]bool)}
		for i, f := range w.Features {
			plans[p].features[strings.Clone(f)] = Granted(p, i)
		}
	}
	for i := range customers {
		key := fmt.Sprintf("customer-%07d", i)
		w.Customers = append(w.Customers, key)
		// What a service looks up in was decoded from an answer: its keys are copies,
		// of customers here and of features above. Requests bring theirs along.
		w.floor[strings.Clone(key)] = plans[i%Plans]
	}
	return w.Zipf(zipf)
}

// Zipf is the same workload, its customers shared, with other questions: by Zipf's
// law with this exponent, or uniformly when it is 0.
func (w *Workload) Zipf(exponent float64) *Workload {
	return w.asking(Customers(rand.New(rand.NewPCG(1, 2)), len(w.Customers), exponent))
}

// One is the same workload with all questions about one customer.
func (w *Workload) One() *Workload { return w.asking(func() int { return 0 }) }

func (w *Workload) asking(next func() int) *Workload {
	other := *w
	other.Asked = make([]Question, questions)
	features := rand.New(rand.NewPCG(3, 4))
	for i := range other.Asked {
		other.Asked[i] = Question{int32(next()), int32(features.IntN(Features))}
	}
	return &other
}

// Customers draws customers by Zipf's law with this exponent, or uniformly when
// it is 0. Which customers are the popular ones is drawn too.
func Customers(rng *rand.Rand, customers int, zipf float64) func() int {
	if zipf == 0 {
		return func() int { return rng.IntN(customers) }
	}
	z, popular := rand.NewZipf(rng, zipf, 1, uint64(customers-1)), rng.Perm(customers)
	return func() int { return popular[z.Uint64()] }
}

// Granted says which features a plan has: nine in ten.
func Granted(plan, feature int) bool { return (plan*7+feature)%10 != 0 }

// PlanOf is the plan of the i-th customer.
func PlanOf(customer int) int { return customer % Plans }

// Ask returns the i-th question, over and over.
func (w *Workload) Ask(i int) (customer, feature string) {
	q := w.Asked[i&(questions-1)]
	return w.Customers[q.Customer], w.Features[q.Feature]
}

// Answer is the verdict that the i-th question must get.
func (w *Workload) Answer(i int) bool {
	q := w.Asked[i&(questions-1)]
	return Granted(PlanOf(int(q.Customer)), int(q.Feature))
}

// Floor is the floor that ratios are of: a look-up in a plain map from customer
// to plan, and in the plan one from feature to bool.
func (w *Workload) Floor(i int) bool {
	p := w.floor[w.Customers[w.Asked[i&(questions-1)].Customer]]
	return p != nil && p.features[w.Features[w.Asked[i&(questions-1)].Feature]]
}

// Source answers for the workload's customers at once, one or many at a time, and
// lists them. Each answer is made when it is asked for, so that a workload of a
// million customers does not hold them twice.
func (w *Workload) Source() *Source {
	s := &Source{w: w, index: make(map[string]int32, len(w.Customers))}
	for p := range s.grants {
		s.grants[p] = make(map[string]entitlements.Grant, Features)
		for f, code := range w.Features {
			s.grants[p][code] = entitlements.Grant{Enabled: Granted(p, f)}
		}
	}
	for i, key := range w.Customers {
		s.index[key] = int32(i)
	}
	return s
}

// Source is an [entitlements.Source], BatchSource and lister.
type Source struct {
	w      *Workload
	grants [Plans]map[string]entitlements.Grant
	index  map[string]int32

	more [Plans]map[string]entitlements.Grant // see Grant
	has  func(customer int) bool              // nil when nobody has more
}

// Grant adds grants to those of the plans, or replaces them, for the customers
// that has is true of, by their index. Call it once, before the first Fetch.
func (s *Source) Grant(more map[string]entitlements.Grant, has func(customer int) bool) {
	for p := range s.more {
		s.more[p] = maps.Clone(s.grants[p])
		maps.Copy(s.more[p], more)
	}
	s.has = has
}

// Everybody is for Grant.
func Everybody(int) bool { return true }

// Fetch answers with the customer's plan; [entitlements.ErrUnknownCustomer] for others.
func (s *Source) Fetch(_ context.Context, customer string) (*entitlements.Entitlements, error) {
	i, ok := s.index[customer]
	if !ok {
		return nil, entitlements.ErrUnknownCustomer
	}
	p := PlanOf(int(i))
	grants := s.grants[p]
	if s.has != nil && s.has(int(i)) {
		grants = s.more[p]
	}
	return &entitlements.Entitlements{Customer: customer, Plan: fmt.Sprint("plan-", p), Features: grants}, nil
}

// FetchBatch answers for those that it knows.
func (s *Source) FetchBatch(ctx context.Context, customers []string) (map[string]*entitlements.Entitlements, error) {
	out := make(map[string]*entitlements.Entitlements, len(customers))
	for _, customer := range customers {
		if e, err := s.Fetch(ctx, customer); err == nil {
			out[customer] = e
		}
	}
	return out, nil
}

// List yields every customer.
func (s *Source) List(context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, customer := range s.w.Customers {
			if !yield(customer, nil) {
				return
			}
		}
	}
}
