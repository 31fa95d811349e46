package entitlements

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/ristretto/v2"
)

// The cache holds customer -> entry. The table finds them all, and two others decide
// who stays:
//
//   - the window holds what was added or used last. It makes a customer answerable
//     the moment it is added, whatever ristretto thinks of it, and lets a newcomer
//     show that it is used before it has to compete. How large it is, the balance
//     says.
//   - ristretto holds the rest and decides who stays (TinyLFU). A customer is
//     offered to it when it leaves the window, once, and waited for; refreshes
//     change the entry in place. So none of ristretto's surprises can show: sets
//     that are dropped, seen late, or lost to an older value of the same key.
//
// Freshness is in the entry. Ristretto's own expiry is not used: it asks for the
// time on every Get and is seconds late.
type cache struct {
	table *table
	count atomic.Int64
	evict atomic.Uint64

	customers int // capacity of window and ristretto together

	mu      sync.Mutex // guards the fields below
	window  int        // how many the window keeps once it is full
	byKey   map[string]*entry
	queue   []waiting // those of the window, oldest first, and some that were forgotten
	added   int       // in this turn
	balance *balance  // nil without a policy

	// guard is held to call into ristretto and taken for good to close it: a call
	// that meets its Close panics or hangs.
	guard  sync.RWMutex
	shut   bool
	policy *ristretto.Cache[uint64, *entry] // nil below smallest
	ending atomic.Bool                      // what leaves now was not evicted
}

// waiting is an entry's place in the window, and when it was used last as far as
// was known then. Who was used since gets another place.
type waiting struct {
	entry *entry
	used  uint32
}

// turnsPerFill is how often ristretto is told of who is in use while the cache is
// exchanged once. With fewer turns it hears too little; with more its counters
// fill up with what happened just now.
const turnsPerFill = 4

// smallest is the capacity from which a policy can do better than first in,
// first out.
const smallest = 8

func newCache(cfg *Config, clock *clock) (*cache, error) {
	customers := cfg.MaxCustomers
	c := &cache{table: newTable(customers, clock, cfg), byKey: make(map[string]*entry), customers: customers, window: customers}
	c.table.behind = make(map[string]*entry)
	if customers < smallest {
		return c, nil // the window is all there is
	}
	c.window = max(customers/64, min(32, customers/4))
	c.balance = newBalance(customers, c.window)
	var err error
	c.policy, err = ristretto.NewCache(&ristretto.Config[uint64, *entry]{
		NumCounters:        countersFor(customers),
		MaxCost:            int64(customers - c.window),
		BufferItems:        64,
		IgnoreInternalCost: true, // else a cost of 1 becomes 57, and capacity a fraction
		OnEvict:            func(i *ristretto.Item[*entry]) { c.left(i.Value, halfPolicy) },
		OnReject:           func(i *ristretto.Item[*entry]) { c.left(i.Value, halfWindow) },
	})
	if err != nil {
		return nil, fmt.Errorf("entitlements: make the cache: %w", err)
	}
	return c, nil
}

// countersFor is how many frequencies ristretto keeps: ten for each customer, or, of
// very many, the five to ten that fill its filter, which has 9.6 bits for each and
// is rounded up to a power of two.
func countersFor(customers int) int64 {
	const many, bits = 1 << 16, 9.6
	ten := 10 * float64(customers)
	if customers < many {
		return int64(ten)
	}
	return int64(math.Exp2(math.Floor(math.Log2(ten*bits))) / bits)
}

// find returns the entry of a customer, or nil.
func (c *cache) find(hash uint64, key string) *entry {
	if e := c.table.find(hash, key); e != nil && !e.gone.Load() {
		return e
	}
	return nil
}

// used notes that a customer is in use: once per tick and customer, so that readers
// on several cores do not take the line from each other.
func (c *cache) used(e *entry, now int64) {
	if e.lastUse.Load() != now {
		c.tell(e, now)
	}
}

// tell is used without a look at the tick. Ristretto is told once in each turn:
// what it decides about is who is used now and then and who is not, and those that
// are used all the time need not be told apart.
func (c *cache) tell(e *entry, now int64) {
	e.lastUse.Store(now)
	if turn := c.table.useTime(now); e.used.Load() != turn {
		e.used.Store(turn)
		c.countUse(hashOf(e.key))
	}
}

// countUse lets ristretto, which counts look-ups, know of a use.
func (c *cache) countUse(hash uint64) {
	c.guard.RLock()
	defer c.guard.RUnlock()
	if !c.shut && c.policy != nil {
		c.policy.Get(hash)
	}
}

