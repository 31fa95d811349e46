package entitlements

import (
	"sync"
	"sync/atomic"
)

// A record is usage on its way to the Sink: one call, or many of one customer
// and feature folded together. It is open while its meter points at it, and
// sealed when it is dispatched; from then on its ID and content are fixed.
//
// Its account's lock guards it. The batcher moves it through its queues without.
type record struct {
	piece
	meter   *meter
	counted int64  // what it adds to the meter's view
	counts  period // to which of them

	calls      uint64
	until      int64 // coarse: from here on a call looks closer whether it still folds in
	ends       int64 // backend: end of its UTC minute or of its period
	id         string
	properties map[string]string
	first      int64 // precise: first attempt of all; 0 = none yet
	unknown    int64 // precise: first attempt without an answer that tells; 0 = none
	cohort     *cohort
	report     *report
}

// settled reports whether the batcher is done with it.
func (r *record) settled() bool { return r.state != pieceOpen }

// usage is what the Sink sees.
func (r *record) usage() Usage {
	m := r.meter
	return Usage{
		ID: r.id, Customer: m.account.customer, Feature: m.feature, Quantity: r.quantity,
		Time: fromNanos(r.stamp), Properties: r.properties, Count: int64(r.calls),
	}
}

// foldLocked adds a call to an open record, or reports that it does not fit.
func (r *record) foldLocked(n int64) bool {
	m := r.meter
	switch m.fold {
	case AggregateSum:
		sum := r.quantity + n
		if (sum > r.quantity) != (n > 0) && n != 0 {
			return false // overflows: another record takes it, nothing is lost
		}
		r.quantity = sum
		r.counted += n // an open record counts in full, see figure.missing
		m.addLocked(n, r.counts)
	case AggregateMax:
		r.quantity = max(r.quantity, n)
		r.counted = r.quantity
	case AggregateLast:
		r.quantity = n
		r.counted = n
	default:
		return false
	}
	r.calls++
	m.publishLocked()
	return true
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
