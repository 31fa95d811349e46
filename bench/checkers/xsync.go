package checkers

import (
	"github.com/puzpuzpuz/xsync/v4"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// xsyncMap is a map for concurrent use whose readers take no lock.
type xsyncMap struct{ customers *xsync.Map[string, *plan] }

func newXsync(w *workload.Workload) (Checker, error) {
	m := xsyncMap{xsync.NewMap[string, *plan](xsync.WithPresize(len(w.Customers)))}
	for customer, p := range plans(w) {
		m.customers.Store(customer, p)
	}
	return m, nil
}

func (m xsyncMap) Check(customer, feature string) bool {
	p, _ := m.customers.Load(customer)
	return p.has(feature)
}

func (m xsyncMap) Close() {}
