package entitlements

import (
	"sync/atomic"
	"unsafe"
)

// The cells of an account are in two arrays of as many places: one of cells, and
// one of their open halves, which is there only while something is open or on its
// way. A place is found by the number of its feature, open-addressed; up to four
// are looked through.
//
// Both arrays grow, and never shrink. Readers take no lock: who reads the number of
// places first, and then an array, finds at least as many in it. A cell is found
// by a word that begins it and names its feature, in either array.

// The words that begin a cell and an open half: a flag, the number of the feature
// plus one, and what is counted.
const (
	wordFlag   = 1 << 63
	wordNumber = 1 << 52
	wordName   = wordFlag - wordNumber
)

func wordOf(number int) uint64 { return uint64(number+1) * wordNumber }

func numberOfWord(word uint64) int { return int(word&wordName/wordNumber) - 1 }

func cellAt(first *cell, i uint32) *cell {
	return (*cell)(unsafe.Add(unsafe.Pointer(first), uintptr(i)*unsafe.Sizeof(cell{})))
}

func openAt(first *openCell, i uint32) *openCell {
	return (*openCell)(unsafe.Add(unsafe.Pointer(first), uintptr(i)*unsafe.Sizeof(openCell{})))
}

// fewPlaces are looked through. More are a power of two, of which an eighth is free.
const fewPlaces = 4

// firstPlace is where to look for a name first.
func firstPlace(name uint64, places uint32) uint32 {
	if places <= fewPlaces {
		return 0
	}
	return uint32(name/wordNumber) & (places - 1)
}

// openCell finds the open half of a cell, or nil. It takes no lock.
func (a *account) openCell(number int) *openCell {
	places := a.places.Load()
	first := a.opens.Load()
	if first == nil || number < 0 {
		return nil
	}
	name := wordOf(number)
	i := firstPlace(name, places)
	for range places {
		o := openAt(first, i)
		switch o.taken.Load() & wordName {
		case name:
			return o
		case 0:
			return nil
		}
		if i++; i == places {
			i = 0
		}
	}
	return nil
}

// cell finds a cell, or nil: also when a meter took over. It takes no lock.
func (a *account) cell(number int) *cell {
	if i, ok := a.place(number); ok {
		return cellAt(a.cells.Load(), i)
	}
	return nil
}

func (a *account) place(number int) (i uint32, ok bool) {
	places := a.places.Load()
	if places == 0 || number < 0 {
		return 0, false
	}
	first, name := a.cells.Load(), wordOf(number)
	i = firstPlace(name, places)
	for range places {
		switch cellAt(first, i).kept.Load() &^ keptUnits {
		case name:
			return i, true
		case 0:
			return 0, false
		}
		if i++; i == places {
			i = 0
		}
	}
	return 0, false
}

// cellsLocked yields the cells that are none of a meter's, with their open halves,
// which may be nil.
func (a *account) cellsLocked(yield func(c *cell, o *openCell) bool) {
	first, opens := a.cells.Load(), a.opens.Load()
	for i := range a.places.Load() {
		c := cellAt(first, i)
		if word := c.kept.Load(); word == 0 || word&wordFlag != 0 {
			continue
		}
		var o *openCell
		if opens != nil {
			o = openAt(opens, i)
		}
		if !yield(c, o) {
			return
		}
	}
}

// opensLocked yields the open halves.
func (a *account) opensLocked(yield func(o *openCell) bool) {
	first := a.opens.Load()
	if first == nil {
		return
	}
	for i := range a.places.Load() {
		if !yield(openAt(first, i)) {
			return
		}
	}
}

// obtainCellLocked is the open half of a feature's cell, made where it is missing.
func (a *account) obtainCellLocked(number int) *openCell {
	i, ok := a.place(number)
	if !ok {
		i = a.addCellLocked(number)
	}
	if a.opens.Load() == nil {
		a.addOpensLocked()
	}
	return openAt(a.opens.Load(), i)
}

// addCellLocked gives a feature a place.
func (a *account) addCellLocked(number int) uint32 {
	places := a.places.Load()
	switch placed := uint32(a.placed); {
	case placed < fewPlaces && placed == places:
		a.growLocked(places + 1)
	case placed >= fewPlaces && 8*(placed+1) > 7*places:
		a.growLocked(4 * places) // who uses as many uses more
	}
	a.placed++
	name := wordOf(number)
	i := freePlace(a.cells.Load(), a.places.Load(), name)
	cellAt(a.cells.Load(), i).kept.Store(name)
	if opens := a.opens.Load(); opens != nil {
		openAt(opens, i).taken.Store(name)
	}
	return i
}

func freePlace(first *cell, places uint32, name uint64) uint32 {
	i := firstPlace(name, places)
	for cellAt(first, i).kept.Load() != 0 {
		if i++; i == places {
			i = 0
		}
	}
	return i
}

// growLocked moves all cells. The open halves that were take no more calls.
func (a *account) growLocked(places uint32) {
	alone := a.beginMoveLocked()
	defer a.endMoveLocked(alone)
	was, opened, had := a.cells.Load(), a.opens.Load(), a.places.Load()
	first := unsafe.SliceData(make([]cell, places))
	var opens *openCell
	if opened != nil {
		opens = unsafe.SliceData(make([]openCell, places))
	}
	for i := range had {
		from := cellAt(was, i)
		word := from.kept.Load()
		if word == 0 {
			continue
		}
		at := freePlace(first, places, word&wordName)
		to := cellAt(first, at)
		to.kept.Store(word)
		to.acked.Store(from.acked.Load())
		to.stamp = from.stamp
		if opened != nil {
			o, open := openAt(opened, i), openAt(opens, at)
			open.taken.Store(shut(&o.taken, func(word uint64) uint64 { return word &^ wordFlag }))
			open.begun.Store(o.begun.Load())
			open.sealed.Store(o.sealed.Load())
			open.cohort = o.cohort
		}
	}
	a.cells.Store(first)
	a.opens.Store(opens)
	a.places.Store(places) // last: see above
}

// shut replaces a word that calls add to, and returns what it was.
func shut(word *atomic.Uint64, by func(uint64) uint64) uint64 {
	for {
		if w := word.Load(); word.CompareAndSwap(w, by(w)) {
			return w
		}
	}
}

// addOpensLocked makes the open halves.
func (a *account) addOpensLocked() {
	places, first := a.places.Load(), a.cells.Load()
	opens := unsafe.SliceData(make([]openCell, places))
	for i := range places {
		openAt(opens, i).taken.Store(cellAt(first, i).kept.Load() & wordName)
	}
	a.opens.Store(opens)
}

// busyLocked notes that so many records more are open or on their way. Without any
// there is no need for open halves.
func (a *account) busyLocked(more int16) {
	if a.busy += more; a.busy == 0 {
		a.opens.Store(nil)
	}
}
