package entitlements

import (
	"errors"
	"strings"
	"time"
)

// landed is what a load left, for the refresher and for subscribers.
type landed struct {
	customer  string
	entry     *entry        // nil when nothing is cached
	before    *Entitlements // with subscribers only
	err       error
	forgotten bool
}

// negative is what is remembered of a customer instead of a snapshot.
type negative struct {
	reason Reason // ReasonUnknownCustomer or ReasonUnavailable
	err    error  // what a waiting call gets
}

// land keeps what a load learnt: a snapshot, or that there is none. It returns
// the entry to answer from.
func (l *loader) land(hash uint64, ld *load, err error) (e *entry, before *Entitlements, _ error) {
	switch {
	case err == nil, errors.Is(err, ErrNotModified) && ld.prior != nil:
		e, before = l.install(hash, ld)
		l.unremember(hash, ld.customer)
		return e, before, nil
	case errors.Is(err, ErrUnknownCustomer):
		if e := l.cache.forget(hash, ld.customer); e != nil {
			before = e.export()
		}
		l.remember(hash, ld.customer, ReasonUnknownCustomer, ErrUnknownCustomer, l.cfg.NegativeTTL)
		return nil, before, ErrUnknownCustomer
	case errors.Is(err, ErrClosed):
		return nil, nil, err
	}
	if e := l.cache.find(hash, ld.customer); e != nil {
		e.mu.Lock()
		e.failures++
		e.mu.Unlock()
		return e, nil, unavailable(err)
	}
	switch {
	case errors.Is(err, errShed):
		// It was not asked for, and may be in a moment.
	case errors.Is(err, errShut):
		_, wait := l.door.peek(l.clock.precise())
		l.remember(hash, ld.customer, ReasonUnavailable, unavailable(err), time.Duration(wait))
	default:
		l.remember(hash, ld.customer, ReasonUnavailable, unavailable(err), l.cfg.NegativeTTL)
	}
	return nil, nil, unavailable(err)
}

// remember notes that there is nothing, for NegativeTTL at most.
func (l *loader) remember(hash uint64, customer string, reason Reason, err error, within time.Duration) {
	if l.cfg.NegativeTTL < 0 {
		return
	}
	e := newEntry(customer, l.clock.coarse.Load())
	e.negative, e.startSeq = &negative{reason: reason, err: err}, l.sequence.Load()
	e.until.Store(l.clock.precise() + int64(min(within, l.cfg.NegativeTTL)))
	l.absent.insert(hash, e)
}

// remembered is what is remembered of a customer instead of a snapshot, or nil.
func (l *loader) remembered(hash uint64, customer string) *negative {
	e := l.absent.find(hash, customer)
	if e == nil {
		return nil
	}
	if l.clock.precise() >= e.until.Load() || e.startSeq < l.allStale.Load() {
		l.absent.remove(hash, e)
		return nil
	}
	return e.negative
}

// install makes an answer what readers see.
func (l *loader) install(hash uint64, ld *load) (*entry, *Entitlements) {
	for {
		e := l.cache.find(hash, ld.customer)
		if e == nil {
			// First where it can be found, then its content: an account that is opened
			// meanwhile finds the entry, one that was opened before is found below.
			e = l.cache.add(hash, newEntry(ld.customer, l.clock.coarse.Load()))
		}
		e.mu.Lock()
		if e.gone.Load() {
			e.mu.Unlock()
			continue // it made room just now: a new one takes its place
		}
		before := l.installLocked(hash, e, ld)
		e.mu.Unlock()
		return e, before
	}
}

func (l *loader) installLocked(hash uint64, e *entry, ld *load) (before *Entitlements) {
	if ld.set == nil && e.plan.Load() == nil {
		p, o := ld.prior.content() // not modified, and evicted meanwhile
		e.storeLocked(p, l.settleOwn(hash, e, p, o, nil, nil))
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
		e.storeLocked(p, l.settleOwn(hash, e, p, l.newOwn(p, ld), oldPlan, oldOwn))
	}
	e.startSeq, e.failures = ld.sequence, 0
	e.fetched.Store(ld.sent)
	e.denyAt.Store(ld.sent + int64(l.cfg.DenyTTL))
	if max(e.staleSeq, l.allStale.Load()) > e.startSeq {
		e.staleAt.Store(0)
	} else {
		e.staleAt.Store(ld.sent + int64(l.cfg.TTL))
	}
	// Last: from here on the hot path answers.
	e.until.Store(ld.sent + int64(l.cfg.MaxStale) - l.clock.margin)
	return before
}

// newOwn is the customer's own part of an answer, nil when there is none.
func (l *loader) newOwn(p *plan, ld *load) *own {
	set := ld.set
	if p.dated == 0 && set.Version == "" && set.AsOf.IsZero() && set.ServerTime.IsZero() {
		return nil
	}
	server, asOf := nanos(set.ServerTime), nanos(set.AsOf)
	o := &own{plan: p, version: strings.Clone(set.Version), asOf: asOf, serverTime: server}
	short := time.Duration(0)
	if server == 0 {
		server = time.Now().UnixNano()
	} else {
		short = resolution(set.ServerTime)
	}
	if asOf != 0 {
		l.books.lagging.Store(true)
	}
	o.figures = p.figures(set, ld.sent, ld.received, horizonOf(ld.sent, asOf, server, int64(short), int64(l.cfg.UsageLag)))
	return o
}

// settleOwn lets the figures that were known before decide about the new ones,
// and shows them to the customer's account.
func (l *loader) settleOwn(hash uint64, e *entry, p *plan, o *own, oldPlan *plan, oldOwn *own) *own {
	if o != nil && oldOwn != nil {
		for i := range p.grants {
			g := &p.grants[i]
			if g.own < 0 {
				continue
			}
			if was := oldPlan.look(g.code); was != nil && was.own >= 0 {
				o.figures[g.own] = oldOwn.figures[was.own].after(o.figures[g.own])
			}
		}
	}
	a := l.books.find(hash, e.key())
	if a == nil {
		e.account.Store(nil)
		return o
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.retired {
		e.account.Store(nil)
		return o
	}
	o = a.attachLocked(e, p, o, int64(l.clock.tick))
	e.account.Store(a)
	return o
}
