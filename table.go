package entitlements

import (
	"maps"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
)

// A table finds the cached customers. It answers the hot path, without a lock.
//
// A customer is in one of two sets of eight slots, which its hash says. A word of
// tags tells which slots of a set to look at, and a slot is one cache line that
// has all that a check of an ordinary feature needs: the key, the plan, and until
// when it answers. The tags of a hundred thousand customers fit in the
// processor's cache, so a check costs one line from memory; any hash table that
// leads to a record costs two. What a slot says is a copy: the entry knows.
//
// When both sets are full, a customer displaces the least recently used of them,
// which is kept behind the table, in a map. The first set of each customer counts
// those of its customers that are there: a miss in a set that has none is a miss
// for good, and takes no lock.
//
// A slot has a version, odd while it is written: what a reader took from it is of
// one customer and one snapshot when the version is what it was before.
type table struct {
	tags      []atomic.Uint64 // of each set: a byte for each slot, 0 for an empty one
	sets      []set
	displaced []atomic.Int32 // of each set: those that belong there first and have no slot
	clock     *clock
	fresh     int64 // how long a snapshot is fresh
	longest   int64 // how long it answers without a closer look
	useShift  uint8 // how often a slot is touched
	turns     atomic.Uint32

	mu     sync.Mutex        // held to write
	behind map[string]*entry // those that have no slot; guarded by mu. nil where they may be lost
}

type set [setWays]slot

type slot struct {
	version atomic.Uint32 // see slotStale, slotLength
	used    atomic.Uint32 // when it was touched last: see table.useTime
	until   atomic.Int64  // coarse time before which it answers without a closer look
	key     [4]atomic.Uint64
	plan    atomic.Pointer[plan]
	entry   atomic.Pointer[entry]
}

const (
	setWays = 8

	// setLoad is the mean number of entries in a set when as many customers are
	// cached as may be. At 7 of 8, with two sets to choose from, one in a hundred has
	// no slot, one in twelve where customers come and go, and to find those is slow.
	setLoad = 7

	// setFirst is how full the first set of a customer may be before the emptier one
	// is taken: most are found at the first look.
	setFirst = 6

	lowBits  = 0x0101010101010101
	highBits = 0x8080808080808080

	slotStale   = 1         // what it answers counts as stale
	slotLength  = 0xff << 1 // of the key
	slotWritten = 1 << 9    // the number of writes, times two
)

func newTable(customers int, clock *clock, cfg *Config) *table {
	sets := int(float64(customers)/setLoad) + 1
	longest := int64(cfg.MaxStale) - clock.margin
	return &table{
		tags: make([]atomic.Uint64, sets), sets: make([]set, sets), displaced: make([]atomic.Int32, sets),
		clock: clock, fresh: min(int64(cfg.TTL), longest), longest: longest,
		useShift: uint8(min(32, max(0, bits.Len64(uint64(cfg.IdleAfter/64))-1))),
	}
}

// useTime numbers the times in which the slot of a customer in use is touched
// once: each at most a 64th of IdleAfter, and 4 s, since a touch costs the entry's line too.
// It is never 0, which says that the slot was not touched yet.
func (t *table) useTime(now int64) uint32 {
	return uint32(now>>(t.useShift&63)) + t.turns.Load() | 1<<31
}

// first and second are the two sets of a hash, by its high and its middle bits;
// the tag uses the low ones.
func (t *table) first(hash uint64) uint64 {
	i, _ := bits.Mul64(hash, uint64(len(t.tags)))
	return i
}

func (t *table) second(hash uint64) uint64 { return t.first(bits.RotateLeft64(hash, 32)) }

func tagOf(hash uint64) uint64 { return hash&0x7f | 0x80 }

// tagged marks the places with a tag, in the high bits of their bytes. The borrow of
// the subtraction can mark a byte above a match by mistake; the key sorts that out.
func tagged(tags, tag uint64) (marks uint64) {
	x := tags ^ tag*lowBits
	return (x - lowBits) &^ x & highBits
}

// freeTags marks the places that have none.
func freeTags(tags uint64) (marks uint64) { return ^tags & highBits }

// firstTag is the first place that is marked.
func firstTag(marks uint64) (way int) { return bits.TrailingZeros64(marks) / 8 & (setWays - 1) }

