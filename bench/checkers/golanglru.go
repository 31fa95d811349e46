package checkers

import (
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// golangLRU moves what is read to the front of a list, under a mutex.
type golangLRU struct{ cache *lru.Cache[string, *plan] }

func newGolangLRU(w *workload.Workload) (Checker, error) {
	cache, err := lru.New[string, *plan](len(w.Customers))
	if err != nil {
		return nil, fmt.Errorf("checkers: make a golang-lru cache: %w", err)
	}
	for customer, p := range plans(w) {
		cache.Add(customer, p)
	}
	if err := loaded(w, cache.Get); err != nil {
		return nil, err
	}
	return golangLRU{cache}, nil
}

func (c golangLRU) Check(customer, feature string) bool {
	p, _ := c.cache.Get(customer)
	return p.has(feature)
}

func (c golangLRU) Close() {}
