package entitlementstest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/entitlements-go/entitlements"
)

// Sink is a scripted [entitlements.Sink] in memory. It keeps what it accepted,
// recognises records by their ID as a backend does, and adds up what a test
// compares. It tells no limits; [Sink.Limited] does. It is safe for concurrent
// use and works in testing/synctest bubbles.
type Sink struct {
	mu         sync.Mutex // guards the fields below
	next       []DeliverStep
	always     DeliverStep
	bad        func(entitlements.Usage) error
	feeds      *Source
	accepted   []entitlements.Usage
	seen       map[string]int // ID -> index in accepted
	totals     map[meterKey]meterTotal
	duplicates int
	conflicts  int
	batches    []entitlements.Batch
	inFlight   int
	maxFlight  int
}

type meterKey struct{ customer, feature string }

type meterTotal struct{ quantity, calls int64 }

// DeliverStep is how one delivery goes. Its parts happen in the order of the
// fields; the zero step accepts the batch.
type DeliverStep struct {
	// Do is called first, on the delivery's goroutine. It must not keep the
	// batch.
	Do func(ctx context.Context, batch entitlements.Batch)

	// Latency waits, and ends with the context, whose error is then returned.
	Latency time.Duration

	// Hang waits until the context ends; nothing is accepted.
	Hang bool

	// Panic panics with it; nothing is accepted.
	Panic any

	// Refuse is returned and nothing is accepted.
	Refuse error

	// Fate accepts the records that are in none of the lists of what it returns,
	// and those in Unknown too when Lost is set; it is then returned. A nil from
	// it accepts all.
	Fate func(batch entitlements.Batch) *entitlements.DeliveryError

	// Lost is returned although the batch was accepted: the answer that got
	// lost.
	Lost error

	// Late waits after the batch was accepted. When the context ends before, its
	// error is returned: accepted, and the client does not know.
	Late time.Duration
}

// NewSink returns a Sink that accepts everything.
func NewSink() *Sink {
	return &Sink{seen: make(map[string]int), totals: make(map[meterKey]meterTotal)}
}

// Next queues steps for the next deliveries, one each.
func (s *Sink) Next(steps ...DeliverStep) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = append(s.next, steps...)
}

// Always is the step of every delivery for which none is queued. Always of the
// zero step is normal again.
func (s *Sink) Always(step DeliverStep) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.always = step
}

// SetBad makes records bad: a batch in which bad finds an error is refused as a
// whole with [entitlements.Permanent], as a backend does whose batches are
// atomic. nil is normal again.
func (s *Sink) SetBad(bad func(entitlements.Usage) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad = bad
}

// Feed adds what is accepted from now on to what source says is used: the two
// are then doors of one backend, whose reads include all that it accepted.
func (s *Sink) Feed(source *Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.feeds = source
}

// Deliver goes as the script says.
func (s *Sink) Deliver(ctx context.Context, batch entitlements.Batch) error {
	step, bad := s.begin(batch)
	defer s.end()
	if step.Do != nil {
		step.Do(ctx, batch)
	}
	if err := sleep(ctx, step.Latency); err != nil {
		return err
	}
	if step.Hang {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if step.Panic != nil {
		panic(step.Panic)
	}
	if step.Refuse != nil {
		return step.Refuse
	}
	if bad != nil {
		for _, u := range batch.Usage {
			if err := bad(u); err != nil {
				return entitlements.Permanent(err)
			}
		}
	}
	var fate *entitlements.DeliveryError
	if step.Fate != nil {
		fate = step.Fate(batch)
	}
	s.accept(batch.Usage, fate, step.Lost != nil)
	if err := sleep(ctx, step.Late); err != nil && step.Late > 0 {
		return err
	}
	if fate != nil {
		return fate
	}
	return step.Lost
}

func (s *Sink) begin(batch entitlements.Batch) (DeliverStep, func(entitlements.Usage) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A copy: the batch is the caller's again when Deliver returns.
	kept := batch
	kept.Usage = slices.Clone(batch.Usage)
	s.batches = append(s.batches, kept)
	s.inFlight++
	s.maxFlight = max(s.maxFlight, s.inFlight)
	if len(s.next) > 0 {
		step := s.next[0]
		s.next = s.next[1:]
		return step, s.bad
	}
	return s.always, s.bad
}

func (s *Sink) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight--
}

// accept takes the records that fate does not hold back.
func (s *Sink) accept(usage []entitlements.Usage, fate *entitlements.DeliveryError, unknownToo bool) {
	held := make(map[int]bool)
	if fate != nil {
		for _, r := range fate.Rejected {
			held[r.Index] = true
		}
		for _, i := range fate.Retry {
			held[i] = true
		}
		for _, i := range fate.Unknown {
			held[i] = held[i] || !unknownToo
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, u := range usage {
		if !held[i] {
			s.acceptLocked(u)
		}
	}
}

func (s *Sink) acceptLocked(u entitlements.Usage) {
	if i, dup := s.seen[u.ID]; dup && u.ID != "" {
		s.duplicates++
		first := s.accepted[i]
		if first.Customer != u.Customer || first.Feature != u.Feature || first.Quantity != u.Quantity ||
			!first.Time.Equal(u.Time) || !maps.Equal(first.Properties, u.Properties) {
			s.conflicts++
		}
		return
	}
	if u.ID != "" {
		s.seen[u.ID] = len(s.accepted)
	}
	s.accepted = append(s.accepted, u)
	key := meterKey{u.Customer, u.Feature}
	total := s.totals[key]
	// A record by hand has no Count and is one call.
	s.totals[key] = meterTotal{total.quantity + u.Quantity, total.calls + max(u.Count, 1)}
	if s.feeds != nil {
		// The Source's lock is taken under ours and never the other way round.
		s.feeds.AddUsed(u.Customer, u.Feature, u.Quantity)
	}
}

// ErrBad is what a test that needs any reason can refuse a record with.
var ErrBad = errors.New("entitlementstest: bad record")
