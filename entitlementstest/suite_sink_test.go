package entitlementstest_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// deliverStep is how the fake Sink fails.
func deliverStep(failure entitlementstest.Failure) entitlementstest.DeliverStep {
	switch failure {
	case entitlementstest.FailRateLimited:
		return entitlementstest.DeliverStep{Refuse: entitlements.RetryAfter(entitlementstest.RateLimitWait, errors.New("slowly"))}
	case entitlementstest.FailUnauthorized, entitlementstest.FailForbidden, entitlementstest.FailUnreachable:
		return entitlementstest.DeliverStep{Refuse: entitlements.Unsent(errors.New("refused"))}
	case entitlementstest.FailHang:
		return entitlementstest.DeliverStep{Hang: true}
	case entitlementstest.FailLostAnswer:
		return entitlementstest.DeliverStep{Lost: errors.New("connection reset")}
	}
	return entitlementstest.DeliverStep{Refuse: errors.New("failed")}
}

func sinkHarness(s *entitlementstest.Sink, under entitlements.Sink) entitlementstest.SinkHarness {
	s.SetBad(func(u entitlements.Usage) error {
		if strings.HasPrefix(u.Feature, "bad") {
			return entitlementstest.ErrBad
		}
		return nil
	})
	return entitlementstest.SinkHarness{
		Sink: under, Customer: "c", Feature: "f", Total: s.Total,
		Bad:      func(u entitlements.Usage) entitlements.Usage { u.Feature = "bad"; return u },
		Break:    func(failure entitlementstest.Failure) bool { s.Always(deliverStep(failure)); return true },
		Repair:   func() { s.Always(entitlementstest.DeliverStep{}) },
		Requests: s.Deliveries,
		Patience: 2 * time.Second,
	}
}

func TestSinkSuitePassesTheFakes(t *testing.T) {
	t.Parallel()
	for _, most := range []int{0, 1, 4} {
		entitlementstest.RunSinkTests(t, func(testing.TB) entitlementstest.SinkHarness {
			s := entitlementstest.NewSink()
			return sinkHarness(s, s.Limited(entitlements.SinkLimits{MaxBatch: most, Atomic: true}))
		})
	}
}

// TestSinkSuitePassesByIndex is a Sink that tells the fate record by record.
func TestSinkSuitePassesByIndex(t *testing.T) {
	t.Parallel()
	entitlementstest.RunSinkTests(t, func(testing.TB) entitlementstest.SinkHarness {
		s := entitlementstest.NewSink()
		h := sinkHarness(s, s)
		s.SetBad(nil)
		fate := entitlementstest.DeliverStep{Fate: func(batch entitlements.Batch) *entitlements.DeliveryError {
			e := &entitlements.DeliveryError{Err: entitlementstest.ErrBad}
			for i, u := range batch.Usage {
				if u.Feature == "bad" {
					e.Rejected = append(e.Rejected, entitlements.Rejection{Index: i, Err: entitlementstest.ErrBad})
				} else if len(batch.Usage) > 4 && i == 0 {
					e.Retry = append(e.Retry, i)
				}
			}
			if len(e.Rejected) == 0 {
				return nil
			}
			return e
		}}
		s.Always(fate)
		h.Repair = func() { s.Always(fate) }
		return h
	})
}

type deliverFunc = func(ctx context.Context, s *entitlementstest.Sink, batch entitlements.Batch) error