// add puts a new entry in, unless its customer has one: that one is returned.
func (c *cache) add(hash uint64, e *entry) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if there := c.find(hash, e.key); there != nil {
		return there
	}
	c.countUse(hash) // a miss is a use too
	if c.added++; c.added >= max(1, c.customers/turnsPerFill) {
		c.added = 0
		c.table.turns.Add(1)
	}
	c.rebalanceLocked(hash)
	// While there is room, customers leave the window in batches: one wait for
	// many. Once there is none, one makes room for one.
	if c.count.Load() >= int64(c.customers) || len(c.byKey) >= c.window+max(1, c.window/4) {
		c.shrinkLocked()
	}
	c.byKey[e.key] = e
	c.queue = append(c.queue, waiting{entry: e})
	c.count.Add(1)
	c.table.insert(hash, e)
	return e
}

// rebalanceLocked moves the border between window and ristretto, when that is worth
// it.
func (c *cache) rebalanceLocked(hash uint64) {
	if c.balance == nil {
		return
	}
	window := c.balance.comeBack(hash)
	if by := window - c.window; -by <= c.customers/128 && by <= c.customers/128 {
		return
	}
	c.guard.RLock()
	defer c.guard.RUnlock()
	if !c.shut {
		c.window = window
		c.policy.UpdateMaxCost(int64(c.customers - window))
	}
}

// shrinkLocked offers the oldest of the window to ristretto and waits for its
// answer. Until then they can be found in the window.
func (c *cache) shrinkLocked() {
	// What ristretto has yet to evict is room that the window does not have.
	inPolicy := int(c.count.Load()) - len(c.byKey)
	leaving := c.oldestLocked(len(c.byKey) - max(1, min(c.window, c.customers-inPolicy)) + 1)
	c.guard.RLock()
	if c.policy == nil || c.shut {
		for _, e := range leaving {
			c.left(e, halfWindow)
		}
	} else {
		for _, e := range leaving {
			// A full buffer refuses a Set. Waiting empties it.
			for !c.policy.Set(hashOf(e.key), e, 1) {
				c.policy.Wait()
			}
		}
		c.policy.Wait()
	}
	c.guard.RUnlock()
	for _, e := range leaving {
		delete(c.byKey, e.key)
	}
}

// mostSpared is how many are passed over at a time because they were used since.
const mostSpared = 64

// oldestLocked takes n entries from the front of the queue.
func (c *cache) oldestLocked(n int) (oldest []*entry) {
	for spared := 0; len(oldest) < n && len(c.queue) > 0; {
		w := c.queue[0]
		c.queue[0], c.queue = waiting{}, c.queue[1:]
		switch used := w.entry.used.Load(); {
		case w.entry.gone.Load():
		case used != w.used && spared < mostSpared:
			spared++
			c.queue = append(c.queue, waiting{w.entry, used})
		default:
			oldest = append(oldest, w.entry)
		}
	}
	return oldest
}

// left lets go of an entry that made room. It runs on ristretto's goroutine too,
// so it takes no lock that is held while ristretto is waited for.
func (c *cache) left(e *entry, from half) {
	if e == nil || c.ending.Load() || !c.drop(e) {
		return
	}
	c.evict.Add(1)
	if c.balance != nil {
		c.balance.leave(hashOf(e.key), from)
	}
}

func (c *cache) drop(e *entry) bool {
	if e.gone.Swap(true) {
		return false
	}
	c.table.remove(hashOf(e.key), e)
	c.count.Add(-1)
	return true
}

// forget takes a customer out. It returns its entry, or nil.
func (c *cache) forget(hash uint64, key string) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.table.find(hash, key)
	if e == nil {
		return nil
	}
	if c.byKey[key] == e {
		delete(c.byKey, key)
		if len(c.queue) > 2*len(c.byKey)+mostSpared {
			c.queue = slices.DeleteFunc(c.queue, func(w waiting) bool { return c.byKey[w.entry.key] != w.entry })
		}
	}
	c.guard.RLock()
	if !c.shut && c.policy != nil {
		c.policy.Del(hash)
	}
	c.guard.RUnlock()
	if !c.drop(e) {
		c.table.publish(e) // who dropped it may not have come to that yet
	}
	return e
}

// each calls f with every entry.
func (c *cache) each(f func(*entry)) {
	c.mu.Lock()
	entries := slices.Collect(maps.Values(c.byKey))
	c.mu.Unlock()
	c.guard.RLock()
	if !c.shut && c.policy != nil {
		c.policy.IterValues(func(e *entry) bool {
			entries = append(entries, e)
			return false
		})
	}
	c.guard.RUnlock()
	for _, e := range entries {
		if e != nil && !e.gone.Load() {
			f(e)
		}
	}
}

// close ends ristretto's goroutines. No call into it can be under way.
func (c *cache) close() {
	c.ending.Store(true)
	c.guard.Lock()
	defer c.guard.Unlock()
	if c.shut {
		return
	}
	c.shut = true
	c.table.clear()
	if c.policy != nil {
		c.policy.Close()
	}
}
