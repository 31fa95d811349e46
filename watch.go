package entitlements

import (
	"context"
	"log/slog"
	"time"
)

// watch keeps a Watcher running. Owned by New, ends with ctx.
func (c *Client) watch(ctx context.Context, w Watcher) {
	wait := newBackOff(time.Second, time.Minute)
	for {
		began := time.Now()
		_, err := protect(ctx, c.running, func() {}, func() (struct{}, error) { return struct{}{}, w.Watch(ctx, c) })
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > time.Minute {
			wait.Reset()
		}
		c.cfg.Logger.Warn("entitlements: the source's watch ended, starting it again", slog.Any("error", err))
		if !sleep(ctx, wait.NextBackOff()) {
			return
		}
		// Nobody listened for a while.
		c.InvalidateAll()
	}
}
