package entitlementstest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/entitlements-go/entitlements"
)

// expect compares an answer with what was put.
func expect(e *entitlements.Entitlements, err error, customer string, grants map[string]entitlements.Grant) error {
	switch {
	case err != nil:
		return fmt.Errorf("fetch of %q: %w", customer, err)
	case e == nil:
		return fmt.Errorf("fetch of %q: nil without an error", customer)
	case e.Customer != customer:
		return fmt.Errorf("fetch of %q: answered with the key %q", customer, e.Customer)
	}
	for code, want := range grants {
		got, ok := e.Features[code]
		if !ok {
			return fmt.Errorf("fetch of %q: feature %q is missing", customer, code)
		}
		if !sameGrant(got, want) {
			return fmt.Errorf("fetch of %q: feature %q is %+v, want %+v", customer, code, got, want)
		}
	}
	// What is there beyond that was granted by nobody.
	for code := range e.Features {
		if _, ok := grants[code]; !ok {
			return fmt.Errorf("fetch of %q: feature %q was not granted", customer, code)
		}
	}
	return nil
}

// sameGrant ignores time zones, and a PeriodStart that is not known: nothing is
// decided by it.
func sameGrant(got, want entitlements.Grant) bool {
	if !got.ResetsAt.Equal(want.ResetsAt) || !got.ExpiresAt.Equal(want.ExpiresAt) {
		return false
	}
	if !got.PeriodStart.IsZero() && !want.PeriodStart.IsZero() && !got.PeriodStart.Equal(want.PeriodStart) {
		return false
	}
	got.PeriodStart, got.ResetsAt, got.ExpiresAt = want.PeriodStart, want.ResetsAt, want.ExpiresAt
	return got == want
}

// checkGrants stores one of everything and reads it back, whole and without
// additions: what is granted by mistake is given away.
func checkGrants(h SourceHarness) error {
	if h.Put == nil {
		return needs("SourceHarness.Put")
	}
	h.put(h.Keys[0], h.Grants)
	e, err := h.fetch(h.Keys[0])
	if err := expect(e, err, h.Keys[0], h.Grants); err != nil {
		return err
	}
	// A change shows at once: nothing in between may keep answers, since the
	// core decides how old they may be.
	h.put(h.Keys[0], fewer(h.Grants))
	e, err = h.fetch(h.Keys[0])
	return expect(e, err, h.Keys[0], fewer(h.Grants))
}

// checkOwnKey puts different grants under every key, so that a key that gets
// lost on its way finds another's.
func checkOwnKey(h SourceHarness) error {
	if h.Put == nil {
		return needs("SourceHarness.Put")
	}
	codes := slices.Sorted(maps.Keys(h.Grants))
	grants := func(i int) map[string]entitlements.Grant {
		code := codes[i%len(codes)]
		return map[string]entitlements.Grant{code: h.Grants[code]}
	}
	for i, key := range h.Keys {
		h.put(key, grants(i))
	}
	for i, key := range h.Keys {
		e, err := h.fetch(key)
		if err := expect(e, err, key, grants(i)); err != nil {
			return err
		}
	}
	return nil
}

// checkNoFeatures has a customer who exists and may do nothing, which is not the
// same as one who does not exist: a denial has another reason, and another age.
func checkNoFeatures(h SourceHarness) error {
	if h.Put == nil {
		return needs("SourceHarness.Put")
	}
	h.put(h.Keys[0], nil)
	e, err := h.fetch(h.Keys[0])
	return expect(e, err, h.Keys[0], nil)
}

// isUnknown checks the one error that denies whatever the policy: it must be
// told from every failure.
func isUnknown(e *entitlements.Entitlements, err error) error {
	switch {
	case !errors.Is(err, entitlements.ErrUnknownCustomer):
		return fmt.Errorf("unknown customer: got (%v, %w), want ErrUnknownCustomer", e, err)
	case entitlements.IsPermanent(err):
		return fmt.Errorf("unknown customer: %w is Permanent, which shuts the door for all customers", err)
	}
	return nil
}

// checkUnknownCustomer asks for every awkward key: an error of parsing must not
// come out as another error than for a plain one.
func checkUnknownCustomer(h SourceHarness) error {
	for _, key := range h.Keys {
		if err := isUnknown(h.fetch(key)); err != nil {
			return fmt.Errorf("%q: %w", key, err)
		}
	}
	return nil
}

