package checkers

import (
	"fmt"
	"time"

	"github.com/dgraph-io/ristretto/v2"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// ristrettoCache keeps a plan for ttl, or until it is evicted when that is 0.
type ristrettoCache struct {
	cache *ristretto.Cache[string, *plan]
}

func newRistretto(ttl time.Duration) func(*workload.Workload) (Checker, error) {
	return func(w *workload.Workload) (Checker, error) {
		n := int64(len(w.Customers))
		// As its documentation advises, but for the cost: it is counted in customers,
		// to which what the cache itself takes must not be added.
		cache, err := ristretto.NewCache(&ristretto.Config[string, *plan]{
			NumCounters: 10 * n, MaxCost: n, BufferItems: 64, IgnoreInternalCost: true,
		})
		if err != nil {
			return nil, fmt.Errorf("checkers: make a ristretto cache: %w", err)
		}
		for customer, p := range plans(w) {
			// It refuses what comes faster than it can take in.
			for !cache.SetWithTTL(customer, p, 1, ttl) {
				cache.Wait()
			}
		}
		cache.Wait()
		if err := loaded(w, cache.Get); err != nil {
			cache.Close()
			return nil, err
		}
		return ristrettoCache{cache}, nil
	}
}

func (c ristrettoCache) Check(customer, feature string) bool {
	p, _ := c.cache.Get(customer)
	return p.has(feature)
}

func (c ristrettoCache) Close() { c.cache.Close() }
