package entitlements

import "time"

// Stats is a moment's account of a Client. Figures are cumulative since [New]
// unless they are said to be gauges.
type Stats struct {
	Cache     CacheStats
	Source    SourceStats
	Decisions DecisionStats
	Usage     UsageStats
}

// CacheStats is how the cache does.
type CacheStats struct {
	Customers int    // gauge: snapshots kept now
	Hits      uint64 // decisions answered by a snapshot
	Misses    uint64 // decisions for which nothing usable was cached
	Evictions uint64 // snapshots that made room for others
}

// SourceStats is how the Source does.
type SourceStats struct {
	Fetches     uint64        // calls into the Source; a batch is one
	Failures    uint64        // calls that failed; an unknown customer is no failure
	Shed        uint64        // loads refused because the queue was full
	InFlight    int           // gauge: calls running now
	BreakerOpen bool          // gauge: the Source fails and is only probed
	BehindBy    time.Duration // gauge: how late the oldest refresh in use is; see [Config.TTL] for what it does to shared limits
}

// DecisionStats is what was decided.
type DecisionStats struct {
	Allowed, Denied uint64
	Stale           uint64 // answered by a snapshot past its TTL or invalidated
	ByPolicy        uint64 // answered by a Policy

	// DeniedBy counts denials by feature and reason; ShadowedBy what shadow mode
	// let through, counted as allowed above. The first 1024 feature codes of plans,
	// and as many that no plan has, are told apart; later ones share the empty
	// feature. The maps are copies.
	DeniedBy, ShadowedBy map[Denial]uint64
}

// Denial is what [DecisionStats] counts denials by.
type Denial struct {
	Feature string
	Reason  Reason
}

// UsageStats accounts for usage, in calls: a record into which n calls were
// folded counts n. At every quiet moment
//
//	Recorded + Restored = Delivered + Pending + InDoubt + DeadLettered + Dropped
type UsageStats struct {
	Recorded     uint64 // calls of Track, Record and Report, dropped ones included; allowed ones of Use, UseEvent; Commits
	Restored     uint64 // calls of an earlier run, read back from the spool
	Delivered    uint64 // accepted by the Sink
	Pending      uint64 // gauge: waiting, being sent or to be sent again
	InDoubt      uint64 // gauge: sent without an answer for longer than the sink dedupes
	DeadLettered uint64 // refused for good, or retried for longer than Config.RetryFor
	Dropped      uint64

	// DroppedBy counts Dropped by reason: "overflow", "invalid", "closed",
	// "undelivered" (given up by Close) and "no_sink" (a local count whose
	// period ended). The map is a copy.
	DroppedBy map[string]uint64

	ReservationsExpired uint64 // forgotten: neither committed nor released within Config.ReservationTTL
	Unreadable          uint64 // bytes of Config.SpoolDir that were damaged; a copy is kept beside them
	Degraded            bool   // gauge: usage should be on disk and is not
}

// Health is how both doors do. It is for readiness pages; a Client answers
// whatever it says.
type Health struct {
	Source, Sink DoorHealth
}

// DoorHealth is how one door does.
type DoorHealth struct {
	// Ready says that the door is not known to be shut: it has not failed since
	// it last worked, or has not been used yet.
	Ready bool

	LastSuccess time.Time // zero = none yet
	LastError   error     // nil = none yet; kept after the door recovered
	LastErrorAt time.Time
}

func (c *Client) cacheStats() CacheStats {
	d := c.counters
	hits := d.sum(func(s *stripe) (n uint64) {
		for a := range policyAllowed {
			n += s.decisions[a].Load()
		}
		return n
	})
	misses := d.sum(func(s *stripe) uint64 {
		return s.decisions[policyAllowed].Load() + s.decisions[policyDenied].Load()
	})
	return CacheStats{Customers: int(c.cache.count.Load()), Hits: hits, Misses: misses, Evictions: c.cache.evict.Load()}
}

func (c *Client) sourceStats() SourceStats {
	l := c.loader
	l.mu.Lock()
	busy := l.busy
	l.mu.Unlock()
	_, tripped := l.door.report()
	return SourceStats{
		Fetches: l.stats.fetches.Load(), Failures: l.stats.failures.Load(), Shed: l.stats.shed.Load(),
		InFlight: busy, BreakerOpen: tripped, BehindBy: c.refresher.behind(c.clock.precise()),
	}
}

func (c *Client) decisionStats() DecisionStats {
	var by [answers]uint64
	for a := range by {
		by[a] = c.counters.sum(func(s *stripe) uint64 { return s.decisions[a].Load() })
	}
	s := DecisionStats{
		Allowed:  by[freshAllowed] + by[freshUsed] + by[staleAllowed] + by[staleUsed] + by[policyAllowed],
		Denied:   by[freshDenied] + by[staleDenied] + by[policyDenied],
		Stale:    by[staleAllowed] + by[staleDenied] + by[staleUsed],
		ByPolicy: by[policyAllowed] + by[policyDenied],
	}
	s.DeniedBy, s.ShadowedBy = c.deniedBy()
	return s
}
