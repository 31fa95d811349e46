package entitlementstest

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/entitlements-go/entitlements"
)

// SourceHarness is one Source and the means to put its backend into the states
// that [RunSourceTests] needs. A hook that is nil skips the subtests that need
// it.
type SourceHarness struct {
	// Source is what is tested. Required. Optional interfaces that it has are
	// tested too.
	Source entitlements.Source

	// Put makes the backend answer like this for the customer. When it returns,
	// the next Fetch sees it, and a Watcher has been sent word of it. AsOf,
	// ServerTime and Version are the backend's own business.
	Put func(e *entitlements.Entitlements)

	// Remove makes a customer unknown to the backend.
	Remove func(customer string)

	// Use makes the backend accept usage of a metered feature, in the feature's
	// smallest unit. When it returns, it is accepted.
	Use func(customer, feature string, n int64)

	// Break makes every request fail in this way until Repair. It returns false
	// for a failure that this backend does not have, which skips the subtest.
	Break func(Failure) bool

	// Repair ends what Break began, requests that hang included.
	Repair func()

	// Requests is how many requests have reached the backend.
	Requests func() int

	// Grants is a sample of what the backend can express, by feature code. The
	// suite takes whole seconds in times, and Put must be able to store any
	// subset. Defaults to one of everything.
	Grants map[string]entitlements.Grant

	// Keys are customer keys that the backend can hold, at least three. Defaults
	// to awkward ones: customer keys are opaque bytes, so that slashes, blanks
	// and percent signs must survive the way to the backend.
	Keys []string

	// Secrets must not appear in the text of any error.
	Secrets []string

	// Patience is how long the suite waits for what must come promptly. Defaults
	// to 5 s.
	Patience time.Duration
}

// RunSourceTests checks that a Source does what the core relies on: see
// [entitlements.Source] and the optional interfaces. open is called once per
// subtest, for a backend that knows no customers; it cleans up with t.Cleanup.
func RunSourceTests(t *testing.T, open func(t testing.TB) SourceHarness) {
	t.Helper()
	for _, check := range sourceChecks() {
		t.Run(check.name, func(t *testing.T) {
			h := open(t)
			if h.Source == nil {
				t.Fatal("SourceHarness.Source is required")
			}
			report(t, check.run(h.withDefaults()))
		})
	}
}

// sourceCheck is one promise. run returns what is wrong, or skipped.
type sourceCheck struct {
	name string
	run  func(h SourceHarness) error
}

func sourceChecks() []sourceCheck {
	checks := []sourceCheck{
		{"grants", checkGrants},
		{"own key", checkOwnKey},
		{"no features", checkNoFeatures},
		{"unknown customer", checkUnknownCustomer},
		{"removed customer", checkRemovedCustomer},
		{"immutable", checkImmutable},
		{"usage", checkUsage},
		{"concurrent", checkConcurrent},
		{"ended context", checkEndedContext},
		{"hanging backend", checkHangingBackend},
		{"one attempt", checkOneAttempt},
		{"not modified", checkNotModified},
		{"not modified, unknown customer", checkNotModifiedUnknown},
		{"batch", checkBatch},
		{"batch of 100", checkBatchOf100},
		{"list", checkList},
		{"list stops", checkListStops},
		{"list failure", checkListFailure},
		{"watch tells", checkWatchTells},
		{"watch ends", checkWatchEnds},
	}
	for _, failure := range []Failure{FailUnauthorized, FailForbidden, FailRateLimited, FailServer, FailUnreachable, FailGarbage} {
		checks = append(checks,
			sourceCheck{"failure, " + failure.String(), func(h SourceHarness) error { return checkFailure(h, failure) }},
			sourceCheck{"batch failure, " + failure.String(), func(h SourceHarness) error { return checkBatchFailure(h, failure) }},
		)
	}
	return checks
}

func (h SourceHarness) withDefaults() SourceHarness {
	if h.Grants == nil {
		h.Grants = sampleGrants(time.Now())
	}
	if len(h.Keys) < 3 {
		h.Keys = []string{
			"cust_1", "a/b", "../..", "..", "50% off+x", "%2F", "ü ñ 漢", "a?b#c&d=e", "a:b;c,d", `"quoted\`,
			strings.Repeat("k", entitlements.MaxKeyLength),
		}
	}
	if h.Patience == 0 {
		h.Patience = defaultPatience
	}
	return h
}

// sampleGrants is one of everything a grant can be. Times are whole seconds in
// the future: a backend may not keep more, and what has ended may be left out.
func sampleGrants(now time.Time) map[string]entitlements.Grant {
	later := now.UTC().Truncate(time.Second).Add(30 * 24 * time.Hour)
	return map[string]entitlements.Grant{
		"sso":      {Kind: entitlements.KindBoolean, Enabled: true},
		"audit":    {Kind: entitlements.KindBoolean},
		"trial":    {Kind: entitlements.KindBoolean, Enabled: true, ExpiresAt: later},
		"seats":    {Kind: entitlements.KindNumeric, Enabled: true, Limit: 25},
		"region":   {Kind: entitlements.KindText, Enabled: true, Text: "eu-central"},
		"api":      {Kind: entitlements.KindMetered, Enabled: true, Limit: 1000, Used: 7, ResetsAt: later},
		"exports":  {Kind: entitlements.KindMetered, Enabled: true, Limit: 3, Used: 5, Soft: true, ResetsAt: later},
		"none":     {Kind: entitlements.KindMetered, Enabled: true, Limit: 0},
		"messages": {Kind: entitlements.KindMetered, Enabled: true, Limit: entitlements.Unlimited, Used: 1},
	}
}

// fewer is grants without the first: another content for the same customer.
func fewer(grants map[string]entitlements.Grant) map[string]entitlements.Grant {
	rest := maps.Clone(grants)
	if codes := slices.Sorted(maps.Keys(grants)); len(codes) > 0 {
		delete(rest, codes[0])
	}
	return rest
}

func (h SourceHarness) put(customer string, grants map[string]entitlements.Grant) {
	h.Put(&entitlements.Entitlements{Customer: customer, Features: maps.Clone(grants)})
}

// fetch is a Fetch of a healthy backend, which must answer promptly.
func (h SourceHarness) fetch(customer string) (*entitlements.Entitlements, error) {
	return h.call("Fetch", func(ctx context.Context) (*entitlements.Entitlements, error) {
		return h.Source.Fetch(ctx, customer)
	})
}

// call bounds a call and checks what holds for the answer of every one.
func (h SourceHarness) call(what string, f func(ctx context.Context) (*entitlements.Entitlements, error)) (*entitlements.Entitlements, error) {
	type result struct {
		e   *entitlements.Entitlements
		err error
	}
	ctx, cancel := context.WithTimeout(context.Background(), h.Patience)
	defer cancel()
	// Twice: a call that honours its context ends at the first.
	r, err := promptly(2*h.Patience, what, func() result {
		e, err := f(ctx)
		return result{e, err}
	})
	if err != nil {
		return nil, broke{err}
	}
	if err := leaks(r.err, h.Secrets); err != nil {
		return nil, broke{err}
	}
	return r.e, r.err
}

// broke marks an error that the suite found, among those that a Source returned.
type broke struct{ error }
