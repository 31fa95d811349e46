package entitlements

import (
	"context"
	"fmt"
)

// report records usage and waits until none of it can be lost any more.
func (b *batcher) report(ctx context.Context, usage []Usage) error {
	for i := range usage {
		u := &usage[i]
		switch {
		case !validKey(u.Customer):
			return fmt.Errorf("entitlements: report: usage %d: %w", i, invalidKey("customer", u.Customer))
		case !validKey(u.Feature):
			return fmt.Errorf("entitlements: report: usage %d: %w", i, invalidKey("feature", u.Feature))
		case len(u.ID) > MaxKeyLength:
			return fmt.Errorf("entitlements: report: usage %d: %w", i, invalidKey("id", u.ID))
		}
	}
	if len(usage) == 0 {
		return nil
	}
	if b.sink == nil {
		var first error
		for i := range usage {
			if err := b.add(&usage[i], nil); err != nil && first == nil {
				first = fmt.Errorf("entitlements: report: usage %d: %w", i, err)
			}
		}
		return first
	}
	w := &report{left: len(usage), done: make(chan struct{})}
	for i := range usage {
		_ = b.add(&usage[i], w) // w is told
	}
	b.nudge()
	if b.spool != nil && b.spool.durable(ctx, w.done) {
		if err := w.refused(); err != nil {
			return fmt.Errorf("entitlements: report: %w", err)
		}
		return nil
	}
	select {
	case <-w.done:
		if w.err != nil {
			return fmt.Errorf("entitlements: report: %w", w.err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("entitlements: report: still pending: %w", ctx.Err())
	}
}
