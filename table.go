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
// the key: what any hash table must touch. A full set forgets its least recently
// used entry; whoever needs that one finds it in the cache behind.
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
	// cached as may be. At 3.5 of 7, under 1.5 % of them do not fit in theirs.
	setLoad = 3.5

	lowBits  = 0x0101010101010101
	highBits = 0x8080808080808080
)

type set struct {
	tags  atomic.Uint64 // byte i belongs to slot i; 0 is empty
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

// insert puts e in. Another entry of the same key gives way, then an empty slot
// is taken, then the slot of the entry that was used least recently.
func (t *table) insert(hash uint64, e *entry) {
	i := t.index(hash)
	s := &t.sets[i]
	key := e.key()
	mu := &t.mu[i%uint64(len(t.mu))]
	mu.Lock()
	defer mu.Unlock()
	tags := s.tags.Load()
	way, oldest := -1, int64(closedTime)
	for w := range s.slots {
		other := s.slots[w].Load()
		switch {
		case other == nil:
			if oldest != -1 {
				way, oldest = w, -1
			}
		case other.is(key):
			s.slots[w].Store(e)
			return
		case other.lastUse.Load() <= oldest:
			way, oldest = w, other.lastUse.Load()
		}
	}
	s.slots[way].Store(e)
	s.tags.Store(tags&^(0xff<<(8*way)) | tagOf(hash)<<(8*way))
}

// remove takes e out, if it is there.
func (t *table) remove(hash uint64, e *entry) {
	i := t.index(hash)
	s := &t.sets[i]
	mu := &t.mu[i%uint64(len(t.mu))]
	mu.Lock()
	defer mu.Unlock()
	for w := range s.slots {
		if s.slots[w].Load() == e {
			s.tags.Store(s.tags.Load() &^ (0xff << (8 * w)))
			s.slots[w].Store(nil)
			return
		}
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
