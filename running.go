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
// more, and waited for with a context.
type running struct {
	context context.Context // ends when the Client gives up what still runs
	cancel  context.CancelCauseFunc

	mu   sync.Mutex // guards the fields below
	n    int
	shut bool
	idle chan struct{} // closed when shut and none is left
}

func newRunning() *running {
	r := &running{idle: make(chan struct{})}
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
	r.n++
	return true
}

func (r *running) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n--; r.n == 0 && r.shut {
		close(r.idle)
	}
}

// close lets nothing start any more, and ends the context of what runs.
func (r *running) close() {
	r.cancel(ErrClosed)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shut {
		return
	}
	if r.shut = true; r.n == 0 {
		close(r.idle)
	}
}

// wait waits until all that was started has returned, and says how many have not
// when ctx ends first.
func (r *running) wait(ctx context.Context) int {
	select {
	case <-r.idle:
		return 0
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
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
		a.v, a.err = fn()
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
