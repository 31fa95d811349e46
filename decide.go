package entitlements

import (
	"context"
	"errors"
	"fmt"
)

// served accounts for a check that the hot path answered.
func (c *Client) served(e *entry, number int, enabled bool, now int64) {
	lane := c.counters.lane()
	count := freshAllowed
	if now >= e.staleAt.Load() {
		count = staleAllowed
		if e.pending.Load() == refreshNone {
			c.refresher.want(e)
		}
	}
	if !enabled {
		count++
		c.features.table.Load().denied[number].add(ReasonNotGranted, lane)
		c.reconsider(e, now)
	}
	e.touch(now)
	if c.counters.all[lane].decisions[count].Add(1)&sampleMask == 0 {
		c.cache.sample(e)
	}
}

// reconsider asks for a refresh when a denial is old enough: the customer may
// have paid meanwhile.
func (c *Client) reconsider(e *entry, now int64) {
	if now >= e.denyAt.Load() && e.pending.Load() < refreshLoading {
		c.refresher.want(e)
	}
}

// decide answers every question that the hot path does not: from the table's
// entry, from one that the table has lost, or by policy.
func (c *Client) decide(hash uint64, customer string, number int, feature string) Decision {
	e := c.cache.table.find(hash, customer)
	if e != nil {
		if d, ok := c.answer(e, number, feature); ok {
			return d
		}
	}
	if c.clock.closed() {
		return c.byPolicy(nil, feature, number, ReasonClosed)
	}
	if !validKey(customer) || !validKey(feature) {
		return c.refuse(feature, ReasonInvalid)
	}
	if negative := c.loader.remembered(hash, customer); e == nil && negative != nil {
		if negative.reason == ReasonUnknownCustomer {
			return c.refuse(feature, ReasonUnknownCustomer)
		}
		return c.byPolicy(nil, feature, number, negative.reason)
	}
	if e = c.cache.find(hash, customer); e != nil {
		if d, ok := c.answer(e, number, feature); ok {
			return d
		}
		if !e.blank() {
			e.touch(c.clock.coarse.Load())
			if c.loader.failedLately(e) == nil {
				c.loader.prefetch(customer) // ahead of the refreshes: nothing answers
			}
			return c.byPolicy(e, feature, number, ReasonTooStale)
		}
	}
	if !c.loader.prefetch(customer) {
		return c.byPolicy(nil, feature, number, ReasonUnavailable)
	}
	return c.byPolicy(nil, feature, number, ReasonLoading)
}

// answer decides from a snapshot. It reports false when the snapshot is too old
// to answer, has no content yet, or the Client is closed.
func (c *Client) answer(e *entry, number int, feature string) (Decision, bool) {
	now := c.clock.coarse.Load()
	if now >= e.until.Load() {
		if now == closedTime {
			return Decision{}, false
		}
		now = c.clock.precise()
		if now-e.fetched.Load() >= int64(c.cfg.MaxStale) || e.blank() {
			return Decision{}, false
		}
	}
	d := c.judge(e, number, feature)
	d.Age = e.age(now)
	if d.Reason == ReasonInvalid {
		return c.refuse(feature, ReasonInvalid), true
	}
	count := freshAllowed
	d.Origin = OriginFresh
	if now >= e.staleAt.Load() {
		count, d.Origin = staleAllowed, OriginStale
		if e.pending.Load() == refreshNone {
			c.refresher.want(e)
		}
	}
	e.touch(now)
	if !d.Allowed {
		count++
		c.denied(feature, d.Reason)
		c.reconsider(e, now)
	}
	if c.counters.mine().decisions[count].Add(1)&sampleMask == 0 {
		c.cache.sample(e)
	}
	return d, true
}

