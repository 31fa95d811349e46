package entitlementstest

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// Fault is one way for a request to go wrong. Its parts strike together, in the
// order of the fields; the zero Fault is a request that goes well, useful in a
// sequence.
//
// A request whose token is refused or that is over its rate limit meets no
// fault. One whose Idempotency-Key has a stored response meets it as if After
// were set: there is no work to be done.
type Fault struct {
	// After strikes when the work is done: the usage is accepted, only the
	// answer is late, lost or wrong. Before it, nothing happens.
	After bool

	// Strike is called first, on the request's goroutine, so that a test learns
	// that the request is in.
	Strike func(r *http.Request)

	// Latency waits. It ends with the request's context, which then ends the
	// request.
	Latency time.Duration

	// Hang waits until the request's context ends, or [Billing.Release] is
	// called, after which the request goes on.
	Hang bool

	// Reset breaks the connection. Go's HTTP client may try again by itself, see
	// [Billing.Requests]; disable keep-alives to prevent that.
	Reset bool

	// Status answers with a problem of this status. From 500 on it is stored for
	// the request's Idempotency-Key and replayed, as the API does with errors.
	Status int

	// RetryAfter adds a Retry-After header, in whole seconds rounded up, to an
	// answer with Status.
	RetryAfter time.Duration

	// Gateway says that Status comes from something in front of the API: it is
	// never stored, and its body is HTML. With After the API's own answer is
	// stored, which the gateway has lost.
	Gateway bool

	// Body replaces the body of the answer and keeps the status: wrong JSON. The
	// work is done.
	Body string

	// Truncate breaks the connection after half of the body. The work is done.
	Truncate bool
}

// faultPlan says which fault the next request on a route meets.
type faultPlan struct {
	mu      sync.Mutex // guards the fields below
	next    map[Route][]Fault
	always  map[Route]Fault
	release chan struct{} // closed and replaced by Release
}

func (p *faultPlan) init() {
	p.next, p.always = make(map[Route][]Fault), make(map[Route]Fault)
	p.release = make(chan struct{})
}

// take finds the fault for a request, and what releases it when it hangs: what
// was queued for its route, then for any, then what always strikes.
func (p *faultPlan) take(route Route) (Fault, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range []Route{route, RouteAny} {
		if queue := p.next[r]; len(queue) > 0 {
			p.next[r] = queue[1:]
			return queue[0], p.release
		}
	}
	if f, ok := p.always[route]; ok {
		return f, p.release
	}
	return p.always[RouteAny], p.release
}

// Inject queues faults for the next requests on a route, one for each, after
// those that are queued already. [RouteAny] is a queue of its own, that serves
// every route without faults queued for itself.
func (b *Billing) Inject(route Route, faults ...Fault) {
	b.faults.mu.Lock()
	defer b.faults.mu.Unlock()
	b.faults.next[route] = append(b.faults.next[route], faults...)
}

// Always makes a fault strike every request on a route for which none is queued,
// until [Billing.ClearFaults].
func (b *Billing) Always(route Route, f Fault) {
	b.faults.mu.Lock()
	defer b.faults.mu.Unlock()
	b.faults.always[route] = f
}

// ClearFaults forgets all faults that have not struck yet. Requests that hang go
// on hanging.
func (b *Billing) ClearFaults() {
	b.faults.mu.Lock()
	defer b.faults.mu.Unlock()
	clear(b.faults.next)
	clear(b.faults.always)
}

// Release lets every request that hangs now go on.
func (b *Billing) Release() {
	b.faults.mu.Lock()
	defer b.faults.mu.Unlock()
	close(b.faults.release)
	b.faults.release = make(chan struct{})
}

// SetOutage switches everything off: each request's connection is broken before
// it is looked at, until SetOutage(false).
func (b *Billing) SetOutage(on bool) { b.outage.Store(on) }

// Break makes every request fail in one way until [Billing.Repair], and reports
// true: there is no [Failure] that it does not have. It is the hook of that name
// of [SourceHarness] and [SinkHarness]. The 500 of FailServer is stored for its
// Idempotency-Key: a Sink that has no external_id to dedupe by needs a fault with
// Gateway in its place.
func (b *Billing) Break(failure Failure) bool {
	var f Fault
	switch failure {
	case FailUnauthorized:
		f.Status = http.StatusUnauthorized
	case FailForbidden:
		f.Status = http.StatusForbidden
	case FailRateLimited:
		f.Status, f.RetryAfter = http.StatusTooManyRequests, RateLimitWait
	case FailServer:
		f.Status = http.StatusInternalServerError
	case FailUnreachable:
		b.SetOutage(true)
	case FailHang:
		f.Hang = true
	case FailGarbage:
		f.Body = "<html>it works</html>"
	case FailLostAnswer:
		f.After, f.Reset = true, true
	default:
		return false
	}
	b.Always(RouteAny, f)
	return true
}

// Repair ends an outage, forgets all faults and releases what hangs.
func (b *Billing) Repair() {
	b.SetOutage(false)
	b.ClearFaults()
	b.Release()
}

// wait is the fault's Latency and Hang. It reports false when the request ended
// meanwhile.
func (f *Fault) wait(ctx context.Context, release, closing <-chan struct{}) bool {
	if f.Latency > 0 {
		timer := time.NewTimer(f.Latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return false
		case <-closing:
			return false
		}
	}
	if f.Hang {
		select {
		case <-release:
		case <-ctx.Done():
			return false
		case <-closing:
			return false
		}
	}
	return true
}
