package paylera

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"
)

// maxBody bounds an answer, after decompression.
const maxBody = 1 << 20

// transport sends requests to the API: one attempt each, with the default
// headers, through the chain of interceptors, over one pool of connections.
type transport struct {
	client    *http.Client // one for everything: one pool, one chain
	base      string
	token     string
	version   string
	userAgent string
	gate      *rateGate
	logger    *slog.Logger
	sunset    atomic.Bool // the end of the version was logged
}

func newTransport(c Config) *transport {
	base := c.Transport
	if base == nil {
		base = pooledTransport()
	}
	return &transport{
		client: &http.Client{
			Transport: chain(base, c.Interceptors),
			Timeout:   c.Timeout,
			// A redirect is an answer like any other: following one could take
			// the token elsewhere, or turn a POST into a GET that "succeeds".
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		base:      c.BaseURL,
		token:     c.Token,
		version:   c.Version,
		userAgent: userAgent(),
		gate:      newRateGate(),
		logger:    c.Logger,
	}
}

// pooledTransport is the standard one with room for a Client's concurrency in
// its pool: with the standard 2 idle connections per host, 64 fetches at once
// would open a connection nearly every time.
func pooledTransport() *http.Transport {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok { // replaced by the program, which only Config.Transport can follow
		t = &http.Transport{ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second}
	}
	t = t.Clone()
	t.MaxIdleConnsPerHost = 64
	return t
}

// userAgent tells the vendor which library asks, for support.
func userAgent() string {
	const path = "github.com/entitlements-go/entitlements"
	version := "devel"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append(info.Deps, &info.Main) {
			if m.Path == path && m.Version != "" && m.Version != "(devel)" {
				version = m.Version
			}
		}
	}
	return "entitlements-go-paylera/" + version + " (" + runtime.Version() + ")"
}

// call is one request.
type call struct {
	method, endpoint string // endpoint is the path's pattern, for errors and traces
	path             string // escaped
	query            url.Values
	body             []byte
	key              string // Idempotency-Key, for POST
	version          string // If-None-Match
	class            limitClass
}

// reply is an answer, read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// do makes one attempt. A 2xx, and a 304 to a conditional request, is a reply;
// everything else is an *Error.
func (t *transport) do(ctx context.Context, c call) (*reply, error) {
	endpoint := c.method + " " + c.endpoint
	if wait := t.gate.wait(c.class); wait > 0 {
		return nil, &Error{
			Endpoint: endpoint, RetryAfter: wait, Detail: "held back until X-RateLimit-Reset",
			kind: ErrRateLimited, unsent: true, asked: true,
		}
	}
	if ctx.Err() != nil {
		return nil, &Error{Endpoint: endpoint, kind: ErrNoAnswer, cause: ctx.Err(), unsent: true}
	}
	// The endpoint travels in the context, where interceptors find it; the probe
	// sees what becomes of the request on its way out.
	var sent sentProbe
	req, err := t.request(httptrace.WithClientTrace(context.WithValue(ctx, endpointKey, endpoint), sent.trace()), c)
	if err != nil {
		return nil, &Error{Endpoint: endpoint, kind: ErrInvalid, cause: t.redactError(err), unsent: true}
	}
	res, err := t.client.Do(req)
	if err != nil {
		return nil, &Error{Endpoint: endpoint, kind: ErrNoAnswer, cause: t.redactError(err), unsent: sent.never(err)}
	}
	defer res.Body.Close()
	// Before the status is looked at: every answer tells what is left.
	t.gate.observe(c.class, res.Header)
	t.noteSunset(res.Header)

	r := &reply{status: res.StatusCode, header: res.Header}
	// One byte more than allowed, so that a cut answer can't pass for a whole
	// one. Reading to the end is also what lets the connection be used again.
	r.body, err = io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	switch {
	// A 304 that was not asked for refers to nothing, and is an error below.
	case r.status == http.StatusNotModified && c.version != "":
		return r, nil
	case r.status < 200 || r.status > 299:
		return nil, newError(endpoint, r, t.redact)
	case c.method == http.MethodPost:
		// The status says that the usage was accepted; nothing in the body of a
		// 2xx could take that back.
		return r, nil
	// Of an answer that is read, half is nothing.
	case err != nil:
		return nil, &Error{Endpoint: endpoint, Status: r.status, kind: ErrNoAnswer, cause: t.redactError(err)}
	case len(r.body) > maxBody:
		return nil, &Error{Endpoint: endpoint, Status: r.status, kind: ErrMalformed, Detail: fmt.Sprintf("answer over %d bytes", maxBody)}
	}
	return r, nil
}

