package entitlementstest

import (
	"context"
	"fmt"
	"time"

	"github.com/entitlements-go/entitlements"
)

// alive checks that no record was given up for a failure that is not its own,
// and none taken for accepted.
func alive(fates []fate, err error) error {
	if err != nil {
		return err
	}
	for i, f := range fates {
		if f.kind != retry && f.kind != unknown {
			return fmt.Errorf("record %d of %d is %v, want to be retried or unknown", i, len(fates), f)
		}
	}
	return nil
}

// breakable breaks the backend, or says why it cannot be broken so.
func (h SinkHarness) breakable(failure Failure) error {
	switch {
	case h.Break == nil || h.Repair == nil:
		return needs("SinkHarness.Break and Repair")
	case !h.Break(failure):
		return skipped{"this backend has no failure " + failure.String()}
	}
	return nil
}

// checkDeliveryFailure breaks the backend, looks at the answer, repairs it and
// delivers the same batch again: a failure must neither give records up nor
// stick to them, and they must be billed once.
func checkDeliveryFailure(h SinkHarness, failure Failure) error {
	if err := h.breakable(failure); err != nil {
		return err
	}
	batch := h.batch(h.records(1, 2, 3)[:h.most(3)])
	return h.gained(sum(batch.Usage), func() error {
		for range 2 {
			fates, err := h.deliver(batch, h.Patience)
			if err := alive(fates, err); err != nil {
				return fmt.Errorf("%v: %w", failure, err)
			}
			if failure == FailRateLimited && (fates[0].kind != retry || fates[0].after <= 0 || fates[0].after > RateLimitWait) {
				return fmt.Errorf("%v: got %v with a wait of %v, want RetryAfter(%v)", failure, fates[0], fates[0].after, RateLimitWait)
			}
			batch.Attempt++
		}
		h.Repair()
		waitOut(failure)
		return h.recover(batch)
	})
}

// recover delivers a batch again after the backend was repaired. A Sink that
// keeps its Idempotency-Key after a received 5xx gets the stored 5xx here, and
// would for a day.
func (h SinkHarness) recover(batch entitlements.Batch) error {
	fates, err := h.deliver(batch, h.Patience)
	if err := expectAll(fates, err, accepted); err != nil {
		return fmt.Errorf("after the backend recovered: %w", err)
	}
	return nil
}

// checkEndedDelivery allows success: what needs no wait needs no context. But
// then it must be one.
func checkEndedDelivery(h SinkHarness) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	batch := h.batch(h.records(1))
	return h.gained(1, func() error {
		fates, err := h.deliverUntil(ctx, batch, 0)
		if err != nil {
			return fmt.Errorf("with an ended context: %w", err)
		}
		if fates[0].kind == accepted {
			return nil
		}
		if err := alive(fates, nil); err != nil {
			return fmt.Errorf("with an ended context: %w", err)
		}
		batch.Attempt++
		if err := h.dedupes(); err != nil && fates[0].kind == unknown {
			return err // sending it again would be wrong
		}
		return h.recover(batch)
	})
}

// mayHaveArrived wants the fate unknown: the request was sent, and a Sink that
// claims "nothing accepted" is believed. The records would then be sent for ever
// after the backend forgot their IDs, and billed twice.
func mayHaveArrived(fates []fate, err error) error {
	return expectAll(fates, err, unknown)
}

func checkHangingDelivery(h SinkHarness) error {
	if err := h.breakable(FailHang); err != nil {
		return err
	}
	const deadline = 100 * time.Millisecond
	batch := h.batch(h.records(1, 2)[:h.most(2)])
	began := time.Now()
	fates, err := h.deliver(batch, deadline)
	took := time.Since(began)
	h.Repair()
	if err := mayHaveArrived(fates, err); err != nil {
		return fmt.Errorf("a hanging backend: %w", err)
	}
	if took > h.Patience {
		return fmt.Errorf("Deliver went on for %v after its context ended", took-deadline)
	}
	if err := h.dedupes(); err != nil {
		return nil //nolint:nilerr // what can be checked was; sending it again would be wrong here
	}
	batch.Attempt++
	return h.recover(batch)
}

// checkLostAnswer is the case that all IDs are for: accepted, and the client
// does not know.
func checkLostAnswer(h SinkHarness) error {
	if err := h.breakable(FailLostAnswer); err != nil {
		return err
	}
	batch := h.batch(h.records(1, 2)[:h.most(2)])
	return h.gained(sum(batch.Usage), func() error {
		fates, err := h.deliver(batch, h.Patience)
		h.Repair()
		if err := mayHaveArrived(fates, err); err != nil {
			return fmt.Errorf("a lost answer: %w", err)
		}
		if err := h.dedupes(); err != nil {
			return nil //nolint:nilerr // what can be checked was; sending it again would be wrong here
		}
		batch.Attempt++
		return h.recover(batch)
	})
}

// checkOneDelivery counts what one Deliver costs a backend that is in trouble:
// the core retries within a budget, and retries below it would multiply.
func checkOneDelivery(h SinkHarness) error {
	if h.Requests == nil {
		return needs("SinkHarness.Requests")
	}
	if err := h.breakable(FailServer); err != nil {
		return err
	}
	before := h.Requests()
	fates, err := h.deliver(h.batch(h.records(1)), h.Patience)
	n := h.Requests() - before
	h.Repair()
	if err := alive(fates, err); err != nil {
		return err
	}
	if n != 1 {
		return fmt.Errorf("a Deliver that failed made %d requests, want 1", n)
	}
	return nil
}
