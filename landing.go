package entitlements

import (
	"errors"
	"math"
	"strings"
	"time"
)

// landed is what a load left, for the refresher and for subscribers.
type landed struct {
	customer  string
	entry     *entry        // nil when nothing is cached
	before    *Entitlements // with subscribers only
	err       error
	sequence  uint64 // of the fetch
	forgotten bool
}

// current reports whether the load knew of the entry's last Invalidate.
func (l landed) current(e *entry) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return l.sequence > e.staleSeq
}

// land keeps what a load learnt: a snapshot, or that there is none. It returns
// the entry to answer from.
func (l *loader) land(hash uint64, a *attempt, err error) (e *entry, before *Entitlements, _ error) {
	ld := a.load
	l.mu.Lock()
	staleSeq, forgotten := a.staleSeq, a.forgotten
	l.mu.Unlock()
	switch {
	case err == nil, errors.Is(err, ErrNotModified) && ld.plan != nil:
		e, before = l.install(hash, ld, staleSeq, forgotten)
		l.unremember(hash, ld.customer)
		return e, before, nil
	case errors.Is(err, ErrClosed):
		return nil, nil, err
	case errors.Is(err, ErrUnknownCustomer):
		if staleSeq > ld.sequence { // it may exist by now: the reload tells
			return l.cache.find(hash, ld.customer), nil, ErrUnknownCustomer
		}
		if e := l.cache.forget(hash, ld.customer); e != nil && l.watched() {
			before = e.export()
		}
		l.remember(hash, ld, ReasonUnknownCustomer, ErrUnknownCustomer)
		return nil, before, ErrUnknownCustomer
	}
	err = unavailable(err)
	if e := l.cache.find(hash, ld.customer); e != nil {
		e.failedToLoad(ld, err, l.clock.precise(), l.cfg.NegativeTTL)
		return e, nil, err
	}
	// What was not asked for, for want of room or while a probe tells, may be in a
	// moment.
	if ld.sequence != notSent || errors.Is(err, errShut) && !l.door.open(l.clock.precise()) {
		l.remember(hash, ld, ReasonUnavailable, err)
	}
	return nil, nil, err
}

