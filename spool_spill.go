package entitlements

import (
	"maps"
	"slices"
	"time"
)

// spill lets go of records that are on disk, when more than MaxPending wait in
// memory: segments full of such as were never sent, the latest ones. They count in
// the local view as they did, in one sum for each meter and day, and are read
// again when there is room. So an outage costs disk, and no memory.
func (b *batcher) spill() {
	most := int64(b.cfg.MaxPending)
	if b.pending.Load() <= most {
		return
	}
	spilt := b.spillable(b.pending.Load() - most/4*3)
	segments := make(map[*segment]bool)
	for _, r := range spilt {
		a := r.account
		a.mu.Lock()
		r.meter.spillLocked(r)
		a.mu.Unlock()
		segments[r.segment] = true
	}
	b.pending.Add(-int64(len(spilt)))
	b.spool.leave(segments)
	for _, r := range spilt {
		r.cohort.open.Add(-1) // who waits for it finds that the spool is behind
	}
}

// overflow makes room for records that are in memory only, by DropOldest: on disk
// where that is full, a segment at a time, and in memory where it is not.
func (b *batcher) overflow() {
	for b.cfg.Overflow == DropOldest {
		full := b.spool.pressed()
		unplaced, over := b.spool.unplaced()
		if !full && over == 0 {
			return
		}
		dropped := make(map[*record]bool)
		b.mu.Lock()
		b.gatherLocked(true)
		if full {
			b.oldestSegmentLocked(dropped)
		}
		if len(dropped) == 0 {
			b.oldestUnplacedLocked(dropped, unplaced, over)
		}
		b.ready = slices.DeleteFunc(b.ready, func(q queued) bool { return dropped[q.record] })
		b.mu.Unlock()
		if len(dropped) == 0 {
			return // all of it is being sent or tried again: at most FlushConcurrency batches
		}
		b.settle(slices.Collect(maps.Keys(dropped)), settlement{state: pieceLost, drop: dropOverflow, err: errDropped[dropOverflow]})
		b.spool.forget(dropped)
	}
}

// oldestSegmentLocked finds what is in one segment with the oldest record of ready.
func (b *batcher) oldestSegmentLocked(found map[*record]bool) {
	var oldest *segment
	for _, q := range b.ready {
		g := q.record.place()
		if oldest == nil {
			oldest = g
		}
		if g != nil && g == oldest {
			found[q.record] = true
		}
	}
}

// oldestUnplacedLocked finds so many of the oldest records that are in memory only
// and in ready.
func (b *batcher) oldestUnplacedLocked(found map[*record]bool, unplaced []*record, most int) {
	ready := make(map[*record]bool, len(b.ready))
	for _, q := range b.ready {
		ready[q.record] = true
	}
	for _, r := range unplaced {
		if len(found) < most && ready[r] {
			found[r] = true
		}
	}
}

// spillable takes records out of ready, about so many: all of a segment, or none.
func (b *batcher) spillable(wanted int64) (spilt []*record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	idle := make(map[*segment]int64) // how many of a segment's records may go
	waiting := make([]*record, len(b.ready))
	for i, q := range b.ready {
		waiting[i] = q.record
	}
	b.eachRecord(waiting, func(r *record) {
		if r.restsLocked(b.clock.coarse.Load()) {
			idle[r.segment]++
		}
	})
	going := make(map[*segment]bool)
	for _, q := range slices.Backward(b.ready) {
		g := q.record.place()
		if wanted <= 0 {
			break
		}
		if g != nil && !going[g] && idle[g] == g.live.Load() && b.spool.isFilled(g) {
			going[g] = true
			wanted -= idle[g]
		}
	}
	b.ready = slices.DeleteFunc(b.ready, func(q queued) bool {
		goes := going[q.record.place()]
		if goes {
			spilt = append(spilt, q.record)
		}
		return goes
	})
	b.eachRecord(spilt, func(r *record) { b.tally.spilt.Add(r.calls) })
	return spilt
}

// restsLocked reports whether a record may be let go of: it is on disk, was never
// sent, nobody waits for it, and nothing is folded into it any more.
func (r *record) restsLocked(coarse int64) bool {
	m := r.meter
	if r.segment == nil || r.segment.broken.Load() || r.sent != 0 || r.report != nil || r.waived != 0 || m.fold == AggregateLast {
		return false
	}
	if m.open == r && coarse >= m.until {
		m.sealLocked()
	}
	return m.open != r
}

// spillLocked lets a sum count for a record.
func (m *meter) spillLocked(r *record) {
	sum := m.spiltLocked(r, func(sum *record) bool { return saturate(sum.quantity, r.quantity) != Unlimited })
	if sum == nil {
		sum = m.newRecord(piece{stamp: r.stamp})
		sum.spilt = true
		m.records = append(m.records, sum)
	}
	if m.fold == AggregateMax {
		sum.quantity = max(sum.quantity, r.quantity)
	} else {
		sum.quantity += r.quantity
	}
	sum.calls += r.calls
	sum.stamp = max(sum.stamp, r.stamp)
	m.records = slices.DeleteFunc(m.records, func(other *record) bool { return other == r })
	m.recountAllLocked()
}

// unspillLocked takes a record, which counts by itself now, off the sum.
func (m *meter) unspillLocked(r *record) {
	sum := m.spiltLocked(r, func(sum *record) bool { return sum.calls >= r.calls })
	if sum == nil {
		// A period became known meanwhile that begins or ends among what is in the
		// sum: it counts in one of the two.
		day := int64(24 * time.Hour)
		i := slices.IndexFunc(m.records, func(sum *record) bool {
			return sum.spilt && sum.stamp/day == r.stamp/day && sum.calls >= r.calls
		})
		if i < 0 {
			return
		}
		sum = m.records[i]
	}
	if sum.calls -= r.calls; sum.calls == 0 {
		m.records = slices.DeleteFunc(m.records, func(other *record) bool { return other == sum })
	}
	if m.fold == AggregateSum {
		sum.quantity -= r.quantity
	}
	m.recountAllLocked()
}

// spiltLocked finds the sum of the day and the period of a record.
func (m *meter) spiltLocked(r *record, fits func(*record) bool) *record {
	day := int64(24 * time.Hour)
	for _, sum := range m.records {
		if sum.spilt && sum.stamp/day == r.stamp/day && m.figure.period(sum.stamp) == m.figure.period(r.stamp) && fits(sum) {
			return sum
		}
	}
	return nil
}

func (m *meter) recountAllLocked() {
	m.syncLocked()
	for _, r := range m.records {
		if r.spilt {
			r.counted, r.counts = m.figure.missing(&r.piece, 0)
		}
	}
	m.publishLocked()
}
