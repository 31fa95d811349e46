package entitlements

import (
	"context"
	"math"
	"slices"
)

// settlement is how records end.
type settlement struct {
	state   pieceState
	at      int64 // precise: when the acknowledgement was read
	dead    bool
	spooled bool // it stays on disk, for the next run
	counted bool // by close, as spooled
	inDoubt bool
	drop    dropReason // when neither acked, dead nor in doubt
	err     error
}

// settle ends records: each exactly once, whoever comes first. It returns the
// number of calls in them.
func (b *batcher) settle(records []*record, s settlement) (calls uint64) {
	if len(records) == 0 {
		return 0
	}
	// Told last: who is told finds it in Stats.
	var waiting []*report
	var parked []Usage
	var marks []mark
	var ended []endedRecords
	var locked lockedAccount
	for _, r := range records {
		var n uint64
		var u Usage
		locked.lock(r.account)
		if !r.settled() {
			r.syncLocked()
			if n = r.calls; s.dead || s.inDoubt {
				u = r.usage()
			}
			if r.acked = s.at; s.state == pieceLost {
				r.acked = b.clock.precise()
			}
			b.settleLocked(r, s.state)
			if r.meter != nil {
				r.meter.compactLocked(r.acked, int64(b.clock.tick))
			}
			if !s.spooled {
				marks = r.markLocked(marks, stageSettled, r.acked)
			}
			if s.state == pieceAcked {
				r.id, r.properties = "", nil // nobody asks for them again, and an ID keeps those of its batch
			}
		}
		if n == 0 {
			continue
		}
		calls += n
		if last := len(ended) - 1; last >= 0 && ended[last].cohort == r.cohort {
			ended[last].records++
		} else {
			ended = append(ended, endedRecords{r.cohort, 1})
		}
		if s.dead || s.inDoubt {
			parked = append(parked, u)
		}
		if r.report != nil {
			waiting = append(waiting, r.report)
		}
	}
	locked.unlock()
	kind := ParkedInDoubt
	if s.dead {
		kind = ParkedDead
	}
	if len(parked) == 0 || b.park(kind, parked, s.err) {
		b.settledOnDisk(marks)
	}
	switch {
	case s.counted:
	case s.spooled:
		b.tally.spooled.Add(calls)
	case s.state == pieceAcked:
		b.tally.delivered.Add(calls)
	case s.dead:
		b.tally.deadLettered.Add(calls)
	case s.inDoubt:
		b.tally.inDoubt.Add(calls)
	default:
		b.drop(s.drop, calls)
	}
	for _, e := range ended {
		b.end(e.cohort, e.records)
	}
	for _, u := range parked {
		if s.dead {
			b.dead(u, s.err)
		}
	}
	for _, w := range waiting {
		w.settle(s.err)
	}
	b.announce()
	return calls
}

// endedRecords is how many of a cohort.
type endedRecords struct {
	cohort  *cohort
	records int64
}

// end accounts for records that are not pending any more.
func (b *batcher) end(c *cohort, records int64) {
	b.pending.Add(-records)
	c.open.Add(-records)
}

// announce wakes those who wait for records to settle.
func (b *batcher) announce() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.changed)
	b.changed = make(chan struct{})
}

// settledOnDisk lets go of what is on disk.
func (b *batcher) settledOnDisk(marks []mark) {
	if len(marks) == 0 {
		return
	}
	storeMarks(marks)
	for _, k := range marks {
		if k.segment.live.Add(-1) == 0 {
			b.spool.nudge()
		}
	}
}

// settleLocked ends one record. Its account's lock is held. The caller counts it,
// and calls end then.
func (b *batcher) settleLocked(r *record, state pieceState) {
	if r.meter == nil {
		a := r.account
		if state == pieceAcked && a.ackCellLocked(r, b.books) {
			r.state = state
			return
		}
		a.promoteLocked(int(r.number), b.books) // and is the meter's from here on
	}
	r.sealLocked()
	r.state = state
	b.recountLocked(r)
}

