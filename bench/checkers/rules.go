package checkers

import (
	"fmt"
	"strings"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// The SDKs of feature-flag services know rules and no customers: a flag per
// feature with the rule "on for whoever is on one of these plans". The plan comes
// with the question, as an attribute of who asks. Rules list the plans that have
// a feature and not those without it, so that a plan that nobody thought of has
// nothing.
//
// Each SDK is asked with what it calls a user, a context or attributes. A service
// can keep these for as long as a customer's plan does not change, and all SDKs
// here are faster when it does, so they are made beforehand and looked up by
// customer in a plain map.

// planAttribute is the attribute that rules look at.
const planAttribute = "plan"

// planName is the plan's name in rules and attributes.
func planName(plan int) string { return fmt.Sprint("plan-", plan) }

// plansWith names the plans that have the feature, an index into w.Features.
func plansWith(feature int) []string {
	var names []string
	for p := range workload.Plans {
		if workload.Granted(p, feature) {
			names = append(names, planName(p))
		}
	}
	return names
}

// perCustomer makes what an SDK is asked with, by customer.
func perCustomer[T any](w *workload.Workload, prepare func(customer, plan string) (T, error)) (map[string]T, error) {
	all := make(map[string]T, len(w.Customers))
	for i, customer := range w.Customers {
		customer = strings.Clone(customer)
		user, err := prepare(customer, planName(workload.PlanOf(i)))
		if err != nil {
			return nil, fmt.Errorf("checkers: make what %s is asked with: %w", customer, err)
		}
		all[customer] = user
	}
	return all, nil
}
