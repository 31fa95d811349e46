package entitlements

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// fate is what a sink told of one record.
type fate uint8

const (
	fateAccepted fate = iota
	fateRetry         // certainly not accepted
	fateUnknown       // sent, and no answer that tells
	fateRejected
)

// outcome is what a sink told of a batch.
type outcome struct {
	fates   []fate
	reasons map[int]error // of the rejected
	bisect  bool          // the batch was refused because of a record in it
	verdict verdict
	after   time.Duration
	err     error
}

// readOutcome reads the answer of Deliver by the table in [Sink].
func readOutcome(err error, n int) outcome {
	o := outcome{fates: make([]fate, n), err: err}
	all := func(f fate) {
		for i := range o.fates {
			o.fates[i] = f
		}
	}
	if err == nil {
		return o
	}
	var partial *DeliveryError
	if errors.As(err, &partial) && partial != nil {
		o.readPartial(partial, all)
		return o
	}
	if after, ok := RetryDelay(err); ok {
		o.after, o.verdict = min(after, forever), verdictFailed
		if after > 0 {
			o.verdict = verdictBusy
		}
		all(fateRetry)
		return o
	}
	if IsPermanent(err) {
		all(fateRejected)
		o.bisect = n > 1
		return o
	}
	o.verdict = verdictFailed
	if errors.Is(err, context.DeadlineExceeded) {
		o.verdict = verdictTimedOut
	}
	all(fateUnknown)
	return o
}

// readPartial reads an answer record by record. The severest word on a record
// counts, and an index outside the batch makes all of it unknown.
func (o *outcome) readPartial(partial *DeliveryError, all func(fate)) {
	n, confused := len(o.fates), false
	mark := func(i int, f fate) {
		if i < 0 || i >= n {
			confused = true
			return
		}
		o.fates[i] = max(o.fates[i], f)
	}
	o.reasons = make(map[int]error, len(partial.Rejected))
	for _, i := range partial.Retry {
		mark(i, fateRetry)
	}
	for _, i := range partial.Unknown {
		mark(i, fateUnknown)
	}
	for _, r := range partial.Rejected {
		mark(r.Index, fateRejected)
		o.reasons[r.Index] = r.Err
	}
	if confused {
		o.err, o.verdict = fmt.Errorf("%w: %w", errConfused, partial), verdictFailed
		all(fateUnknown)
		return
	}
	o.after = min(max(0, partial.After), forever)
	open := slices.Contains(o.fates, fateRetry) || slices.Contains(o.fates, fateUnknown)
	if open && !slices.Contains(o.fates, fateAccepted) {
		o.verdict = verdictFailed // else the door is open: some of it got through
	}
}

var errConfused = errors.New("entitlements: sink answered with an index outside the batch")
