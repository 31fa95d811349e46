package entitlements

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"
)

// stripes are counters that cores do not take from each other: each goroutine
// adds to one of several, and a reader sums them up.
type stripes struct {
	all [lanes]stripe

	denials denials
}

// Goroutines share a lane by chance: 64 are enough for as many cores as a process
// is given, and a few goroutines on each.
const (
	laneBits = 6
	lanes    = 1 << laneBits
)

// stripe fills two cache lines, since processors fetch lines in pairs.
type stripe struct {
	decisions [answers]atomic.Uint64
	recorded  atomic.Uint64
	_         [128 - 8*(answers+1)]byte
}

// answer is what a decision counts as.
type answer uint8

const (
	freshAllowed answer = iota // the three are in the same order for stale ones
	freshDenied
	freshUsed // allowed, and recorded
	staleAllowed
	staleDenied
	staleUsed
	policyAllowed
	policyDenied
	answers
)

// calls is how many calls recorded usage.
func (s *stripe) calls() uint64 {
	return s.recorded.Load() + s.decisions[freshUsed].Load() + s.decisions[staleUsed].Load()
}

func newStripes() *stripes {
	s := new(stripes)
	s.denials.byFeature.Store(&map[string]*denialCounts{})
	return s
}

// mine is the calling goroutine's stripe. Goroutines have stacks of their own, so
// the address of a local variable tells them apart for free; asking for a random
// number would cost as much as the count itself. The address is only hashed,
// never followed.
func (s *stripes) mine() *stripe { return &s.all[s.lane()] }

func (s *stripes) lane() uint64 {
	var local byte
	return uint64(uintptr(unsafe.Pointer(&local))>>11) * 0x9e3779b97f4a7c15 >> (64 - laneBits)
}

func (s *stripes) sum(of func(*stripe) uint64) (total uint64) {
	for i := range s.all {
		total += of(&s.all[i])
	}
	return total
}

// Denials are counted by feature and reason. A feature that has a number has its
// counters in the feature index. The others, codes that no plan has, share a
// bounded number of them.
type denials struct {
	mu        sync.Mutex                               // taken to add a feature
	byFeature atomic.Pointer[map[string]*denialCounts] // copied to grow, so that counting allocates nothing
	others    denialCounts
}

const (
	maxDenied   = 1024
	denialLanes = 8
)

// denialCounts has a few lanes, picked like a stripe.
type denialCounts struct {
	lanes [denialLanes]struct {
		by       [reasonCount]atomic.Uint64
		shadowed [reasonCount]atomic.Uint64 // those that were let through
		_        [256 - 16*int(reasonCount)]byte
	}
}

func (c *denialCounts) add(reason Reason, lane uint64) {
	c.lanes[lane%denialLanes].by[reason].Add(1)
}

func (c *denialCounts) addShadowed(reason Reason, lane uint64) {
	c.lanes[lane%denialLanes].shadowed[reason].Add(1)
}

// denials returns the counters of a feature.
func (c *Client) denials(feature string) *denialCounts {
	t := c.features.table.Load()
	if n := t.find(feature); n != noFeature {
		return t.denied[n]
	}
	d := &c.counters.denials
	if counts := (*d.byFeature.Load())[feature]; counts != nil {
		return counts
	}
	return d.grow(feature)
}

func (d *denials) grow(feature string) *denialCounts {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := *d.byFeature.Load()
	if counts := old[feature]; counts != nil {
		return counts
	}
	if len(old) == maxDenied || !validKey(feature) {
		return &d.others
	}
	grown := maps.Clone(old)
	counts := new(denialCounts)
	grown[strings.Clone(feature)] = counts
	d.byFeature.Store(&grown)
	return counts
}

// deniedBy reads all of them.
func (c *Client) deniedBy() (denied, shadowed map[Denial]uint64) {
	denied, shadowed = make(map[Denial]uint64), make(map[Denial]uint64)
	read := func(feature string, counts *denialCounts) {
		for reason := range reasonCount {
			for lane := range counts.lanes {
				if n := counts.lanes[lane].by[reason].Load(); n > 0 {
					denied[Denial{feature, reason}] += n
				}
				if n := counts.lanes[lane].shadowed[reason].Load(); n > 0 {
					shadowed[Denial{feature, reason}] += n
				}
			}
		}
	}
	t := c.features.table.Load()
	for n, code := range t.codes {
		read(code, t.denied[n])
	}
	for feature, counts := range *c.counters.denials.byFeature.Load() {
		read(feature, counts)
	}
	read("", &c.counters.denials.others)
	return denied, shadowed
}
