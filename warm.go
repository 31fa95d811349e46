package entitlements

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"golang.org/x/sync/errgroup"
)

// WarmReport is what [Client.Warm] did, in customers.
type WarmReport struct {
	Loaded  int // loaded now
	Cached  int // were cached and fresh enough already
	Unknown int // the backend does not know them
	Failed  int // could not be loaded
}

// warmAhead is how many customers Warm has under way for each request that the
// Source may be asked at once, so that batches fill.
const warmAhead = 16

func (c *Client) warm(ctx context.Context, customers iter.Seq[string]) (WarmReport, error) {
	if c.clock.closed() {
		return WarmReport{}, ErrClosed
	}
	var listErr error
	if customers == nil {
		lister, ok := c.cfg.Source.(Lister)
		if !ok {
			return WarmReport{}, errors.New("entitlements: Warm needs customers: the Source is not a Lister")
		}
		customers = func(yield func(string) bool) {
			for customer, err := range lister.List(ctx) {
				if err != nil {
					listErr = fmt.Errorf("entitlements: list customers: %w", err)
					return
				}
				if !yield(customer) {
					return
				}
			}
		}
	}
	var mu sync.Mutex // guards report and first
	var report WarmReport
	var first error
	var group errgroup.Group
	ahead := c.cfg.FetchConcurrency
	if c.loader.batches != nil {
		ahead *= warmAhead
	}
	group.SetLimit(min(ahead, maxQueued/4))
	defer c.loader.warm()()
	for customer := range customers {
		if ctx.Err() != nil || c.clock.closed() {
			break
		}
		group.Go(func() error {
			cached, err := c.warmOne(ctx, customer)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, ErrUnknownCustomer):
				report.Unknown++
			case err != nil:
				report.Failed++
				if first == nil {
					first = fmt.Errorf("entitlements: warm %q: %w", customer, err)
				}
			case cached:
				report.Cached++
			default:
				report.Loaded++
			}
			return nil
		})
	}
	_ = group.Wait() // none fails: failures are in the report
	switch {
	case c.clock.closed():
		return report, ErrClosed
	case ctx.Err() != nil:
		return report, fmt.Errorf("entitlements: warm: %w", ctx.Err())
	case listErr != nil:
		return report, listErr
	}
	return report, first
}

// warmOne makes one customer answerable.
func (c *Client) warmOne(ctx context.Context, customer string) (cached bool, err error) {
	if !validKey(customer) {
		return false, invalidKey("customer", customer)
	}
	hash := hashOf(customer)
	seen := c.loader.seen(hash, customer)
	e := c.cache.find(hash, customer)
	if e != nil && c.clock.precise() < e.staleAt.Load() {
		return true, nil
	}
	_, err = c.loader.wait(ctx, customer, loadCold, seen)
	return false, err
}
