package entitlementstest

import (
	"context"
	"iter"
	"maps"
	"slices"

	"github.com/entitlements-go/entitlements"
)

// ConditionalSource is a [Source] that is an [entitlements.ConditionalSource]
// too. Scripts and counts are those of the Source.
type ConditionalSource struct{ *Source }

// Conditional adds FetchChanged.
func (s *Source) Conditional() *ConditionalSource { return &ConditionalSource{s} }

// FetchChanged is Fetch, and ErrNotModified for the version at hand.
func (s *ConditionalSource) FetchChanged(ctx context.Context, customer, version string) (*entitlements.Entitlements, error) {
	return s.fetch(ctx, customer, version)
}

// BatchSource is a [Source] that is an [entitlements.BatchSource] too.
type BatchSource struct{ *Source }

// Batch adds FetchBatch.
func (s *Source) Batch() *BatchSource { return &BatchSource{s} }

// FetchBatch takes one step for the whole batch. A step's Answer is ignored, and
// its Do gets an empty customer.
func (s *BatchSource) FetchBatch(ctx context.Context, customers []string) (map[string]*entitlements.Entitlements, error) {
	s.mu.Lock()
	s.batches = append(s.batches, slices.Clone(customers))
	s.enterLocked()
	step := s.stepLocked()
	s.mu.Unlock()
	defer s.end()
	if done, err := step.run(ctx, ""); done {
		return nil, err
	}
	found := make(map[string]*entitlements.Entitlements, len(customers))
	s.mu.Lock()
	for _, customer := range customers {
		if e := s.customers[customer]; e != nil {
			found[customer] = e
		}
	}
	s.mu.Unlock()
	if err := sleep(ctx, step.Late); err != nil {
		return nil, err
	}
	return found, nil
}

// ListingSource is a [Source] that is an [entitlements.Lister] too.
type ListingSource struct{ *Source }

// Listing adds List.
func (s *Source) Listing() *ListingSource { return &ListingSource{s} }

// List yields all customers, sorted. It takes one step; an error is yielded
// after the customers, as a listing fails that breaks on its last page.
func (s *ListingSource) List(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		s.mu.Lock()
		s.lists++
		step := s.stepLocked()
		customers := slices.Sorted(maps.Keys(s.customers))
		s.mu.Unlock()
		_, failed := step.run(ctx, "")
		for _, customer := range customers {
			if ctx.Err() != nil {
				failed = context.Cause(ctx)
				break
			}
			if !yield(customer, nil) {
				return
			}
		}
		if failed != nil {
			yield("", failed)
		}
	}
}

// WatchingSource is a [Source] that is an [entitlements.Watcher] too.
type WatchingSource struct{ *Source }

// Watching adds Watch.
func (s *Source) Watching() *WatchingSource { return &WatchingSource{s} }

// Watch tells of every Put and Remove from its call on, and of every
// [Source.InvalidateAll]. Usage is not a change.
func (s *WatchingSource) Watch(ctx context.Context, changed entitlements.Invalidator) error {
	s.mu.Lock()
	seen := len(s.log)
	s.mu.Unlock()
	for {
		s.mu.Lock()
		news, wake := s.log[seen:len(s.log):len(s.log)], s.changed
		s.mu.Unlock()
		for _, customer := range news {
			if customer == "" {
				changed.InvalidateAll()
			} else {
				changed.Invalidate(customer)
			}
		}
		seen += len(news)
		select {
		case <-wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// InvalidateAll makes Watch tell that everything may have changed.
func (s *Source) InvalidateAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changedLocked("")
}
