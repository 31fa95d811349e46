package paylera

import (
	"context"
	"sync"

	"github.com/entitlements-go/entitlements"
)

// maxUnanswered is how many records of one delivery may end unknown before it
// gives up. One would do to spare a broken API, but then a single record that
// it chokes on would keep everything behind it waiting.
const maxUnanswered = 8

// deliverTracks sends a batch record by record, the SDK family's way.
//
// Source: docs.paylera.com, /sdks/go and /sdks/python, which differ in the names
// of the fields: see [Track].
func (a *Adapter) deliverTracks(ctx context.Context, batch entitlements.Batch) error {
	d := trackDelivery{
		a: a, ctx: ctx, usage: batch.Usage,
		outcomes: make([]outcome, len(batch.Usage)),
		route:    a.newRouter(ctx),
	}
	// A caller may have given one id twice. The second of the two waits for the
	// answer to the first: at the same time it would be "still in progress".
	var firsts, again []int
	seen := make(map[string]struct{}, len(batch.Usage))
	for i := range batch.Usage {
		id := batch.Usage[i].ID
		if _, ok := seen[id]; ok {
			again = append(again, i)
			continue
		}
		seen[id] = struct{}{}
		firsts = append(firsts, i)
	}
	parallel(len(firsts), a.config.Track.Concurrency, func(n int) { d.send(firsts[n]) })
	for _, i := range again {
		d.send(i)
	}
	return settle(d.outcomes)
}

// trackDelivery is one Deliver on its way.
type trackDelivery struct {
	a        *Adapter
	ctx      context.Context //nolint:containedctx // lives as long as the one Deliver
	usage    []entitlements.Usage
	outcomes []outcome // each written by the one worker that has its index
	route    *router
	stop     stopper
}

func (d *trackDelivery) send(i int) {
	// Those under way are not interrupted: they were sent, and their answers tell.
	if o, stopped := d.stop.now(); stopped {
		d.outcomes[i] = o
		return
	}
	u := &d.usage[i]
	subscription, failed := d.route.to(u)
	if failed.err != nil {
		d.outcomes[i] = failed
		return
	}
	e, err := d.a.prepare(u, subscription)
	if err != nil {
		d.outcomes[i] = outcome{fateRejected, 0, err}
		return
	}
	err = d.a.post(d.ctx, "/v1/track", u.ID, encode(d.a.trackEvent(u, e)), len(d.usage) == 1)
	d.outcomes[i] = outcomeOf(err, true)
	d.a.pins.settle(u, subscription, d.outcomes[i].fate)
	d.stop.note(d.outcomes[i])
}

// trackEvent is the body for one record. feature_code is the one name that all
// pages agree on.
func (a *Adapter) trackEvent(u *entitlements.Usage, e event) map[string]any {
	t := &a.config.Track
	// The Python page names the customer, to whom the API then finds the
	// subscription by itself.
	subject := e.subscription
	if t.SubjectField == "customer_id" {
		subject = u.Customer
	}
	m := map[string]any{
		t.SubjectField: subject,
		"feature_code": u.Feature,
		t.AmountField:  e.quantity,
	}
	if t.ExternalIDField != "" {
		m[t.ExternalIDField] = e.id
	}
	a.addOptional(m, t.TimestampField, u, e)
	return m
}

// stopper ends a delivery when going on makes no sense.
type stopper struct {
	// mu guards all fields, which the workers share.
	mu         sync.Mutex
	unanswered int
	stopped    bool
	rest       outcome // of the records that are not sent
}

// now reports whether the delivery ended, and what that makes of the rest.
func (s *stopper) now() (outcome, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rest, s.stopped
}

// note looks at an outcome. A deferred one is the API's, or the network's, wish
// to be left alone; what it said goes for the rest too.
func (s *stopper) note(o outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// In total, not in a row: with several workers there is no order.
	if o.fate == fateUnknown {
		s.unanswered++
	}
	if s.stopped || o.fate != fateDeferred && s.unanswered < maxUnanswered {
		return
	}
	s.stopped, s.rest = true, outcome{fateDeferred, o.after, o.err}
}