// flush waits until all that was recorded before has an end.
func (b *batcher) flush(ctx context.Context) error {
	if b.sink == nil {
		return nil
	}
	before := b.tally.delivered.Load()
	if err := b.caughtUp(ctx); err != nil {
		return &UndeliveredError{Pending: b.pendingCalls(), Delivered: b.tally.delivered.Load() - before, Err: err}
	}
	b.flushing.Add(1)
	defer b.flushing.Add(-1)
	b.mu.Lock()
	mine := b.cohort.Swap(new(cohort))
	b.cohorts = append(b.cohorts, mine)
	// Takes each shard's lock after the swap, so that whoever is still putting a
	// record into the old cohort is counted in it.
	b.gatherLocked(true)
	b.mu.Unlock()
	b.nudge()
	for {
		b.mu.Lock()
		done, lost := b.endedLocked(mine), b.lost
		changed := b.changed
		b.mu.Unlock()
		switch {
		case done && lost > 0: // Close came and gave up
			return &UndeliveredError{Delivered: b.tally.delivered.Load() - before, Lost: lost, Err: ErrClosed}
		case done && b.spool != nil && b.spool.behind():
			return b.flush(ctx) // some of it went back to the disk meanwhile
		case done:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return &UndeliveredError{
				Delivered: b.tally.delivered.Load() - before, Pending: b.pendingCalls(), Err: context.Cause(ctx),
			}
		}
	}
}

