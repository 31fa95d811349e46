package entitlements

// Invalidate, InvalidateAll and Forget race with loads. What orders them is a
// sequence: every fetch takes a number just before it calls the Source, and so
// does every Invalidate. Content is stale while its fetch has a lower number
// than the customer's last Invalidate.
//
// An Invalidate leaves its number in two places, with the load that is under way
// and with the entry, in this order; a load that lands installs the entry first
// and then looks for a number. So whichever way they interleave, the entry
// carries the number:
//
//	load lands              Invalidate
//	install entry           number on the attempt
//	take the attempt away   number on the entry
//	number on the entry

// invalidate marks what is cached of a customer, and what is being loaded, as
// stale. It returns the cached entry, or nil.
func (l *loader) invalidate(customer string) *entry {
	sequence := l.sequence.Add(1)
	hash := hashOf(customer)
	l.mu.Lock()
	if a := l.attempts[customer]; a != nil {
		a.staleSeq = sequence
	}
	l.mu.Unlock()
	l.unremember(hash, customer)
	e := l.cache.find(hash, customer)
	if e != nil {
		l.cache.markStale(e, sequence)
	}
	return e
}

func (l *loader) invalidateAll() { l.allStale.Store(l.sequence.Add(1)) }

// forget takes a customer out of the cache, and keeps a load that is under way
// from putting it back.
func (l *loader) forget(customer string) {
	hash := hashOf(customer)
	l.mu.Lock()
	if a := l.attempts[customer]; a != nil {
		// Who asks from here on waits for a load that began after this.
		a.forgotten, a.staleSeq = true, l.sequence.Add(1)
	}
	l.mu.Unlock()
	l.unremember(hash, customer)
	if e := l.cache.forget(hash, customer); e != nil {
		l.erase(e)
	}
}

// erase forgets the content of an entry. Its account goes on knowing the figures.
func (l *loader) erase(e *entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if a := e.account.Load(); a != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		if !a.isLocked(accountRetired) {
			a.keepFiguresLocked(l.books)
		}
	}
	e.fetched.Store(never)
	e.plan.Store(nothing)
	e.own.Store(nil)
}

// unremember drops what is remembered of a customer instead of a snapshot.
func (l *loader) unremember(hash uint64, customer string) {
	absent := l.absent.Load()
	if absent == nil {
		return
	}
	if e := absent.find(hash, customer); e != nil {
		absent.remove(hash, e)
	}
}

// markStale lets an entry count as stale for an Invalidate of this sequence,
// unless it was fetched after it.
func (c *cache) markStale(e *entry, sequence uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.staleSeq = max(e.staleSeq, sequence)
	if e.staleSeq > e.startSeq.Load() {
		e.staleAt.Store(0)
		c.table.publish(e)
	}
}
