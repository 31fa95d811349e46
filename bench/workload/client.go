package workload

import (
	"context"
	"fmt"

	"github.com/entitlements-go/entitlements"
)

// Warm returns a Client in which every customer is cached. A Source and a
// MaxCustomers that cfg leaves open are the workload's.
func (w *Workload) Warm(ctx context.Context, cfg entitlements.Config) (*entitlements.Client, error) {
	if cfg.Source == nil {
		cfg.Source = w.Source()
	}
	if cfg.MaxCustomers == 0 {
		cfg.MaxCustomers = len(w.Customers)
	}
	c, err := entitlements.New(cfg)
	if err != nil {
		return nil, err
	}
	report, err := c.Warm(ctx, nil)
	if err == nil && report.Loaded != len(w.Customers) {
		err = fmt.Errorf("workload: %d of %d customers loaded", report.Loaded, len(w.Customers))
	}
	if err != nil {
		_ = c.Close(ctx)
		return nil, err
	}
	return c, nil
}
