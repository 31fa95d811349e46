package entitlements

import (
	"sync/atomic"
	"unsafe"
)

// moreMeters finds the meters after an account's first. It grows under the
// account's lock, in place or by a larger one that takes over, and is read
// without it.
//
// Open-addressed, a power of two of slots. A feature's number is its place, so
// that those of one catalog do not meet; those without a number, strangers, are
// placed by a hash and told apart by their code.
type moreMeters struct {
	features  *featureIndex
	slots     []meterSlot
	strangers atomic.Int32

	count int // guarded by the account's lock; so is spare
	spare []meterBlock
}

// meterSlot is the way to a meter. The number tells most features apart with no look
// at the meter.
type meterSlot struct {
	meter  atomic.Pointer[meter]
	number int32 // of the feature, noFeature for a stranger
}

// find returns the meter of a feature, or nil.
func (t *moreMeters) find(feature string) *meter {
	mask := uint64(len(t.slots) - 1)
	if number := t.features.find(feature); number != noFeature {
		for i := uint64(number); ; i++ {
			s := &t.slots[i&mask]
			m := s.meter.Load()
			if m == nil {
				break
			}
			if s.number == int32(number) {
				return m
			}
		}
	}
	if t.strangers.Load() == 0 {
		return nil
	}
	for i := hashOf(feature); ; i++ {
		s := &t.slots[i&mask]
		m := s.meter.Load()
		if m == nil {
			return nil
		}
		if s.number == noFeature && m.feature == feature {
			return m
		}
	}
}

// putLocked adds a meter.
func (t *moreMeters) putLocked(m *meter) {
	number := t.features.find(m.feature)
	i := uint64(number)
	if number == noFeature {
		t.strangers.Add(1)
		i = hashOf(m.feature)
	}
	mask := uint64(len(t.slots) - 1)
	for t.slots[i&mask].meter.Load() != nil {
		i++
	}
	s := &t.slots[i&mask]
	s.number = int32(number)
	s.meter.Store(m)
	t.count++
}

// roomyLocked is t when it has room for one more, else a larger one that has all
// of its meters. t may be nil.
func (t *moreMeters) roomyLocked(features *featureIndex) *moreMeters {
	if t == nil {
		return &moreMeters{features: features, slots: make([]meterSlot, 4)}
	}
	if 8*(t.count+1) <= 7*len(t.slots) {
		return t
	}
	grown := &moreMeters{features: features, slots: make([]meterSlot, 2*len(t.slots)), spare: t.spare}
	for i := range t.slots {
		if m := t.slots[i].meter.Load(); m != nil {
			grown.putLocked(m)
		}
	}
	return grown
}

// meterBlock is a meter and its ledger. Blocks are made several at a time, for
// those who use one feature after another. 256 bytes are a multiple of what the
// allocator aligns, so what a call needs is in the first two lines of a block.
type meterBlock struct {
	meter  meter
	ledger ledger
	_      [256 - unsafe.Sizeof(meter{}) - unsafe.Sizeof(ledger{})]byte
}

// mostSpare bounds what is made ahead.
const mostSpare = 8

// takeLocked is a new meter.
func (t *moreMeters) takeLocked(a *account) *meter {
	if len(t.spare) == 0 {
		t.spare = make([]meterBlock, min(max(1, t.count/2), mostSpare))
	}
	block := &t.spare[0]
	t.spare = t.spare[1:]
	block.meter.ledger = &block.ledger
	block.ledger.account = a
	return &block.meter
}
