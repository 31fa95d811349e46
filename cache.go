package entitlements

import (
	"fmt"
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
//     show that it is used before it has to compete. While there is room it has
//     everybody; then the balance says how large it is.
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
	border  int        // how many the window keeps; the rest is ristretto's
	window  []*entry   // oldest first, and some that were forgotten
	inside  int        // of them that were not
	added   int        // in this turn
	balance *balance   // nil without a policy

	// guard is held to call into ristretto and taken for good to close it: a call
	// that meets its Close panics or hangs.
	guard  sync.RWMutex
	shut   bool
	policy *ristretto.Cache[uint64, *entry] // nil below smallest
	ending atomic.Bool                      // what leaves now was not evicted
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
	c := &cache{table: newTable(customers, clock, cfg), customers: customers, border: customers}
	c.table.behind = make(map[string]*entry)
	if customers < smallest {
		return c, nil // the window is all there is
	}
	c.balance = newBalance(customers, max(customers/64, min(32, customers/4)))
	var err error
	c.policy, err = ristretto.NewCache(&ristretto.Config[uint64, *entry]{
		NumCounters:        countersFor(customers),
		MaxCost:            1, // see moveBorderLocked
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
	wanted := c.border
	if c.balance != nil {
		wanted = c.balance.comeBack(hash)
	}
	if c.count.Load() >= int64(c.customers) { // one makes room for one
		c.moveBorderLocked(wanted)
		c.shrinkLocked()
	}
	e.inWindow = true
	c.window = append(c.window, e)
	c.inside++
	c.count.Add(1)
	c.table.insert(hash, e)
	return e
}

// mostMoved is by how much the window shrinks at a time: as many more than one leave
// it for ristretto when one has to make room. When the cache is full for the first
// time all are in the window.
const mostMoved = 8

// moveBorderLocked moves the border between window and ristretto, when that is worth
// it.
func (c *cache) moveBorderLocked(wanted int) {
	switch by := wanted - c.border; {
	case by < 0:
		c.border += max(by, -mostMoved)
	case by > c.customers/128:
		c.border = wanted
	default:
		return
	}
	c.guard.RLock()
	defer c.guard.RUnlock()
	if !c.shut {
		c.policy.UpdateMaxCost(int64(max(1, c.customers-c.border)))
	}
}

// shrinkLocked offers the oldest of the window to ristretto and waits for its
// answer.
func (c *cache) shrinkLocked() {
	// What ristretto has yet to evict is room that the window does not have.
	inPolicy := int(c.count.Load()) - c.inside
	leaving := c.oldestLocked(c.inside - max(1, min(c.border, c.customers-inPolicy)) + 1)
	c.guard.RLock()
	defer c.guard.RUnlock()
	if c.policy == nil || c.shut {
		for _, e := range leaving {
			c.left(e, halfWindow)
		}
		return
	}
	for _, e := range leaving {
		// A full buffer refuses a Set. Waiting empties it.
		for !c.policy.Set(hashOf(e.key), e, 1) {
			c.policy.Wait()
		}
	}
	c.policy.Wait()
}

// mostSpared is how many are passed over at a time because they were used since.
const mostSpared = 64

// oldestLocked takes n entries from the front of the window. Those that were used
// since they came get another place at its end.
func (c *cache) oldestLocked(n int) (oldest []*entry) {
	for spared := 0; len(oldest) < n && len(c.window) > 0; {
		e := c.window[0]
		c.window[0], c.window = nil, c.window[1:]
		switch used := uint8(e.used.Load()); {
		case !e.inWindow:
		case used != e.seenUsed && spared < mostSpared:
			spared++
			e.seenUsed = used
			c.window = append(c.window, e)
		default:
			oldest = append(oldest, e)
			e.inWindow = false
			c.inside--
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
	if e.inWindow {
		e.inWindow = false
		if c.inside--; len(c.window) > 2*c.inside+mostSpared {
			c.window = slices.DeleteFunc(c.window, func(e *entry) bool { return !e.inWindow })
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
	for _, e := range c.table.all(int(c.count.Load())) {
		if !e.gone.Load() {
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
