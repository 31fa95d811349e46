package main

import (
	"time"

	"github.com/entitlements-go/entitlements/bench/caching"
	"github.com/entitlements-go/entitlements/bench/latency"
	"github.com/entitlements-go/entitlements/bench/recorders"
)

// sizes is how much is measured.
type sizes struct {
	few, some, many int             // customers
	rounds          int             // of a ratio of ours
	peerRounds      int             // of a peer's: they differ by more than a round does
	slice           time.Duration   // of a round
	flatOut         time.Duration   // of what is recorded as fast as it goes
	answers         []time.Duration // how long the server of recorders takes for each
	ttl             time.Duration   // past which customers are while the Source is down
	recorders       recorders.Setup
	caching         caching.Setup
	latency         latency.Setup
}

// full is what the published numbers use. Zero values are the packages' own.
func full() sizes {
	return sizes{
		few: 10_000, some: 100_000, many: 1_000_000,
		rounds: 25, peerRounds: 15, slice: 50 * time.Millisecond,
		flatOut: 2 * time.Second,
		answers: []time.Duration{0, 50 * time.Millisecond},
		ttl:     2 * time.Second,
	}
}

// tiny touches all code once.
func tiny() sizes {
	const ms = time.Millisecond
	return sizes{
		few: 200, some: 300, many: 1000,
		rounds: 1, peerRounds: 1, slice: ms,
		flatOut:   10 * ms,
		answers:   []time.Duration{0},
		ttl:       100 * ms,
		recorders: recorders.Setup{For: 10 * ms},
		caching:   caching.Setup{Customers: 500, Accesses: 3000, Percents: []int{10}},
		latency: latency.Setup{
			Duration: 20 * ms, Slice: 10 * ms, PerSecond: 2000, Customers: 100, TTL: 100 * ms, GarbageMB: 20, LiveMB: 1,
		},
	}
}
