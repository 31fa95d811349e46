package entitlements

import (
	"sync"
	"sync/atomic"
	"unique"
)

// The feature index numbers the feature codes that a Client meets in plans and
// handles. A plan then says what it grants in bits by number, 16 bytes for 64
// features, and a check finds the number of a code while the customer's entry is
// still on its way from memory, since neither needs the other.
//
// Codes that callers make up are not numbered, and neither are those past
// maxFeatures: plans find these by name.
type featureIndex struct {
	table atomic.Pointer[featureTable]
	mu    sync.Mutex // taken to grow
}

// featureTable is one state of the index. Immutable but for the counters.
type featureTable struct {
	slots []uint64 // open-addressed: high half of the hash, number plus one; 0 is empty
	codes []string
	// denied counts the denials of each, see denials.
	denied []*denialCounts
}

const (
	maxFeatures = 1024
	noFeature   = -1
)

func newFeatureIndex() *featureIndex {
	x := new(featureIndex)
	x.table.Store(&featureTable{slots: make([]uint64, 2)})
	return x
}

// find returns the number of a code, or noFeature.
func (t *featureTable) find(hash uint64, code string) int {
	mask := uint64(len(t.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		s := t.slots[i]
		if s == 0 {
			return noFeature
		}
		if s>>32 == hash>>32 {
			if n := int(uint32(s)) - 1; t.codes[n] == code {
				return n
			}
		}
	}
}

func (x *featureIndex) find(code string) int { return x.table.Load().find(hashOf(code), code) }

// add numbers codes that have no number yet. It copies the table once for all.
func (x *featureIndex) add(codes []string) *featureTable {
	if t := x.table.Load(); t.hasAll(codes) {
		return t
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	old := x.table.Load()
	t := &featureTable{
		codes:  append([]string(nil), old.codes...),
		denied: append([]*denialCounts(nil), old.denied...),
	}
	for _, code := range codes {
		if len(t.codes) < maxFeatures && old.find(hashOf(code), code) == noFeature {
			t.codes = append(t.codes, intern(code))
			t.denied = append(t.denied, new(denialCounts))
		}
	}
	size := 2
	for size < 3*len(t.codes) {
		size *= 2
	}
	t.slots = make([]uint64, size)
	for n, code := range t.codes {
		h := hashOf(code)
		i := h & uint64(size-1)
		for t.slots[i] != 0 {
			i = (i + 1) & uint64(size-1)
		}
		t.slots[i] = h>>32<<32 | uint64(n+1)
	}
	x.table.Store(t)
	return t
}

func (t *featureTable) hasAll(codes []string) bool {
	for _, code := range codes {
		if len(t.codes) < maxFeatures && t.find(hashOf(code), code) == noFeature {
			return false
		}
	}
	return true
}

// intern returns the one copy of a feature code that the index, plans and
// Features use, so that comparing two of them is comparing a pointer with itself.
func intern(code string) string { return unique.Make(code).Value() }
