package entitlements

import (
	"slices"
	"sync"
	"sync/atomic"
)

// Change is a change of what a customer may do, as [Client.Subscribe] tells it.
// Usage, ages and versions alone are no change, nor is the first load of a
// customer.
type Change struct {
	Customer string
	Before   *Entitlements
	After    *Entitlements // nil when the backend no longer knows the customer
	Features []string      // those that differ, sorted; may be empty when only Plan does
}

// subscribers are told of changes, in order, on one goroutine. While there are
// none, nothing is built for them.
type subscribers struct {
	calls callbacks
	count atomic.Int32

	mu    sync.Mutex // guards the fields below
	next  int
	funcs map[int]func(Change)
}

// maxChanges bounds the changes that wait for slow subscribers.
const maxChanges = 1024

func (s *subscribers) add(f func(Change)) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.funcs == nil {
		s.funcs = make(map[int]func(Change))
	}
	id := s.next
	s.next++
	s.funcs[id] = f
	s.count.Add(1)
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.funcs, id)
		s.count.Add(-1)
	})
}

func (s *subscribers) watched() bool { return s.count.Load() > 0 }

// landed tells of a load, when it changed something.
func (s *subscribers) landed(l landed) {
	if !s.watched() || l.before == nil {
		return
	}
	change := Change{Customer: l.customer, Before: l.before}
	if l.entry != nil {
		change.After = l.entry.export()
	}
	change.Features = changedFeatures(change.Before, change.After)
	if len(change.Features) == 0 && change.After != nil && change.After.Plan == change.Before.Plan {
		return
	}
	s.calls.enqueue(func() {
		s.mu.Lock()
		funcs := make([]func(Change), 0, len(s.funcs))
		for id := range s.next {
			if f := s.funcs[id]; f != nil {
				funcs = append(funcs, f)
			}
		}
		s.mu.Unlock()
		for _, f := range funcs {
			s.calls.call(func() { f(change) })
		}
	})
}

// changedFeatures are the codes whose grants differ in more than what was used.
func changedFeatures(before, after *Entitlements) []string {
	var was, is map[string]Grant
	if before != nil {
		was = before.Features
	}
	if after != nil {
		is = after.Features
	}
	var codes []string
	for code, g := range was {
		if other, ok := is[code]; !ok || !sameContent(g, other) {
			codes = append(codes, code)
		}
	}
	for code := range is {
		if _, ok := was[code]; !ok {
			codes = append(codes, code)
		}
	}
	slices.Sort(codes)
	return codes
}

func sameContent(a, b Grant) bool {
	return a.Kind == b.Kind && a.Enabled == b.Enabled && a.Limit == b.Limit && a.Soft == b.Soft && a.Text == b.Text &&
		a.PeriodStart.Equal(b.PeriodStart) && a.ResetsAt.Equal(b.ResetsAt) && a.ExpiresAt.Equal(b.ExpiresAt)
}
