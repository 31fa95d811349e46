package entitlements

import (
	"math"
	"sync"
	"sync/atomic"
)

// Reservation holds units of a metered feature that are not used yet, because
// what something costs is known when it is done: see [Client.Reserve]. End it
// with Commit or Release; the first of them wins. One that is forgotten returns
// by itself after [Config.ReservationTTL].
//
// A nil Reservation, as of a denied Reserve, takes every call and does nothing.
// All methods are safe for concurrent use and do not block.
type Reservation struct {
	usage *batcher
	meter *meter   // that it holds units of
	whose *cellKey // instead of a meter, when it holds none
	done  atomic.Bool

	n int64 // units held, 0 once they returned; guarded by the account's lock

	// Its place among the others, guarded by the lock of its shard.
	due        int64 // precise: when it returns by itself; 0 = has no place
	prev, next *Reservation
}

// Commit records what was really used, more than was reserved or less, and
// returns the rest: for every check that looks, in one step. Below 1 it is
// Release. After [Config.ReservationTTL] the units have returned by themselves,
// and what is committed is recorded all the same.
func (r *Reservation) Commit(actual int64) {
	if r == nil || !r.done.CompareAndSwap(false, true) {
		return
	}
	b, m := r.usage, r.meter
	if m == nil || !m.account.lock() {
		// It holds nothing: an account of which something is held does not retire.
		if actual > 0 {
			whose := r.whose
			if m != nil {
				whose = &cellKey{m.account.customer(), m.feature}
			}
			_ = b.add(&Usage{Customer: whose.customer, Feature: whose.feature, Quantity: actual}, nil)
		}
		return
	}
	a := m.account
	how := charge{dropped: dropClosed}
	was, at := m.shownLocked(), b.clock.backend.Load()
	move := a.beginMoveLocked()
	if actual > 0 && !b.clock.closed() {
		a.setLocked(accountIdle, false)
		now, open := b.nowLocked(m)
		at = now
		m.floorLocked(now)
		how = b.chargeLocked(m, actual, nil, now, open)
	}
	b.returnLocked(r)
	a.endMoveLocked(move)
	is, g := m.view.Load().read(at).used, m.grant
	a.mu.Unlock()
	if actual > 0 {
		b.charged(how)
	}
	if !how.folded {
		was = math.MinInt64 // maybe of the period before
	}
	if b.levels.crossed(g, was, is) {
		b.levels.look(m)
	}
}

// Release returns all that is held; nothing was used.
func (r *Reservation) Release() { r.Commit(0) }

// Renew lets [Config.ReservationTTL] begin anew: call it now and then for as long
// as a stream goes on. What has returned already stays returned.
func (r *Reservation) Renew() {
	if r == nil || r.done.Load() {
		return
	}
	b := r.usage
	s := b.holds.of(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.due != 0 {
		s.removeLocked(r)
		s.pushLocked(r, b.clock.precise()+b.holds.ttl)
	}
}

// holds is the reservations of a Client, in the order in which they return by
// themselves: all are held for the same time, so the order is that of Reserve and
// Renew. Sharded by customer.
type holds struct {
	ttl     int64
	expired atomic.Uint64
	shards  [16]holdShard
}

type holdShard struct {
	mu          sync.Mutex // guards the list; taken after an account's lock
	first, last *Reservation
	_           [64]byte
}

func (h *holds) of(r *Reservation) *holdShard {
	if r.meter == nil {
		return &h.shards[0]
	}
	return &h.shards[r.meter.account.shard%uint8(len(h.shards))]
}

func (s *holdShard) pushLocked(r *Reservation, due int64) {
	r.due, r.prev, r.next = due, s.last, nil
	if s.last != nil {
		s.last.next = r
	} else {
		s.first = r
	}
	s.last = r
}

func (s *holdShard) removeLocked(r *Reservation) {
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		s.first = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		s.last = r.prev
	}
	r.due, r.prev, r.next = 0, nil, nil
}

// hold reserves units that no limit was asked about.
func (b *batcher) hold(customer, feature string, n int64) *Reservation {
	if !validKey(customer) || !validKey(feature) || b.clock.closed() {
		return &Reservation{usage: b, whose: &cellKey{customer, feature}}
	}
	a := b.books.lock(hashOf(customer), customer)
	defer a.mu.Unlock()
	return b.holdLocked(b.meterLocked(a, feature), n)
}

// holdLocked reserves units. Where usage does not add up there is nothing to hold
// a part of, and the Reservation only knows whose usage it commits.
func (b *batcher) holdLocked(m *meter, n int64) *Reservation {
	if m.fold != AggregateSum {
		return &Reservation{usage: b, whose: &cellKey{m.account.customer(), m.feature}}
	}
	v := m.view.Load()
	held := v.held.Load()
	r := &Reservation{usage: b, meter: m, n: min(n, math.MaxInt64-held)}
	v.held.Store(held + r.n)
	m.account.moves.Add(2) // one number moved, so there was no halfway
	s := b.holds.of(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pushLocked(r, b.clock.precise()+b.holds.ttl)
	return r
}

// returnLocked returns what a reservation holds, if it still does.
func (b *batcher) returnLocked(r *Reservation) (units int64) {
	units, r.n = r.n, 0
	if units == 0 {
		return 0
	}
	r.meter.view.Load().held.Add(-units)
	s := b.holds.of(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.due != 0 {
		s.removeLocked(r)
	}
	return units
}

// expire returns the reservations that were forgotten, and tells for how long no
// other will be due: one that is made from now on is not due for all of TTL.
func (b *batcher) expire(now int64) (wait int64) {
	wait = b.holds.ttl
	for i := range b.holds.shards {
		s := &b.holds.shards[i]
		for {
			s.mu.Lock()
			r := s.first
			if r == nil || r.due > now {
				if r != nil {
					wait = min(wait, r.due-now)
				}
				s.mu.Unlock()
				break
			}
			s.removeLocked(r)
			s.mu.Unlock()
			a := r.meter.account
			a.mu.Lock()
			move := a.beginMoveLocked()
			if b.returnLocked(r) > 0 {
				b.holds.expired.Add(1)
			}
			a.endMoveLocked(move)
			a.mu.Unlock()
		}
	}
	return wait
}
