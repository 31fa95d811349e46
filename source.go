package entitlements

import (
	"context"
	"iter"
)

// Source is the door that entitlements come through: a billing API, a
// database, a file.
//
// Fetch makes one attempt to load everything that customer may do. It must
// honour ctx, whose deadline is [Config.FetchTimeout]; only the Client retries.
// It is called by several goroutines at once, at most
// [Config.FetchConcurrency], and never twice at the same time for one customer
// unless the first call ignored the end of its context.
//
// What its error says decides what happens next:
//   - [ErrUnknownCustomer]: the customer does not exist. It is denied whatever
//     the policy, and that is remembered for [Config.NegativeTTL].
//   - [RetryAfter]: the door stays shut for that long.
//   - [Permanent]: credentials are refused (HTTP 401, 403). The door is tried
//     again by itself, slowly.
//   - any other error, a panic, a nil without an error, or another customer's
//     key: a failure, retried with backoff.
type Source interface {
	Fetch(ctx context.Context, customer string) (*Entitlements, error)
}

// ConditionalSource is a [Source] that can say "nothing changed" cheaply.
type ConditionalSource interface {
	// FetchChanged is Fetch for a customer whose content with this version is
	// at hand; version is never empty. [ErrNotModified] renews its age and keeps
	// its content. Nothing about usage is learnt then: Used and AsOf only come
	// with a body. Entitlements beside it teach the backend's clock: their
	// ServerTime, and nothing else of them.
	FetchChanged(ctx context.Context, customer, version string) (*Entitlements, error)
}

// BatchSource is a [Source] that loads many customers in one request.
type BatchSource interface {
	// FetchBatch loads between 1 and 100 distinct customers. A customer that is
	// absent from the answer is unknown when the error is nil, and has failed
	// with that error when it is not.
	FetchBatch(ctx context.Context, customers []string) (map[string]*Entitlements, error)
}

// Lister is a [Source] that can name all its customers, for [Client.Warm].
// Paging is its own business. It stops at the first error that it yields.
type Lister interface {
	List(ctx context.Context) iter.Seq2[string, error]
}

// Watcher is a [Source] that is told of changes: webhooks, a message bus.
type Watcher interface {
	// Watch calls changed as changes come in, and blocks until ctx ends. When it
	// returns earlier it is started again with backoff, and since changes may
	// have been missed meanwhile, everything cached is then invalidated.
	Watch(ctx context.Context, changed Invalidator) error
}

// Invalidator is told what may have changed. [*Client] is one.
type Invalidator interface {
	Invalidate(customers ...string)
	InvalidateAll()
}

// SourceFunc is a function as a [Source].
type SourceFunc func(ctx context.Context, customer string) (*Entitlements, error)

// Fetch calls f.
func (f SourceFunc) Fetch(ctx context.Context, customer string) (*Entitlements, error) {
	return f(ctx, customer)
}

// Static is a [Source] of a fixed set of customers, for tests and for programs
// whose plans are compiled in. It answers a customer whose
// [Entitlements.Customer] is empty under its map key. The map must not be
// changed afterwards. It is also a [BatchSource] and a [Lister].
func Static(customers map[string]*Entitlements) Source {
	return staticSource(customers)
}

type staticSource map[string]*Entitlements

func (s staticSource) Fetch(_ context.Context, customer string) (*Entitlements, error) {
	e := s[customer]
	if e == nil {
		return nil, ErrUnknownCustomer
	}
	if e.Customer == "" {
		named := *e
		named.Customer = customer
		e = &named
	}
	return e, nil
}

func (s staticSource) FetchBatch(ctx context.Context, customers []string) (map[string]*Entitlements, error) {
	found := make(map[string]*Entitlements, len(customers))
	for _, customer := range customers {
		if e, err := s.Fetch(ctx, customer); err == nil {
			found[customer] = e
		}
	}
	return found, nil
}

func (s staticSource) List(context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for customer := range s {
			if !yield(customer, nil) {
				return
			}
		}
	}
}