// request builds the HTTP request with the headers that the API wants. They are
// set before the interceptors see it, which may replace any of them.
func (t *transport) request(ctx context.Context, c call) (*http.Request, error) {
	address := t.base + c.path
	if len(c.query) > 0 {
		address += "?" + c.query.Encode()
	}
	var body io.Reader
	if c.body != nil {
		body = bytes.NewReader(c.body) // of a type that gives the request its GetBody
	}
	req, err := http.NewRequestWithContext(ctx, c.method, address, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+t.token)
	req.Header.Set("Paylera-Version", t.version)
	req.Header.Set("User-Agent", t.userAgent)
	req.Header.Set("Accept", "application/json, application/problem+json")
	if c.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	// net/http takes this header for the leave to send a POST once more when a
	// pooled connection turns out to be dead. That is safe: it is what the key is
	// for, and the key is the same.
	if c.key != "" {
		req.Header.Set("Idempotency-Key", c.key)
	}
	if c.version != "" {
		req.Header.Set("If-None-Match", c.version)
	}
	return req, nil
}

// noteSunset logs once that the API announces the end of the version in use.
func (t *transport) noteSunset(h http.Header) {
	sunset, deprecation := h.Get("Sunset"), h.Get("Deprecation")
	if sunset == "" && deprecation == "" || !t.sunset.CompareAndSwap(false, true) {
		return
	}
	t.logger.Warn("paylera: this Paylera-Version is deprecated",
		"version", t.version, "deprecation", cut(t.redact(deprecation), maxDetail), "sunset", cut(t.redact(sunset), maxDetail))
}

// redact removes the token from text that came from outside: APIs and proxies
// repeat credentials in their error messages.
func (t *transport) redact(s string) string { return strings.ReplaceAll(s, t.token, "[redacted]") }

// redactError makes a failure of the HTTP client safe to log. The URL that
// net/http puts around it goes in any case. What an interceptor or a proxy put
// into it goes when it holds the token; then only the context's part of the
// chain remains to errors.Is.
func (t *transport) redactError(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if !strings.Contains(err.Error(), t.token) {
		return err
	}
	// The original must not be reachable through Unwrap either: loggers that walk
	// the chain would print it.
	safe := errors.New(t.redact(err.Error()))
	for _, sentinel := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, sentinel) {
			return fmt.Errorf("%w: %w", sentinel, safe)
		}
	}
	return safe
}

// sentProbe finds out whether a failed request can have reached the API. A
// request that never got a connection was certainly not sent. Anything else may
// have been, whatever the error says.
type sentProbe struct{ asked, got atomic.Bool }

func (p *sentProbe) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn: func(string) { p.asked.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { p.got.Store(true) },
	}
}

// never reports whether no byte of the request was sent. A transport that does
// not trace (a test double, another HTTP stack) leaves only the error to go by.
func (p *sentProbe) never(err error) bool {
	if p.got.Load() {
		return false
	}
	if p.asked.Load() {
		return true
	}
	var dns *net.DNSError
	var op *net.OpError
	return errors.As(err, &dns) || errors.As(err, &op) && op.Op == "dial"
}
