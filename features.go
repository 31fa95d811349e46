package entitlements

import (
	"sync"
	"sync/atomic"
	"unique"
)

// The feature index numbers the feature codes that a Client meets in plans and
// handles. A plan then says what it grants in bits by number, 16 bytes for 64
// features.
//
// Codes that callers make up are not numbered, and neither are those past
// maxFeatures: plans find these by name.
type featureIndex struct {
	table atomic.Pointer[featureTable]
	mu    sync.Mutex // taken to grow
}

// featureTable is one state of the index. Immutable but for the counters.
type featureTable struct {
	slots []featureSlot // open-addressed, a power of two of them
	shift uint8         // from a hash to a place among them
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
	x.table.Store(&featureTable{slots: make([]featureSlot, 2), shift: 63})
	return x
}

// featureSlot is a code: its length, 0 for none, and the bytes at its two ends,
// which are all of it up to 16.
type featureSlot struct {
	head, tail     uint64
	length, number uint32
}

// find returns the number of a code, or noFeature. The hash of a short one
// has no secret: codes are the backend's, and one that a caller makes up takes no
// place.
func (t *featureTable) find(code string) int {
	head, tail := endsOf(code)
	for i := t.place(code, head, tail); ; i++ {
		s := &t.slots[i&(len(t.slots)-1)]
		if s.length == 0 {
			return noFeature
		}
		if s.head == head && s.tail == tail && int(s.length) == len(code) && (len(code) <= 16 || t.codes[s.number] == code) {
			return int(s.number)
		}
	}
}

func (t *featureTable) place(code string, head, tail uint64) int {
	if len(code) > 16 {
		return int(hashOf(code) >> (t.shift & 63))
	}
	return int(fold(head^0x9e3779b97f4a7c15, tail^0xd1b54a32d192ed03) * 0xff51afd7ed558ccd >> (t.shift & 63))
}

func (x *featureIndex) find(code string) int { return x.table.Load().find(code) }

// code is the code with a number.
func (x *featureIndex) code(number int) string { return x.table.Load().codes[number] }

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
		if len(t.codes) < maxFeatures && old.find(code) == noFeature {
			t.codes = append(t.codes, intern(code))
			t.denied = append(t.denied, new(denialCounts))
		}
	}
	size := 2
	for t.shift = 63; size < 2*len(t.codes); t.shift-- {
		size *= 2
	}
	t.slots = make([]featureSlot, size)
	for n, code := range t.codes {
		head, tail := endsOf(code)
		i := t.place(code, head, tail)
		for t.slots[i&(size-1)].length != 0 {
			i++
		}
		t.slots[i&(size-1)] = featureSlot{head, tail, uint32(len(code)), uint32(n)}
	}
	x.table.Store(t)
	return t
}

func (t *featureTable) hasAll(codes []string) bool {
	for _, code := range codes {
		if len(t.codes) < maxFeatures && t.find(code) == noFeature {
			return false
		}
	}
	return true
}

// intern returns the one copy of a feature code that the index, plans, Features
// and meters use.
func intern(code string) string { return unique.Make(code).Value() }
