package entitlements

import (
	"math"
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

// A meterSlot is the way to a meter, and takes calls in its place: where usage has
// very many cells, each call waits for the memory that it touches, and this is
// half a line of it. What it has taken goes on to the meter when somebody looks
// closer: see absorbLocked.
type meterSlot struct {
	meter  atomic.Pointer[meter]
	sum    atomic.Int64 // of calls that the meter does not have yet
	until  int64        // backend: up to here it takes them; 0 = not at all
	calls  uint32
	number int32 // of the feature, noFeature for a stranger
}

// What a slot takes is so little that nothing overflows where it goes.
const (
	slotUnits = 1 << 31 // in one call
	slotCalls = 1 << 20
	slotRoom  = 1 << 61 // a meter that has less has room for that
)

// takeLocked adds a call, or reports that it is for the meter.
func (s *meterSlot) takeLocked(n, now int64) bool {
	if now >= s.until || s.calls >= slotCalls || n >= slotUnits || n <= -slotUnits {
		return false
	}
	s.sum.Store(s.sum.Load() + n)
	s.calls++
	return true
}

// absorbLocked takes over what the meter's slot has taken.
func (m *meter) absorbLocked() {
	s := m.slot.Load()
	if s == nil || s.calls == 0 {
		return
	}
	a := m.account
	alone := a.beginMoveLocked()
	n := s.sum.Load()
	m.quantity += n
	m.calls += s.calls
	s.sum.Store(0)
	s.calls = 0
	m.boundLocked()
	if !m.shiftLocked(n, m.counts) {
		m.syncLocked()
		m.publishLocked()
	}
	a.endMoveLocked(alone)
}

// shareLocked lets the slot take calls for the open record, until a moment on the
// backend's clock: while they are of the period of the figure.
func (m *meter) shareLocked(until int64) {
	if s := m.slot.Load(); s != nil && m.fold == AggregateSum && m.counts == periodCurrent && m.hasRoomLocked() {
		s.until = until
	}
}

// hasRoomLocked reports whether the meter can have whatever its slot may take.
func (m *meter) hasRoomLocked() bool {
	return m.calls < math.MaxUint32-slotCalls && -slotRoom < m.quantity && m.quantity < slotRoom
}

// boundLocked ends the taking when what the meter has would leave no room for it.
func (m *meter) boundLocked() {
	if s := m.slot.Load(); s != nil && !m.hasRoomLocked() {
		s.until = 0
	}
}

// onlyFirst stands for no meters after the first.
var onlyFirst = new(moreMeters)

// find returns the slot of a feature, or nil.
func (t *moreMeters) find(feature string) *meterSlot {
	if len(t.slots) == 0 {
		return nil
	}
	mask := uint64(len(t.slots) - 1)
	if number := t.features.find(feature); number != noFeature {
		for i := uint64(number); ; i++ {
			s := &t.slots[i&mask]
			if s.meter.Load() == nil {
				break
			}
			if s.number == int32(number) {
				return s
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
			return s
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
	m.slot.Store(s)
	s.meter.Store(m)
	t.count++
}

// roomyLocked is t when it has room for one more, else a larger one that has all
// of its meters.
func (t *moreMeters) roomyLocked(a *account) *moreMeters {
	if 8*(t.count+1) <= 7*len(t.slots) {
		return t
	}
	grown := &moreMeters{features: a.first.features, slots: make([]meterSlot, max(4, 2*len(t.slots))), spare: t.spare}
	alone := a.beginMoveLocked()
	for i := range t.slots {
		m := t.slots[i].meter.Load()
		if m == nil {
			continue
		}
		m.absorbLocked()
		until := t.slots[i].until
		grown.putLocked(m)
		m.slot.Load().until = until
	}
	a.endMoveLocked(alone)
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

// beginMoveLocked begins a move of more than one number, of which readers see all
// or nothing. It reports false within another move, which this is then part of.
func (a *account) beginMoveLocked() bool {
	if a.moves.Load()&1 != 0 {
		return false
	}
	a.moves.Add(1)
	return true
}

func (a *account) endMoveLocked(begun bool) {
	if begun {
		a.moves.Add(1)
	}
}

// read is the local view at a moment on the backend's clock: what is used, of
// which the slot may have some, and what is held, all at one moment. Nobody moved
// one of them in between when moves is even, and the same before and after. For a
// writer that is interrupted in the middle it waits as every other writer does.
func (m *meter) read(now int64) meterRead {
	a := m.account
	for range 64 {
		before := a.moves.Load()
		r := m.readOnce(now)
		if before&1 == 0 && a.moves.Load() == before {
			return r
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return m.readOnce(now)
}

func (m *meter) readOnce(now int64) meterRead {
	v := m.view.Load()
	r := v.read(now)
	if s := m.slot.Load(); s != nil && !v.over(now) {
		r.used = saturate(r.used, s.sum.Load())
	}
	return r
}
