package checkers

import (
	"time"

	"github.com/viccon/sturdyc"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// sturdycCache keeps plans for an hour: it has no entries without an end.
type sturdycCache struct{ cache *sturdyc.Client[*plan] }

func newSturdyc(w *workload.Workload) (Checker, error) {
	const shards = 64 // enough that readers on different cores seldom share a lock
	// A shard holds its part of the capacity at most, and keys are not spread
	// evenly: with twice the room, and some for small workloads, none is full.
	capacity := 2*len(w.Customers) + 64*shards
	// What expires in the background is of no use here, and costs a goroutine that
	// never ends: a full shard still makes room.
	cache := sturdyc.New[*plan](capacity, shards, time.Hour, 10, sturdyc.WithNoContinuousEvictions())
	for customer, p := range plans(w) {
		cache.Set(customer, p)
	}
	if err := loaded(w, cache.Get); err != nil {
		return nil, err
	}
	return sturdycCache{cache}, nil
}

func (c sturdycCache) Check(customer, feature string) bool {
	p, _ := c.cache.Get(customer)
	return p.has(feature)
}

func (c sturdycCache) Close() {}
