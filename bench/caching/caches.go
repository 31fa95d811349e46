package caching

import (
	"context"
	"fmt"
	"time"

	theine "github.com/Yiling-J/theine-go"
	"github.com/dgraph-io/ristretto/v2"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/maypok86/otter/v2"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/bench/workload"
)

// A Cache is asked by one goroutine.
type Cache interface {
	// Access reports whether a customer was cached. One who was not is loaded, and
	// offered to the cache, before it returns.
	Access(customer int32) (hit bool, err error)
	Held() int // customers cached now
	Close() error
}

// A Peer makes a Cache.
type Peer struct {
	Name   string
	Module string // its import path
	New    func(w *workload.Workload, capacity int) (Cache, error)
}

// Ours is the name of this library among the peers.
const Ours = "entitlements"

// Peers are all of them, ours first, in the order in which tables list them.
func Peers() []Peer {
	return []Peer{
		{Ours, "github.com/entitlements-go/entitlements", newOurs},
		{"ristretto", "github.com/dgraph-io/ristretto/v2", newRistretto},
		{"otter", "github.com/maypok86/otter/v2", newOtter},
		{"theine", "github.com/Yiling-J/theine-go", newTheine},
		{"golang-lru", "github.com/hashicorp/golang-lru/v2", newLRU},
	}
}

// ours is a Client. Nothing is refreshed while a trace runs, so that what it loads
// is what the trace asks for.
type ours struct {
	client    *entitlements.Client
	customers []string
	feature   string
}

func newOurs(w *workload.Workload, capacity int) (Cache, error) {
	c, err := entitlements.New(entitlements.Config{
		Source: w.Source(), MaxCustomers: capacity, TTL: time.Hour, DenyTTL: -1,
	})
	return &ours{c, w.Customers, w.Features[0]}, err
}

func (o *ours) Access(customer int32) (bool, error) {
	key := o.customers[customer]
	if o.client.Decide(key, o.feature).Origin != entitlements.OriginPolicy {
		return true, nil
	}
	_, err := o.client.Load(context.Background(), key)
	return false, err
}

func (o *ours) Held() int    { return o.client.Stats().Cache.Customers }
func (o *ours) Close() error { return o.client.Close(context.Background()) }

// bare is what the caches have in common: keys as strings, and a value that
// nobody looks at.
type bare struct {
	customers []string
	get       func(key string) bool
	set       func(key string) error // returns when the cache has decided
	held      func() int
	close     func()
}

func (b *bare) Access(customer int32) (bool, error) {
	key := b.customers[customer]
	if b.get(key) {
		return true, nil
	}
	return false, b.set(key)
}

func (b *bare) Held() int    { return b.held() }
func (b *bare) Close() error { b.close(); return nil }

func newRistretto(w *workload.Workload, capacity int) (Cache, error) {
	c, err := ristretto.NewCache(&ristretto.Config[string, bool]{
		NumCounters: int64(10 * capacity), MaxCost: int64(capacity), BufferItems: 64,
		IgnoreInternalCost: true, // else a cost of 1 becomes 57, and capacity a fraction
	})
	if err != nil {
		return nil, err
	}
	return &bare{
		customers: w.Customers,
		get:       func(key string) bool { _, ok := c.Get(key); return ok },
		set: func(key string) error {
			if !c.Set(key, true, 1) {
				return fmt.Errorf("ristretto: its buffer refused %q", key)
			}
			c.Wait()
			return nil
		},
		held:  func() int { return int(c.MaxCost() - c.RemainingCost()) },
		close: c.Close,
	}, nil
}

func newOtter(w *workload.Workload, capacity int) (Cache, error) {
	c, err := otter.New(&otter.Options[string, bool]{
		MaximumSize: capacity,
		Executor:    func(f func()) { f() }, // its maintenance is done when a call returns
	})
	if err != nil {
		return nil, err
	}
	return &bare{
		customers: w.Customers,
		get:       func(key string) bool { _, ok := c.GetIfPresent(key); return ok },
		set:       func(key string) error { c.Set(key, true); return nil },
		held:      c.EstimatedSize,
		close:     func() { c.StopAllGoroutines() },
	}, nil
}

func newTheine(w *workload.Workload, capacity int) (Cache, error) {
	c, err := theine.NewBuilder[string, bool](int64(capacity)).Build()
	if err != nil {
		return nil, err
	}
	return &bare{
		customers: w.Customers,
		get:       func(key string) bool { _, ok := c.Get(key); return ok },
		set: func(key string) error {
			c.Set(key, true, 1)
			c.Wait()
			return nil
		},
		held:  c.Len,
		close: c.Close,
	}, nil
}

func newLRU(w *workload.Workload, capacity int) (Cache, error) {
	c, err := lru.New[string, bool](capacity)
	if err != nil {
		return nil, err
	}
	return &bare{
		customers: w.Customers,
		get:       func(key string) bool { _, ok := c.Get(key); return ok },
		set:       func(key string) error { c.Add(key, true); return nil },
		held:      c.Len,
		close:     c.Purge,
	}, nil
}
