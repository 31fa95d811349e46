package paylera

import (
	"encoding/json"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	maxDetail     = 300
	maxRetryAfter = time.Hour // a longer wait is taken for a mistake
)

// problem is an error body of either family. Each member is read on its own, so
// that one of an unexpected type doesn't hide the others.
//
// Source: docs.paylera.com, /api/errors (RFC 9457 with problem and trace_id) and
// /sdks/errors (type).
type problem struct {
	Type      loose `json:"type"`
	Code      loose `json:"code"`
	Problem   loose `json:"problem"`
	Title     loose `json:"title"`
	Detail    loose `json:"detail"`
	Message   loose `json:"message"`
	TraceID   loose `json:"trace_id"`
	RequestID loose `json:"request_id"`
}

// loose is a string that is left empty when the JSON holds something else.
type loose string

func (l *loose) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*l = loose(s)
	}
	return nil
}

// newError makes an Error of an answer that is not a success. secret is removed
// from whatever the answer repeats of the request.
func newError(endpoint string, r *reply, redact func(string) string) *Error {
	var p problem
	_ = json.Unmarshal(r.body, &p) // an unreadable body leaves the status to speak
	// problem is the Core family's discriminator, where type is only a link to a
	// page; in the SDK family there is no problem and type is the name.
	code := first(p.Problem, p.Code, p.Type)
	e := &Error{
		Endpoint:  endpoint,
		Status:    r.status,
		Code:      cut(redact(code), maxDetail),
		RequestID: cut(redact(first(loose(r.header.Get("X-Request-Id")), p.TraceID, p.RequestID)), maxDetail),
		Detail:    cut(redact(first(p.Detail, p.Message, p.Title)), maxDetail),
		kind:      kindOf(r, code),
	}
	e.RetryAfter, e.asked = retryAfter(r.header)
	if e.is(ErrRateLimited) && !e.asked {
		if e.RetryAfter, e.asked = untilReset(r.header); !e.asked {
			e.RetryAfter = time.Second
		}
	}
	return e
}

// kindOf sorts an answer. A page of HTML comes from something in between, whose
// 404 says nothing about a customer and nothing about a record.
func kindOf(r *reply, code string) error {
	media, _, _ := mime.ParseMediaType(r.header.Get("Content-Type"))
	code = strings.ToLower(code)
	switch s := r.status; {
	case s == http.StatusUnauthorized:
		return ErrAuthentication
	case s == http.StatusForbidden:
		return ErrAuthorization
	case s == http.StatusTooManyRequests:
		return ErrRateLimited
	case s == http.StatusRequestEntityTooLarge:
		return ErrTooLarge
	case s >= 500:
		// A proxy's 5xx too: the API may have got the request from it.
		return ErrServer
	case s < 400, s == http.StatusRequestTimeout, s == http.StatusTooEarly,
		// Statuses that only something in between has a use for.
		s == http.StatusProxyAuthRequired, s == http.StatusMisdirectedRequest, media == "text/html":
		return ErrMalformed
	case s == http.StatusNotFound:
		return ErrNotFound
	case s == http.StatusPreconditionFailed:
		return ErrPrecondition
	// The two families agree on the words, not on the prefix or the status.
	case s == http.StatusConflict && strings.Contains(code, "in_progress"):
		return ErrIdempotencyInProgress
	// Assumption: no page names the answer to a duplicate that is not simply 2xx.
	case s == http.StatusConflict && (strings.Contains(code, "duplicate") || strings.Contains(code, "already")):
		return ErrDuplicate
	case s == http.StatusConflict,
		s == http.StatusUnprocessableEntity && strings.Contains(code, "idempotency"):
		return ErrIdempotencyConflict
	}
	return ErrInvalid
}

// retryAfter reads Retry-After, in seconds or as a date.
//
// Source: docs.paylera.com, /api/rate-limits (seconds); RFC 9110 10.2.3 (dates).
func retryAfter(h http.Header) (time.Duration, bool) {
	s := strings.TrimSpace(h.Get("Retry-After"))
	if s == "" {
		return 0, false
	}
	// Rounded up: a wait that is cut short earns the next 429.
	if ms, err := parseDecimal(s, 3, roundUp); err == nil {
		return boundedWait(time.Duration(min(ms, maxRetryAfter.Milliseconds())) * time.Millisecond), true
	}
	if at, err := http.ParseTime(s); err == nil {
		return boundedWait(at.Sub(serverNow(h))), true
	}
	return 0, false
}

// untilReset reads X-RateLimit-Reset, which is in unix seconds.
func untilReset(h http.Header) (time.Duration, bool) {
	at, err := strconv.ParseInt(strings.TrimSpace(h.Get("X-RateLimit-Reset")), 10, 64)
	if err != nil || at > lastMillisecond/1000 {
		return 0, false
	}
	wait := boundedWait(time.Unix(at, 0).Sub(serverNow(h)))
	return wait, wait > 0
}

// serverNow is the clock that the answer's other times were read from. The
// local clock stands in only when there is no Date: being minutes apart would
// turn a wait of a second into minutes, or into none.
func serverNow(h http.Header) time.Time {
	if t, err := http.ParseTime(h.Get("Date")); err == nil {
		return t
	}
	return time.Now()
}

// boundedWait also takes a moment that has passed for "now".
func boundedWait(d time.Duration) time.Duration { return min(max(d, 0), maxRetryAfter) }

// first is the first that says something.
func first(candidates ...loose) string {
	for _, c := range candidates {
		if c != "" {
			return string(c)
		}
	}
	return ""
}

// cut bounds text from outside, which goes into logs.
func cut(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}
