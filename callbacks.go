package entitlements

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
)

// callbacks runs a user's callbacks one after the other, on a goroutine of their
// own that lives while there are any. No lock is held meanwhile, and a panic in
// one is logged and forgotten.
type callbacks struct {
	running *running
	log     *slog.Logger
	bound   int // 0 = none

	mu      sync.Mutex // guards the fields below
	queue   []func()
	busy    bool
	full    bool          // said so in the log
	drained chan struct{} // closed when the queue is empty, nil when nobody waits
}

// enqueue never blocks. What does not fit is dropped.
func (c *callbacks) enqueue(f func()) {
	if queued, dropped := c.queueUp(f); dropped {
		c.log.Warn("entitlements: a callback is too slow, calls of it are dropped", "queued", queued)
	}
}

// queueUp reports the first of a row of drops.
func (c *callbacks) queueUp(f func()) (queued int, dropped bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bound > 0 && len(c.queue) >= c.bound {
		dropped, c.full = !c.full, true
		return len(c.queue), dropped
	}
	c.queue = append(c.queue, f)
	if !c.busy {
		c.busy = c.running.start(c.run)
	}
	return len(c.queue), false
}

func (c *callbacks) run() {
	for {
		c.mu.Lock()
		if len(c.queue) == 0 {
			c.busy, c.full, c.queue = false, false, nil
			if c.drained != nil {
				close(c.drained)
				c.drained = nil
			}
			c.mu.Unlock()
			return
		}
		f := c.queue[0]
		c.queue[0], c.queue = nil, c.queue[1:]
		c.mu.Unlock()
		c.call(f)
	}
}

// call runs one callback and comes back whatever it does: on a goroutine of its
// own, so that ending it (runtime.Goexit) ends no other callback.
func (c *callbacks) call(f func()) {
	done := make(chan struct{})
	go c.running.abroad(func() { // owned by run, which waits for it
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				c.log.Error("entitlements: a callback panicked", "panic", p, "stack", string(debug.Stack()))
			}
		}()
		f()
	})
	<-done
}

// wait waits until all that was enqueued has been called.
func (c *callbacks) wait(ctx context.Context) {
	c.mu.Lock()
	if !c.busy {
		c.mu.Unlock()
		return
	}
	if c.drained == nil {
		c.drained = make(chan struct{})
	}
	drained := c.drained
	c.mu.Unlock()
	select {
	case <-drained:
	case <-ctx.Done():
	}
}
