package paylera

import (
	"context"
	"net/http"
)

// Interceptor wraps what carries the requests: to refresh a token, to log, to
// trace. It sees every request of the adapter with its default headers set, on
// the background calls of a Client as on the adapter's own.
//
// The rules of [http.RoundTripper] apply: a request is cloned before it is
// changed, and an answer's body is closed when the answer is not passed on. A
// body can be sent again through the request's GetBody. What an interceptor
// sends twice it also answers for: usage is only safe to repeat with the
// Idempotency-Key that it already carries.
type Interceptor func(http.RoundTripper) http.RoundTripper

// RoundTripperFunc is a function as an [http.RoundTripper], for interceptors.
type RoundTripperFunc func(*http.Request) (*http.Response, error)

// RoundTrip calls f.
func (f RoundTripperFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// chain puts the interceptors around base; the first is outermost.
func chain(base http.RoundTripper, interceptors []Interceptor) http.RoundTripper {
	for i := len(interceptors) - 1; i >= 0; i-- {
		base = interceptors[i](base)
	}
	return base
}

type contextKey uint8

const (
	endpointKey contextKey = iota
	idempotencyKey
)

// Endpoint is the method and the path's pattern of a request of the adapter,
// such as "GET /v1/subscriptions/{id}/entitlements": a span name or a metric
// label of few values, which a URL with ids in it is not. It takes the
// request's context, and is "" for any other context.
func Endpoint(ctx context.Context) string {
	endpoint, _ := ctx.Value(endpointKey).(string)
	return endpoint
}

// WithIdempotencyKey makes key the Idempotency-Key of the one POST that is sent
// under ctx, before any key that the adapter would choose, on every attempt. A
// Deliver that needs several requests ignores it, since the API would take all
// but the first for a mistake. Keys are 1 to 255 bytes of printable ASCII;
// others are ignored.
//
// Source: docs.paylera.com, /api/idempotency.
func WithIdempotencyKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, idempotencyKey, key)
}
