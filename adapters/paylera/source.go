package paylera

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/entitlements-go/entitlements"
)

const (
	// fetchWorkers bounds the requests of one fetch of a customer with several
	// subscriptions.
	fetchWorkers = 4

	// A longer ETag is not kept: a Version is stored with every customer.
	maxETag = 256
)

// Fetch loads what a customer may do: GET /v1/subscriptions/{id}/entitlements,
// once per subscription.
//
// Version is the ETag when the API sends one; with several subscriptions there
// is none. ServerTime is the Date header. AsOf is the body's as_of or the
// Paylera-As-Of header (assumption: no page promises one), or how old a cache
// in between says the answer is.
//
// It makes one attempt. Its error is [entitlements.ErrUnknownCustomer] for a
// 404, [entitlements.Permanent] for 401 and 403, [entitlements.RetryAfter] for
// 429 and for a 5xx that names a wait, and plain for everything else; all of
// them are also an [*Error].
//
// Source: docs.paylera.com, /sdks/entitlements.
func (a *Adapter) Fetch(ctx context.Context, customer string) (*entitlements.Entitlements, error) {
	e, err := a.load(ctx, customer, "")
	return e, doorError(err)
}

// FetchChanged is Fetch with If-None-Match. Beside ErrNotModified it returns
// nothing but ServerTime. A customer with several subscriptions has no version
// and is always loaded whole.
func (a *Adapter) FetchChanged(ctx context.Context, customer, version string) (*entitlements.Entitlements, error) {
	// A version that is not one of ours, or of another time, is simply not sent.
	e, err := a.load(ctx, customer, version)
	return e, doorError(err)
}

// Lookup is Fetch for programs that ask without a Client: it retries by itself,
// up to 5 attempts, for as long as ctx allows, obeying Retry-After.
func (a *Adapter) Lookup(ctx context.Context, customer string) (*entitlements.Entitlements, error) {
	e, err := retry(ctx, func() (*entitlements.Entitlements, error) { return a.load(ctx, customer, "") })
	return e, doorError(err)
}

// doorError marks a failed fetch as the contract of a Source wants it. A failed
// lookup of the subscriptions is marked by who wrote it.
func doorError(err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.is(ErrNotFound):
		return fmt.Errorf("%w: %w", entitlements.ErrUnknownCustomer, err)
	case e.is(ErrAuthentication, ErrAuthorization):
		return entitlements.Permanent(err)
	case e.is(ErrRateLimited), e.is(ErrServer) && e.asked:
		return entitlements.RetryAfter(e.RetryAfter, err)
	}
	return err
}

// subscriptions asks whose usage and grants a customer's are.
func (a *Adapter) subscriptions(ctx context.Context, customer string) ([]string, error) {
	if a.config.Subscriptions == nil {
		return []string{customer}, nil
	}
	subscriptions, err := a.config.Subscriptions(ctx, customer)
	if err != nil {
		return nil, fmt.Errorf("paylera: looking up subscriptions: %w", err)
	}
	return subscriptions, nil
}

func (a *Adapter) load(ctx context.Context, customer, version string) (*entitlements.Entitlements, error) {
	subscriptions, err := a.subscriptions(ctx, customer)
	if err != nil {
		return nil, err
	}
	if a.memory != nil {
		a.memory.hold(customer, subscriptions)
	}
	switch len(subscriptions) {
	case 0:
		return &entitlements.Entitlements{Customer: customer}, nil
	case 1:
		return a.loadSubscription(ctx, customer, subscriptions[0], version)
	}
	// No conditional requests here: one 304 among several answers would leave a
	// hole where its content belongs.
	parts := make([]*entitlements.Entitlements, len(subscriptions))
	errs := make([]error, len(subscriptions))
	parallel(len(subscriptions), fetchWorkers, func(i int) {
		parts[i], errs[i] = a.loadSubscription(ctx, customer, subscriptions[i], "")
	})
	missing := 0
	for _, err := range errs {
		switch {
		case err == nil:
		case errors.Is(err, ErrNotFound):
			missing++ // one that ended takes nothing from the others
		default:
			return nil, err
		}
	}
	if missing == len(errs) {
		return nil, errs[0]
	}
	merged, grants := merge(customer, subscriptions, parts)
	a.memory.learn(customer, subscriptions, grants) // never nil here: one key is one subscription
	return merged, nil
}

