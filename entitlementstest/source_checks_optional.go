package entitlementstest

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/entitlements-go/entitlements"
)

// checkNotModified walks a version through its life: it is at hand, it is
// outdated, it was never ours.
func checkNotModified(h SourceHarness) error {
	conditional, ok := h.Source.(entitlements.ConditionalSource)
	switch {
	case !ok:
		return skipped{"not a ConditionalSource"}
	case h.Put == nil:
		return needs("SourceHarness.Put")
	}
	key := h.Keys[0]
	changed := func(version string) (*entitlements.Entitlements, error) {
		return h.call("FetchChanged", func(ctx context.Context) (*entitlements.Entitlements, error) {
			return conditional.FetchChanged(ctx, key, version)
		})
	}
	h.put(key, h.Grants)
	first, err := h.fetch(key)
	if err := expect(first, err, key, h.Grants); err != nil {
		return err
	}
	if first.Version == "" {
		return errors.New("a ConditionalSource answered without a Version: it will never be asked whether anything changed")
	}
	if e, err := changed(first.Version); !errors.Is(err, entitlements.ErrNotModified) {
		return fmt.Errorf("FetchChanged with the version at hand: got (%v, %w), want ErrNotModified", e, err)
	}
	// Fetch is for who has nothing at hand, whatever was asked before.
	e, err := h.fetch(key)
	if err := expect(e, err, key, h.Grants); err != nil {
		return fmt.Errorf("after ErrNotModified: %w", err)
	}
	// An outdated version must bring the new content at once: the core takes
	// ErrNotModified for "renew its age", and a revoked feature would stay.
	h.put(key, fewer(h.Grants))
	second, err := changed(first.Version)
	if err := expect(second, err, key, fewer(h.Grants)); err != nil {
		return fmt.Errorf("FetchChanged after a change: %w", err)
	}
	if second.Version == first.Version {
		return fmt.Errorf("another content has the same version %q", second.Version)
	}
	// As after a restart from a disk that belongs to another environment.
	e, err = changed("never-issued")
	if err := expect(e, err, key, fewer(h.Grants)); err != nil {
		return fmt.Errorf("FetchChanged with a version that was never issued: %w", err)
	}
	return nil
}

// checkNotModifiedUnknown has a customer that went away since its version was
// issued. ErrNotModified would keep it alive for ever.
func checkNotModifiedUnknown(h SourceHarness) error {
	conditional, ok := h.Source.(entitlements.ConditionalSource)
	if !ok {
		return skipped{"not a ConditionalSource"}
	}
	return isUnknown(h.call("FetchChanged", func(ctx context.Context) (*entitlements.Entitlements, error) {
		return conditional.FetchChanged(ctx, h.Keys[0], "some-version")
	}))
}

// batchAnswer is what a FetchBatch returned.
type batchAnswer struct {
	found map[string]*entitlements.Entitlements
	err   error
}

// fetchBatch is a FetchBatch that must return in time. It checks what holds for
// every answer: no nil, and each customer under its own key.
func (h SourceHarness) fetchBatch(customers []string) (batchAnswer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), h.Patience)
	defer cancel()
	a, err := promptly(2*h.Patience, "FetchBatch", func() batchAnswer {
		found, err := h.Source.(entitlements.BatchSource).FetchBatch(ctx, customers)
		return batchAnswer{found, err}
	})
	if err == nil {
		err = leaks(a.err, h.Secrets)
	}
	for key, e := range a.found {
		if err == nil && (e == nil || e.Customer != key) {
			err = fmt.Errorf("FetchBatch answered %q with %+v", key, e)
		}
	}
	return a, err
}

// checkBatch mixes customers that exist with one that does not: absent without
// an error is what says so.
func checkBatch(h SourceHarness) error {
	if _, ok := h.Source.(entitlements.BatchSource); !ok {
		return skipped{"not a BatchSource"}
	}
	if h.Put == nil {
		return needs("SourceHarness.Put")
	}
	known, unknown := h.Keys[:len(h.Keys)-1], h.Keys[len(h.Keys)-1]
	for _, key := range known {
		h.put(key, h.Grants)
	}
	// Also alone: a batch of one is what is left when others are loading already,
	// and a batch of nobody known must not look like a failure.
	for _, asked := range [][]string{h.Keys, {known[0]}, {unknown}} {
		a, err := h.fetchBatch(asked)
		if err != nil {
			return err
		}
		if a.err != nil {
			return fmt.Errorf("FetchBatch of %q: %w", asked, a.err)
		}
		want := 0
		for _, key := range asked {
			if key == unknown {
				continue
			}
			want++
			if err := expect(a.found[key], nil, key, h.Grants); err != nil {
				return fmt.Errorf("FetchBatch: %w", err)
			}
		}
		if len(a.found) != want {
			return fmt.Errorf("FetchBatch of %q answered %d customers, want %d", asked, len(a.found), want)
		}
	}
	return nil
}

// checkBatchOf100 asks for as many customers as the core ever does at once. A
// backend that takes fewer needs several requests below one FetchBatch.
func checkBatchOf100(h SourceHarness) error {
	if _, ok := h.Source.(entitlements.BatchSource); !ok {
		return skipped{"not a BatchSource"}
	}
	if h.Put == nil {
		return needs("SourceHarness.Put")
	}
	keys := h.many(100)
	a, err := h.fetchBatch(keys)
	if err != nil || a.err != nil {
		return errors.Join(err, a.err)
	}
	for _, key := range keys {
		if err := expect(a.found[key], nil, key, fewer(h.Grants)); err != nil {
			return fmt.Errorf("FetchBatch of 100: %w", err)
		}
	}
	return nil
}

// many puts n customers with ordinary keys.
func (h SourceHarness) many(n int) (keys []string) {
	for i := range n {
		key := "many_" + strconv.Itoa(i)
		h.put(key, fewer(h.Grants))
		keys = append(keys, key)
	}
	return keys
}

// checkBatchFailure is about who is absent when the backend fails: absent
// without an error would deny all of them as unknown.
func checkBatchFailure(h SourceHarness, failure Failure) error {
	if _, ok := h.Source.(entitlements.BatchSource); !ok {
		return skipped{"not a BatchSource"}
	}
	if h.Put != nil {
		for _, key := range h.Keys {
			h.put(key, h.Grants)
		}
	}
	if err := h.breakable(failure); err != nil {
		return err
	}
	defer h.Repair()
	a, err := h.fetchBatch(h.Keys)
	if err != nil {
		return err
	}
	// Some may have been found before it broke; all of them would mean that the
	// harness broke nothing.
	if len(a.found) == len(h.Keys) && a.err == nil {
		return fmt.Errorf("%v: FetchBatch answered everybody", failure)
	}
	if err := isClassified(failure, nil, a.err); err != nil {
		return fmt.Errorf("FetchBatch: %w", err)
	}
	return nil
}