// failedToLoad notes a failed load with the snapshot that it was to replace.
func (e *entry) failedToLoad(ld *load, err error, now int64, remember time.Duration) {
	if ld.sequence == notSent {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failures = min(e.failures, math.MaxUint16-1) + 1
	if remember > 0 {
		e.failed = &failure{reason: ReasonUnavailable, err: err, until: now + int64(remember), sequence: ld.sequence}
	}
}

// failure is a load that brought nothing, remembered so that it costs its callers
// one timeout and not one each: beside a snapshot that it was to replace, or, in
// the table of the absent, instead of one.
type failure struct {
	reason   Reason // ReasonUnknownCustomer or ReasonUnavailable
	err      error  // what a waiting call gets
	until    int64  // precise
	sequence uint64
}

// failedLately is the failure that still speaks for an entry, or nil: a later
// Invalidate wants to know anew.
func (l *loader) failedLately(e *entry) *failure {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := e.failed
	if f == nil || l.clock.precise() >= f.until || f.sequence < max(e.staleSeq, l.allStale.Load()) {
		return nil
	}
	return f
}

// remember notes that there is nothing, for NegativeTTL at most.
func (l *loader) remember(hash uint64, ld *load, reason Reason, err error) {
	within, now := l.cfg.NegativeTTL, l.clock.precise()
	if ld.sequence == notSent {
		if _, wait := l.door.peek(now); wait < int64(within) {
			within = time.Duration(wait) // it is asked for again when the door opens
		}
	}
	if within <= 0 {
		return
	}
	e := newEntry(ld.customer, l.clock.coarse.Load())
	e.failed = &failure{reason: reason, err: err, until: now + int64(within), sequence: ld.sequence}
	if l.absent.Load() == nil {
		l.absent.CompareAndSwap(nil, newTable(min(max(l.cfg.MaxCustomers, 1024), maxAbsent), l.clock, l.cfg))
	}
	l.absent.Load().insert(hash, e)
}

// remembered is what is remembered of a customer instead of a snapshot, or nil.
func (l *loader) remembered(hash uint64, customer string) *failure {
	absent := l.absent.Load()
	if absent == nil {
		return nil
	}
	e := absent.find(hash, customer)
	if e == nil {
		return nil
	}
	if f := e.failed; l.clock.precise() < f.until && f.sequence >= l.allStale.Load() {
		return f
	}
	absent.remove(hash, e)
	return nil
}

// install makes an answer what readers see. staleSeq is of an Invalidate that
// came while it was fetched. A customer that was forgotten meanwhile gets an
// entry of its own, for those who wait.
func (l *loader) install(hash uint64, ld *load, staleSeq uint64, forgotten bool) (*entry, *Entitlements) {
	for {
		var e *entry
		if !forgotten {
			e = l.cache.find(hash, ld.customer)
		}
		if e == nil {
			// First where it can be found, then its content: an account that is opened
			// meanwhile finds the entry, one that was opened before is found below.
			e = newEntry(ld.customer, l.clock.coarse.Load())
			if forgotten {
				e.gone.Store(true)
			} else {
				e = l.cache.add(hash, e)
			}
		}
		e.mu.Lock()
		if e.gone.Load() && !forgotten {
			e.mu.Unlock()
			continue // it made room just now: a new one takes its place
		}
		e.staleSeq = max(e.staleSeq, staleSeq)
		before := l.installLocked(hash, e, ld)
		e.mu.Unlock()
		return e, before
	}
}

func (l *loader) installLocked(hash uint64, e *entry, ld *load) (before *Entitlements) {
	if ld.set == nil && e.blank() { // not modified, and evicted meanwhile
		l.storeAgain(hash, e, ld.plan, ld.own)
	}
	if ld.set != nil {
		if l.watched() {
			before = e.export()
		}
		oldPlan, oldOwn := e.content()
		p := oldPlan
		if ld.set.Version == "" || oldOwn == nil || oldOwn.version != ld.set.Version {
			p = l.plans.intern(ld.set)
		}
		l.store(hash, e, p, ld, oldPlan, oldOwn)
	}
	e.startSeq.Store(ld.sequence)
	e.failures, e.failed = 0, nil
	e.denyAt.Store(ld.sent + int64(l.cfg.DenyTTL))
	if max(e.staleSeq, l.allStale.Load()) > ld.sequence {
		e.staleAt.Store(0)
	} else {
		e.staleAt.Store(ld.sent + int64(l.cfg.TTL))
	}
	// Last: from here on it answers.
	e.fetched.Store(ld.sent)
	l.cache.table.publish(e)
	return before
}

// store makes the content of an answer what readers see. What was known before
// decides about its figures, and so does the customer's account.
func (l *loader) store(hash uint64, e *entry, p *plan, ld *load, oldPlan *plan, oldOwn *own) {
	set := ld.set
	if p.dated == 0 && set.Version == "" && set.AsOf.IsZero() && set.ServerTime.IsZero() {
		l.attach(hash, e, p, nil, func(bool) { e.storeLocked(p, nil) })
		return
	}
	asOf, serverTime := nanos(set.AsOf), nanos(set.ServerTime)
	server, short := serverTime, time.Duration(0)
	if server == 0 {
		server = time.Now().UnixNano()
	} else {
		short = resolution(set.ServerTime)
	}
	if asOf != 0 {
		l.books.reads.Store(readsMayLag)
	} else {
		l.books.reads.CompareAndSwap(readsUnknown, readsNow)
	}
	horizon := horizonOf(ld.sent, asOf, server, int64(short), int64(l.cfg.UsageLag))
	now := l.clock.backendNow()
	var few [4]figure
	figures := p.figures(few[:0], set, ld.sent, ld.received, horizon, now)
	if oldOwn != nil {
		for i := range p.grants {
			g := &p.grants[i]
			if g.own < 0 {
				continue
			}
			if was := oldPlan.look(g.code); was != nil && was.own >= 0 {
				figures[g.own] = oldOwn.figure(was).after(figures[g.own], now)
			}
		}
	}
	l.attach(hash, e, p, figures, func(bool) {
		o := packOwn(p, strings.Clone(set.Version), asOf, serverTime, figures, ld.last.Load())
		ld.last.Store(o.reading)
		e.storeLocked(p, o)
	})
}

// storeAgain is store of what was there before, as it was.
func (l *loader) storeAgain(hash uint64, e *entry, p *plan, o *own) {
	var few [4]figure
	var figures []figure
	if o != nil {
		figures = o.figures(few[:0])
	}
	l.attach(hash, e, p, figures, func(patched bool) {
		if patched {
			o = packOwn(p, o.version, o.reading.asOf, o.reading.serverTime, figures, nil)
		}
		e.storeLocked(p, o)
	})
}

// attach shows a customer's figures to its account, which may know better, and
// stores them: nobody counts in between, by a figure that is over.
func (l *loader) attach(hash uint64, e *entry, p *plan, figures []figure, store func(patched bool)) {
	a := l.books.find(hash, e.key)
	if a != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
	}
	patched := false
	if a != nil && a.isLocked(accountRetired) {
		a = nil
	}
	if a != nil {
		patched = a.attachLocked(e, p, figures, l.clock.backendNow(), l.books)
	}
	e.account.Store(a)
	store(patched)
}
