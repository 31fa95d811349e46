package checkers

import (
	"fmt"
	"iter"
	"strings"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// plan is what maps and caches hold for a customer: a pointer to one that is
// shared by all who are on it, since a copy each would take most of the memory
// and most of the time.
type plan struct{ features map[string]bool }

// has is the second half of a check. A customer who is not known has no plan.
func (p *plan) has(feature string) bool { return p != nil && p.features[feature] }

// plans yields every customer with their plan. Keys are copies, as they are when
// they were decoded from an answer: requests bring their own along.
func plans(w *workload.Workload) iter.Seq2[string, *plan] {
	var all [workload.Plans]*plan
	for p := range all {
		all[p] = &plan{features: make(map[string]bool, len(w.Features))}
		for f, code := range w.Features {
			all[p].features[strings.Clone(code)] = workload.Granted(p, f)
		}
	}
	return func(yield func(string, *plan) bool) {
		for i, customer := range w.Customers {
			if !yield(strings.Clone(customer), all[workload.PlanOf(i)]) {
				return
			}
		}
	}
}

// loaded returns an error when a customer was not kept: a cache that has evicted
// some answers faster than it should.
func loaded(w *workload.Workload, get func(customer string) (*plan, bool)) error {
	for _, customer := range w.Customers {
		if _, ok := get(customer); !ok {
			return fmt.Errorf("checkers: %s of %d customers was not kept", customer, len(w.Customers))
		}
	}
	return nil
}
