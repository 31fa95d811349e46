package paylera

import "container/list"

// recent is a bounded map that forgets what was used longest ago. It is not
// safe for concurrent use: its owner locks.
type recent[K comparable, V any] struct {
	limit   int
	order   list.List // front: used last
	items   map[K]*list.Element
	evicted func(K, V) // may be nil; called for what falls out
}

// recentItem is what the list holds: the key is needed to forget the oldest.
type recentItem[K comparable, V any] struct {
	key   K
	value V
}

func newRecent[K comparable, V any](limit int) *recent[K, V] {
	return &recent[K, V]{limit: limit, items: make(map[K]*list.Element)}
}

// get returns the value of key and counts as a use.
func (r *recent[K, V]) get(key K) (V, bool) {
	e, ok := r.items[key]
	if !ok {
		var zero V
		return zero, false
	}
	r.order.MoveToFront(e)
	return e.Value.(*recentItem[K, V]).value, true
}

// put stores a value, and forgets the oldest key when that is one too many.
func (r *recent[K, V]) put(key K, value V) {
	if e, ok := r.items[key]; ok {
		e.Value.(*recentItem[K, V]).value = value
		r.order.MoveToFront(e)
		return
	}
	r.items[key] = r.order.PushFront(&recentItem[K, V]{key, value})
	if r.order.Len() > r.limit {
		oldest := r.order.Back().Value.(*recentItem[K, V])
		r.remove(oldest.key)
		if r.evicted != nil {
			r.evicted(oldest.key, oldest.value)
		}
	}
}

func (r *recent[K, V]) remove(key K) {
	if e, ok := r.items[key]; ok {
		r.order.Remove(e)
		delete(r.items, key)
	}
}
