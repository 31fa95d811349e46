package entitlements

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// The loader is the way in: it calls the Source, one call per customer at a time,
// within the bounds of Config, and leaves what it learns in the cache.
//
// A load waits in one of three queues until a call is free: callers who wait go
// first, then customers that were asked for and are not cached, then refreshes,
// which get at most half of the calls. A Source that takes batches gets what is
// queued when a call comes free, so that batches grow with the load.
type loader struct {
	cfg      *Config
	clock    *clock
	door     *door
	cache    *cache
	absent   atomic.Pointer[table] // negatives; lossy, so that a scan of unknown keys is bounded. nil until there is one
	plans    *plans
	books    *books
	running  *running
	flights  flights[landing]
	sequence atomic.Uint64 // orders fetches and invalidations
	allStale atomic.Uint64 // of the last InvalidateAll
	landed   func(landed)
	watched  func() bool // somebody wants to know what changed

	conditional ConditionalSource
	batches     BatchSource

	stats struct{ fetches, failures, shed atomic.Uint64 }

	mu       sync.Mutex // guards the fields below
	queues   [loadClasses][]*load
	busy     int   // calls into the Source that have not returned, in time or not
	busyBack int   // those of them that only refresh
	warming  int   // calls of Warm
	fillBy   int64 // precise: until then a batch may fill; 0 = none is waited for
	attempts map[string]*attempt
	paceAt   int64
	pacing   bool
}

// loadClass is who a load is for. Lower goes first.
type loadClass uint8

const (
	loadWaiting loadClass = iota // a caller waits
	loadCold                     // asked for without waiting
	loadRefresh                  // in the background
	loadClasses
)

// load is one customer's place in a queue.
type load struct {
	customer string
	class    loadClass
	prior    *entry // what was cached when it was queued, nil for nothing
	plan     *plan  // its content then, nil for none: it may be forgotten since
	own      *own

	queued  bool // guarded by loader.mu
	started bool // guarded by loader.mu: served, or withdrawn
	done    chan struct{}

	// Written before done is closed.
	set      *Entitlements
	err      error
	sequence uint64
	sent     int64 // precise
	received int64
	last     *atomic.Pointer[reading] // of those that one call fetches: the next may say the same
}

// attempt is what may be said of a load while it is under way. Guarded by
// loader.mu.
type attempt struct {
	load      *load
	staleSeq  uint64 // of the last Invalidate
	forgotten bool   // answers its waiters and is not kept
}

// landing is what a load leaves for those who wait for it.
type landing struct {
	entry    *entry // nil with an error
	sequence uint64 // of the fetch; notSent when there was none
}

// notSent is the sequence of a load that never reached the Source: what it says
// is about now.
const notSent = math.MaxUint64

// What callers of wait and start may have seen, beside one fetch.
const (
	seenNothing = 0
	seenAll     = math.MaxUint64
)

const (
	// maxQueued bounds the loads of callers that are not background refreshes.
	maxQueued = 4096

	// maxBatch is the most customers in one FetchBatch.
	maxBatch = 100

	// fillWithin is how long Warm's loads wait for others to fill a batch.
	fillWithin = int64(5 * time.Millisecond)

	// maxAbsent bounds what is remembered about customers that are not there.
	maxAbsent = 1 << 14
)

var (
	errShed = errors.New("entitlements: too many loads are queued")
	errShut = errors.New("entitlements: the source fails and is not asked for now")

	errQueued = errors.New("entitlements: too many loads were ahead for Config.FetchTimeout")
)

func newLoader(cfg *Config, clock *clock, cache *cache, books *books, running *running, features *featureIndex) *loader {
	l := &loader{
		cfg: cfg, clock: clock, cache: cache, books: books, running: running,
		door:     newDoor("source", clock, cfg.Logger),
		plans:    newPlans(features),
		attempts: make(map[string]*attempt),
	}
	l.conditional, _ = cfg.Source.(ConditionalSource)
	l.batches, _ = cfg.Source.(BatchSource)
	return l
}

// wait loads a customer for a caller that waits. What it gets, an error too, was
// fetched after every Invalidate that came before the call, and after the fetch
// that the caller has seen the outcome of.
func (l *loader) wait(ctx context.Context, customer string, class loadClass, seen uint64) (*entry, error) {
	need := l.staleBefore(customer)
	for {
		l.join(customer, class)
		got, err := l.flights.do(ctx, customer, func() (landing, error) { return l.run(customer, class, seen) })
		if ctx.Err() != nil && err != nil {
			return nil, err
		}
		if got.sequence > need {
			return got.entry, err
		}
		// It began before the Invalidate. Ask for the one after it.
	}
}

// start begins a load and does not wait.
func (l *loader) start(customer string, class loadClass, seen uint64) {
	l.flights.start(customer, func() (landing, error) { return l.run(customer, class, seen) })
}

// prefetch begins a load of a customer that is not cached, unless one is under
// way. It reports false when too many are queued already.
func (l *loader) prefetch(customer string) bool {
	l.mu.Lock()
	full := l.attempts[customer] == nil && l.fullLocked()
	l.mu.Unlock()
	if full {
		l.stats.shed.Add(1)
		return false
	}
	if l.join(customer, loadCold) {
		l.start(customer, loadCold, seenNothing)
	}
	return true
}

// join makes the attempt of a customer, or moves the one that is queued ahead
// when a caller with a better claim joins it. It reports whether it made one.
func (l *loader) join(customer string, class loadClass) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.attempts[customer]
	if a == nil {
		l.attempts[customer] = newAttempt(customer, class)
		return true
	}
	if ld := a.load; !ld.started && class < ld.class {
		ld.class = class
		if ld.queued {
			// It stays in its old queue too, and is passed over there.
			l.queues[class] = append(l.queues[class], ld)
		}
	}
	return false
}

