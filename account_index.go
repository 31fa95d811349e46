package entitlements

import (
	"math/bits"
	"sync/atomic"
)

// accountIndex finds accounts by their customers: a byte and a pointer for each
// place, where a map keeps the key besides, and room to double.
//
// Writers hold the lock of the shard. Readers need none, since an account never
// changes its customer: one that they find may be on its way out, and one that is
// being moved may be missed, which the lock tells for certain.
type accountIndex struct {
	places atomic.Pointer[accountPlaces] // nil: there was none yet
	count  int
}

// accountPlaces is open-addressed, by sets of eight. A hash's high bits say which
// set is the first, so that their number need not be a power of two; the next one
// is looked at when that has no free place. So all sets from a customer's first to
// the one before its own are full.
type accountPlaces struct {
	sets []accountSet
}

// accountSet is eight places. A tag is 0 where one is free; who has another one than
// a customer's is passed over unseen.
type accountSet struct {
	tags     atomic.Uint64
	accounts [setWays]atomic.Pointer[account]
}

// accountTag is of other bits than those that choose a shard.
func accountTag(hash uint64) uint64 { return tagOf(hash >> 8) }

func (p *accountPlaces) first(hash uint64) int {
	i, _ := bits.Mul64(hash, uint64(len(p.sets)))
	return int(i)
}

func (p *accountPlaces) after(i int) int {
	if i++; i == len(p.sets) {
		return 0
	}
	return i
}

// find returns a customer's account, or nil.
func (x *accountIndex) find(hash uint64, customer string) *account {
	a, _, _ := x.look(hash, customer)
	return a
}

// look finds a customer's account, and its place. Without the lock the place may be
// another's by now.
func (x *accountIndex) look(hash uint64, customer string) (a *account, s *accountSet, way int) {
	p := x.places.Load()
	if p == nil {
		return nil, nil, 0
	}
	i := p.first(hash)
	for range p.sets {
		s = &p.sets[i]
		tags := s.tags.Load()
		for m := tagged(tags, accountTag(hash)); m != 0; m &= m - 1 {
			way = firstTag(m)
			if a = s.accounts[way].Load(); a != nil && a.customer() == customer {
				return a, s, way
			}
		}
		if freeTags(tags) != 0 {
			break
		}
		i = p.after(i)
	}
	return nil, nil, 0
}

// add puts in an account that is not there yet.
func (x *accountIndex) add(hash uint64, a *account) {
	p := x.places.Load()
	if p == nil || 5*(x.count+1) > 4*setWays*len(p.sets) {
		p = x.resize(x.count + x.count/2 + 1)
	}
	x.count++
	p.put(hash, a)
}

func (p *accountPlaces) put(hash uint64, a *account) {
	i := p.first(hash)
	for freeTags(p.sets[i].tags.Load()) == 0 {
		i = p.after(i)
	}
	s := &p.sets[i]
	tags := s.tags.Load()
	way := firstTag(freeTags(tags))
	s.accounts[way].Store(a)
	s.tags.Store(tags | accountTag(hash)<<(8*way))
}

// resize makes room for so many.
func (x *accountIndex) resize(accounts int) *accountPlaces {
	p := &accountPlaces{make([]accountSet, (accounts*5/4+setWays)/setWays)}
	for a := range x.all {
		p.put(hashOf(a.customer()), a)
	}
	x.places.Store(p)
	return p
}

// remove takes an account out. Whoever was passed on to a later set, because this
// one or one between had no place, is put in anew.
func (x *accountIndex) remove(a *account) {
	hash := hashOf(a.customer())
	_, s, way := x.look(hash, a.customer())
	if s == nil {
		return
	}
	full := s.free(way)
	x.count--
	p := x.places.Load()
	if len(p.sets) > 1 && 8*x.count < setWays*len(p.sets) {
		x.resize(2 * x.count)
		return
	}
	i := p.first(hash)
	for &p.sets[i] != s {
		i = p.after(i)
	}
	for full {
		i = p.after(i)
		full = freeTags(p.sets[i].tags.Load()) == 0
		p.resettle(i)
	}
}

// resettle puts those in anew whose first set is another one.
func (p *accountPlaces) resettle(i int) {
	s := &p.sets[i]
	for way := range s.accounts {
		if a := s.accounts[way].Load(); a != nil {
			if hash := hashOf(a.customer()); p.first(hash) != i {
				s.free(way)
				p.put(hash, a)
			}
		}
	}
}

// free gives up a place, and reports whether there was no free one.
func (s *accountSet) free(way int) (full bool) {
	tags := s.tags.Load()
	s.tags.Store(tags &^ (0xff << (8 * way)))
	s.accounts[way].Store(nil)
	return freeTags(tags) == 0
}

// all yields every account. It must not change meanwhile.
func (x *accountIndex) all(yield func(*account) bool) {
	p := x.places.Load()
	if p == nil {
		return
	}
	for i := range p.sets {
		for way := range p.sets[i].accounts {
			if a := p.sets[i].accounts[way].Load(); a != nil && !yield(a) {
				return
			}
		}
	}
}
