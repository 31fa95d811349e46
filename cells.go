package entitlements

import (
	"slices"
	"sync/atomic"
	"time"
)

// A cell counts one feature of one customer as long as that is simple: calls of
// Track, of no less than nothing each, in one period. Nearly all usage is, and
// there may be millions of cells, so a cell is small: 24 bytes that stay for as
// long as a figure may lack what was delivered, and 32 only while something is open
// or on its way.
//
// What is simple about it is that all of it counts in full, and in the period of
// the figure. So the view is the figure, which the entry knows, and what the cell
// has. What is not simple makes the cell a meter: see promoteLocked.

// cell is what was delivered. Writers hold the account's lock.
type cell struct {
	kept  atomic.Uint64 // the units that a figure may lack; its flag: a meter took over
	acked atomic.Int64  // precise: the latest acknowledgement of them
	stamp int64         // backend: the latest of their calls
}

// openCell is what takes calls, and what is on its way. Writers hold the account's
// lock, but for take.
type openCell struct {
	taken  atomic.Uint64          // units and calls; its flag: a record is open
	begun  atomic.Int64           // backend: the first of the calls
	sealed atomic.Pointer[record] // and not settled, the latest first; linked by record.next
	cohort *cohort                // of the open record
}

// What the words count, and what a cell does not: a call of so many units, and a
// record more than these on their way.
const (
	keptUnits  = wordNumber - 1
	takenUnits = 1<<38 - 1
	takenCall  = 1 << 38
	takenCalls = wordNumber - takenCall

	cellUnits   = 1 << 31
	cellRecords = 4
)

const (
	minute = int64(time.Minute)
	day    = 24 * int64(time.Hour)
)

// minuteEnd is the end of the UTC minute of a moment.
func minuteEnd(stamp int64) int64 { return stamp - stamp%minute + minute }

// take adds a call at a moment on the backend's clock, when that is not within
// margin of the end of the minute. It reports false where a closer look is needed.
func (o *openCell) take(n, now, margin int64) bool {
	for {
		w := o.taken.Load()
		if w&wordFlag == 0 || w&takenCalls == takenCalls || int64(w&takenUnits)+n > takenUnits ||
			now+margin >= minuteEnd(o.begun.Load()) {
			return false
		}
		if o.taken.CompareAndSwap(w, w+takenCall+uint64(n)) {
			return true
		}
	}
}

func (o *openCell) isOpen() bool { return o.taken.Load()&wordFlag != 0 }

func (o *openCell) number() int { return numberOfWord(o.taken.Load()) }

func (c *cell) number() int { return numberOfWord(c.kept.Load()) }

func (c *cell) units() int64 { return int64(c.kept.Load() & keptUnits) }

// calls is how many the open record has taken.
func (o *openCell) calls() uint64 { return o.taken.Load() & takenCalls / takenCall }

// onTheWay counts the records that are sealed and not settled, and their units.
func (o *openCell) onTheWay() (records int, units int64) {
	for r := o.sealed.Load(); r != nil; r = r.next.Load() {
		records++
		units += r.quantity
	}
	return records, units
}

// queuedLocked yields the records that ended with their minutes, before their turn
// to be dispatched, the earliest first.
func (o *openCell) queuedLocked(yield func(*record) bool) {
	var records [cellRecords]*record
	n := 0
	for r := o.sealed.Load(); r != nil; r = r.next.Load() {
		if r.queued {
			records[n] = r
			n++
		}
	}
	for n > 0 {
		if n--; !yield(records[n]) {
			return
		}
	}
}

// sealLocked makes r of what is open, which is then on its way.
func (o *openCell) sealLocked(a *account, r *record, b *books) {
	alone := a.beginMoveLocked()
	defer a.endMoveLocked(alone)
	o.fillLocked(a, r, b)
	r.next.Store(o.sealed.Load())
	o.sealed.Store(r)
}

// fillLocked lets r have what is open.
func (o *openCell) fillLocked(a *account, r *record, b *books) {
	w := shut(&o.taken, func(word uint64) uint64 { return word & wordName })
	r.account, r.number = a, int32(numberOfWord(w))
	r.feature = b.features.code(int(r.number))
	r.quantity, r.calls = int64(w&takenUnits), w&takenCalls/takenCall
	r.stamp, r.ends, r.cohort = o.begun.Load(), minuteEnd(o.begun.Load()), o.cohort
	o.cohort = nil
}

// ackCellLocked lets a cell keep what was accepted of it, until a figure contains
// it. It reports false when that is not simple: what was accepted before waits for
// a figure already, and would have to wait for as long as this; or nothing is known
// of the customer, and the two may turn out to be of different periods.
func (a *account) ackCellLocked(r *record, b *books) bool {
	number := int(r.number)
	c, o := a.cell(number), a.openCell(number)
	units := c.units()
	e := a.entry.Load()
	switch f, known := e.figureOf(r.feature); {
	case units == 0:
	case known && c.isIn(&f, b.tick):
		units = 0
	case known, units+r.quantity > keptUnits:
		return false
	case (e == nil || e.gone.Load()) && c.stamp/day != r.stamp/day:
		return false
	}
	alone := a.beginMoveLocked()
	defer a.endMoveLocked(alone)
	o.dropLocked(r)
	if units == 0 {
		c.stamp = r.stamp
	}
	c.stamp = max(c.stamp, r.stamp)
	c.acked.Store(max(c.acked.Load(), r.acked))
	c.kept.Store(wordOf(number) | uint64(units+r.quantity))
	a.busyLocked(-1)
	return true
}

// dropLocked takes a record off those that are on their way.
func (o *openCell) dropLocked(r *record) {
	at := &o.sealed
	for at.Load() != r {
		at = &at.Load().next
	}
	at.Store(r.next.Load())
}

