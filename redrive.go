package entitlements

import (
	"context"
	"fmt"
	"slices"
)

// RedriveFilter says which parked records [Client.Redrive] takes up. The zero
// filter means all of them.
type RedriveFilter struct {
	Kind     Parked
	Customer string // "" = any
	Feature  string // "" = any
	Most     int    // 0 = no bound
}

func (f *RedriveFilter) matches(l *parkedLine) bool {
	return (f.Kind == ParkedAny || f.Kind == l.kind) &&
		(f.Customer == "" || f.Customer == l.Customer) && (f.Feature == "" || f.Feature == l.Feature)
}

// redrive lets parked records be pending again: with their IDs, and all the time
// of RetryFor.
func (b *batcher) redrive(ctx context.Context, f *RedriveFilter) (records int, err error) {
	if b.sink == nil {
		return 0, nil
	}
	b.redriving.Lock()
	defer b.redriving.Unlock()
	lines, err := b.parking.list(f.matches)
	taken := make(map[parkedKey]bool)
	for i := range lines {
		l, key := &lines[i], lines[i].key()
		if err != nil || ctx.Err() != nil || b.clock.closed() || f.Most > 0 && records >= f.Most {
			break
		}
		b.mu.Lock()
		again := b.redriven[key] // by a call that could not forget the line
		b.redriven[key] = true
		b.mu.Unlock()
		if !again && !taken[key] && b.readmit(l) {
			records++
		} else if !again && !taken[key] {
			b.mu.Lock()
			delete(b.redriven, key)
			b.mu.Unlock()
			break // no room
		}
		taken[key] = true
	}
	// The line goes when the record is on disk: a process that is killed in between
	// has both, and sends the ID once more than it should.
	if err == nil && len(taken) > 0 && (b.spool == nil || b.spool.durable(ctx, nil)) {
		err = b.parking.forget(taken)
		b.mu.Lock()
		if err == nil {
			for key := range taken {
				delete(b.redriven, key)
				delete(b.adopted, key)
			}
		}
		b.mu.Unlock()
	}
	b.nudge()
	switch {
	case err != nil:
		return records, fmt.Errorf("entitlements: redrive: %w", err)
	case b.clock.closed():
		return records, ErrClosed
	}
	if ctx.Err() != nil {
		return records, fmt.Errorf("entitlements: redrive: %w", context.Cause(ctx))
	}
	return records, nil
}

// readmit makes a record of a parked one, and forgets what stood for it in the
// view. It reports false when there is no room.
func (b *batcher) readmit(l *parkedLine) bool {
	a := b.books.lock(hashOf(l.Customer), l.Customer)
	defer a.mu.Unlock()
	m := b.meterLocked(a, l.Feature)
	r := m.newRecord(piece{quantity: l.Quantity, stamp: nanos(l.Time)})
	r.calls, r.id, r.properties = uint64(l.Calls), l.ID, l.Properties
	if _, ok := b.admit(r); !ok {
		return false
	}
	b.tally.parked(l.kind, -l.Calls)
	m.syncLocked()
	m.takeBackLocked(l.ID, l.Quantity, int64(b.clock.tick))
	m.addLocked(r, int64(b.clock.tick))
	m.publishLocked()
	r.placedLocked()
	return true
}

// takeBackLocked takes what was lost of a record out of the view: it is on its way
// again. Where others were merged into it, they stay. One that was merged into
// another stays too, since nobody knows that any more: the view is high until the
// period ends.
func (m *meter) takeBackLocked(id string, quantity, tick int64) {
	i := slices.IndexFunc(m.records, func(was *record) bool { return was.state == pieceLost && was.id == id })
	switch {
	case i < 0:
	case m.records[i].quantity == quantity:
		m.records = slices.Delete(m.records, i, i+1)
	case m.fold == AggregateSum:
		was := m.records[i]
		was.quantity, was.id = was.quantity-quantity, ""
		m.recountLocked(was, tick)
	}
}

// parkedKey tells a record from another one that has its ID.
type parkedKey struct {
	id, customer, feature  string
	stamp, quantity, calls int64
}

func (l *parkedLine) key() parkedKey {
	return parkedKey{l.ID, l.Customer, l.Feature, nanos(l.Time), l.Quantity, l.Calls}
}

// isParked reports whether the record of a frame was parked by the process that
// left both. One that was never tried is another one.
func (b *batcher) isParked(f *frame) bool {
	if f.first == 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.adopted[parkedKey{f.id, f.customer, f.feature, f.stamp, f.quantity, int64(f.calls)}]
}

// park keeps records that are tried no more.
func (b *batcher) park(kind Parked, usage []Usage, reason error) bool {
	lines := make([]parkedLine, len(usage))
	b.mu.Lock()
	for i := range usage {
		lines[i] = parkedFrom(kind, &usage[i], reason)
		delete(b.redriven, lines[i].key())
	}
	b.mu.Unlock()
	err := b.parking.put(lines)
	if err != nil {
		b.cfg.Logger.Error("entitlements: usage that is given up can't be written to Config.SpoolDir", "error", err, "records", len(lines))
	}
	return err == nil
}

// found counts what an earlier process parked.
func (b *batcher) found(lines []parkedLine) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range lines {
		if b.adopted == nil {
			b.adopted = make(map[parkedKey]bool)
		}
		b.adopted[lines[i].key()] = true
		b.tally.restored.Add(uint64(lines[i].Calls))
		b.tally.parked(lines[i].kind, lines[i].Calls)
	}
}

func (t *usageTally) parked(kind Parked, calls int64) {
	if kind == ParkedDead {
		t.deadLettered.Add(uint64(calls))
	} else {
		t.inDoubt.Add(uint64(calls))
	}
}