// TestSinkSuiteFailsTheBroken has one mistake at a time, and the checks that
// must find it. Every check finds something.
func TestSinkSuiteFailsTheBroken(t *testing.T) {
	t.Parallel()
	found := make(map[string]bool)
	findsSink := func(name string, sink func(s *entitlementstest.Sink) entitlements.Sink, checks ...string) {
		t.Run(name, func(t *testing.T) {
			for _, check := range checks {
				s := entitlementstest.NewSink()
				h := sinkHarness(s, sink(s))
				h.Patience = 300 * time.Millisecond
				h.Secrets = []string{"pl_live_secret"}
				err := entitlementstest.SinkCheck(check, h)
				require.Error(t, err, check)
				require.False(t, entitlementstest.IsSkipped(err), "%s: %v", check, err)
				found[check] = true
			}
		})
	}
	finds := func(name string, f deliverFunc, checks ...string) {
		findsSink(name, func(s *entitlementstest.Sink) entitlements.Sink {
			return entitlements.SinkFunc(func(ctx context.Context, batch entitlements.Batch) error { return f(ctx, s, batch) })
		}, checks...)
	}
	finds("accepts nothing and says nothing", func(context.Context, *entitlementstest.Sink, entitlements.Batch) error {
		return nil
	}, "accepts", "full batch", "correction", "awkward id", "concurrent", "ended context", "lost answer", "failure, server error", "bad record alone")
	finds("failures swallowed", func(ctx context.Context, s *entitlementstest.Sink, batch entitlements.Batch) error {
		_ = s.Deliver(ctx, batch)
		return nil
	}, "failure, unauthorized", "failure, unreachable", "failure, rate limited", "hanging backend", "lost answer", "bad record alone", "bad record among good ones")
	finds("failures that are Permanent", func(ctx context.Context, s *entitlementstest.Sink, batch entitlements.Batch) error {
		return entitlements.Permanent(s.Deliver(ctx, batch))
	}, "failure, unauthorized", "failure, forbidden", "failure, rate limited", "failure, server error", "failure, unreachable", "ended context", "hanging backend")
	finds("failures that claim to be unsent", func(ctx context.Context, s *entitlementstest.Sink, batch entitlements.Batch) error {
		return entitlements.Unsent(s.Deliver(ctx, batch))
	}, "hanging backend", "lost answer")
	finds("bad records that are transient", func(ctx context.Context, s *entitlementstest.Sink, batch entitlements.Batch) error {
		err := s.Deliver(ctx, batch)
		if entitlements.IsPermanent(err) {
			return entitlements.Unsent(entitlementstest.ErrBad)
		}
		return err
	}, "bad record alone", "bad record among good ones")
	finds("refused with Permanent, and a part accepted", func(ctx context.Context, s *entitlementstest.Sink, batch entitlements.Batch) error {
		var refused error
		for i := range batch.Usage {
			one := batch
			one.Usage = batch.Usage[i : i+1]
			refused = errors.Join(refused, s.Deliver(ctx, one))
		}
		return refused
	}, "bad record among good ones")
	finds("an index that is none", func(ctx context.Context, s *entitlementstest.Sink, batch entitlements.Batch) error {
		if err := s.Deliver(ctx, batch); err != nil {
			return &entitlements.DeliveryError{Retry: []int{len(batch.Usage)}, Err: err}
		}
		return nil
	}, "failure, server error")
	finds("IDs of its own", func(ctx context.Context, s *entitlementstest.Sink, batch entitlements.Batch) error {
		fresh := batch
		fresh.Usage = nil
		for _, u := range batch.Usage {
			u.ID = ""
			fresh.Usage = append(fresh.Usage, u)
		}
		return s.Deliver(ctx, fresh)
	}, "duplicate", "duplicate in another batch", "duplicate in one batch", "lost answer")
	finds("IDs that are cut", func(ctx context.Context, s *entitlementstest.Sink, batch entitlements.Batch) error {
		for _, u := range batch.Usage {
			if len(u.ID) > 64 {
				return entitlements.Permanent(errors.New("too long"))
			}
		}
		return s.Deliver(ctx, batch)
	}, "awkward id")
	finds("a duplicate that is an error", func(ctx context.Context, s *entitlementstest.Sink, batch entitlements.Batch) error {
		before := s.Duplicates()
		if err := s.Deliver(ctx, batch); err != nil {
			return err
		}
		if s.Duplicates() > before {
			return entitlements.Permanent(errors.New("conflict"))
		}
		return nil
	}, "duplicate", "duplicate in another batch", "duplicate in one batch")
	finds("a batch that is changed", func(ctx context.Context, s *entitlementstest.Sink, batch entitlements.Batch) error {
		for i := range batch.Usage {
			batch.Usage[i].Quantity *= 1000
		}
		return s.Deliver(ctx, batch)
	}, "batch is not changed")
	finds("properties that are changed", func(ctx context.Context, s *entitlementstest.Sink, batch entitlements.Batch) error {
		for _, u := range batch.Usage {
			if u.Properties != nil {
				u.Properties["sent"] = "yes"
			}
		}
		return s.Deliver(ctx, batch)
	}, "batch is not changed")
	finds("a context that is ignored", func(_ context.Context, s *entitlementstest.Sink, batch entitlements.Batch) error {
		return s.Deliver(context.Background(), batch)
	}, "hanging backend")
	finds("a retry of its own", func(ctx context.Context, s *entitlementstest.Sink, batch entitlements.Batch) error {
		if s.Deliver(ctx, batch) == nil {
			return nil
		}
		return s.Deliver(ctx, batch)
	}, "one attempt")
	finds("a wait that is lost", func(ctx context.Context, s *entitlementstest.Sink, batch entitlements.Batch) error {
		err := s.Deliver(ctx, batch)
		if _, ok := entitlements.RetryDelay(err); ok {
			return errors.New("slowly")
		}
		return err
	}, "failure, rate limited")
	finds("a secret in the error", func(ctx context.Context, s *entitlementstest.Sink, batch entitlements.Batch) error {
		if err := s.Deliver(ctx, batch); err != nil {
			return errors.Join(err, errors.New("sent pl_live_secret"))
		}
		return nil
	}, "failure, unauthorized", "one attempt")

	// A failure that stays: the stored answer of a reused Idempotency-Key.
	findsSink("a failure that sticks to its batch", func(s *entitlementstest.Sink) entitlements.Sink {
		var mu sync.Mutex
		stored := make(map[string]error)
		return entitlements.SinkFunc(func(ctx context.Context, batch entitlements.Batch) error {
			mu.Lock()
			defer mu.Unlock()
			if err, ok := stored[batch.ID]; ok {
				return err
			}
			stored[batch.ID] = s.Deliver(ctx, batch)
			return stored[batch.ID]
		})
	}, "failure, server error", "failure, forbidden")
	findsSink("limits that make no sense", func(s *entitlementstest.Sink) entitlements.Sink {
		return s.Limited(entitlements.SinkLimits{MaxBatch: -1})
	}, "limits")

	// A buffer of its own, that is written out when somebody looks.
	t.Run("a batch that is kept", func(t *testing.T) {
		s := entitlementstest.NewSink()
		var kept []entitlements.Batch
		h := sinkHarness(s, entitlements.SinkFunc(func(_ context.Context, batch entitlements.Batch) error {
			kept = append(kept, batch)
			return nil
		}))
		h.Total = func(customer, feature string) int64 {
			for _, batch := range kept {
				require.NoError(t, s.Deliver(t.Context(), batch))
			}
			kept = nil
			return s.Total(customer, feature)
		}
		require.Error(t, entitlementstest.SinkCheck("batch is not kept", h))
		require.NoError(t, entitlementstest.SinkCheck("accepts", h), "only keeping is wrong with it")
		found["batch is not kept"] = true
	})

	for _, check := range entitlementstest.SinkCheckNames() {
		require.True(t, found[check], "no broken Sink fails the check %q", check)
	}
}

func TestSinkSuiteSkipsWithoutHooks(t *testing.T) {
	t.Parallel()
	for _, check := range entitlementstest.SinkCheckNames() {
		s := entitlementstest.NewSink()
		err := entitlementstest.SinkCheck(check, entitlementstest.SinkHarness{Sink: s, Customer: "c", Feature: "f", Total: s.Total})
		needy := check == "limits" || check == "one attempt" || check == "lost answer" || check == "hanging backend" ||
			strings.HasPrefix(check, "bad record") || strings.HasPrefix(check, "failure, ")
		require.Equal(t, needy, entitlementstest.IsSkipped(err), "%s: %v", check, err)
		if !needy {
			require.NoError(t, err, check)
		}
	}
}
