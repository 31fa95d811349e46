package entitlements

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// A table is a lossy, lock-free hash table of recently used customers. It
// answers the hot path.
//
// It is set-associative. A set is one cache line: a word of seven tags and seven
// pointers. A look-up hashes to a set, compares all tags at once, and follows a
// pointer only where a tag matches, so that it touches the set, the entry and
// the key: what any hash table must touch. A full set displaces its least recently
// used entry; whoever needs that one finds it in the cache behind. The set counts
// those that it has displaced and that are still cached, so that a miss in a set
// that has none is a miss for good.
//
// Readers take no lock. They may see a tag without its pointer or the other way
// round; the key decides.
type table struct {
	sets []set
	mu   [64]sync.Mutex // each guards the writes of its share of the sets
}

const (
	setWays = 7

	// setLoad is the mean number of entries in a set when as many customers are
	// cached as may be. At 2.5 of 7 hardly any does not fit in its own (Poisson: one
	// in some hundreds), and a look-up behind the table is a slow one.
	setLoad = 2.5

	lowBits  = 0x0101010101010101
	highBits = 0x8080808080808080

	displacedShift = 8 * setWays
	displacedOne   = 1 << displacedShift
	displacedMost  = 0x7f // and then it stays: the set is searched behind for good
)

type set struct {
	// tags has a byte for each slot, 0 for an empty one, and in the highest byte the
	// number of displaced entries. A tag has its high bit set and that number has
	// not, so a look-up never takes one for the other.
	tags  atomic.Uint64
	slots [setWays]atomic.Pointer[entry]
}

func newTable(customers int) *table {
	return &table{sets: make([]set, int(float64(customers)/setLoad)+1)}
}

// index spreads the hash over any number of sets by its high bits; the tag uses
// the low ones.
func (t *table) index(hash uint64) uint64 {
	i, _ := bits.Mul64(hash, uint64(len(t.sets)))
	return i
}

func tagOf(hash uint64) uint64 { return hash&0x7f | 0x80 }

// find returns the entry of key, or nil.
func (t *table) find(hash uint64, key string) *entry {
	s := &t.sets[t.index(hash)]
	// A byte of x is 0 where the tag matches. The borrow of the subtraction can
	// mark a byte above a match by mistake; the key sorts that out too.
	x := s.tags.Load() ^ tagOf(hash)*lowBits
	for m := (x - lowBits) &^ x & highBits; m != 0; m &= m - 1 {
		if e := s.slots[bits.TrailingZeros64(m)/8].Load(); e != nil && e.is(key) {
			return e
		}
	}
	return nil
}

// displaced reports whether an entry of the hash's set may be found behind the
// table although the table does not have it.
func (t *table) displaced(hash uint64) bool {
	return t.sets[t.index(hash)].tags.Load()>>displacedShift != 0
}

// insert puts e in, unless it has left the cache. Another entry of the same key
// gives way, then an empty slot is taken, then the slot of the entry that was
// used least recently. again says that e was displaced earlier.
func (t *table) insert(hash uint64, e *entry, again bool) {
	i := t.index(hash)
	s := &t.sets[i]
	mu := &t.mu[i%uint64(len(t.mu))]
	mu.Lock()
	defer mu.Unlock()
	if e.gone.Load() {
		return // remove has been here, or comes next and counts
	}
	key, tags := e.key(), s.tags.Load()
	const empty, same = -1, -2 // better than any that is used
	way, age := 0, int64(closedTime)
	for w := range s.slots {
		other := s.slots[w].Load()
		switch {
		case other == e:
			return
		case other == nil:
			if age > empty {
				way, age = w, empty
			}
		case other.is(key):
			way, age = w, same // it has left the cache, and remove comes next and counts
		case other.lastUse.Load() < age:
			way, age = w, other.lastUse.Load()
		}
	}
	displaced := tags >> displacedShift
	if displaced < displacedMost {
		if again && displaced > 0 {
			displaced--
		}
		if age != empty {
			displaced++
		}
	}
	s.slots[way].Store(e)
	s.tags.Store(tags&^(0xff<<(8*way))&(displacedOne-1) | tagOf(hash)<<(8*way) | displaced<<displacedShift)
}

// remove takes out an entry that left the cache. One that is not there was
// displaced.
func (t *table) remove(hash uint64, e *entry) {
	i := t.index(hash)
	s := &t.sets[i]
	mu := &t.mu[i%uint64(len(t.mu))]
	mu.Lock()
	defer mu.Unlock()
	tags := s.tags.Load()
	for w := range s.slots {
		if s.slots[w].Load() == e {
			s.tags.Store(tags &^ (0xff << (8 * w)))
			s.slots[w].Store(nil)
			return
		}
	}
	if displaced := tags >> displacedShift; displaced > 0 && displaced < displacedMost {
		s.tags.Store(tags - displacedOne)
	}
}

// clear takes everything out.
func (t *table) clear() {
	for i := range t.sets {
		mu := &t.mu[i%len(t.mu)]
		mu.Lock()
		t.sets[i].tags.Store(0)
		for w := range t.sets[i].slots {
			t.sets[i].slots[w].Store(nil)
		}
		mu.Unlock()
	}
}
