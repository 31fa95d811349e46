package paylera

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/entitlements-go/entitlements"
)

// router finds the subscription that a record is billed to, for one Deliver.
type router struct {
	a   *Adapter
	ctx context.Context //nolint:containedctx // lives as long as the one Deliver

	// mu guards asked. It is not held while asking: the workers of a delivery
	// may ask for one customer at the same time, which is only a little wasteful.
	mu    sync.Mutex
	asked map[string]askedSubscriptions
}

type askedSubscriptions struct {
	ids []string
	err error
}

func (a *Adapter) newRouter(ctx context.Context) *router {
	return &router{a: a, ctx: ctx, asked: make(map[string]askedSubscriptions)}
}

// lookup bounds one look-up to a quarter of the time that is left: a customer
// whose look-up hangs must leave time for the others, and for sending.
func (r *router) lookup() (context.Context, context.CancelFunc) {
	if deadline, ok := r.ctx.Deadline(); ok {
		return context.WithTimeout(r.ctx, time.Until(deadline)/4)
	}
	return context.WithCancel(r.ctx)
}

// to is the subscription for a record: the one it was sent to before, if its
// fate there is unknown; else the first of its customer's that grants the
// feature; else the first. Without one, the outcome says what becomes of the
// record, which was not sent.
func (r *router) to(u *entitlements.Usage) (string, outcome) {
	if r.a.memory == nil {
		return u.Customer, outcome{}
	}
	if pinned, ok := r.a.pins.get(u.ID); ok {
		return pinned, outcome{}
	}
	ids, err := r.subscriptions(u.Customer)
	switch {
	// Final, like a customer without a subscription: see errNoSubscription.
	case errors.Is(err, entitlements.ErrUnknownCustomer):
		return "", outcome{fateRejected, 0, err}
	case err != nil:
		return "", lookupFailed(err)
	case len(ids) == 0:
		return "", outcome{fateRejected, 0, errNoSubscription}
	case len(ids) == 1:
		return ids[0], outcome{}
	}
	granting, known := r.a.memory.granting(u.Customer, u.Feature, ids)
	if !known {
		// After a restart with entitlements from disk nothing was fetched yet.
		ctx, cancel := r.lookup()
		_, err := r.a.load(ctx, u.Customer, "")
		cancel()
		if err != nil && !errors.Is(err, ErrNotFound) {
			r.keep(u.Customer, askedSubscriptions{err: err})
			return "", lookupFailed(err)
		}
		// Still unknown when the subscriptions changed between the two calls; the
		// first one is as good as any then.
		granting, _ = r.a.memory.granting(u.Customer, u.Feature, ids)
	}
	if granting == "" {
		return ids[0], outcome{} // nobody grants it, but it was used
	}
	return granting, outcome{}
}

func (r *router) subscriptions(customer string) ([]string, error) {
	r.mu.Lock()
	asked, ok := r.asked[customer]
	r.mu.Unlock()
	if !ok {
		ctx, cancel := r.lookup()
		asked.ids, asked.err = r.a.subscriptions(ctx, customer)
		cancel()
		r.keep(customer, asked)
	}
	return asked.ids, asked.err
}

func (r *router) keep(customer string, asked askedSubscriptions) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[customer] = asked
}

// lookupFailed defers a record whose subscription could not be found out. The
// wait that the failure asks for is not passed on: it would hold up the records
// of all other customers. Nor is anything else of it but its text: it may carry
// a mark of a Source's error that means something else from a Sink.
func lookupFailed(err error) outcome { return outcome{fateDeferred, 0, errors.New(err.Error())} }

// rememberedPins bounds how many records of unknown fate keep their
// subscription.
const rememberedPins = 100_000

// pins remembers where a record of unknown fate was sent. The API recognises a
// record by its subscription as well: sent again to another one, because the
// customer's subscriptions changed meanwhile, it would be billed twice. The
// memory does not survive the process. A nil *pins remembers nothing.
type pins struct {
	// mu guards sent: usage id → subscription.
	mu   sync.Mutex
	sent *recent[string, string]
}

func newPins() *pins { return &pins{sent: newRecent[string, string](rememberedPins)} }

func (p *pins) get(id string) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent.get(id)
}

// settle notes the outcome of an attempt. A deferred record stays pinned if it
// was: this attempt was refused, an earlier one may not have been.
func (p *pins) settle(u *entitlements.Usage, subscription string, f fate) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch f {
	case fateUnknown:
		p.sent.put(u.ID, subscription)
	case fateAccepted, fateRejected:
		p.sent.remove(u.ID)
	case fateDeferred:
	}
}
