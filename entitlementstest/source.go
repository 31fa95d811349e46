package entitlementstest

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/entitlements-go/entitlements"
)

// Source is a scripted [entitlements.Source] in memory. It has no optional
// behaviour of its own, so that a type assertion finds none; [Source.Conditional],
// [Source.Batch], [Source.Listing] and [Source.Watching] add one each. Several
// together are a struct that embeds the Source and the interfaces, as the
// example shows.
//
// What it hands out is never changed afterwards. It is safe for concurrent use
// and works in testing/synctest bubbles.
type Source struct {
	mu        sync.Mutex                            // guards the fields below
	customers map[string]*entitlements.Entitlements // replaced, never changed
	next      []FetchStep                           // for any customer
	scripts   map[string][]FetchStep                // by customer, first
	always    FetchStep                             // when neither has a step
	calls     map[string]int                        // Fetch and FetchChanged, by customer
	batches   [][]string
	lists     int
	inFlight  int
	maxFlight int
	versions  int
	changed   chan struct{} // closed and replaced when something is put or removed
	log       []string      // who was put or removed, for Watching; "" is everybody
}

// FetchStep is how one fetch goes. Its parts happen in the order of the fields;
// the zero step answers what was put.
type FetchStep struct {
	// Do is called first, on the fetch's goroutine: for a test that wants to know
	// that the fetch is in, or to hold it.
	Do func(ctx context.Context, customer string)

	// Latency waits, and ends with the context, whose error is then returned.
	Latency time.Duration

	// Hang waits until the context ends.
	Hang bool

	// Panic panics with it.
	Panic any

	// Err is returned.
	Err error

	// Nil returns neither entitlements nor an error, which a Source must not do.
	Nil bool

	// Answer is returned instead of what was put.
	Answer *entitlements.Entitlements

	// Late waits once more, after what was put is read: an answer that is old
	// when it arrives. It ends with the context.
	Late time.Duration
}

// NewSource returns a Source of the given customers, each with its features. nil
// is none.
func NewSource(customers map[string]map[string]entitlements.Grant) *Source {
	s := &Source{
		customers: make(map[string]*entitlements.Entitlements),
		scripts:   make(map[string][]FetchStep),
		calls:     make(map[string]int),
		changed:   make(chan struct{}),
	}
	for customer, grants := range customers {
		s.Put(customer, grants)
	}
	return s
}

// Put creates a customer or replaces its grants, under a new version.
func (s *Source) Put(customer string, grants map[string]entitlements.Grant) {
	s.PutEntitlements(&entitlements.Entitlements{Customer: customer, Features: grants})
}

// PutEntitlements is Put with all that an answer has. An empty Version is
// replaced by one that no answer had before.
func (s *Source) PutEntitlements(e *entitlements.Entitlements) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh := *e
	fresh.Features = maps.Clone(e.Features)
	if fresh.Version == "" {
		s.versions++
		fresh.Version = fmt.Sprintf("v%d", s.versions)
	}
	s.customers[e.Customer] = &fresh
	s.changedLocked(e.Customer)
}

// AddUsed adds n to what a customer has used of a feature, as a backend does
// that accepted usage. The version stays, as it does not cover usage.
func (s *Source) AddUsed(customer, feature string, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.customers[customer]
	if e == nil {
		return
	}
	grant, ok := e.Features[feature]
	if !ok {
		return
	}
	grant.Used += n
	fresh := *e
	fresh.Features = maps.Clone(e.Features)
	fresh.Features[feature] = grant
	s.customers[customer] = &fresh
}

// Remove makes a customer unknown.
func (s *Source) Remove(customer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.customers, customer)
	s.changedLocked(customer)
}

func (s *Source) changedLocked(customer string) {
	s.log = append(s.log, customer)
	close(s.changed)
	s.changed = make(chan struct{})
}

// Next queues steps for the next fetches of any customer that has none of its
// own, one step each. A batch takes one step.
func (s *Source) Next(steps ...FetchStep) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = append(s.next, steps...)
}

// NextFor queues steps for the next fetches of one customer. They come before
// those of Next. A batch does not take them.
func (s *Source) NextFor(customer string, steps ...FetchStep) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scripts[customer] = append(s.scripts[customer], steps...)
}

// Always is the step of every fetch for which none is queued. Always of the zero
// step is normal again.
func (s *Source) Always(step FetchStep) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.always = step
}

// Fetch goes as the script says.
func (s *Source) Fetch(ctx context.Context, customer string) (*entitlements.Entitlements, error) {
	return s.fetch(ctx, customer, "")
}

// fetch is Fetch, or FetchChanged when there is a version.
func (s *Source) fetch(ctx context.Context, customer, version string) (*entitlements.Entitlements, error) {
	step := s.begin(customer)
	defer s.end()
	if done, err := step.run(ctx, customer); done {
		return nil, err
	}
	e := step.Answer
	if e == nil {
		s.mu.Lock()
		e = s.customers[customer]
		s.mu.Unlock()
	}
	if err := sleep(ctx, step.Late); err != nil {
		return nil, err
	}
	switch {
	case e == nil:
		return nil, entitlements.ErrUnknownCustomer
	case version != "" && e.Version == version:
		return nil, entitlements.ErrNotModified
	}
	return e, nil
}

func (s *Source) begin(customer string) FetchStep {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[customer]++
	s.enterLocked()
	if script := s.scripts[customer]; len(script) > 0 {
		s.scripts[customer] = script[1:]
		return script[0]
	}
	return s.stepLocked()
}

func (s *Source) stepLocked() FetchStep {
	if len(s.next) > 0 {
		step := s.next[0]
		s.next = s.next[1:]
		return step
	}
	return s.always
}

func (s *Source) enterLocked() {
	s.inFlight++
	s.maxFlight = max(s.maxFlight, s.inFlight)
}

func (s *Source) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight--
}

// run goes through the parts of a step that come before an answer. It reports
// whether the fetch is over.
func (f *FetchStep) run(ctx context.Context, customer string) (done bool, err error) {
	if f.Do != nil {
		f.Do(ctx, customer)
	}
	if err := sleep(ctx, f.Latency); err != nil {
		return true, err
	}
	if f.Hang {
		<-ctx.Done()
		return true, context.Cause(ctx)
	}
	if f.Panic != nil {
		panic(f.Panic)
	}
	return f.Err != nil || f.Nil, f.Err
}

// sleep waits for d or the end of ctx. It makes no timer for no wait, but still
// looks at the context, as a backend's client does.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