func newAttempt(customer string, class loadClass) *attempt {
	return &attempt{load: &load{customer: customer, class: class, sequence: notSent, done: make(chan struct{})}}
}

// loading reports whether a load of the customer is under way.
func (l *loader) loading(customer string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.attempts[customer] != nil
}

// staleBefore is the sequence that a fetch must exceed to know what the last
// Invalidate was about.
func (l *loader) staleBefore(customer string) uint64 {
	need := l.allStale.Load()
	if e := l.cache.find(hashOf(customer), customer); e != nil {
		e.mu.Lock()
		need = max(need, e.staleSeq)
		e.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.attempts[customer]; a != nil {
		need = max(need, a.staleSeq)
	}
	return need
}

// run is one flight: it waits for its turn, fetches, and keeps what it learnt.
// Between its caller's look at the cache and its beginning another may have
// ended: what that one brought is good enough, when it is not what was seen.
func (l *loader) run(customer string, class loadClass, seen uint64) (landing, error) {
	if !l.running.begin() {
		return landing{sequence: notSent}, ErrClosed
	}
	defer l.running.end()

	hash := hashOf(customer)
	l.mu.Lock()
	a := l.attempts[customer]
	if a == nil {
		a = newAttempt(customer, class)
		l.attempts[customer] = a
	}
	l.mu.Unlock()
	ld := a.load
	var e *entry
	var before *Entitlements
	got, err, known := l.atHand(hash, customer)
	if known && got.sequence > seen {
		e, ld.sequence = got.entry, got.sequence
	} else {
		e, before, err = l.fly(hash, a)
	}

	// An Invalidate or Forget that came before this found the attempt, one that
	// comes after it finds the entry. What a Forget missed goes while nobody else
	// can load the customer.
	l.mu.Lock()
	if a.forgotten {
		l.mu.Unlock()
		l.cache.forget(hash, customer)
		l.unremember(hash, customer)
		l.mu.Lock()
	}
	delete(l.attempts, customer)
	// Whoever asks from here on gets a flight of its own: this one is over.
	l.flights.group.Forget(customer)
	staleSeq, forgotten := a.staleSeq, a.forgotten
	l.mu.Unlock()
	switch {
	case e != nil:
		l.cache.markStale(e, staleSeq)
	case staleSeq > ld.sequence:
		l.unremember(hash, customer) // what it found may be over
	}
	l.landed(landed{customer: customer, entry: e, before: before, err: err, sequence: ld.sequence, forgotten: forgotten})
	return landing{entry: e, sequence: ld.sequence}, err
}

// fly loads.
func (l *loader) fly(hash uint64, a *attempt) (*entry, *Entitlements, error) {
	ld := a.load
	if ld.prior = l.cache.find(hash, ld.customer); ld.prior != nil && !ld.prior.blank() {
		ld.plan, ld.own = ld.prior.content()
	}
	err := l.enqueue(ld)
	if err == nil {
		err = l.turn(ld)
	}
	return l.land(hash, a, err)
}

// atHand is what a caller who waits gets without a load. It reports false when
// only a load can tell.
func (l *loader) atHand(hash uint64, customer string) (got landing, err error, ok bool) {
	e := l.cache.find(hash, customer)
	if e == nil || e.blank() { // being loaded for the first time
		if n := l.remembered(hash, customer); n != nil {
			return landing{sequence: n.sequence}, n.err, true
		}
		return landing{}, nil, false
	}
	usable := l.usable(e)
	e.mu.Lock()
	began, stale := e.startSeq.Load(), e.staleSeq
	e.mu.Unlock()
	if usable && began >= max(stale, l.allStale.Load()) {
		return landing{e, began}, nil, true
	}
	f := l.failedLately(e)
	switch {
	case f == nil:
		return landing{}, nil, false
	case usable:
		return landing{e, f.sequence}, nil, true
	}
	return landing{e, f.sequence}, f.err, true
}

// usable reports whether an entry may answer by its age.
func (l *loader) usable(e *entry) bool {
	return !e.blank() && l.clock.precise()-e.fetched.Load() < int64(l.cfg.MaxStale)
}

// seen is the latest fetch whose outcome is known of a customer.
func (l *loader) seen(hash uint64, customer string) (sequence uint64) {
	if e := l.cache.find(hash, customer); e != nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		sequence = e.startSeq.Load()
		if e.failed != nil {
			sequence = max(sequence, e.failed.sequence)
		}
	} else if n := l.remembered(hash, customer); n != nil {
		sequence = n.sequence
	}
	return sequence
}

// turn waits until a load has been served. A caller who waits does so no longer
// than one load may take before its turn has come, and nobody after Close.
func (l *loader) turn(ld *load) error {
	timer := time.NewTimer(l.cfg.FetchTimeout)
	defer timer.Stop()
	for {
		select {
		case <-ld.done:
			return ld.err
		case <-timer.C:
			if l.withdraw(ld, loadWaiting) {
				return errQueued
			}
			timer.Reset(l.cfg.FetchTimeout)
		case <-l.running.context.Done():
			if l.withdraw(ld, loadRefresh) {
				return ErrClosed
			}
			<-ld.done // its call ends with the same context
			return ld.err
		}
	}
}

// withdraw takes a load that has not started out of its queue, when it is of this
// class or better.
func (l *loader) withdraw(ld *load, class loadClass) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ld.started || ld.class > class {
		return false
	}
	ld.started = true // so that its queue passes it over
	return true
}
