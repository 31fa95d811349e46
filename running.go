package entitlements

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// running keeps track of the goroutines that a Client starts after New: loads,
// deliveries, callbacks. Unlike a WaitGroup it can be shut while others start
// more, and it knows which of them are in somebody else's code: those may ignore
// that their time is over, ours do not.
type running struct {
	context context.Context // ends when the Client gives up what still runs
	cancel  context.CancelCauseFunc

	mu      sync.Mutex // guards the fields below
	all     int
	foreign int // those of them in a Source, a Sink or a callback
	shut    bool
	done    chan struct{} // closed when shut and none of ours is left
	idle    chan struct{} // closed when shut and none at all is left
}

func newRunning() *running {
	r := &running{done: make(chan struct{}), idle: make(chan struct{})}
	r.context, r.cancel = context.WithCancelCause(context.Background())
	return r
}

// start runs fn on a goroutine of its own, owned by the Client, which ends when
// fn returns. It reports false, and runs nothing, once shut.
func (r *running) start(fn func()) bool {
	if !r.begin() {
		return false
	}
	go func() {
		defer r.end()
		fn()
	}()
	return true
}

// begin counts work on a goroutine that somebody else started.
func (r *running) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shut {
		return false
	}
	r.all++
	return true
}

func (r *running) end() { r.count(-1, 0) }

// abroad calls fn, which is somebody else's.
func (r *running) abroad(fn func()) {
	r.count(0, 1)
	defer r.count(0, -1)
	fn()
}

func (r *running) count(all, foreign int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all += all
	r.foreign += foreign
	r.settleLocked()
}

func (r *running) settleLocked() {
	if r.shut && r.all <= r.foreign {
		closeOnce(r.done)
	}
	if r.shut && r.all == 0 && r.foreign == 0 {
		closeOnce(r.idle)
	}
}

// closeOnce closes a channel that only its caller's lock holder closes.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// close lets nothing start any more, and ends the context of what runs.
func (r *running) close() {
	r.cancel(ErrClosed)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shut = true
	r.settleLocked()
}

// wait waits until nothing runs any more or ctx ends, but always for all of ours,
// each of which gives those abroad the time to notice (see protect). It returns
// how many are still abroad.
func (r *running) wait(ctx context.Context) int {
	select {
	case <-r.idle:
	case <-ctx.Done():
		<-r.done
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.foreign
}

// grace is how long a call into somebody else's code may take to notice that its
// context has ended. What it says then can still tell what was accepted.
const grace = 250 * time.Millisecond

var errGoexit = errors.New("entitlements: callee ended its goroutine (runtime.Goexit)")

// protect calls somebody else's code: a panic or a Goexit in it is an error, and
// a callee that ignores its context is left behind. ended is called when fn has
// returned, in time or not.
func protect[V any](ctx context.Context, r *running, ended func(), fn func() (V, error)) (V, error) {
	type answer struct {
		v   V
		err error
	}
	answers := make(chan answer, 1)
	started := r.start(func() {
		a := answer{err: errGoexit}
		defer func() {
			if p := recover(); p != nil {
				a.err = fmt.Errorf("entitlements: callee panicked: %v\n%s", p, debug.Stack())
			}
			answers <- a
			ended()
		}()
		r.abroad(func() { a.v, a.err = fn() })
		// A nil pointer of an error type is an error that panics when it is looked
		// into. Look here, where that is the callee's panic.
		_, _ = RetryDelay(a.err)
		_ = errors.Is(a.err, errGoexit)
	})
	if !started {
		ended()
		return *new(V), ErrClosed
	}
	select {
	case a := <-answers:
		return a.v, timedOut(ctx, a.err)
	case <-ctx.Done():
	}
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case a := <-answers:
		return a.v, timedOut(ctx, a.err)
	case <-late.C:
		return *new(V), context.Cause(ctx)
	}
}

// timedOut adds the bound that was hit to what a callee says of its context.
func timedOut(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
		return err
	}
	return fmt.Errorf("%w: %w", context.Cause(ctx), err)
}

// timeoutError is the cause of a context that ended by our own deadline.
type timeoutError struct {
	call  string
	after time.Duration
}

func (e *timeoutError) Error() string {
	return fmt.Sprintf("entitlements: %s took longer than %v", e.call, e.after)
}

// Is lets errors.Is find context.DeadlineExceeded in it.
func (e *timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }
