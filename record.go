package entitlements

import (
	"math"
	"sync"
	"sync/atomic"
)

// A record is usage on its way to the Sink: one call, or many of one customer
// and feature folded together. It is open while its meter points at it, and
// sealed when it is dispatched; from then on its ID and content are fixed. Of an
// open one the meter has the latest sums.
//
// Its account's lock guards it. The batcher moves it through its queues without.
type record struct {
	piece
	account *account
	feature string
	meter   *meter // nil: it is a cell's
	counted int64  // what it adds to the meter's view
	counts  period // to which of them

	// Of a cell's: the number of the feature, whether it is dispatched with what is
	// open, and the cell's record before it.
	number int32
	queued bool
	next   atomic.Pointer[record]

	calls      uint64
	ends       int64 // backend: end of its UTC minute or of its period
	id         string
	properties map[string]string
	first      int64    // precise: first attempt of all; 0 = none yet
	unknown    int64    // precise: first attempt without an answer that tells; 0 = none
	spilt      bool     // stands for records that are on disk only: see batcher.spill
	allowed    bool     // a policy allowed some of it, and no grant was known
	segment    *segment // where it is on disk, nil when it is not
	at         int      // in the segment
	cohort     *cohort
	report     *report
}

// settled reports whether the batcher is done with it.
func (r *record) settled() bool { return r.state != pieceOpen }

// place is the segment in which a record is, nil for none. One that is in memory
// only gets its place at any time.
func (r *record) place() *segment {
	r.account.mu.Lock()
	defer r.account.mu.Unlock()
	return r.segment
}

// lockedAccount is the account whose lock is held by who goes through records: those
// of one account are side by side.
type lockedAccount struct {
	held    *account // nil: none
	records int
}

// mostLocked is how many records are gone through at most before others get the lock.
const mostLocked = 16

// lock holds the lock of a, and of no other.
func (l *lockedAccount) lock(a *account) {
	if l.records++; l.held == a && l.records < mostLocked {
		return
	}
	l.unlock()
	a.mu.Lock()
	l.held, l.records = a, 0
}

func (l *lockedAccount) unlock() {
	if l.held != nil {
		l.held.mu.Unlock()
		l.held = nil
	}
}

// usage is what the Sink sees.
func (r *record) usage() Usage {
	return Usage{
		ID: r.id, Customer: r.account.customer(), Feature: r.feature, Quantity: r.quantity,
		Time: fromNanos(r.stamp), Properties: r.properties, Count: int64(r.calls),
	}
}

// syncLocked lets the record have what was folded into it.
func (r *record) syncLocked() {
	if r.meter != nil {
		r.meter.syncLocked()
	}
}

// sealLocked ends the folding into the record.
func (r *record) sealLocked() {
	if m := r.meter; m != nil && m.open == r {
		m.sealLocked()
	}
}

// newRecord is a record of a meter.
func (m *meter) newRecord(p piece) *record {
	return &record{piece: p, account: m.account, feature: m.feature, meter: m}
}

// openLocked makes r the record that takes further calls, until a coarse time.
func (m *meter) openLocked(r *record, until int64) {
	m.sealLocked()
	m.open, m.counts, m.until, m.quantity, m.calls = r, r.counts, until, r.quantity, uint32(r.calls)
	if r.segment != nil {
		m.foldsLocked(r)
	}
}

// mark is what the disk is to know of a record. It is stored when no lock of an
// account is held any more: that may be a write.
type mark struct {
	segment        *segment
	at             int
	to             stage
	unknown, first int64 // unix seconds
}

// markLocked adds what the disk is to know of a record.
func (r *record) markLocked(marks []mark, to stage, now int64) []mark {
	if r.segment == nil {
		return marks
	}
	unknown := r.unknown
	if unknown == 0 && to == stageSent {
		unknown = now
	}
	return append(marks, mark{r.segment, r.at, to, secondsOf(unknown, now), secondsOf(r.first, now)})
}

func storeMarks(marks []mark) {
	for _, k := range marks {
		k.segment.mark(k.at, k.to, k.unknown, k.first)
	}
}

// foldsLocked notes that the open record is on disk: what it comes to is stored
// there too.
func (m *meter) foldsLocked(r *record) {
	m.spooled = true
	r.segment.folds.Add(1)
}

// foldLocked adds a call to the open record, or reports that it does not fit.
func (m *meter) foldLocked(n int64) bool {
	if m.calls == math.MaxUint32 {
		return false
	}
	switch m.fold {
	case AggregateSum:
		sum := m.quantity + n
		if (sum > m.quantity) != (n > 0) && n != 0 {
			return false // overflows: another record takes it, nothing is lost
		}
		m.quantity = sum
		m.calls++
		m.storeLocked()
		if m.shiftLocked(n, m.counts) {
			return true
		}
	case AggregateMax:
		m.quantity = max(m.quantity, n)
		m.calls++
	case AggregateLast:
		m.quantity = n
		m.calls++
	default:
		return false
	}
	m.storeLocked()
	m.syncLocked()
	m.publishLocked()
	return true
}

// storeLocked lets the disk have what was folded.
func (m *meter) storeLocked() {
	if m.spooled {
		m.open.segment.count(m.open.at, m.quantity, m.calls)
	}
}

// syncLocked lets the open record have what was folded since it was last looked
// at. The view has it already: an open record counts in full, see
// figure.missing.
func (m *meter) syncLocked() {
	r := m.open
	if r == nil {
		return
	}
	r.quantity, r.calls = m.quantity, uint64(m.calls)
	if r.counts != periodPast {
		r.counted = r.effect()
	}
}

// sealLocked ends the folding into the open record, if there is one.
func (m *meter) sealLocked() {
	m.syncLocked()
	if m.spooled {
		m.open.segment.rest()
	}
	m.open, m.until, m.spooled = nil, 0, false
}

// cohort is the records that began between two calls of Flush. A call of Flush
// waits for all that began before it.
type cohort struct {
	open atomic.Int64
}

// report is one call of Report that waits for its records.
type report struct {
	mu   sync.Mutex // guards the fields below
	left int
	err  error
	done chan struct{} // closed when left is 0
}

// refused is why a record will not be delivered, nil as far as is known.
func (r *report) refused() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// settle notes that one record is delivered, or will not be.
func (r *report) settle(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && r.err == nil {
		r.err = err
	}
	if r.left--; r.left == 0 {
		close(r.done)
	}
}
