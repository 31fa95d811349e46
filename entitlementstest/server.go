package entitlementstest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

const (
	maxRequestBody = 4 << 20
	maxKeyHeader   = 255 // characters in an Idempotency-Key
)

// answer is a response before it is written, and what an Idempotency-Key keeps.
type answer struct {
	status      int
	contentType string
	etag        string
	retryAfter  time.Duration
	body        []byte
}

// exchange is one request on its way through the API.
type exchange struct {
	w         http.ResponseWriter
	r         *http.Request
	route     Route
	id        string // from the path
	family    family
	requestID string
	body      []byte
	usage     usageRequest
	fault     Fault
	release   <-chan struct{}
}

// broken is panicked with to leave a request without an answer.
type broken struct{}

// ServeHTTP answers one request. Its order is the API's own: token, rate limit,
// Idempotency-Key, work; the faults strike around the work.
func (b *Billing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{w: w, r: r}
	x.route, x.id = routeOf(r)
	b.requests.request(x.route)
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(broken); !ok {
				panic(p)
			}
			reset(w)
		}
	}()
	// Before anything is read: in an outage nobody is there to read.
	if b.outage.Load() {
		panic(broken{})
	}
	// The whole body is read first: only then does the server notice that the
	// client has gone, which is what ends a fault that hangs.
	var err error
	if x.body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequestBody)); err != nil {
		panic(broken{})
	}
	x.requestID = "req_" + strconv.FormatUint(b.serial.Add(1), 10)

	state, family := b.tokens.of(r)
	x.family = family
	a, admitted := b.admit(x, state)
	if admitted {
		a = b.respond(x)
	}
	b.write(x, a)
}

// admit is what happens before a request is looked at: token, route, limits.
func (b *Billing) admit(x *exchange, state tokenState) (answer, bool) {
	switch {
	case state == tokenUnknown:
		return x.problem(problemUnauthenticated()), false
	case state == tokenForbidden:
		return x.problem(problemForbidden()), false
	case x.route == RouteUnknown:
		return x.problem(problemNotFound()), false
	case len(x.r.Header.Get("Idempotency-Key")) > maxKeyHeader:
		return x.problem(problemInvalid(fieldError{"Idempotency-Key", "is longer than 255 characters"})), false
	}
	// Usage costs its events, everything else one. What can't be read costs one
	// too, or garbage would be free.
	cost := 1
	if x.route.usage() {
		x.usage = decodeUsage(x.route, x.body)
		cost = max(1, len(x.usage.events))
	}
	rate := b.limits.take(x.route, cost, b.Now())
	rate.header(x.w.Header())
	if rate.refused {
		a := x.problem(problemRateLimited())
		a.retryAfter = rate.wait
		return a, false
	}
	x.fault, x.release = b.faults.take(x.route)
	return answer{}, true
}

// respond finds the answer: a stored one, the fault's, or the work's.
func (b *Billing) respond(x *exchange) (a answer) {
	f := &x.fault
	key := idempotencyKey{x.route, x.r.Header.Get("Idempotency-Key")}
	keyed := key.key != "" && x.r.Method == http.MethodPost
	if keyed {
		state, stored, events := b.keys.begin(key, sha256.Sum256(x.body), b.Now())
		switch state {
		case keyReplay:
			b.ledger.replayed(events)
			b.strike(x)
			return stored
		case keyRunning:
			return x.problem(problemKeyRunning())
		case keyOtherBody:
			return x.problem(problemKeyReused(x.family))
		}
		// When the request breaks before it is finished, its key is free again.
		defer b.keys.abandon(key)
	}
	// From here on the key is claimed: whoever comes with it now is told to wait,
	// for as long as the fault makes this request take.
	accepted := 0
	if !f.After {
		b.strike(x)
	}
	answered := f.Status == 0 || f.After
	if answered {
		a, accepted = b.work(x)
	}
	// A gateway changes what arrives, and not what the API has answered and keeps.
	own := a
	if f.Status != 0 {
		a = x.faultAnswer()
		if !f.Gateway {
			own, answered = a, true
		}
	}
	if keyed && answered && stores(own.status) {
		b.keys.finish(key, own, accepted)
	}
	// Only now, with the answer stored: a client that lost it gets it with its
	// next attempt.
	if f.After {
		b.strike(x)
	}
	return a
}

// stores reports whether an answer is kept for its Idempotency-Key: success, and
// the errors of work that was begun. What was refused at the door is not kept.
// (Assumption: the pages say "stored errors included" and name no statuses.)
func stores(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
		return false
	}
	return true
}

// strike is the fault's part that answers nothing: the wait and the reset.
func (b *Billing) strike(x *exchange) {
	if x.fault.Strike != nil {
		x.fault.Strike(x.r)
	}
	if !x.fault.wait(x.r.Context(), x.release, b.closing) || x.fault.Reset {
		panic(broken{})
	}
}

// work is what the route does, once nothing stands in the way. accepted is the
// number of usage events that the answer stands for, so that a replay can count
// them.
func (b *Billing) work(x *exchange) (a answer, accepted int) {
	switch x.route {
	case RouteEntitlements:
		return b.entitlements(x), 0
	case RouteSubscriptions:
		return b.subscriptions(x), 0
	case RouteCheck:
		return b.check(x), 0
	default:
		return b.acceptUsage(x)
	}
}

// problem is a problem as the request's family tells it.
func (x *exchange) problem(p problem) answer {
	return p.answer(x.family, x.requestID, x.r.URL.Path)
}

// faultAnswer is the answer that a fault with Status gives in place of the
// work's.
func (x *exchange) faultAnswer() answer {
	a := x.problem(problemStatus(x.fault.Status))
	if x.fault.Gateway {
		a.contentType = "text/html"
		a.body = fmt.Appendf(nil, "<html><body><h1>%d</h1></body></html>", x.fault.Status)
	}
	a.retryAfter = x.fault.RetryAfter
	return a
}

// write sends an answer, as far as the fault lets it.
func (b *Billing) write(x *exchange, a answer) {
	body := a.body
	if x.fault.Body != "" {
		body = []byte(x.fault.Body)
	}
	h := x.w.Header()
	// Set by hand: net/http would tell the local clock.
	h.Set("Date", b.Now().UTC().Format(http.TimeFormat))
	h.Set("X-Request-Id", x.requestID)
	h.Set("Paylera-Version", x.family.version())
	if asked := x.r.Header.Get("Paylera-Version"); asked != "" && asked < x.family.version() {
		// Versions are dates, so that text compares them.
		h.Set("Deprecation", "true")
		h.Set("Sunset", b.Now().Add(180*24*time.Hour).UTC().Format(http.TimeFormat))
	}
	if a.contentType != "" {
		h.Set("Content-Type", a.contentType)
	}
	if a.etag != "" {
		h.Set("ETag", a.etag)
	}
	if a.retryAfter > 0 {
		h.Set("Retry-After", seconds(a.retryAfter))
	}
	if a.status != http.StatusNotModified {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	x.w.WriteHeader(a.status)
	if x.fault.Truncate {
		_, _ = x.w.Write(body[:len(body)/2])
		_ = http.NewResponseController(x.w).Flush()
		// Closed in good order: a reset would also take back what was sent.
		panic(http.ErrAbortHandler)
	}
	b.requests.status(a.status)
	_, _ = x.w.Write(body)
}

// reset breaks a request's connection, so hard that the other side sees a reset
// where the network has such a thing.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // another server's writer: all that is left
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
