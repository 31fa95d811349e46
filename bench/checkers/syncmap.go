package checkers

import (
	"sync"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// syncMap is the standard library's map for concurrent use.
type syncMap struct{ customers sync.Map }

func newSyncMap(w *workload.Workload) (Checker, error) {
	m := new(syncMap)
	for customer, p := range plans(w) {
		m.customers.Store(customer, p)
	}
	return m, nil
}

func (m *syncMap) Check(customer, feature string) bool {
	v, ok := m.customers.Load(customer)
	return ok && v.(*plan).has(feature)
}

func (m *syncMap) Close() {}
