package entitlements

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrClosed is returned by the waiting calls of a Client that is closed.
	// Retrying does not help.
	ErrClosed = errors.New("entitlements: client is closed")

	// ErrInvalidKey is returned by the waiting calls for a customer key, feature
	// code or usage id that is empty where it must not be, or longer than
	// [MaxKeyLength]. Retrying does not help.
	ErrInvalidKey = errors.New("entitlements: invalid key")

	// ErrUnknownCustomer is what a Source returns for a customer that does not
	// exist, and [Client.Load] to its caller. The Client remembers it for
	// [Config.NegativeTTL] and then asks again.
	ErrUnknownCustomer = errors.New("entitlements: unknown customer")

	// ErrNotModified is what a [ConditionalSource] returns when the version at
	// hand is still the right one. No caller of a Client sees it.
	ErrNotModified = errors.New("entitlements: not modified")

	// ErrUnavailable is returned by the waiting calls when nothing usable is
	// cached and the load failed, was shed, or failed so recently that it is not
	// repeated yet. It wraps the cause. Retrying helps later; meanwhile the
	// Client retries by itself for customers in use.
	ErrUnavailable = errors.New("entitlements: unavailable")
)

// UndeliveredError is returned by [Client.Close] and [Client.Flush] when their
// context ended before all usage was delivered. All figures count calls, as
// [UsageStats] does. It wraps the context's cause.
type UndeliveredError struct {
	Delivered uint64 // calls delivered while this call waited
	Spooled   uint64 // calls that are on disk and will be delivered by the next run
	Pending   uint64 // Flush only: calls that stay in memory and are still being tried
	Lost      uint64 // Close only: calls given up, sent without an answer or never sent
	Running   int    // Close only: calls into Source, Sink and callbacks that ignored their context
	Err       error
}

func (e *UndeliveredError) Error() string {
	return fmt.Sprintf("entitlements: undelivered usage: %d calls delivered, %d spooled, %d pending, %d lost, %d callbacks still running: %v",
		e.Delivered, e.Spooled, e.Pending, e.Lost, e.Running, e.Err)
}

// Unwrap returns the cause.
func (e *UndeliveredError) Unwrap() error { return e.Err }

// DeliveryError is how a [Sink] tells the fate of a batch record by record. The
// numbers are indexes into [Batch.Usage]; a record in no list was accepted, and
// one in several counts as the first of Rejected, Unknown, Retry that names it.
// An index outside the batch says that the sink is confused: then the fate of
// the whole batch is unknown.
type DeliveryError struct {
	Rejected []Rejection   // refused for good: dead letters
	Retry    []int         // not accepted, but may be later
	Unknown  []int         // sent, and no answer that tells
	After    time.Duration // nothing is sent again before this has passed
	Err      error         // the cause, for logs
}

// Rejection is one record that a backend refused for good.
type Rejection struct {
	Index int
	Err   error
}

func (e *DeliveryError) Error() string {
	if e == nil {
		return "entitlements: delivery: a nil *DeliveryError, which is not a nil error"
	}
	return fmt.Sprintf("entitlements: delivery: %d records rejected, %d to retry, %d unknown: %v",
		len(e.Rejected), len(e.Retry), len(e.Unknown), e.Err)
}

// Unwrap returns the cause.
func (e *DeliveryError) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.Err
}

// Permanent marks an error that retrying as it is cannot mend. From a Source:
// credentials are refused. From a Sink: nothing was accepted, and at least one
// record of the batch is bad. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// IsPermanent reports whether err, or an error that it wraps, is [Permanent].
func IsPermanent(err error) bool {
	var p *permanentError
	return errors.As(err, &p)
}

// RetryAfter marks a transient error after which nothing may be sent for d: a
// backend's Retry-After. From a Sink it also says that nothing was accepted.
// RetryAfter(d, nil) is nil.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &transientError{after: max(d, 0), err: err}
}

// Unsent marks a transient error of a Sink that certainly accepted nothing: a
// refused connection, a name that did not resolve. Unsent(nil) is nil.
func Unsent(err error) error { return RetryAfter(0, err) }

// RetryDelay reports whether err, or an error that it wraps, is a [RetryAfter]
// or an [Unsent], and the wait that it asks for.
func RetryDelay(err error) (after time.Duration, ok bool) {
	var t *transientError
	if !errors.As(err, &t) {
		return 0, false
	}
	return t.after, true
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

type transientError struct {
	after time.Duration
	err   error
}

func (e *transientError) Error() string { return e.err.Error() }
func (e *transientError) Unwrap() error { return e.err }

// unavailable wraps a cause for the waiting surface.
func unavailable(cause error) error {
	if cause == nil || errors.Is(cause, ErrUnavailable) {
		return cause
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, cause)
}

// invalidKey names the key that is wrong, its bound and what was got. The value
// is cut: it may be anything.
func invalidKey(field, value string) error {
	if value == "" {
		return fmt.Errorf("%w: %s must not be empty", ErrInvalidKey, field)
	}
	return fmt.Errorf("%w: %s must be at most %d bytes, got %d: %q…", ErrInvalidKey, field, MaxKeyLength, len(value), value[:32])
}
