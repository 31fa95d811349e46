package checkers

import (
	"fmt"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// otterCache keeps a plan for ttl after it was written, or until it is evicted
// when that is 0.
type otterCache struct {
	cache *otter.Cache[string, *plan]
	clock *otter.CoarseClock // nil without a ttl
}

func newOtter(ttl time.Duration) func(*workload.Workload) (Checker, error) {
	return func(w *workload.Workload) (Checker, error) {
		c := &otterCache{}
		options := &otter.Options[string, *plan]{
			MaximumSize: len(w.Customers), InitialCapacity: len(w.Customers),
		}
		if ttl > 0 {
			// Reading the time takes a good part of a look-up, and plans need no
			// precise one: this is the faster of the two clocks that it has.
			c.clock = otter.NewCoarseClock(100 * time.Millisecond)
			options.Clock = c.clock
			options.ExpiryCalculator = otter.ExpiryWriting[string, *plan](ttl)
		}
		cache, err := otter.New(options)
		if err != nil {
			return nil, fmt.Errorf("checkers: make an otter cache: %w", err)
		}
		c.cache = cache
		for customer, p := range plans(w) {
			cache.Set(customer, p)
		}
		cache.CleanUp()
		if err := loaded(w, cache.GetIfPresent); err != nil {
			c.Close()
			return nil, err
		}
		return c, nil
	}
}

func (c *otterCache) Check(customer, feature string) bool {
	p, _ := c.cache.GetIfPresent(customer)
	return p.has(feature)
}

func (c *otterCache) Close() {
	c.cache.StopAllGoroutines()
	if c.clock != nil {
		c.clock.Stop()
	}
}
