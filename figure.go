package entitlements

import (
	"math"
	"math/bits"
	"time"
)

// The accounting rule: what to add to the number that the backend told.
//
// A figure is that number, with the interval in which it was read. A piece is
// usage counted here that became one record. The question is which pieces the
// figure may not contain. Saying "none" forgets usage and lets a customer over
// its limit; saying "all" counts twice and locks it out. Everything in this file
// is pure; DESIGN.md has the argument.

// figure is a customer's own part of one grant, as installed.
type figure struct {
	expires, resets int64 // backend; 0 = never
	used            int64
	start           int64 // backend; 0 = unknown

	// floor is where the figure's period began as far as is known: start, or the
	// end of an earlier period that this process saw, and not after the figure was
	// read. Usage before it counts nothing any more.
	floor int64

	fetched  int64 // precise: the fetch began
	received int64 // precise: its answer was here
	horizon  int64 // precise: what was acknowledged before this is contained
}

// horizonOf is the moment before which all accepted usage is contained in an
// answer. Only a difference of two readings of the backend's clock enters, so no
// clock offset does, and the horizon is never later than the fetch's start.
func horizonOf(fetched, asOf, serverTime, resolution, lag int64) int64 {
	if asOf != 0 {
		fetched -= max(0, serverTime+resolution-asOf)
	}
	return fetched - lag
}

// after decides which of two figures holds when next has been fetched, and the
// backend's clock shows now. A next that was fetched earlier, knows less, or is
// of an earlier period loses its usage; when the grant expires always comes from
// the latest answer. A period is earlier when it is over and one that ends later
// is known: a plan that changes may well bring one that began, or ends, before.
func (f figure) after(next figure, now int64) figure {
	if f.fetched == 0 {
		return next
	}
	over := next.resets != 0 && next.resets <= now && (f.resets == 0 || f.resets > next.resets)
	if next.fetched <= f.fetched || next.horizon < f.horizon || over {
		f.expires = next.expires
		return f
	}
	switch {
	case next.start != 0 && next.start == f.start:
		next.floor = min(next.floor, f.floor)
	case next.start != 0: // has told its floor
	case f.resets == next.resets:
		next.floor = f.floor
	case f.resets != 0 && f.resets <= now+offsetFloor:
		// It may be over for the backend, whose clock may be ahead by as much.
		next.floor = max(f.floor, f.resets)
	}
	return next
}

// stampOf is the time of a call made when the backend's clock shows now, as far
// as it is known. A figure's period has begun where the figure comes from: where
// our idea of that clock is behind, be it that it was set and we have yet to learn
// that, the call is still in the period that it is judged in.
func (f *figure) stampOf(now int64) int64 {
	if begin := max(f.start, f.floor); now < begin && begin-now <= mostBehind {
		return begin
	}
	return now
}

// mostBehind is how far our idea of the backend's clock may be behind it. A period
// that begins later than that is a mistake of the Source.
const mostBehind = int64(25 * time.Hour)

// read is the figure at a moment on the backend's clock, when nothing was counted
// here since.
func (f *figure) read(now int64) meterRead {
	r := meterRead{used: f.used, resets: f.resets, expires: f.expires}
	if f.resets != 0 && now >= f.resets {
		r.used = 0
	}
	return r
}

// pieceState is how far a piece has come.
type pieceState uint8

const (
	pieceOpen  pieceState = iota // not accepted as far as is known: never sent, or sent and unanswered
	pieceAcked                   // accepted
	pieceLost                    // dead, dropped or in doubt: the backend may never count it, and it was allowed
)

// piece is the part of a record that the rule needs.
type piece struct {
	quantity int64
	stamp    int64 // backend: decides its period
	sent     int64 // precise: first attempt; 0 = never
	acked    int64 // precise
	waived   int64 // of what it takes back: more than there was, see floorLocked
	state    pieceState
}

// effect is what a piece counts as in this process, where nothing falls below
// zero.
func (p *piece) effect() int64 { return saturate(p.quantity, p.waived) }

// period is which of a meter's two views a piece belongs to.
type period uint8

const (
	periodPast    period = iota // over: counts nothing
	periodCurrent               // the figure's
	periodNext                  // the one that begins at the figure's resets
)

func (f *figure) period(stamp int64) period {
	switch {
	case f.resets != 0 && stamp >= f.resets:
		return periodNext
	case stamp < f.floor:
		return periodPast
	default:
		return periodCurrent
	}
}

// contains reports whether p is in the figure for certain. A tick is added,
// because an acknowledgement is stamped a moment after it was read.
func (f *figure) contains(p *piece, tick int64) bool {
	return p.state == pieceAcked && p.acked+tick < f.horizon
}

// missing is how many units of p must be added to the figure: all of them when
// it is out of the figure for certain, the positive ones when it may be.
func (f *figure) missing(p *piece, tick int64) (int64, period) {
	in, n := f.period(p.stamp), p.effect()
	switch {
	case in == periodPast:
		return 0, in
	case p.state == pieceLost:
		return max(0, n), in
	case in == periodNext, p.sent == 0, p.sent > f.received:
		return n, in
	case f.contains(p, tick):
		return 0, in
	default:
		return max(0, n), in
	}
}

// saturate adds and stays at the end of the range instead of passing it.
func saturate(a, b int64) int64 {
	sum := a + b
	switch {
	case a > 0 && b > 0 && sum < 0:
		return math.MaxInt64
	case a < 0 && b < 0 && sum >= 0:
		return math.MinInt64
	}
	return sum
}

// wide is a sum of int64s that cannot overflow, so that what was added can be
// taken off again exactly.
type wide struct {
	hi int64
	lo uint64
}

func (w *wide) add(n int64) {
	var carry uint64
	w.lo, carry = bits.Add64(w.lo, uint64(n), 0)
	w.hi += n>>63 + int64(carry)
}

func (w *wide) sub(n int64) {
	var borrow uint64
	w.lo, borrow = bits.Sub64(w.lo, uint64(n), 0)
	w.hi -= n>>63 + int64(borrow)
}

// plus is the sum of w and n, saturated.
func (w wide) plus(n int64) int64 {
	w.add(n)
	switch {
	case w.hi == int64(w.lo)>>63:
		return int64(w.lo)
	case w.hi < 0:
		return math.MinInt64
	default:
		return math.MaxInt64
	}
}
