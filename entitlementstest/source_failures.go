package entitlementstest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/entitlements-go/entitlements"
)

// isFailure checks an error that must mean "try again": neither a verdict about
// the customer nor about the credentials.
func isFailure(e *entitlements.Entitlements, err error) error {
	var found broke
	switch {
	case errors.As(err, &found):
		return found.error
	case err == nil:
		return fmt.Errorf("a failure was answered with %+v and no error", e)
	case errors.Is(err, entitlements.ErrUnknownCustomer):
		return fmt.Errorf("a failure was taken for an unknown customer, who is then denied: %w", err)
	case errors.Is(err, entitlements.ErrNotModified):
		return fmt.Errorf("a failure was taken for an unchanged customer: %w", err)
	case entitlements.IsPermanent(err):
		return fmt.Errorf("a passing failure is Permanent, which shuts the door for long: %w", err)
	}
	return nil
}

// isClassified checks an error against the table in [entitlements.Source].
func isClassified(failure Failure, e *entitlements.Entitlements, err error) error {
	switch failure {
	case FailUnauthorized, FailForbidden:
		// Retrying at the usual pace would get a key blocked, and no retry helps
		// until somebody changes it.
		var found broke
		switch {
		case errors.As(err, &found):
			return found.error
		case !entitlements.IsPermanent(err) || errors.Is(err, entitlements.ErrUnknownCustomer):
			return fmt.Errorf("%v: got (%v, %w), want a Permanent error", failure, e, err)
		}
		return nil
	case FailRateLimited:
		// The wait may be shorter than what the backend asked for, since some of
		// it may have passed, but never longer and never lost.
		if err := isFailure(e, err); err != nil {
			return err
		}
		if after, ok := entitlements.RetryDelay(err); !ok || after <= 0 || after > RateLimitWait {
			return fmt.Errorf("%v: got the wait (%v, %v), want RetryAfter(%v)", failure, after, ok, RateLimitWait)
		}
		return nil
	default:
		return isFailure(e, err)
	}
}

// breakable breaks the backend, or says why it cannot be broken so.
func (h SourceHarness) breakable(failure Failure) error {
	switch {
	case h.Put == nil || h.Break == nil || h.Repair == nil:
		return needs("SourceHarness.Put, Break and Repair")
	case !h.Break(failure):
		return skipped{"this backend has no failure " + failure.String()}
	}
	return nil
}

// checkFailure breaks the backend for a customer that exists, looks at the
// error, and repairs it: no failure may stick.
func checkFailure(h SourceHarness, failure Failure) error {
	if h.Put != nil {
		h.put(h.Keys[0], h.Grants)
	}
	if err := h.breakable(failure); err != nil {
		return err
	}
	// Twice: the second failure comes to a Source that has seen the first, and
	// may have kept something of it.
	for range 2 {
		e, err := h.fetch(h.Keys[0])
		if err := isClassified(failure, e, err); err != nil {
			return err
		}
	}
	// The other way in must tell failures alike: a refresh goes through it.
	if conditional, ok := h.Source.(entitlements.ConditionalSource); ok {
		e, err := h.call("FetchChanged", func(ctx context.Context) (*entitlements.Entitlements, error) {
			return conditional.FetchChanged(ctx, h.Keys[0], "some-version")
		})
		if err := isClassified(failure, e, err); err != nil {
			return fmt.Errorf("FetchChanged: %w", err)
		}
	}
	h.Repair()
	waitOut(failure)
	e, err := h.fetch(h.Keys[0])
	if err := expect(e, err, h.Keys[0], h.Grants); err != nil {
		return fmt.Errorf("after the backend recovered: %w", err)
	}
	return nil
}

// checkHangingBackend ends the context of a fetch that waits for an answer.
func checkHangingBackend(h SourceHarness) error {
	if h.Put != nil {
		h.put(h.Keys[0], h.Grants)
	}
	if err := h.breakable(FailHang); err != nil {
		return err
	}
	defer h.Repair()
	// Far below the suite's patience, so that what is measured is the context and
	// no timeout of the Source's own.
	const deadline = 100 * time.Millisecond
	began := time.Now()
	e, err := h.call("Fetch of a hanging backend", func(ctx context.Context) (*entitlements.Entitlements, error) {
		ctx, cancel := context.WithTimeout(ctx, deadline)
		defer cancel()
		return h.Source.Fetch(ctx, h.Keys[0])
	})
	if took := time.Since(began); took > h.Patience {
		return fmt.Errorf("Fetch went on for %v after its context ended", took-deadline)
	}
	return isFailure(e, err)
}

// checkOneAttempt counts what one Fetch costs a backend that is in trouble: the
// core retries within a budget, and retries below it would multiply.
func checkOneAttempt(h SourceHarness) error {
	if h.Requests == nil {
		return needs("SourceHarness.Requests")
	}
	if h.Put != nil {
		h.put(h.Keys[0], h.Grants)
	}
	if err := h.breakable(FailServer); err != nil {
		return err
	}
	defer h.Repair()
	before := h.Requests()
	e, err := h.fetch(h.Keys[0])
	if err := isFailure(e, err); err != nil {
		return err
	}
	if n := h.Requests() - before; n != 1 {
		return fmt.Errorf("a Fetch that failed made %d requests, want 1", n)
	}
	return nil
}
