package entitlements

import (
	"context"

	"golang.org/x/sync/singleflight"
)

// flights runs at most one call per key at a time and gives its result to all
// who ask meanwhile. A waiter leaves when its own context ends; the call goes on
// for the others, and for the cache.
//
// The function must not panic, nor end its goroutine: singleflight would take
// the process down with the first and leave its waiters hanging after the second.
// See protect.
type flights[V any] struct {
	group singleflight.Group
}

// do returns the result of the call that is under way for key, or else of fn.
func (f *flights[V]) do(ctx context.Context, key string, fn func() (V, error)) (V, error) {
	results := f.group.DoChan(key, func() (any, error) { return fn() })
	select {
	case r := <-results:
		return r.Val.(V), r.Err
	case <-ctx.Done():
		return *new(V), context.Cause(ctx)
	}
}

// start begins fn unless a call for key is under way, and does not wait.
func (f *flights[V]) start(key string, fn func() (V, error)) {
	f.group.DoChan(key, func() (any, error) { return fn() })
}