// shown is what a slot says about its customer. Without a plan it does not answer.
type shown struct {
	slot  *slot
	plan  *plan
	until int64
	stale bool
}

// look finds the slot of a key, where it is, and the version that it had; nil for
// none.
func (t *table) look(hash uint64, key string) (s *slot, v uint32, set uint64, way int) {
	head, tail := endsOf(key)
	set = t.first(hash)
	for range 2 {
		for m := tagged(t.tags[set].Load(), tagOf(hash)); m != 0; m &= m - 1 {
			way = firstTag(m)
			s = &t.sets[set][way]
			v = s.version.Load()
			if s.is(key, head, tail, v) && (len(key) <= 16 || s.isLong(key)) {
				return s, v, set, way
			}
		}
		set = t.second(hash)
	}
	return nil, 0, 0, 0
}

// ready returns what a customer's slot answers at a coarse time. It has no plan
// when a closer look is needed.
func (t *table) ready(hash uint64, key string, now int64) shown {
	s, v, _, _ := t.look(hash, key)
	if s == nil {
		return shown{}
	}
	p, until := s.plan.Load(), s.until.Load()
	if now < until && s.version.Load() == v && v&slotWritten == 0 {
		return shown{s, p, until, v&slotStale != 0}
	}
	t.turn(s, v, now)
	return shown{}
}

// age is how old what a slot shows is.
func (t *table) age(is shown, now int64) int64 {
	if is.stale {
		return now - is.until + t.longest
	}
	return now - is.until + t.fresh
}

// find returns the entry of key, or nil.
func (t *table) find(hash uint64, key string) *entry {
	s, v, _, _ := t.look(hash, key)
	if s == nil && t.displaced[t.first(hash)].Load() == 0 {
		// Between the two looks it may have got its slot back.
		if s, v, _, _ = t.look(hash, key); s == nil {
			return nil
		}
	}
	if s != nil {
		if e := s.entry.Load(); s.version.Load() == v && v&slotWritten == 0 {
			return e
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.findLocked(hash, key)
}

// findLocked also gives a slot to who has none. t.mu is held.
func (t *table) findLocked(hash uint64, key string) *entry {
	if s, _, _, _ := t.look(hash, key); s != nil {
		return s.entry.Load()
	}
	e := t.behind[key]
	if e != nil {
		t.insertLocked(hash, e)
	}
	return e
}

// is reports whether a slot is that of key, which has these ends, as far as can be
// said while its version is v. What is stored of a key of up to 32 bytes tells it
// from all others of its length.
func (s *slot) is(key string, head, tail uint64, v uint32) bool {
	return v&slotLength == uint32(len(key))<<1 && s.key[0].Load() == head && s.key[1].Load() == tail
}

// isLong is the rest of is for a key of more than 16 bytes.
func (s *slot) isLong(key string) bool {
	w := keyWords(key)
	if s.key[2].Load() != w[2] || s.key[3].Load() != w[3] {
		return false
	}
	if len(key) <= 32 {
		return true
	}
	e := s.entry.Load()
	return e != nil && e.key == key
}

// keyWords is what a slot stores of a key.
func keyWords(key string) (w [4]uint64) {
	w[0], w[1] = endsOf(key)
	if n := len(key); n > 16 {
		w[2], _ = ends(key[8:])
		_, w[3] = ends(key[:n-8])
	}
	return w
}

// insert puts e in, unless it has left the cache.
func (t *table) insert(hash uint64, e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.insertLocked(hash, e)
}

// insertLocked takes the slot of another entry of the same key, which has left the
// cache, or an empty one, or that of the entry that was used least recently.
func (t *table) insertLocked(hash uint64, e *entry) {
	if e.gone.Load() {
		return // remove has been here, or comes next
	}
	s, _, set, way := t.look(hash, e.key)
	if s == nil {
		set, way = t.room(hash)
		s = &t.sets[set][way]
		if other := s.entry.Load(); other != nil && t.behind != nil { // who misses it looks behind the table
			t.behind[other.key] = other
			t.displaced[t.first(hashOf(other.key))].Add(1)
		}
	}
	v := s.begin()
	for i, w := range keyWords(e.key) {
		s.key[i].Store(w)
	}
	s.entry.Store(e)
	t.show(s, e, v&^slotLength|uint32(len(e.key))<<1)
	tags := t.tags[set].Load() &^ (0xff << (8 * way))
	t.tags[set].Store(tags | tagOf(hash)<<(8*way))
	t.forgetLocked(hash, e.key)
}

// forgetLocked drops what is behind the table, once it is in it or has left the cache.
func (t *table) forgetLocked(hash uint64, key string) {
	if _, ok := t.behind[key]; ok {
		delete(t.behind, key)
		t.displaced[t.first(hash)].Add(-1)
	}
}

// room finds a slot: an empty one, or the least recently used. t.mu is held.
func (t *table) room(hash uint64) (set uint64, way int) {
	sets := [2]uint64{t.first(hash), t.second(hash)}
	var free [2]int
	for k, i := range sets {
		free[k] = bits.OnesCount64(freeTags(t.tags[i].Load()))
	}
	switch {
	case free[0] > setWays-setFirst, free[0] >= max(1, free[1]):
		set = sets[0]
	case free[1] > 0:
		set = sets[1]
	default:
		age := int64(closedTime)
		for _, i := range sets {
			for w := range t.sets[i] {
				if e := t.sets[i][w].entry.Load(); e.lastUse.Load() < age {
					set, way, age = i, w, e.lastUse.Load()
				}
			}
		}
		return set, way
	}
	return set, firstTag(freeTags(t.tags[set].Load()))
}

// remove takes out an entry that left the cache.
func (t *table) remove(hash uint64, e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, _, set, way := t.look(hash, e.key); s != nil && s.entry.Load() == e {
		t.tags[set].Store(t.tags[set].Load() &^ (0xff << (8 * way)))
		s.empty()
	}
	if t.behind[e.key] == e {
		t.forgetLocked(hash, e.key)
	}
}

// all returns every entry: about so many. It holds up the writers, not the readers,
// while it copies the pointers.
func (t *table) all(about int) []*entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	entries := make([]*entry, 0, about)
	for i := range t.sets {
		if t.tags[i].Load() == 0 {
			continue
		}
		for w := range t.sets[i] {
			if e := t.sets[i][w].entry.Load(); e != nil {
				entries = append(entries, e)
			}
		}
	}
	return slices.AppendSeq(entries, maps.Values(t.behind))
}

// clear takes everything out.
func (t *table) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.sets {
		t.tags[i].Store(0)
		for w := range t.sets[i] {
			t.sets[i][w].empty()
		}
		t.displaced[i].Store(0)
	}
	clear(t.behind)
}