// loadSubscription makes the one request.
func (a *Adapter) loadSubscription(ctx context.Context, customer, subscription, version string) (*entitlements.Entitlements, error) {
	c := call{
		method:   http.MethodGet,
		endpoint: "/v1/subscriptions/{id}/entitlements",
		path:     "/v1/subscriptions/" + pathSegment(subscription) + "/entitlements",
		class:    classRead,
	}
	if subscription == "" {
		// Not an id, and as a path segment it would ask for something else.
		return nil, &Error{Endpoint: c.method + " " + c.endpoint, kind: ErrNotFound, Detail: "an empty id", unsent: true}
	}
	stamp := a.versionStamp(subscription)
	c.version, _ = strings.CutPrefix(version, stamp)
	if c.version == version || !isETag(c.version) {
		c.version = "" // of another subscription, or decoded otherwise: load it whole
	}
	r, err := a.transport.do(ctx, c)
	if err != nil {
		return nil, err
	}
	if r.status == http.StatusNotModified {
		e := &entitlements.Entitlements{Customer: customer}
		readClocks(e, r.header)
		return e, entitlements.ErrNotModified
	}
	// A cache in between that mixes up its keys is rare, and would hand one
	// customer another's plan.
	decoded, err := decodeAnswer(r.body, a.config.Decimals)
	if err == nil && decoded.subscription != "" && decoded.subscription != subscription {
		err = errors.New("subscription_id: of another subscription")
	}
	if err != nil {
		return nil, &Error{
			Endpoint: c.method + " " + c.endpoint, Status: r.status, RequestID: cut(a.transport.redact(r.header.Get("X-Request-Id")), maxDetail),
			kind: ErrMalformed, cause: a.transport.redactError(err),
		}
	}
	e := &entitlements.Entitlements{
		Customer: customer,
		Plan:     decoded.plan,
		Features: decoded.features,
		AsOf:     decoded.asOf,
	}
	if tag := strings.TrimSpace(r.header.Get("ETag")); isETag(tag) {
		e.Version = stamp + tag
	}
	readClocks(e, r.header)
	return e, nil
}

// pathSegment escapes an id, which is opaque bytes, for a path. Dots need no
// escape by themselves, but "." and ".." alone would walk the path.
func pathSegment(id string) string {
	if id == "." || id == ".." {
		return strings.ReplaceAll(id, ".", "%2E")
	}
	return url.PathEscape(id)
}

// readClocks reads the backend's clock, and how old the answer is by it.
func readClocks(e *entitlements.Entitlements, h http.Header) {
	e.ServerTime, _ = http.ParseTime(h.Get("Date"))
	if e.AsOf.IsZero() {
		e.AsOf, _ = parseMoment(strings.TrimSpace(h.Get("Paylera-As-Of")))
	}
	// A cache in between keeps the Date of the answer that it stored. What was
	// used since then is not in it (RFC 9111, 5.1).
	age, err := strconv.ParseInt(h.Get("Age"), 10, 32)
	if err != nil || age <= 0 || e.ServerTime.IsZero() {
		return
	}
	if e.AsOf.IsZero() {
		e.AsOf = e.ServerTime
	}
	e.ServerTime = e.ServerTime.Add(time.Duration(age) * time.Second)
}

// versionStamp stands before every ETag in a Version. An ETag means something
// only for the subscription that it came from, and its content only with the
// decimals that it was read with; both can change between two runs of a program
// that keeps its entitlements on disk.
func (a *Adapter) versionStamp(subscription string) string {
	var b strings.Builder
	b.WriteString(subscription)
	for _, feature := range slices.Sorted(maps.Keys(a.config.Decimals)) {
		fmt.Fprintf(&b, "\x00%s\x00%d", feature, a.config.Decimals[feature])
	}
	return hash(b.String())[:16] + ":"
}

// isETag reports whether s can be sent as an If-None-Match.
func isETag(s string) bool {
	return len(s) <= maxETag && (strings.HasPrefix(s, `"`) || strings.HasPrefix(s, `W/"`)) &&
		strings.HasSuffix(s, `"`) && isHeaderText(s)
}
