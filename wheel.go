package entitlements

// A wheel holds entries until they are due, in slots of a fixed width. Putting
// one in and taking one out costs the same however many there are; the price is
// that entries of one slot come out in no order among themselves.
//
// An entry that is put in again leaves its old place behind: what comes out
// counts only when its time is the entry's own.
type wheel struct {
	width int64
	slots [wheelSlots][]timed
	next  int64 // number of the first slot that is not drained
	count int
}

type timed struct {
	entry *entry
	due   int64
}

// wheelSlots times the width is how far ahead the wheel reaches. What is due
// later waits in its last slot and is put in again from there.
const wheelSlots = 512

func newWheel(width, now int64) *wheel { return &wheel{width: width, next: now / width} }

func (w *wheel) put(e *entry, due int64) {
	slot := min(max(due/w.width, w.next), w.next+wheelSlots-1)
	i := slot % wheelSlots
	w.slots[i] = append(w.slots[i], timed{e, due})
	w.count++
}

// drain takes out what is due. Oldest slots come first.
func (w *wheel) drain(now int64, due func(timed)) {
	var later []timed // was beyond the reach when it was put in
	for ; w.next < now/w.width; w.next++ {
		i := w.next % wheelSlots
		items := w.slots[i]
		w.slots[i] = nil
		w.count -= len(items)
		for _, t := range items {
			if t.due >= (w.next+1)*w.width {
				later = append(later, t)
			} else {
				due(t)
			}
		}
	}
	for _, t := range later {
		w.put(t.entry, t.due)
	}
}

// wait is how long until something may be due.
func (w *wheel) wait(now int64) int64 {
	if w.count == 0 {
		return int64(forever)
	}
	for n := w.next; n < w.next+wheelSlots; n++ {
		if len(w.slots[n%wheelSlots]) > 0 {
			return max(1, (n+1)*w.width-now)
		}
	}
	return int64(forever)
}
