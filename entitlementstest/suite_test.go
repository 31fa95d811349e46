package entitlementstest_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// everything is the fake Source with all optional interfaces.
type everything struct {
	*entitlementstest.Source
	entitlements.ConditionalSource
	entitlements.BatchSource
	entitlements.Lister
	entitlements.Watcher
}

func newEverything(s *entitlementstest.Source) everything {
	return everything{s, s.Conditional(), s.Batch(), s.Listing(), s.Watching()}
}

// step is how the fake Source fails.
func step(failure entitlementstest.Failure) entitlementstest.FetchStep {
	switch failure {
	case entitlementstest.FailUnauthorized, entitlementstest.FailForbidden:
		return entitlementstest.FetchStep{Err: entitlements.Permanent(errors.New("refused"))}
	case entitlementstest.FailRateLimited:
		return entitlementstest.FetchStep{Err: entitlements.RetryAfter(entitlementstest.RateLimitWait, errors.New("slowly"))}
	case entitlementstest.FailHang:
		return entitlementstest.FetchStep{Hang: true}
	}
	return entitlementstest.FetchStep{Err: errors.New("failed")}
}

func sourceHarness(s *entitlementstest.Source, under entitlements.Source) entitlementstest.SourceHarness {
	return entitlementstest.SourceHarness{
		Source:   under,
		Put:      s.PutEntitlements,
		Remove:   s.Remove,
		Use:      s.AddUsed,
		Break:    func(failure entitlementstest.Failure) bool { s.Always(step(failure)); return true },
		Repair:   func() { s.Always(entitlementstest.FetchStep{}) },
		Requests: s.TotalCalls,
		Patience: 2 * time.Second,
	}
}

func TestSourceSuitePassesTheFakes(t *testing.T) {
	t.Parallel()
	entitlementstest.RunSourceTests(t, func(testing.TB) entitlementstest.SourceHarness {
		s := entitlementstest.NewSource(nil)
		return sourceHarness(s, newEverything(s))
	})
}

func TestSourceSuitePassesStatic(t *testing.T) {
	t.Parallel()
	entitlementstest.RunSourceTests(t, func(testing.TB) entitlementstest.SourceHarness {
		customers := make(map[string]*entitlements.Entitlements)
		return entitlementstest.SourceHarness{
			Source: entitlements.Static(customers),
			Put:    func(e *entitlements.Entitlements) { customers[e.Customer] = e },
			Remove: func(customer string) { delete(customers, customer) },
		}
	})
}

// fetchFunc is the fetch of a Source that gets something wrong.
type fetchFunc = func(ctx context.Context, s *entitlementstest.Source, customer string) (*entitlements.Entitlements, error)