// checkRemovedCustomer goes from known to unknown and back: neither state may
// stick in the Source.
func checkRemovedCustomer(h SourceHarness) error {
	if h.Put == nil || h.Remove == nil {
		return needs("SourceHarness.Put and Remove")
	}
	h.put(h.Keys[0], h.Grants)
	e, err := h.fetch(h.Keys[0])
	if err := expect(e, err, h.Keys[0], h.Grants); err != nil {
		return err
	}
	h.Remove(h.Keys[0])
	if err := isUnknown(h.fetch(h.Keys[0])); err != nil {
		return err
	}
	h.put(h.Keys[0], fewer(h.Grants))
	e, err = h.fetch(h.Keys[0])
	return expect(e, err, h.Keys[0], fewer(h.Grants))
}

// checkImmutable keeps an answer while the backend and the Source go on.
func checkImmutable(h SourceHarness) error {
	if h.Put == nil {
		return needs("SourceHarness.Put")
	}
	h.put(h.Keys[0], h.Grants)
	first, err := h.fetch(h.Keys[0])
	if err := expect(first, err, h.Keys[0], h.Grants); err != nil {
		return err
	}
	// A copy, since it is the answer itself that must stay as it is.
	kept := *first
	kept.Features = maps.Clone(first.Features)
	for range 3 {
		h.put(h.Keys[0], fewer(h.Grants))
		h.put(h.Keys[1], h.Grants)
		for _, key := range h.Keys[:2] {
			if _, err := h.fetch(key); err != nil {
				return fmt.Errorf("fetch of %q: %w", key, err)
			}
		}
	}
	if !maps.Equal(first.Features, kept.Features) || first.Customer != kept.Customer || first.Version != kept.Version {
		return errors.New("an answer changed after it was handed over")
	}
	return nil
}

// checkUsage is about AsOf: what was accepted before it, or before the fetch
// began when it is zero, must be in Used.
func checkUsage(h SourceHarness) error {
	if h.Put == nil || h.Use == nil {
		return needs("SourceHarness.Put and Use")
	}
	feature := ""
	for _, code := range slices.Sorted(maps.Keys(h.Grants)) {
		if g := h.Grants[code]; g.Kind == entitlements.KindMetered && g.Enabled {
			feature = code
		}
	}
	if feature == "" {
		return needs("a metered grant in SourceHarness.Grants")
	}
	want := maps.Clone(h.Grants)
	h.put(h.Keys[0], want)
	// Several rounds, so that a Source which is always one behind is found.
	for range 3 {
		h.Use(h.Keys[0], feature, 5)
		grant := want[feature]
		grant.Used += 5
		want[feature] = grant
		before := time.Now()
		e, err := h.fetch(h.Keys[0])
		if err := expect(e, err, h.Keys[0], want); err != nil {
			return fmt.Errorf("after usage was accepted: %w", err)
		}
		if err := checkAsOf(e, before, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

// checkAsOf bounds AsOf by the answer: a later one would promise what nobody
// knows yet, and usage would be counted out that is not in.
func checkAsOf(e *entitlements.Entitlements, before, after time.Time) error {
	switch {
	case e.AsOf.IsZero():
		return nil
	case e.ServerTime.IsZero():
		// Then the Source shares the local clock, for which a second is a lot.
		if e.AsOf.After(after.Add(time.Second)) {
			return fmt.Errorf("AsOf %v without a ServerTime is after the answer, at %v", e.AsOf, after)
		}
	case e.AsOf.After(e.ServerTime.Add(after.Sub(before) + time.Second)):
		return fmt.Errorf("AsOf %v is after the answer, at %v on the backend's clock", e.AsOf, e.ServerTime)
	}
	return nil
}

// checkConcurrent calls the Source as the core does: for many customers at once.
// Under the race detector it finds what is shared.
func checkConcurrent(h SourceHarness) error {
	if h.Put == nil {
		return needs("SourceHarness.Put")
	}
	for _, key := range h.Keys {
		h.put(key, h.Grants)
	}
	errs := make([]error, 16)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for n := range 3 * len(h.Keys) {
				key := h.Keys[(i+n)%len(h.Keys)]
				e, err := h.fetch(key)
				if err := expect(e, err, key, h.Grants); err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// checkEndedContext allows an answer all the same: what needs no wait needs no
// context. It must not take the end for a verdict about the customer.
func checkEndedContext(h SourceHarness) error {
	if h.Put == nil {
		return needs("SourceHarness.Put")
	}
	h.put(h.Keys[0], h.Grants)
	e, err := h.call("Fetch with an ended context", func(ctx context.Context) (*entitlements.Entitlements, error) {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		return h.Source.Fetch(ctx, h.Keys[0])
	})
	if err == nil {
		return expect(e, nil, h.Keys[0], h.Grants)
	}
	return isFailure(e, err)
}