// publish lets the slot of an entry, if it has one, show what changed.
func (t *table) publish(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, _, _, _ := t.look(hashOf(e.key), e.key); s != nil && s.entry.Load() == e {
		t.show(s, e, s.begin())
	}
}

// turn lets a slot whose snapshot has come to its TTL answer as stale.
func (t *table) turn(s *slot, v uint32, now int64) {
	e := s.entry.Load()
	if v&slotStale != 0 || now == closedTime || e == nil || e.blank() || now < e.staleAt.Load() || !t.mu.TryLock() {
		return
	}
	defer t.mu.Unlock()
	if s.version.Load() == v {
		t.show(s, s.entry.Load(), s.begin())
	}
}

// begin and show are around a write. table.mu is held.
func (s *slot) begin() (version uint32) {
	v := s.version.Load()
	s.version.Store(v + slotWritten)
	return v + slotWritten
}

func (t *table) show(s *slot, e *entry, v uint32) {
	p, staleAt := e.plan.Load(), e.staleAt.Load()
	until := e.fetched.Load() + t.longest
	switch {
	case p == nothing, e.gone.Load():
		until = 0
	case t.clock.coarse.Load() < staleAt:
		until = min(until, staleAt)
		v &^= slotStale
	default:
		v |= slotStale
	}
	s.plan.Store(p)
	s.until.Store(until)
	s.used.Store(0) // the next check looks closer
	s.version.Store(v + slotWritten)
}

func (s *slot) empty() {
	v := s.begin()
	for i := range s.key {
		s.key[i].Store(0)
	}
	s.entry.Store(nil)
	s.plan.Store(nil)
	s.until.Store(0)
	s.version.Store((v + slotWritten) &^ slotLength)
}
