//go:build !race

// The race detector drops what ristretto keeps in a sync.Pool.

package entitlements

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// traffic is which of many customers are checked, in order.
type traffic func(rng *rand.Rand, at float64) int

const (
	trafficCustomers = 20_000
	trafficChecks    = 300_000
	trafficCapacity  = trafficCustomers / 10
)

// popularity draws ranks by Zipf's law with exponent 1.
func popularity(ranks int) func(rng *rand.Rand) int {
	total, sums := 0.0, make([]float64, ranks)
	for i := range sums {
		total += 1 / float64(i+1)
		sums[i] = total
	}
	return func(rng *rand.Rand) int { return sort.SearchFloat64s(sums, rng.Float64()*total) % ranks }
}

// play sends traffic through a cache and returns the share of checks, after a
// third to fill it, that it could answer, and how large its window came to be.
func play(t *testing.T, next traffic) (hits float64, window int) {
	clk := newClock(time.Hour)
	cfg := &Config{MaxCustomers: trafficCapacity, TTL: time.Hour, MaxStale: 24 * time.Hour, IdleAfter: time.Hour}
	c, err := newCache(cfg, clk)
	require.NoError(t, err)
	defer c.close()
	p := newPlan(&Entitlements{Plan: "p"}, newFeatureIndex())
	rng := rand.New(rand.NewPCG(1, 2))
	counted := 0
	for i := range trafficChecks {
		key := fmt.Sprintf("customer-%07d", next(rng, float64(i)/trafficChecks))
		hash, now := hashOf(key), clk.coarse.Load()
		e := c.find(hash, key)
		if hit := e != nil; hit {
			c.tell(e, now)
			if i > trafficChecks/3 {
				hits++
			}
		} else {
			e = c.add(hash, newEntry(key, now))
			e.mu.Lock()
			e.storeLocked(p, nil)
			e.fetched.Store(now)
			e.mu.Unlock()
		}
		if i > trafficChecks/3 {
			counted++
		}
		require.LessOrEqual(t, c.count.Load(), int64(trafficCapacity+1))
	}
	return hits / float64(counted), c.border
}

// With steady traffic the frequent stay; where customers come and go the recent
// do.
func TestRule13_TheCacheFollowsItsTraffic(t *testing.T) {
	t.Run("steady", func(t *testing.T) {
		rank := popularity(trafficCustomers)
		hits, window := play(t, func(rng *rand.Rand, _ float64) int { return rank(rng) })
		t.Logf("%.3f, window %d", hits, window)
		require.Greater(t, hits, 0.72)
		require.Less(t, window, trafficCapacity/4)
	})
	t.Run("coming and going", func(t *testing.T) {
		const live = trafficCustomers / 5
		rank, place, arrived := popularity(live), rand.New(rand.NewPCG(3, 4)).Perm(live), live
		hits, window := play(t, func(rng *rand.Rand, at float64) int {
			for ; arrived < live+int(at*(trafficCustomers-live)); arrived++ {
				place[rng.IntN(live)] = arrived
			}
			return place[rank(rng)]
		})
		t.Logf("%.3f, window %d", hits, window)
		require.Greater(t, hits, 0.84)
		require.Greater(t, window, trafficCapacity/2)
	})
}
