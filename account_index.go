package entitlements

import "math/bits"

// accountIndex finds accounts by their customers: a byte and a pointer for each
// place, where a map keeps the key besides, and room to double.
//
// Open-addressed. A hash's high bits say where to begin, so that the number of
// places need not be a power of two, and its second byte is the tag: who has
// another one is passed over unseen.
type accountIndex struct {
	tags   []uint8
	places []*account // nil: free
	count  int
}

// leastPlaces is how many an index has, if it has any.
const leastPlaces = 8

func indexTag(hash uint64) uint8 { return uint8(hash >> 8) }

func (x *accountIndex) first(hash uint64) int {
	i, _ := bits.Mul64(hash, uint64(len(x.places)))
	return int(i)
}

func (x *accountIndex) after(i int) int {
	if i++; i == len(x.places) {
		return 0
	}
	return i
}

// find returns a customer's account, or nil.
func (x *accountIndex) find(hash uint64, customer string) *account {
	if i, ok := x.place(hash, customer); ok {
		return x.places[i]
	}
	return nil
}

func (x *accountIndex) place(hash uint64, customer string) (i int, ok bool) {
	if len(x.places) == 0 {
		return 0, false
	}
	for i = x.first(hash); x.places[i] != nil; i = x.after(i) {
		if x.tags[i] == indexTag(hash) && x.places[i].customer() == customer {
			return i, true
		}
	}
	return i, false
}

// add puts in an account that is not there yet.
func (x *accountIndex) add(hash uint64, a *account) {
	if 5*(x.count+1) > 4*len(x.places) {
		x.resize(max(leastPlaces, len(x.places)+len(x.places)/2))
	}
	x.count++
	x.put(hash, a)
}

func (x *accountIndex) put(hash uint64, a *account) {
	i := x.first(hash)
	for x.places[i] != nil {
		i = x.after(i)
	}
	x.tags[i], x.places[i] = indexTag(hash), a
}

func (x *accountIndex) resize(places int) {
	old := x.places
	x.tags, x.places = make([]uint8, places), make([]*account, places)
	for _, a := range old {
		if a != nil {
			x.put(hashOf(a.customer()), a)
		}
	}
}

// remove takes an account out. Whoever comes after it, up to the next free place,
// is put in anew: it may have been passed on from there.
func (x *accountIndex) remove(a *account) {
	i, ok := x.place(hashOf(a.customer()), a.customer())
	if !ok {
		return
	}
	x.count--
	x.places[i] = nil
	if 8*x.count < len(x.places) && len(x.places) > leastPlaces {
		x.resize(max(leastPlaces, 2*x.count))
		return
	}
	for i = x.after(i); x.places[i] != nil; i = x.after(i) {
		next := x.places[i]
		x.places[i] = nil
		x.put(hashOf(next.customer()), next)
	}
}

// all yields every account. It must not change meanwhile.
func (x *accountIndex) all(yield func(*account) bool) {
	for _, a := range x.places {
		if a != nil && !yield(a) {
			return
		}
	}
}