// isIn reports whether a figure contains what was delivered.
func (c *cell) isIn(f *figure, tick int64) bool {
	p := piece{acked: c.acked.Load(), state: pieceAcked}
	return f.contains(&p, tick)
}

// fits reports whether all that a cell has counts in full, in the period of a
// figure.
func (c *cell) fits(o *openCell, f *figure, tick int64) bool {
	if c.units() > 0 && !c.isIn(f, tick) && f.period(c.stamp) != periodCurrent {
		return false
	}
	if o == nil {
		return true
	}
	if o.isOpen() && !f.holds(o.begun.Load()) {
		return false
	}
	for r := o.sealed.Load(); r != nil; r = r.next.Load() {
		if f.period(r.stamp) != periodCurrent {
			return false
		}
	}
	return true
}

// holds reports whether a moment, and what follows of its minute, is in the
// figure's period.
func (f *figure) holds(stamp int64) bool {
	return f.period(stamp) == periodCurrent && (f.resets == 0 || minuteEnd(stamp) <= f.resets)
}

// missing is how many units of a cell a figure may lack.
func (a *account) missing(number int, f *figure, tick int64) (units int64, ok bool) {
	c := a.cell(number)
	if c == nil {
		return 0, false
	}
	if !c.isIn(f, tick) {
		units = c.units()
	}
	if o := a.openCell(number); o != nil {
		_, sealed := o.onTheWay()
		units += sealed + int64(o.taken.Load()&takenUnits)
	}
	return units, true
}

// figureOf is the figure of a metered feature; false where none is known.
func (e *entry) figureOf(feature string) (figure, bool) {
	if e != nil {
		if p, o := e.content(); o != nil {
			if g := p.metered(feature); g != nil {
				return o.figure(g), true
			}
		}
	}
	return figure{}, false
}

// promoteLocked makes the cell of a feature a meter, with all that it has. It
// returns nil when there is no cell.
func (a *account) promoteLocked(number int, b *books) *meter {
	c := a.cell(number)
	if c == nil {
		return nil
	}
	alone := a.beginMoveLocked()
	defer a.endMoveLocked(alone)
	m := a.addMeterLocked(b.features.code(number), AggregateSum, b.features)
	if units := c.units(); units > 0 {
		acked := c.acked.Load()
		m.records = append(m.records, m.newRecord(piece{
			quantity: units, stamp: c.stamp, sent: acked, acked: acked, state: pieceAcked,
		}))
	}
	var open *record
	if o := a.openCell(number); o != nil {
		for r := range o.queuedLocked {
			r.queued = false
			b.requeue(r)
		}
		at := len(m.records)
		for r := o.sealed.Load(); r != nil; {
			r.meter = m
			m.records = slices.Insert(m.records, at, r)
			r = r.next.Swap(nil)
			a.busyLocked(-1)
		}
		o.sealed.Store(nil)
		if o.isOpen() {
			// Not among the sealed for a moment: somebody may read it there, and it goes on
			// changing.
			open = new(record)
			o.fillLocked(a, open, b)
			open.meter = m
			m.records = append(m.records, open)
			a.busyLocked(-1)
			b.requeue(open)
		}
	}
	c.kept.Store(wordOf(number) | wordFlag)
	m.installLocked(m.figure, b.tick)
	if open != nil {
		m.openLocked(open, 0)
	}
	return m
}

// keepFiguresLocked makes meters of the cells of which the entry knows figures,
// before it knows them no more. What they lack is not what another figure lacks.
func (a *account) keepFiguresLocked(b *books) {
	e := a.entry.Load()
	for c := range a.cellsLocked {
		if _, known := e.figureOf(b.features.code(c.number())); known {
			a.promoteLocked(c.number(), b)
		}
	}
}

// showLocked makes e the entry that shows the account.
func (a *account) showLocked(e *entry, b *books) {
	if a.entry.Load() != e {
		a.keepFiguresLocked(b)
		a.entry.Store(e)
	}
}

// fitCellsLocked makes meters of those cells that would not be simple any more when
// the entry shows the figures of a plan.
func (a *account) fitCellsLocked(p *plan, figures func(*grant) figure, b *books) {
	e := a.entry.Load()
	for c, o := range a.cellsLocked {
		code := b.features.code(c.number())
		if g := p.metered(code); g != nil {
			if f := figures(g); c.fits(o, &f, b.tick) {
				continue
			}
		} else if _, known := e.figureOf(code); !known {
			continue
		} // else the figure from before still speaks for what was not delivered yet
		a.promoteLocked(c.number(), b)
	}
}

// cellsWaitLocked reports whether what was delivered waits for a figure.
func (a *account) cellsWaitLocked(b *books) bool {
	e := a.entry.Load()
	for c := range a.cellsLocked {
		if c.units() > 0 {
			if f, known := e.figureOf(b.features.code(c.number())); known && !c.isIn(&f, b.tick) {
				return true
			}
		}
	}
	return false
}

// cellsQuietLocked is quietLocked for the cells.
func (a *account) cellsQuietLocked(cached bool, since, backendNow int64, b *books) bool {
	if a.busy > 0 {
		return false
	}
	e := a.entry.Load()
	for c := range a.cellsLocked {
		if c.units() == 0 {
			continue
		}
		f, known := e.figureOf(b.features.code(c.number()))
		switch {
		case known && (f.period(c.stamp) == periodPast || f.resets != 0 && backendNow >= f.resets):
			// Its period is over.
		case known && cached:
			if !c.isIn(&f, b.tick) {
				return false
			}
		case c.acked.Load() >= since:
			return false
		}
	}
	return true
}
