package paylera

import (
	"sync"
	"sync/atomic"
)

// parallel calls f with 0 to n-1, in this order but up to workers of them at
// once, and returns when all have returned. A panic in one is raised again in
// the caller, who can recover it: a goroutine's own would end the program, and
// what panics here is the user's code (an interceptor, a transport).
func parallel(n, workers int, f func(i int)) {
	var (
		next     atomic.Int64
		wg       sync.WaitGroup
		panicked atomic.Pointer[any]
	)
	for range min(n, workers) {
		// Owned by this call, ends with the last index.
		wg.Go(func() {
			defer func() {
				if v := recover(); v != nil {
					panicked.CompareAndSwap(nil, &v)
				}
			}()
			// After a panic the rest is not begun: its result would be lost anyway.
			for panicked.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				f(i)
			}
		})
	}
	wg.Wait()
	if v := panicked.Load(); v != nil {
		panic(*v)
	}
}
