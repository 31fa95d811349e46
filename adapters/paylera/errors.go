package paylera

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// What went wrong, for [errors.Is]. Every [*Error] is exactly one of them.
var (
	// ErrAuthentication is 401: the token is unknown, revoked or of the other
	// environment. Retrying helps once the token is put right.
	ErrAuthentication = errors.New("authentication refused")

	// ErrAuthorization is 403: the token may not do this.
	ErrAuthorization = errors.New("not authorized")

	// ErrNotFound is 404. From Fetch it comes with
	// [entitlements.ErrUnknownCustomer].
	ErrNotFound = errors.New("not found")

	// ErrIdempotencyConflict is 409 or 422: the idempotency key was used before
	// with another body. Retrying as it is never helps.
	ErrIdempotencyConflict = errors.New("idempotency key used with another body")

	// ErrIdempotencyInProgress is 409: the first request with this idempotency
	// key still runs. Retrying helps, shortly after.
	ErrIdempotencyInProgress = errors.New("the first request with this idempotency key is still running")

	// ErrDuplicate is 409: the usage is known already, which is what was wanted.
	ErrDuplicate = errors.New("already recorded")

	// ErrPrecondition is 412.
	ErrPrecondition = errors.New("precondition failed")

	// ErrTooLarge is 413, or a batch past the API's limit that was not sent.
	ErrTooLarge = errors.New("request too large")

	// ErrRateLimited is 429, or a request that was held back because the last
	// answer said that nothing is left of the limit. Retrying helps after
	// [Error.RetryAfter].
	ErrRateLimited = errors.New("rate limit exceeded")

	// ErrInvalid is any other 4xx: the request itself is wrong.
	ErrInvalid = errors.New("invalid request")

	// ErrServer is 5xx. The request may have been carried out. Retrying helps.
	ErrServer = errors.New("server error")

	// ErrNoAnswer is a request without an answer: nothing was reached, or the
	// answer did not arrive. Retrying helps.
	ErrNoAnswer = errors.New("no answer")

	// ErrMalformed is an answer that can't be read, or that something other than
	// the API gave: a redirect, a proxy's page. Retrying may help.
	ErrMalformed = errors.New("malformed answer")
)

// Error is a failed request. It is both its kind, one of the sentinels of this
// package, and its cause to [errors.Is] and [errors.As]. It never contains the
// token, a header or a URL.
//
// Source: docs.paylera.com, /sdks/errors.
type Error struct {
	// Endpoint is the method and the path's pattern, without ids:
	// "GET /v1/subscriptions/{id}/entitlements".
	Endpoint string

	// Status is the HTTP status; 0 without an answer.
	Status int

	// Code is the API's own name of the error, type in the SDK family and
	// problem in the Core family: "paylera.idempotency_conflict".
	Code string

	// RequestID is what the vendor's support asks for: X-Request-Id or
	// trace_id.
	RequestID string

	// Detail is the API's explanation, cut to 300 bytes.
	Detail string

	// RetryAfter is how long the API asks to wait; 0 when it does not.
	RetryAfter time.Duration

	kind   error
	cause  error
	unsent bool // certainly not carried out: no byte of it was sent
	asked  bool // RetryAfter was stated, not assumed
}

// Error names the endpoint, the kind and whatever the API said.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("paylera: ")
	if e.Endpoint != "" {
		b.WriteString(e.Endpoint + ": ")
	}
	b.WriteString(e.kind.Error())
	var facts []string
	if e.Status != 0 {
		facts = append(facts, fmt.Sprintf("status %d", e.Status))
	}
	if e.Code != "" {
		facts = append(facts, e.Code)
	}
	if e.RequestID != "" {
		facts = append(facts, "request "+e.RequestID)
	}
	if len(facts) > 0 {
		b.WriteString(" (" + strings.Join(facts, ", ") + ")")
	}
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.cause != nil {
		b.WriteString(": " + e.cause.Error())
	}
	return b.String()
}

// Unwrap returns the kind and, where there is one, the cause: a context's
// error, a refused connection.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.kind}
	}
	return []error{e.kind, e.cause}
}

// Retryable reports whether the same request can succeed later.
func (e *Error) Retryable() bool {
	return e.is(ErrRateLimited, ErrServer, ErrNoAnswer, ErrMalformed, ErrIdempotencyInProgress)
}

// is looks at the kind alone. errors.Is would also find what a cause wraps, and
// the fate of usage must not depend on that.
func (e *Error) is(kinds ...error) bool { return slices.Contains(kinds, e.kind) }
