package entitlements

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/ristretto/v2"
)

// The cache holds customer -> entry in three places that share the entries:
//
//   - the table answers the hot path. It is lossy: what a set has no room for is
//     found in one of the other two.
//   - the window holds what was added last. It makes a customer answerable the
//     moment it is added, whatever ristretto thinks of it, and lets a newcomer
//     show that it is used before it has to compete.
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
	window    int // how many the window keeps once it is full

	mu    sync.Mutex // guards the window
	byKey map[string]*entry
	queue []*entry // oldest first

	// guard is held to call into ristretto and taken for good to close it: a call
	// that meets its Close panics or hangs.
	guard  sync.RWMutex
	shut   bool
	policy *ristretto.Cache[uint64, *entry] // nil below smallest
	ending atomic.Bool                      // what leaves now was not evicted
}

// smallest is the capacity from which a policy can do better than first in,
// first out.
const smallest = 8

func newCache(cfg *Config, clock *clock) (*cache, error) {
	customers := cfg.MaxCustomers
	c := &cache{table: newTable(customers, clock, cfg), byKey: make(map[string]*entry), customers: customers, window: customers}
	if customers < smallest {
		return c, nil // the window is all there is
	}
	c.window = max(customers/64, min(32, customers/4))
	var err error
	c.policy, err = ristretto.NewCache(&ristretto.Config[uint64, *entry]{
		NumCounters:        int64(10 * customers),
		MaxCost:            int64(customers - c.window),
		BufferItems:        64,
		IgnoreInternalCost: true, // else a cost of 1 becomes 57, and capacity a fraction
		OnEvict:            func(i *ristretto.Item[*entry]) { c.left(i.Value) },
		OnReject:           func(i *ristretto.Item[*entry]) { c.left(i.Value) },
	})
	if err != nil {
		return nil, fmt.Errorf("entitlements: make the cache: %w", err)
	}
	return c, nil
}

// find returns the entry of a customer, or nil, and puts it back into the table
// when that had lost it.
func (c *cache) find(hash uint64, key string) *entry {
	e := c.table.find(hash, key)
	switch {
	case e != nil:
	case !c.table.hasDisplaced(hash):
		// Between the two looks it may have been put back.
		e = c.table.find(hash, key)
	default:
		c.mu.Lock()
		e = c.byKey[key]
		c.mu.Unlock()
		if e == nil {
			e = c.ask(hash)
		}
		// Two keys with one hash would share a place in ristretto: the key decides.
		if e != nil && e.key == key {
			c.table.insert(hash, e, true)
		}
	}
	if e == nil || e.key != key || e.gone.Load() {
		return nil
	}
	return e
}

// ask looks in ristretto, which counts it as a use.
func (c *cache) ask(hash uint64) *entry {
	c.guard.RLock()
	defer c.guard.RUnlock()
	if c.shut || c.policy == nil {
		return nil
	}
	e, _ := c.policy.Get(hash)
	return e
}

// sampleMask picks the uses that ristretto is told of, of those that the table
// serves: one in 256 of each stripe. Rarer would not tell the frequent from the
// rare any more; more often would cost a check more than its own count does.
const sampleMask = 1<<8 - 1

// sample tells ristretto of a use that the table served. e is nil when it was let
// go of just now.
func (c *cache) sample(e *entry) {
	if e != nil {
		c.ask(hashOf(e.key))
	}
}

// add puts a new entry in, unless its customer has one: that one is returned.
func (c *cache) add(hash uint64, e *entry) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if there := c.table.find(hash, e.key); there != nil && !there.gone.Load() {
		return there
	}
	if !c.table.hasDisplaced(hash) {
		if there := c.table.find(hash, e.key); there != nil && !there.gone.Load() {
			return there // put back between the two looks
		}
	} else {
		there := c.byKey[e.key]
		if there == nil {
			there = c.ask(hash)
		}
		if there != nil && there.key == e.key && !there.gone.Load() {
			c.table.insert(hash, there, true)
			return there
		}
	}
	// While there is room, customers leave the window in batches: one wait for
	// many. Once there is none, one makes room for one.
	if c.count.Load() >= int64(c.customers) || len(c.queue) >= c.window+max(1, c.window/4) {
		c.shrinkLocked()
	}
	c.byKey[e.key] = e
	c.queue = append(c.queue, e)
	c.count.Add(1)
	c.table.insert(hash, e, false)
	return e
}

// shrinkLocked offers the oldest of the window to ristretto and waits for its
// answer. Until then they stay in the window, so that they can be found.
func (c *cache) shrinkLocked() {
	if len(c.queue) < c.window {
		return // ristretto is over by what it has yet to evict
	}
	leaving := c.queue[:len(c.queue)-c.window+1]
	c.guard.RLock()
	if c.policy == nil || c.shut {
		for _, e := range leaving {
			c.left(e)
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
	c.queue = append([]*entry(nil), c.queue[len(leaving):]...)
}

// left lets go of an entry that made room. It runs on ristretto's goroutine too,
// so it takes no lock that is held while ristretto is waited for.
func (c *cache) left(e *entry) {
	if e != nil && !c.ending.Load() && c.drop(e) {
		c.evict.Add(1)
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
	e := c.byKey[key]
	if e != nil {
		delete(c.byKey, key)
		for i, other := range c.queue {
			if other == e {
				c.queue = append(c.queue[:i:i], c.queue[i+1:]...)
				break
			}
		}
	} else if e = c.ask(hash); e == nil || e.key != key {
		// Ristretto may be about to let go of it.
		if e = c.table.find(hash, key); e == nil {
			return nil
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
	entries := append([]*entry(nil), c.queue...)
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
