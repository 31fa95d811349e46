package entitlementstest

import (
	"slices"

	"github.com/entitlements-go/entitlements"
)

// LimitedSink is a [Sink] that is an [entitlements.Limiter] too.
type LimitedSink struct {
	*Sink
	limits entitlements.SinkLimits
}

// Limited adds Limits. The limits are told, not enforced.
func (s *Sink) Limited(limits entitlements.SinkLimits) *LimitedSink {
	return &LimitedSink{s, limits}
}

// Limits returns what was given.
func (s *LimitedSink) Limits() entitlements.SinkLimits { return s.limits }

// Accepted returns the records that were accepted, without duplicates, in order.
func (s *Sink) Accepted() []entitlements.Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.accepted)
}

// Total is the sum of all accepted quantities of a customer and feature.
func (s *Sink) Total(customer, feature string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.totals[meterKey{customer, feature}].quantity
}

// Calls is how many calls are folded into the accepted records of a customer and
// feature: the sum of their Count.
func (s *Sink) Calls(customer, feature string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.totals[meterKey{customer, feature}].calls
}

// TotalCalls is Calls over all customers and features.
func (s *Sink) TotalCalls() (calls int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, total := range s.totals {
		calls += total.calls
	}
	return calls
}

// Duplicates is how many records were recognised by their ID and not accepted
// again.
func (s *Sink) Duplicates() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.duplicates
}

// Conflicts is how many duplicates differed from the record that was accepted
// under their ID. It stays 0 while IDs are what they should be.
func (s *Sink) Conflicts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conflicts
}

// Batches returns a copy of everything that was delivered, accepted or not, in
// order of arrival.
func (s *Sink) Batches() []entitlements.Batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.batches)
}

// Deliveries is how many times Deliver was called.
func (s *Sink) Deliveries() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.batches)
}

// InFlight is how many deliveries run now.
func (s *Sink) InFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inFlight
}

// MaxInFlight is the most deliveries that ever ran at once.
func (s *Sink) MaxInFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.maxFlight
}
