package checkers

import (
	"maps"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// plainMap is the floor behind the interface: a map that nobody writes to any more.
type plainMap struct {
	customers map[string]*plan
	features  []string
}

func newPlainMap(w *workload.Workload) (Checker, error) {
	return &plainMap{customers: maps.Collect(plans(w)), features: w.Features}, nil
}

func (m *plainMap) Check(customer, feature string) bool { return m.customers[customer].has(feature) }

// Resolve holds the plan, which a service would pass along with the request.
func (m *plainMap) Resolve(customer string) func(int) bool {
	p := m.customers[customer]
	return func(feature int) bool { return p.has(m.features[feature]) }
}

func (m *plainMap) Close() {}
