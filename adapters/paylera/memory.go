package paylera

import (
	"maps"
	"slices"
	"sync"
)

// memory knows the customers that were fetched lately: which subscriptions they
// have, who has a subscription, and which subscription grants a feature. It is
// bounded: a webhook for a customer who fell out finds nobody, and the Client's
// own refresh, at most its TTL later, takes over.
type memory struct {
	// mu guards everything below, which changes together.
	mu        sync.Mutex
	customers *recent[string, remembered]
	holders   map[string]map[string]struct{} // subscription → customers
}

type remembered struct {
	subscriptions []string
	// grants maps a feature to the first subscription that grants it; nil until
	// a fetch has told.
	grants map[string]string
}

func newMemory(limit int) *memory {
	m := &memory{customers: newRecent[string, remembered](limit), holders: make(map[string]map[string]struct{})}
	m.customers.evicted = func(customer string, r remembered) { m.releaseLocked(customer, r) }
	return m
}

// hold notes whose subscriptions these are. It is called before they are
// fetched: a webhook that overtakes the answer must find the customer, whose
// load would else install what was true before the event.
func (m *memory) hold(customer string, subscriptions []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.customers.get(customer); ok {
		if slices.Equal(old.subscriptions, subscriptions) {
			// What a fetch told stays: it is still the best that is known.
			return
		}
		m.releaseLocked(customer, old)
	}
	for _, s := range subscriptions {
		if m.holders[s] == nil {
			m.holders[s] = make(map[string]struct{}, 1)
		}
		m.holders[s][customer] = struct{}{}
	}
	m.customers.put(customer, remembered{subscriptions: slices.Clone(subscriptions)})
}

// learn notes what a fetch of several subscriptions told.
func (m *memory) learn(customer string, subscriptions []string, grants map[string]string) {
	m.hold(customer, subscriptions)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.customers.put(customer, remembered{slices.Clone(subscriptions), grants})
}

func (m *memory) releaseLocked(customer string, r remembered) {
	for _, s := range r.subscriptions {
		delete(m.holders[s], customer)
		if len(m.holders[s]) == 0 {
			delete(m.holders, s)
		}
	}
}

// holdersOf names the customers that have a subscription, several when they
// share it.
func (m *memory) holdersOf(subscription string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.holders[subscription]))
}

// granting names the subscription of a customer that grants a feature; "" is
// none of them. known is false when no fetch has told since they changed.
func (m *memory) granting(customer, feature string, subscriptions []string) (subscription string, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.customers.get(customer)
	if !ok || r.grants == nil || !slices.Equal(r.subscriptions, subscriptions) {
		return "", false
	}
	return r.grants[feature], true
}
