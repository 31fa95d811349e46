package entitlements

import (
	"context"
	"errors"
	"time"
)

// closeWithin bounds a Close whose context has no deadline.
const closeWithin = 30 * time.Second

// shutDown is Close, once. The order is what makes it complete: no intake, then
// no usage left, then nothing running, then no cache.
func (c *Client) shutDown(ctx context.Context) {
	defer close(c.closed)
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, closeWithin)
		defer cancel()
	}
	c.clock.close() // every later call finds the client closed
	err := c.usage.close(ctx)
	c.dead.wait(ctx)
	c.warnings.wait(ctx)
	c.changes.calls.wait(ctx)
	if c.snapshots != nil {
		c.snapshots.close(ctx, c.running)
	}

	c.running.close()
	c.stopLoops(ErrClosed)
	c.loops.Wait() // ours: they look at nothing but their context

	if c.usage.spool != nil {
		c.usage.spool.close()
	}

	left := c.running.wait(ctx)
	c.cache.close()
	if left > 0 {
		var undelivered *UndeliveredError
		if !errors.As(err, &undelivered) {
			undelivered = &UndeliveredError{Err: context.Cause(ctx)}
			err = undelivered
		}
		undelivered.Running = left
	}
	c.closeErr = err
}

// deadLetter is told of every record that is given up.
func (c *Client) deadLetter(u Usage, err error) {
	if c.cfg.DeadLetter != nil {
		c.dead.enqueue(func() { c.cfg.DeadLetter(u, err) })
	}
}