// judge is the verdict of an entry's snapshot, whatever its age.
func (c *Client) judge(e *entry, number int, feature string) Decision {
	p, o := e.content()
	if number == noFeature {
		number = c.features.find(feature) // the plan may have brought it
	}
	g := p.grant(number, feature)
	switch {
	case g == nil && !validKey(feature):
		return Decision{Reason: ReasonInvalid}
	case g == nil:
		return Decision{Reason: ReasonNotGranted}
	case g.own < 0:
		return judge(g, nil, 0, 0, 1)
	}
	f := &o.figures[g.own]
	now := c.clock.backendNear(f.expires, f.resets)
	used := int64(0)
	if g.kind == KindMetered {
		used = e.used(f, feature, now)
	}
	return judge(g, f, used, now, 1)
}

// used is the local view of a metered feature.
func (e *entry) used(f *figure, feature string, now int64) int64 {
	if a := e.account.Load(); a != nil {
		if m := a.meter(feature); m != nil {
			return m.used(now)
		}
	}
	if f.resets != 0 && now >= f.resets {
		return 0
	}
	return f.used
}

// byPolicy answers when nothing usable is cached. It keeps the cause as reason.
// e is what is cached and too old, or nil.
func (c *Client) byPolicy(e *entry, feature string, number int, reason Reason) Decision {
	policy, ok := c.cfg.FeaturePolicy[feature]
	if !ok {
		policy = c.cfg.OnUnavailable
	}
	d := Decision{Reason: reason, Allowed: policy == FailOpen}
	if e != nil {
		if policy == LastKnown {
			d = c.judge(e, number, feature)
			d.Reason = reason
		}
		d.Age = e.age(c.clock.precise())
	}
	count := policyAllowed
	if !d.Allowed {
		count = policyDenied
		c.denied(feature, d.Reason)
	}
	c.counters.mine().decisions[count].Add(1)
	return d
}

// refuse denies whatever the policy.
func (c *Client) refuse(feature string, reason Reason) Decision {
	c.denied(feature, reason)
	answered := policyDenied
	if reason == ReasonUnknownCustomer {
		answered = freshDenied // an answer of the backend, and remembered
	}
	c.counters.mine().decisions[answered].Add(1)
	return Decision{Reason: reason}
}

func (c *Client) denied(feature string, reason Reason) {
	c.denials(feature).add(reason, c.counters.lane())
}

// unanswered is the Decision of a waiting call that found nothing to answer from.
func (c *Client) unanswered(e *entry, feature string, number int, err error) Decision {
	switch {
	case errors.Is(err, ErrUnknownCustomer):
		return c.refuse(feature, ReasonUnknownCustomer)
	case errors.Is(err, ErrClosed):
		return c.byPolicy(nil, feature, number, ReasonClosed)
	case e != nil:
		return c.byPolicy(e, feature, number, ReasonTooStale)
	default:
		return c.byPolicy(nil, feature, number, ReasonUnavailable)
	}
}

// ready waits until a customer can be answered for, and returns the entry to
// answer from. With an error the entry may be too old, or be missing.
func (c *Client) ready(ctx context.Context, customer string) (*entry, error) {
	hash := hashOf(customer)
	old := c.cache.find(hash, customer)
	if old != nil && old.blank() {
		old = nil // being loaded for the first time
	}
	usable := old != nil && c.clock.precise()-old.fetched.Load() < int64(c.cfg.MaxStale)
	if usable && !c.loader.invalid(old) {
		return old, nil
	}
	if old == nil {
		if n := c.loader.remembered(hash, customer); n != nil {
			return nil, n.err
		}
	} else if f := c.loader.failedLately(old); f != nil {
		if usable {
			return old, nil
		}
		return old, f.err
	}
	loaded, err := c.loader.wait(ctx, customer, loadWaiting)
	switch {
	case err == nil:
		return loaded, nil
	case c.clock.closed():
		return old, ErrClosed
	case errors.Is(err, ErrUnknownCustomer):
		return nil, err
	case ctx.Err() != nil:
		return old, fmt.Errorf("entitlements: wait for customer: %w", ctx.Err())
	case usable:
		return old, nil // the reload failed: the old one still answers
	}
	return old, err
}
