package paylera

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// The retries of the adapter's own calls. What a Client asks for is never
// retried here: the Client has one breaker and one budget per door, and retries
// below them would multiply.
//
// Source: docs.paylera.com, /api/rate-limits: Retry-After, else 2^attempt
// seconds with up to 10 % jitter, at most 5 attempts.
const (
	maxAttempts   = 5
	firstWait     = time.Second
	waitFactor    = 2
	jitter        = 0.1
	backoffAtMost = time.Minute
)

// retry calls f until it succeeds, fails for good, or ctx or the attempts are
// used up. A wait that would outlast ctx is not begun.
func retry[T any](ctx context.Context, f func() (T, error)) (T, error) {
	// 1, 2, 4 and 8 s, each with its jitter, between five attempts.
	policy := &statedBackOff{ctx: ctx, BackOff: backoff.WithMaxRetries(backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(firstWait),
		backoff.WithMultiplier(waitFactor),
		backoff.WithRandomizationFactor(jitter),
		backoff.WithMaxInterval(backoffAtMost),
		backoff.WithMaxElapsedTime(0), // ctx says how long
	), maxAttempts-1)}
	var last error
	result, err := backoff.RetryWithData(func() (T, error) {
		var result T
		result, last = f()
		// Of the last answer only: an earlier one's wait is over.
		policy.stated = 0
		var e *Error
		if last == nil || !errors.As(last, &e) || !e.Retryable() {
			// Not every error here is a failed request; those of the program's
			// own functions are not ours to repeat.
			return result, backoff.Permanent(last)
		}
		policy.stated = e.RetryAfter
		return result, last
	}, backoff.WithContext(policy, ctx))
	if err != nil && last != nil && !errors.Is(err, last) {
		// The context ended during a wait. What was waited for says more.
		return result, fmt.Errorf("paylera: waiting to retry: %w: %w", err, last)
	}
	return result, err
}

// statedBackOff waits as long as the last answer stated, if it did.
type statedBackOff struct {
	backoff.BackOff
	ctx    context.Context //nolint:containedctx // lives as long as the one call of retry
	stated time.Duration
}

// NextBackOff counts the attempt in any case.
func (b *statedBackOff) NextBackOff() time.Duration {
	wait := b.BackOff.NextBackOff()
	if wait == backoff.Stop {
		return wait
	}
	if b.stated > 0 {
		wait = b.stated
	}
	// The answer at hand is better now than the context's error later.
	if deadline, ok := b.ctx.Deadline(); ok && time.Until(deadline) < wait {
		return backoff.Stop
	}
	return wait
}