// caughtUp waits until all that earlier processes left is in memory.
func (b *batcher) caughtUp(ctx context.Context) error {
	for b.spool != nil {
		b.mu.Lock()
		changed, shut := b.changed, b.shut
		b.mu.Unlock()
		if shut || !b.spool.behind() {
			return nil
		}
		b.nudge()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// endedLocked reports whether all records of a cohort and of those before it have
// an end. Cohorts that have are forgotten from the front.
func (b *batcher) endedLocked(mine *cohort) bool {
	for len(b.cohorts) > 0 && b.cohorts[0].open.Load() == 0 {
		first := b.cohorts[0]
		b.cohorts = b.cohorts[1:]
		if first == mine {
			return true
		}
	}
	return !slices.Contains(b.cohorts, mine) // another call forgot it
}

// pendingCalls counts the calls in all records that have no end yet: record by
// record, not as a difference, so that the account can be checked.
func (b *batcher) pendingCalls() (calls uint64) {
	b.mu.Lock()
	records, accounts := b.waitingLocked()
	calls = b.tally.spilt.Load()
	for _, a := range accounts { // under b.mu: none of them goes on meanwhile
		calls += a.openCalls()
	}
	b.mu.Unlock()
	b.eachRecord(records, func(r *record) { calls += r.calls })
	return calls + b.localCalls() + b.tally.spooled.Load()
}

// waitingLocked returns all records that are in memory and have no end yet, and
// some that have, and the accounts whose cells wait to be dispatched.
func (b *batcher) waitingLocked() (records []*record, accounts []*account) {
	records = slices.Clone(b.alone)
	for d := range b.flying {
		records = append(records, d.records...)
	}
	for _, d := range b.retries {
		records = append(records, d.records...)
	}
	sort := func(waiting []queued) {
		for _, q := range waiting {
			if q.record != nil {
				records = append(records, q.record)
			} else {
				accounts = append(accounts, q.account)
			}
		}
	}
	sort(b.ready)
	for i := range b.intake {
		in := &b.intake[i]
		in.mu.Lock()
		sort(in.fresh)
		sort(in.waited)
		in.mu.Unlock()
	}
	return records, accounts
}

// localCalls counts the calls that no Sink will ever take.
func (b *batcher) localCalls() (calls uint64) {
	if b.sink != nil {
		return 0
	}
	b.books.each(func(a *account) {
		for m := range a.meters() {
			m.syncLocked()
			for _, r := range m.records {
				if !r.settled() {
					calls += r.calls
				}
			}
		}
	})
	return calls
}

// close delivers what it can until ctx ends, then gives up the rest. The loop
// must still run.
func (b *batcher) close(ctx context.Context) error {
	for i := range b.intake {
		in := &b.intake[i]
		in.mu.Lock()
		in.closed = true
		in.mu.Unlock()
	}
	spooledBefore := b.tally.spooled.Load()
	before, doubtBefore := b.tally.delivered.Load(), b.tally.inDoubt.Load()
	_ = b.flush(ctx) // what it says is said below, of what is given up
	b.mu.Lock()
	b.shut = true // from here on a delivery that is about to begin does not
	b.gatherLocked(true)
	left, accounts := b.waitingLocked()
	for _, a := range accounts {
		left, _ = b.sealLocked(a, math.MaxInt, left)
	}
	b.ready = nil
	b.gatherLocked(true) // what meters took over before their account's turn
	for _, q := range b.ready {
		left = append(left, q.record)
	}
	b.ready, b.alone, b.retries = nil, nil, nil
	b.tally.spooled.Add(b.tally.spilt.Swap(0))
	b.mu.Unlock()

	// What was sent without an answer may have arrived: it is in doubt. The rest
	// is dropped. Either way billing may never hear of it.
	// What is on disk stays there, whatever it is: the next run goes on with it.
	durable := b.spool != nil && len(left) > 0 && b.spool.durable(ctx, nil)
	var kept, doubtful, unsent []*record
	b.eachRecord(left, func(r *record) {
		switch {
		case r.segment != nil && !r.segment.broken.Load():
			kept = append(kept, r)
		case r.sent != 0:
			doubtful = append(doubtful, r)
		default:
			unsent = append(unsent, r)
		}
	})
	end := settlement{state: pieceLost, spooled: true}
	if !durable {
		end.err = ErrClosed // it survives the process, maybe not the machine
	}
	b.settle(kept, end)
	b.settle(doubtful, settlement{state: pieceLost, inDoubt: true, err: errInDoubt})
	lost := b.settle(unsent, settlement{state: pieceLost, drop: dropUndelivered, err: ErrClosed})
	if b.spool == nil { // else it is parked on disk
		lost += b.tally.inDoubt.Load() - doubtBefore
	}
	b.endLocal()
	b.mu.Lock()
	b.lost = lost
	b.mu.Unlock()
	spooled := b.tally.spooled.Load() - spooledBefore
	if lost+spooled == 0 {
		return nil
	}
	err := context.Cause(ctx)
	if err == nil {
		err = errInDoubt // delivered in time, but for those
	}
	return &UndeliveredError{Delivered: b.tally.delivered.Load() - before, Spooled: spooled, Lost: lost, Err: err}
}

// endLocal ends the records that no Sink would have taken.
func (b *batcher) endLocal() {
	if b.sink != nil {
		return
	}
	b.books.each(func(a *account) {
		for m := range a.meters() {
			m.syncLocked()
			for _, r := range m.records {
				if !r.settled() {
					b.drop(dropNoSink, r.calls)
					b.settleLocked(r, pieceLost)
					b.end(r.cohort, 1)
				}
			}
		}
	})
}

// stats reads the account.
func (b *batcher) stats() UsageStats {
	s := UsageStats{
		Recorded:     b.counters.sum((*stripe).calls),
		Restored:     b.tally.restored.Load(),
		Delivered:    b.tally.delivered.Load(),
		Pending:      b.pendingCalls(),
		InDoubt:      b.tally.inDoubt.Load(),
		DeadLettered: b.tally.deadLettered.Load(),
		DroppedBy:    make(map[string]uint64),

		ReservationsExpired: b.holds.expired.Load(),
	}
	if b.spool != nil {
		s.Degraded, s.Unreadable = b.spool.degraded.Load(), b.spool.damaged.Load()
	}
	for reason := range b.tally.dropped {
		if n := b.tally.dropped[reason].Load(); n > 0 {
			s.DroppedBy[dropNames[reason]] = n
			s.Dropped += n
		}
	}
	return s
}
