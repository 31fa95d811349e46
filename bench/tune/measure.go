package main

import (
	"context"
	"runtime"
	"slices"
	"time"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// Measured is what a run came to.
type Measured struct {
	HitRatio    float64       // answered from the cache, the rest by policy
	P50, P99    time.Duration // Decision.Age of those
	Reads       float64       // requests for entitlements per second
	Refused     float64       // per second: answered 429, or held back by the adapter before one
	Posts       float64       // usage requests per second
	PerThousand float64       // usage requests per 1000 usage events
	Later       time.Duration // by how much refreshes came later at the end of the window than at its beginning
	AtRisk      int           // usage events recorded and not delivered, at most in 99 of 100 moments
	Memory      int64         // bytes that Close gave back
	Stalled     time.Duration // by how much the load came late at most, on a busy machine in real time
	Settled     time.Duration // simulated, before Window
	Window      time.Duration // simulated
}

// counts is what the billing API and the Client have counted so far.
type counts struct{ reads, posts, refused, used float64 }

func (b *bench) counts() counts {
	s := b.client.Stats()
	route := entitlementstest.RouteTrack
	if b.w.Family == "core" {
		route = entitlementstest.RouteUsageBatch
	}
	return counts{
		reads: float64(b.billing.Requests(entitlementstest.RouteEntitlements)),
		posts: float64(b.billing.Requests(route)),
		// Nothing else fails here, and the adapter holds requests back as a 429.
		refused: float64(s.Source.Failures),
		used:    float64(s.Usage.Recorded),
	}
}

func (c counts) minus(o counts) counts {
	return counts{c.reads - o.reads, c.posts - o.posts, c.refused - o.refused, c.used - o.used}
}

// memory is what the Client holds: the heap before and after it is closed.
func (b *bench) memory(ctx context.Context) int64 {
	before := heap()
	_ = b.client.Close(ctx)
	b.client, b.adapter = nil, nil
	return max(0, before-heap())
}

// heap is what is live. Twice, since what a pool holds survives one collection.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// tally counts decisions.
type tally struct {
	asked, hits uint64
	ages        []uint64 // of hits, by tenths of a second
	pending     []uint64 // usage that waits, from moment to moment
}

func (t *tally) decision(d entitlements.Decision) {
	t.asked++
	if d.Origin == entitlements.OriginPolicy {
		return
	}
	t.hits++
	tenth := int(d.Age / resolution)
	for len(t.ages) <= tenth {
		t.ages = append(t.ages, 0)
	}
	t.ages[tenth]++
}

func (t *tally) sample(pending uint64) { t.pending = append(t.pending, pending) }

// atRisk is what waited at most in 99 of 100 moments: whoever dies in one of them
// takes so much along. The very most is one late flush, of a machine that was busy.
func (t *tally) atRisk() int {
	if len(t.pending) == 0 {
		return 0
	}
	slices.Sort(t.pending)
	return int(t.pending[len(t.pending)*99/100])
}

// age is the age that this share of the hits did not exceed, to a tenth of a
// second, the resolution of the Client's clock.
func (t *tally) age(share float64) time.Duration {
	left := share * float64(t.hits)
	for tenth, n := range t.ages {
		if left -= float64(n); left <= 0 {
			return time.Duration(tenth) * resolution
		}
	}
	return 0
}

func (t *tally) measured(c counts, sp span) Measured {
	m := Measured{
		P50: t.age(0.5), P99: t.age(0.99), AtRisk: t.atRisk(),
		Settled: sp.settle, Window: sp.window,
	}
	seconds := sp.window.Seconds()
	m.Reads, m.Refused, m.Posts = c.reads/seconds, c.refused/seconds, c.posts/seconds
	if t.asked > 0 {
		m.HitRatio = float64(t.hits) / float64(t.asked)
	}
	if c.used > 0 {
		m.PerThousand = 1000 * c.posts / c.used
	}
	return m
}
