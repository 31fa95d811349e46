package entitlementstest

import "slices"

// Calls is how many times a customer was asked for by itself.
func (s *Source) Calls(customer string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[customer]
}

// TotalCalls is how many fetches there were of all customers, a batch being one.
func (s *Source) TotalCalls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.batches)
	for _, calls := range s.calls {
		n += calls
	}
	return n
}

// Batches lists the customers of every FetchBatch so far.
func (s *Source) Batches() [][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.batches)
}

// InFlight is how many fetches run now.
func (s *Source) InFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inFlight
}

// MaxInFlight is the most fetches that ever ran at once.
func (s *Source) MaxInFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.maxFlight
}