// TestSourceSuiteFailsTheBroken has one mistake at a time, and the checks that
// must find it. Every check finds something.
func TestSourceSuiteFailsTheBroken(t *testing.T) {
	t.Parallel()
	found := make(map[string]bool)
	finds := func(name string, source func(*entitlementstest.Source) entitlements.Source, checks ...string) {
		t.Run(name, func(t *testing.T) {
			for _, check := range checks {
				s := entitlementstest.NewSource(nil)
				h := sourceHarness(s, source(s))
				h.Patience = 300 * time.Millisecond
				h.Secrets = []string{"pl_live_secret"}
				err := entitlementstest.SourceCheck(check, h)
				require.Error(t, err, check)
				require.False(t, entitlementstest.IsSkipped(err), "%s: %v", check, err)
				found[check] = true
			}
		})
	}
	fetch := func(f fetchFunc) func(*entitlementstest.Source) entitlements.Source {
		return func(s *entitlementstest.Source) entitlements.Source {
			return entitlements.SourceFunc(func(ctx context.Context, customer string) (*entitlements.Entitlements, error) {
				return f(ctx, s, customer)
			})
		}
	}
	finds("nil without an error", fetch(func(context.Context, *entitlementstest.Source, string) (*entitlements.Entitlements, error) {
		return nil, nil
	}), "grants", "own key", "no features", "unknown customer", "ended context", "failure, unreachable")
	finds("an empty set for who is unknown", fetch(func(ctx context.Context, s *entitlementstest.Source, customer string) (*entitlements.Entitlements, error) {
		e, err := s.Fetch(ctx, customer)
		if errors.Is(err, entitlements.ErrUnknownCustomer) {
			return &entitlements.Entitlements{Customer: customer}, nil
		}
		return e, err
	}), "unknown customer", "removed customer")
	finds("no features taken for unknown", fetch(func(ctx context.Context, s *entitlementstest.Source, customer string) (*entitlements.Entitlements, error) {
		e, err := s.Fetch(ctx, customer)
		if err == nil && len(e.Features) == 0 {
			return nil, entitlements.ErrUnknownCustomer
		}
		return e, err
	}), "no features")
	finds("failures taken for unknown", fetch(func(ctx context.Context, s *entitlementstest.Source, customer string) (*entitlements.Entitlements, error) {
		e, err := s.Fetch(ctx, customer)
		if err != nil {
			err = entitlements.ErrUnknownCustomer
		}
		return e, err
	}), "failure, unauthorized", "failure, forbidden", "failure, rate limited", "failure, server error", "failure, unreachable", "failure, garbage", "ended context", "hanging backend")
	finds("failures that are Permanent", fetch(func(ctx context.Context, s *entitlementstest.Source, customer string) (*entitlements.Entitlements, error) {
		e, err := s.Fetch(ctx, customer)
		return e, entitlements.Permanent(err)
	}), "unknown customer", "failure, rate limited", "failure, server error")
	finds("a wait that is lost", fetch(func(ctx context.Context, s *entitlementstest.Source, customer string) (*entitlements.Entitlements, error) {
		e, err := s.Fetch(ctx, customer)
		if _, ok := entitlements.RetryDelay(err); ok {
			err = errors.New("slowly")
		}
		return e, err
	}), "failure, rate limited")
	finds("a secret in the error", fetch(func(ctx context.Context, s *entitlementstest.Source, customer string) (*entitlements.Entitlements, error) {
		e, err := s.Fetch(ctx, customer)
		if err != nil {
			err = errors.Join(err, errors.New("sent pl_live_secret"))
		}
		return e, err
	}), "failure, unauthorized", "failure, server error", "unknown customer")
	finds("a context that is ignored", fetch(func(_ context.Context, s *entitlementstest.Source, customer string) (*entitlements.Entitlements, error) {
		return s.Fetch(context.Background(), customer)
	}), "hanging backend")
	finds("a retry of its own", fetch(func(ctx context.Context, s *entitlementstest.Source, customer string) (*entitlements.Entitlements, error) {
		if e, err := s.Fetch(ctx, customer); err == nil {
			return e, nil
		}
		return s.Fetch(ctx, customer)
	}), "one attempt")
	finds("another's key", fetch(func(ctx context.Context, s *entitlementstest.Source, customer string) (*entitlements.Entitlements, error) {
		e, err := s.Fetch(ctx, customer)
		if err == nil {
			other := *e
			other.Customer = "cust_1"
			e = &other
		}
		return e, err
	}), "own key", "concurrent")
	finds("usage that comes late", fetch(func(ctx context.Context, s *entitlementstest.Source, customer string) (*entitlements.Entitlements, error) {
		e, err := s.Fetch(ctx, customer)
		if err != nil {
			return nil, err
		}
		late := *e
		late.AsOf = time.Now().Add(time.Minute)
		return &late, nil
	}), "usage")
	finds("one answer for ever", func(s *entitlementstest.Source) entitlements.Source {
		var mu sync.Mutex
		kept := make(map[string]*entitlements.Entitlements)
		return entitlements.SourceFunc(func(ctx context.Context, customer string) (*entitlements.Entitlements, error) {
			e, err := s.Fetch(ctx, customer)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && kept[customer] == nil {
				kept[customer] = e
			}
			if kept[customer] != nil {
				return kept[customer], nil
			}
			return nil, err
		})
	}, "grants", "usage", "removed customer")
	finds("an answer that changes", func(s *entitlementstest.Source) entitlements.Source {
		shared := &entitlements.Entitlements{}
		return entitlements.SourceFunc(func(ctx context.Context, customer string) (*entitlements.Entitlements, error) {
			e, err := s.Fetch(ctx, customer)
			if err == nil {
				*shared = *e
				e = shared
			}
			return e, err
		})
	}, "immutable")

	optional := func(change func(*everything)) func(*entitlementstest.Source) entitlements.Source {
		return func(s *entitlementstest.Source) entitlements.Source {
			e := newEverything(s)
			change(&e)
			return e
		}
	}
	finds("never modified", optional(func(e *everything) {
		e.ConditionalSource = changedFunc(func(context.Context, string, string) (*entitlements.Entitlements, error) {
			return nil, entitlements.ErrNotModified
		})
	}), "not modified", "not modified, unknown customer")
	finds("always modified", optional(func(e *everything) {
		e.ConditionalSource = changedFunc(func(ctx context.Context, customer, _ string) (*entitlements.Entitlements, error) {
			return e.Fetch(ctx, customer)
		})
	}), "not modified")
	finds("a batch that leaves out what failed", optional(func(e *everything) {
		inner := e.BatchSource
		e.BatchSource = batchFunc(func(ctx context.Context, customers []string) (map[string]*entitlements.Entitlements, error) {
			found, _ := inner.FetchBatch(ctx, customers)
			return found, nil
		})
	}), "batch failure, unauthorized", "batch failure, forbidden", "batch failure, rate limited", "batch failure, server error", "batch failure, unreachable", "batch failure, garbage")
	finds("a batch that fails for one unknown", optional(func(e *everything) {
		inner := e.BatchSource
		e.BatchSource = batchFunc(func(ctx context.Context, customers []string) (map[string]*entitlements.Entitlements, error) {
			found, err := inner.FetchBatch(ctx, customers)
			if err == nil && len(found) < len(customers) {
				err = entitlements.ErrUnknownCustomer
			}
			return found, err
		})
	}), "batch")
	finds("a batch that is cut", optional(func(e *everything) {
		inner := e.BatchSource
		e.BatchSource = batchFunc(func(ctx context.Context, customers []string) (map[string]*entitlements.Entitlements, error) {
			return inner.FetchBatch(ctx, customers[:min(len(customers), 50)])
		})
	}), "batch of 100")
	list := func(f func(ctx context.Context, inner entitlements.Lister, yield func(string, error) bool)) func(*entitlementstest.Source) entitlements.Source {
		return optional(func(e *everything) {
			inner := e.Lister
			e.Lister = listFunc(func(ctx context.Context) iter.Seq2[string, error] {
				return func(yield func(string, error) bool) { f(ctx, inner, yield) }
			})
		})
	}
	finds("only the first page", list(func(ctx context.Context, inner entitlements.Lister, yield func(string, error) bool) {
		n := 0
		for customer, err := range inner.List(ctx) {
			if n++; n > 25 || !yield(customer, err) {
				return
			}
		}
	}), "list")
	finds("a list that does not stop", list(func(ctx context.Context, inner entitlements.Lister, yield func(string, error) bool) {
		for customer, err := range inner.List(ctx) {
			yield(customer, err)
		}
	}), "list stops")
	finds("a failure that ends a list quietly", list(func(ctx context.Context, inner entitlements.Lister, yield func(string, error) bool) {
		for customer, err := range inner.List(ctx) {
			if err != nil || !yield(customer, nil) {
				return
			}
		}
	}), "list failure")
	finds("a deaf watch", optional(func(e *everything) {
		e.Watcher = watchFunc(func(ctx context.Context, _ entitlements.Invalidator) error { <-ctx.Done(); return nil })
	}), "watch tells")
	finds("an endless watch", optional(func(e *everything) {
		e.Watcher = watchFunc(func(_ context.Context, changed entitlements.Invalidator) error {
			return e.Source.Watching().Watch(context.Background(), changed)
		})
	}), "watch tells", "watch ends")

	for _, check := range entitlementstest.SourceCheckNames() {
		require.True(t, found[check], "no broken Source fails the check %q", check)
	}
}

