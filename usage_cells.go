package entitlements

// How usage that is simple gets from a call to a record: into the cell of its
// customer and feature. What is queued is the customer's account, and when its turn
// comes all of its cells are sealed, which are side by side.

// hasCells reports whether usage may be counted in cells: where each call is to be
// looked at, or stored, meters do that.
func (b *batcher) hasCells() bool { return b.sink != nil && b.spool == nil && b.levels == nil }

// trackLocked counts a call of Track in a cell. It reports with simple that this is
// nothing for a cell, or not any more. Why is for a call that there is no room for.
func (b *batcher) trackLocked(a *account, feature string, n int64) (why dropReason, ok, simple bool) {
	number := b.books.features.find(feature)
	if number == noFeature || n < 0 || n >= cellUnits || !b.hasCells() || b.cfg.Aggregations[feature] != AggregateSum || a.meter(feature) != nil {
		return 0, false, false
	}
	f, _ := a.entry.Load().figureOf(feature)
	stamp := f.stampOf(b.clock.backendNow())
	o := a.openCell(number)
	if o == nil {
		o = a.obtainCellLocked(number)
	}
	open := o.isOpen()
	if open && stamp < minuteEnd(o.begun.Load()) {
		ok = o.take(n, stamp, 0)
		return 0, ok, ok
	}
	if records, _ := o.onTheWay(); records >= cellRecords || !f.holds(stamp) {
		a.busyLocked(0)
		return 0, false, false
	}
	if why, ok = b.admitLocked(a); !ok {
		a.busyLocked(0)
		return why, false, true
	}
	if open { // of a minute that is over
		o.sealLocked(a, &record{queued: true}, b.books)
	}
	o.cohort = b.cohort.Load()
	o.cohort.open.Add(1)
	o.begun.Store(stamp)
	o.taken.Store(wordOf(number) | wordFlag | takenCall | uint64(n))
	if b.cohort.Load() != o.cohort {
		b.kick() // a Flush came, and waits for it: it need not
	}
	a.busyLocked(1)
	a.setLocked(accountIdle, false)
	return 0, true, true
}

// admitLocked lets one more cell of an account wait to be dispatched, or says why not.
func (b *batcher) admitLocked(a *account) (dropReason, bool) {
	if b.over(b.pending.Add(1)) && b.cfg.Overflow == DropNewest {
		b.pending.Add(-1)
		return dropOverflow, false
	}
	if a.isLocked(accountQueued) {
		return 0, true
	}
	in := b.intakeOf(a)
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		b.pending.Add(-1)
		return dropClosed, false
	}
	in.fresh = append(in.fresh, queued{account: a})
	a.setLocked(accountQueued, true)
	return 0, true
}

// requeue lets a record be dispatched by itself: it was a cell's. Its account's lock
// is held.
func (b *batcher) requeue(r *record) {
	in := b.intakeOf(r.account)
	in.mu.Lock()
	in.fresh = append(in.fresh, queued{record: r})
	in.mu.Unlock()
	if b.flushing.Load() > 0 {
		b.kick() // it has taken in all that there was
	}
}

// sealLocked makes records of the cells of an account, so many at most, and appends
// them. It reports whether that was all. b.mu is held.
func (b *batcher) sealLocked(a *account, most int, records []*record) (_ []*record, all bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	open, queued := 0, 0
	for o := range a.opensLocked {
		if o.isOpen() {
			open++
		}
		for range o.queuedLocked {
			queued++
		}
	}
	room := most - queued
	left := min(room, open)
	var made []record // a few at a time: one that stays keeps the others
	for o := range a.opensLocked {
		for r := range o.queuedLocked {
			if most > 0 {
				most--
				r.queued = false
				records = append(records, r)
			}
		}
		if o.isOpen() && left > 0 {
			if len(made) == 0 {
				made = make([]record, min(left, recordsAtOnce))
			}
			o.sealLocked(a, &made[0], b.books)
			records, made = append(records, &made[0]), made[1:]
			left--
		}
	}
	all = open <= room
	a.setLocked(accountQueued, !all)
	return records, all
}

// recordsAtOnce is how many records are made in one piece, at most.
const recordsAtOnce = 16

// openCalls counts the calls in cells that wait to be dispatched.
func (a *account) openCalls() (calls uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for o := range a.opensLocked {
		calls += o.calls()
		for r := range o.queuedLocked {
			calls += r.calls
		}
	}
	return calls
}
