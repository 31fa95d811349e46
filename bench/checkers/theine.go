package checkers

import (
	"fmt"

	"github.com/Yiling-J/theine-go"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// theineCache keeps plans until they are evicted.
type theineCache struct{ cache *theine.Cache[string, *plan] }

func newTheine(w *workload.Workload) (Checker, error) {
	cache, err := theine.NewBuilder[string, *plan](int64(len(w.Customers))).Build()
	if err != nil {
		return nil, fmt.Errorf("checkers: make a theine cache: %w", err)
	}
	for customer, p := range plans(w) {
		cache.Set(customer, p, 1)
	}
	cache.Wait()
	if err := loaded(w, cache.Get); err != nil {
		cache.Close()
		return nil, err
	}
	return theineCache{cache}, nil
}

func (c theineCache) Check(customer, feature string) bool {
	p, _ := c.cache.Get(customer)
	return p.has(feature)
}

func (c theineCache) Close() { c.cache.Close() }
