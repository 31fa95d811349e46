package entitlementstest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/entitlements-go/entitlements"
)

// listed is what ranging over a List came to.
type listed struct {
	keys map[string]int
	errs []error
	late bool // something came after an error
}

// list ranges over List until it ends, or breaks out after some customers; 0 is
// never.
func (h SourceHarness) list(ctx context.Context, stopAfter int) (listed, error) {
	return promptly(2*h.Patience, "List", func() listed {
		l := listed{keys: make(map[string]int)}
		for key, err := range h.Source.(entitlements.Lister).List(ctx) {
			l.late = l.late || len(l.errs) > 0
			if err != nil {
				l.errs = append(l.errs, err)
				continue
			}
			l.keys[key]++
			if stopAfter--; stopAfter == 0 {
				break
			}
		}
		return l
	})
}

// checkList has more customers than any page, and lists them twice: a sequence
// can be ranged over again.
func checkList(h SourceHarness) error {
	if _, ok := h.Source.(entitlements.Lister); !ok {
		return skipped{"not a Lister"}
	}
	if h.Put == nil {
		return needs("SourceHarness.Put")
	}
	// More than two pages of 100, and not a multiple of any usual page.
	keys := h.many(230)
	for range 2 {
		l, err := h.list(context.Background(), 0)
		if err != nil || len(l.errs) > 0 {
			return errors.Join(append(l.errs, err)...)
		}
		for _, key := range keys {
			if l.keys[key] != 1 {
				return fmt.Errorf("List named %q %d times, want once", key, l.keys[key])
			}
		}
		if len(l.keys) != len(keys) {
			return fmt.Errorf("List named %d customers, want %d", len(l.keys), len(keys))
		}
	}
	return nil
}

// checkListStops breaks out of the sequence. One that goes on calling yield
// panics by itself, which promptly reports.
func checkListStops(h SourceHarness) error {
	if _, ok := h.Source.(entitlements.Lister); !ok {
		return skipped{"not a Lister"}
	}
	if h.Put == nil {
		return needs("SourceHarness.Put")
	}
	h.many(5)
	l, err := h.list(context.Background(), 2)
	if err == nil && len(l.keys) != 2 {
		err = fmt.Errorf("List named %d customers before the second break, want 2: %w", len(l.keys), errors.Join(l.errs...))
	}
	return err
}

// checkListFailure wants failures told, and the sequence to end with them: a
// listing that just ends looks like a tenant without customers.
func checkListFailure(h SourceHarness) error {
	if _, ok := h.Source.(entitlements.Lister); !ok {
		return skipped{"not a Lister"}
	}
	if h.Put != nil {
		h.many(5)
	}
	if err := h.breakable(FailServer); err != nil {
		return err
	}
	// A List may try its pages again by itself, for as long as it is given.
	ctx, cancel := context.WithTimeout(context.Background(), h.Patience/4)
	defer cancel()
	l, err := h.list(ctx, 0)
	h.Repair()
	switch {
	case err != nil:
		return err
	case len(l.errs) == 0:
		return errors.New("List of a broken backend ended without an error")
	case l.late:
		return errors.New("List went on after it yielded an error")
	}
	return isFailure(nil, l.errs[0])
}

// heard is an Invalidator that notes what it is told.
type heard struct {
	wake chan struct{}

	mu   sync.Mutex // guards the fields below
	keys map[string]bool
	all  bool
}

// newHeard makes one that has heard nothing.
func newHeard() *heard {
	return &heard{keys: make(map[string]bool), wake: make(chan struct{}, 1)}
}

func (i *heard) Invalidate(customers ...string) {
	i.note(func() {
		for _, customer := range customers {
			i.keys[customer] = true
		}
	})
}

func (i *heard) InvalidateAll() { i.note(func() { i.all = true }) }

// note makes a change under the lock and wakes who waits, without ever waiting
// itself: an Invalidator must not block its Watcher.
func (i *heard) note(change func()) {
	i.mu.Lock()
	change()
	i.mu.Unlock()
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// of reports whether a customer was told of, by itself or with all.
func (i *heard) of(customer string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.all || i.keys[customer]
}

// checkWatchTells changes a customer until Watch tells. Again and again, since
// nothing says when a Watch that has been called has begun.
func checkWatchTells(h SourceHarness) error {
	watcher, ok := h.Source.(entitlements.Watcher)
	if !ok {
		return skipped{"not a Watcher"}
	}
	if h.Put == nil {
		return needs("SourceHarness.Put")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	told, ended := newHeard(), make(chan error, 1)
	go func() { ended <- watcher.Watch(ctx, told) }()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	limit := time.NewTimer(h.Patience)
	defer limit.Stop()
	for n := 0; ; n++ {
		// Back and forth: a backend need not tell of a change that is none.
		grants := h.Grants
		if n%2 == 1 {
			grants = fewer(h.Grants)
		}
		h.put(h.Keys[0], grants)
		select {
		case <-told.wake:
		case <-ticker.C:
		case err := <-ended:
			return fmt.Errorf("Watch returned before its context ended: %w", err)
		case <-limit.C:
			return fmt.Errorf("Watch did not tell of a change within %v", h.Patience)
		}
		if told.of(h.Keys[0]) {
			break
		}
	}
	cancel()
	select {
	case err := <-ended:
		_ = err // the context's or none: either will do
		return nil
	case <-time.After(h.Patience):
		return errors.New("Watch did not return when its context ended")
	}
}

// checkWatchEnds has nothing to watch for: the end of ctx is the only way out,
// and Close waits for it.
func checkWatchEnds(h SourceHarness) error {
	watcher, ok := h.Source.(entitlements.Watcher)
	if !ok {
		return skipped{"not a Watcher"}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := promptly(h.Patience, "Watch with an ended context", func() error {
		return watcher.Watch(ctx, newHeard())
	})
	return err
}