type (
	changedFunc func(ctx context.Context, customer, version string) (*entitlements.Entitlements, error)
	batchFunc   func(ctx context.Context, customers []string) (map[string]*entitlements.Entitlements, error)
	listFunc    func(ctx context.Context) iter.Seq2[string, error]
	watchFunc   func(ctx context.Context, changed entitlements.Invalidator) error
)

func (f changedFunc) FetchChanged(ctx context.Context, customer, version string) (*entitlements.Entitlements, error) {
	return f(ctx, customer, version)
}

func (f batchFunc) FetchBatch(ctx context.Context, customers []string) (map[string]*entitlements.Entitlements, error) {
	return f(ctx, customers)
}
func (f listFunc) List(ctx context.Context) iter.Seq2[string, error] { return f(ctx) }
func (f watchFunc) Watch(ctx context.Context, changed entitlements.Invalidator) error {
	return f(ctx, changed)
}

// TestSuitesSkipWithoutHooks has harnesses with nothing but the door.
func TestSuitesSkipWithoutHooks(t *testing.T) {
	t.Parallel()
	ran := []string{"unknown customer", "not modified, unknown customer", "watch ends"}
	for _, check := range entitlementstest.SourceCheckNames() {
		err := entitlementstest.SourceCheck(check, entitlementstest.SourceHarness{Source: newEverything(entitlementstest.NewSource(nil))})
		if slices.Contains(ran, check) {
			require.NoError(t, err, check)
		} else {
			require.True(t, entitlementstest.IsSkipped(err), "%s: %v", check, err)
		}
	}
}
