package entitlements

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// books holds the accounts of all customers whose usage here may be missing from
// what the backend told, whether they are cached or not. There is one account
// per customer at any time.
//
// An account and a cache entry find each other in either order: whoever comes
// second, be it the account of a cached customer or the entry of a counted one,
// publishes itself first and then looks for the other.
type books struct {
	shards [64]struct {
		mu       sync.Mutex // guards accounts; taken before an account's own lock
		accounts accountIndex
	}
	entryOf  func(hash uint64, customer string) *entry // the cached entry, or nil
	features *featureIndex
	tick     int64         // of the clock: see figure.contains
	requeue  func(*record) // of a cell that a meter takes over
	reads    atomic.Int32  // whether answers can be older than their fetch
}

// Values of books.reads. Until the first answer nobody knows.
const (
	readsUnknown int32 = iota
	readsNow           // no answer has told AsOf
	readsMayLag
)

func newBooks(entryOf func(uint64, string) *entry, features *featureIndex, tick time.Duration) *books {
	return &books{entryOf: entryOf, features: features, tick: int64(tick)}
}

// glance is find without a lock. It may miss an account, and the one that it finds
// may be retired.
func (b *books) glance(hash uint64, customer string) *account {
	return b.shards[hash%uint64(len(b.shards))].accounts.find(hash, customer)
}

// find returns the account of a customer, or nil.
func (b *books) find(hash uint64, customer string) *account {
	s := &b.shards[hash%uint64(len(b.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accounts.find(hash, customer)
}

// obtain returns the account of a customer, and makes one if there is none.
func (b *books) obtain(hash uint64, customer string) *account {
	s := &b.shards[hash%uint64(len(b.shards))]
	e := b.entryOf(hash, customer)
	s.mu.Lock()
	a := s.accounts.find(hash, customer)
	if a == nil {
		key := strings.Clone(customer) // a caller's may be part of something larger
		if e != nil {
			key = e.key
		}
		a = newAccount(key, hash)
		s.accounts.add(hash, a)
	}
	s.mu.Unlock()
	if e = b.entryOf(hash, customer); e != nil && e.account.Load() != a {
		// The same order as an install: the entry's lock, then the account's.
		e.mu.Lock()
		if !e.gone.Load() {
			a.mu.Lock()
			if !a.isLocked(accountRetired) {
				b.bindLocked(a, e)
			}
			a.mu.Unlock()
		}
		e.mu.Unlock()
	}
	return a
}

// lock returns the account of a customer, locked.
func (b *books) lock(hash uint64, customer string) *account {
	for {
		if a := b.obtain(hash, customer); a.lock() {
			return a
		}
	}
}

// lockShown is lock for the customer of an entry, which shows the account from
// then on, be it in the cache or only in somebody's hand.
func (b *books) lockShown(e *entry) *account {
	key := e.key
	hash := hashOf(key)
	for {
		a := b.obtain(hash, key)
		if e.account.Load() != a {
			b.show(e)
		}
		if a.lock() {
			return a
		}
	}
}

// show lets an entry that left the cache, but that a handle still reads, show its
// customer's account: nobody else brings the two together any more.
func (b *books) show(e *entry) {
	key := e.key
	a := b.find(hashOf(key), key)
	if a == nil || a == e.account.Load() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.isLocked(accountRetired) {
		b.bindLocked(a, e)
	}
}

// bindLocked lets a cached entry show an account. Both locks are held.
func (b *books) bindLocked(a *account, e *entry) {
	if was := a.entry.Load(); was == nil || was.gone.Load() {
		a.showLocked(e, b)
	}
	if was := e.account.Load(); was != nil && was != a {
		a.inheritLocked(was, e, b)
	}
	if p, o := e.content(); o != nil {
		a.fitCellsLocked(p, o.figure, b)
	}
	for m := range a.meters() {
		m.learnLocked(e)
	}
	e.account.Store(a)
}

// sweep retires the accounts of one shard that were quiet at the last sweep and
// still are. An entry that still points at a retired account shows the same
// numbers: they are the figures' own. visit sees each account first.
func (b *books) sweep(shard int, since, lostSince, backendNow int64, visit func(*account)) {
	s := &b.shards[shard%len(b.shards)]
	s.mu.Lock()
	defer s.mu.Unlock()
	var retired []*account
	for a := range s.accounts.all {
		a.mu.Lock()
		visit(a)
		switch quiet := a.quietLocked(since, lostSince, backendNow, b); {
		case quiet && a.isLocked(accountIdle):
			a.setLocked(accountRetired, true)
			retired = append(retired, a)
		default:
			a.setLocked(accountIdle, quiet)
		}
		a.mu.Unlock()
	}
	for _, a := range retired {
		s.accounts.remove(a)
	}
}

// each calls f with every account, under its lock.
func (b *books) each(f func(*account)) {
	for i := range b.shards {
		b.shards[i].mu.Lock()
		for a := range b.shards[i].accounts.all {
			a.mu.Lock()
			f(a)
			a.mu.Unlock()
		}
		b.shards[i].mu.Unlock()
	}
}
