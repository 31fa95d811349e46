package entitlements

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// hit accounts for a check that a slot of the table answered.
func (c *Client) hit(is shown, number int, enabled bool, now int64) {
	t := c.cache.table
	if used := t.useTime(now); is.slot.used.Load() != used {
		is.slot.used.Store(used)
		c.touched(is.slot, now)
	}
	count := freshAllowed
	if is.stale {
		count = staleAllowed
	}
	if !enabled {
		count++
		c.deny(number)
		if t.age(is, now) >= int64(c.cfg.DenyTTL) {
			c.reconsider(is.slot.entry.Load(), now)
		}
	}
	c.counters.mine().decisions[count].Add(1)
}

// explain is the whole Decision of a verdict that is fixed: the one that judge
// comes to when there is nothing to compare.
func (c *Client) explain(is shown, number int, enabled bool, now int64, d *Decision) {
	if is.plan.verdictsOf(number).valued&(1<<(uint(number)%64)) != 0 {
		g := &is.plan.grants[is.plan.byNumber[number]-1]
		d.Kind, d.Text = g.kind, g.text
		if g.kind == KindNumeric {
			d.Limit = g.limit
		}
	}
	if d.Allowed, d.Reason = enabled, ReasonNotGranted; enabled {
		d.Reason = ReasonGranted
	}
	d.Age, d.Origin = time.Duration(max(0, c.cache.table.age(is, now))), OriginFresh
	if is.stale {
		d.Origin = OriginStale
		if e := is.slot.entry.Load(); e != nil && e.plan.Load() == is.plan {
			d.Origin = e.staleOrigin()
		}
	}
}

// touched notes that a customer is in use, and does what is done as rarely. A slot
// that was just given to another customer may let that one count as used.
func (c *Client) touched(s *slot, now int64) {
	e := s.entry.Load()
	if e == nil {
		return
	}
	c.cache.tell(e, now)
	if now >= e.staleAt.Load() && e.pending.Load() == refreshNone {
		c.refresher.want(e)
	}
}

// served accounts for a check that a handle answered.
func (c *Client) served(e *entry, number int, enabled bool, now int64) {
	count := freshAllowed
	if now >= e.staleAt.Load() {
		count = staleAllowed
		if e.pending.Load() == refreshNone {
			c.refresher.want(e)
		}
	}
	c.cache.used(e, now)
	if !enabled {
		count++
		c.deny(number)
		c.reconsider(e, now)
	}
	c.counters.mine().decisions[count].Add(1)
}

// deny counts a denial of a feature that has a number.
func (c *Client) deny(number int) {
	c.features.table.Load().denied[number].add(ReasonNotGranted, c.counters.lane())
}

// reconsider asks for a refresh when a denial is old enough: the customer may
// have paid meanwhile. e is nil when it was let go of just now.
func (c *Client) reconsider(e *entry, now int64) {
	if e != nil && now >= e.denyAt.Load() && e.pending.Load() < refreshLoading {
		c.refresher.want(e)
	}
}

// question is one check on its way to its answer.
type question struct {
	customer, feature string
	number            int   // of the feature
	n                 int64 // units that are asked for
	take              take
	event             *Usage       // that takeUse counts; nil for n units
	held              *Reservation // that takeHold made
}

// usage is what takeUse counts.
func (q *question) usage() *Usage {
	if q.event != nil {
		return q.event
	}
	return &Usage{Customer: q.customer, Feature: q.feature, Quantity: q.n}
}

// take is what becomes of the units when they are allowed.
type take uint8

const (
	takeNothing take = iota // Decide
	takeUse                 // they are counted
	takeHold                // they are held
)

// decide answers every question that the hot path does not: from the entry, or by
// policy. d is the zero Decision, and is filled in: it is too large to be handed
// up from function to function.
func (c *Client) decide(hash uint64, q *question, d *Decision) {
	e := c.cache.find(hash, q.customer)
	if e != nil && c.answer(e, q, d) {
		return
	}
	if c.clock.closed() {
		c.byPolicy(nil, q, d, ReasonClosed)
		return
	}
	if !validKey(q.customer) || !validKey(q.feature) {
		c.refuse(q, d, ReasonInvalid)
		return
	}
	if negative := c.loader.remembered(hash, q.customer); e == nil && negative != nil {
		if negative.reason == ReasonUnknownCustomer {
			c.refuse(q, d, ReasonUnknownCustomer)
		} else {
			c.byPolicy(nil, q, d, negative.reason)
		}
		return
	}
	if e == nil {
		e = c.cache.find(hash, q.customer) // it may have landed since
	}
	if e != nil {
		if c.answer(e, q, d) {
			return
		}
		if !e.blank() {
			if c.answer(e, q, d) {
				return // its content has just come
			}
			e.touch(c.clock.coarse.Load())
			if c.loader.failedLately(e) == nil {
				c.loader.prefetch(q.customer) // ahead of the refreshes: nothing answers
			}
			c.byPolicy(e, q, d, ReasonTooStale)
			return
		}
	}
	reason := ReasonLoading
	if !c.loader.prefetch(q.customer) {
		reason = ReasonUnavailable
	}
	c.byPolicy(nil, q, d, reason)
}

// answers reports whether a snapshot that was fetched then answers at a coarse
// time, without a closer look.
func (c *Client) answers(e *entry, fetched, now int64) bool {
	return now < fetched+c.cache.table.longest && !e.gone.Load()
}

// answer decides from a snapshot. It reports false when the snapshot is too old
// to answer, has no content yet, or the Client is closed.
func (c *Client) answer(e *entry, q *question, d *Decision) bool {
	now, fetched := c.clock.coarse.Load(), e.fetched.Load()
	if !c.answers(e, fetched, now) {
		if now == closedTime {
			return false
		}
		now = c.clock.precise()
		if now-fetched >= int64(c.cfg.MaxStale) || e.blank() {
			return false
		}
	}
	if !c.judge(e, q, d) {
		return false
	}
	if d.Reason == ReasonInvalid {
		c.refuse(q, d, ReasonInvalid)
		return true
	}
	d.Age = time.Duration(max(0, now-fetched))
	count := freshAllowed
	d.Origin = OriginFresh
	if now >= e.staleAt.Load() {
		count, d.Origin = staleAllowed, e.staleOrigin()
		if e.pending.Load() == refreshNone {
			c.refresher.want(e)
		}
	}
	c.cache.used(e, now)
	if !granted(d) {
		c.reconsider(e, now)
	}
	c.count(d, q.feature, count)
	return true
}

// staleOrigin is the origin of what a stale snapshot answers.
func (e *entry) staleOrigin() Origin {
	if e.startSeq.Load() == 0 {
		return OriginRestored
	}
	return OriginStale
}

// judge is the verdict of an entry's snapshot, whatever its age. What it allows
// it takes, as q asks. [ReasonInvalid] is for the caller to refuse. It reports
// false when there is no content any more.
func (c *Client) judge(e *entry, q *question, d *Decision) bool {
	if q.number == noFeature {
		q.number = c.features.find(q.feature) // the plan may have brought it
	}
	p := e.plan.Load()
	g := p.grant(q.number, q.feature)
	switch {
	case p == nothing:
		return false
	case g == nil && !validKey(q.feature):
		d.Reason = ReasonInvalid
		return true
	case g == nil:
		d.Reason = ReasonNotGranted
	case g.kind == KindMetered && q.take != takeNothing:
		return c.spend(e, g, q, d)
	case g.own < 0:
		d.judge(g, meterRead{}, 0, 1)
	default:
		if !c.look(e, g, q, d) {
			return false
		}
	}
	c.lift(d, q.feature)
	if d.Allowed {
		c.take(q)
	}
	return true
}

// look is the verdict on one more unit of a grant that has a part of the
// customer's own. The account knows of it what matters, and is as new as the plan or
// newer, since an install reaches it first. Without one the snapshot tells. It
// reports false when there is none any more.
func (c *Client) look(e *entry, g *grant, q *question, d *Decision) bool {
	if a := e.account.Load(); a != nil && g.kind == KindMetered {
		if r, now, known := a.read(g.code, c.features, c.clock); known {
			d.judge(g, r, now, 1)
			return true
		}
	}
	p, o := e.content()
	if g = p.grant(q.number, q.feature); g == nil || g.own < 0 {
		d.Reason = ReasonNotGranted // it has just changed
		return p != nothing
	}
	f := o.figure(g)
	now := c.clock.backendNear(f.expires, f.resets)
	d.judge(g, f.read(now), now, 1)
	return true
}

// take counts or holds the units of a question, whatever the limit.
func (c *Client) take(q *question) {
	switch q.take {
	case takeUse:
		_ = c.usage.add(q.usage(), nil) // counted where it is dropped
	case takeHold:
		q.held = c.usage.hold(q.customer, q.feature, q.n)
	}
}

// byPolicy answers when nothing usable is cached. It keeps the cause as reason.
// e is what is cached and too old, or nil.
func (c *Client) byPolicy(e *entry, q *question, d *Decision, reason Reason) {
	policy, ok := c.cfg.FeaturePolicy[q.feature]
	if !ok {
		policy = c.cfg.OnUnavailable
	}
	if e != nil && policy == LastKnown && c.judge(e, q, d) {
		if d.Reason == ReasonInvalid {
			c.refuse(q, d, ReasonInvalid)
			return
		}
		d.Reason = reason
	} else {
		d.Reason, d.Allowed = reason, policy == FailOpen
		c.lift(d, q.feature)
		if d.Allowed && q.take == takeUse {
			c.usage.charge(q.usage())
		} else if d.Allowed {
			c.take(q)
		}
	}
	if e != nil {
		d.Age = e.age(c.clock.precise())
	}
	c.count(d, q.feature, policyAllowed)
}

// refuse denies whatever the policy.
func (c *Client) refuse(q *question, d *Decision, reason Reason) {
	d.Reason = reason
	c.lift(d, q.feature)
	if d.Allowed {
		c.take(q)
	}
	allowed := policyAllowed
	if reason == ReasonUnknownCustomer {
		allowed = freshAllowed // an answer of the backend, and remembered
	}
	c.count(d, q.feature, allowed)
}

// granted reports whether the feature was allowed by itself, shadow mode aside.
func granted(d *Decision) bool { return d.Allowed && !d.Shadowed }

// count accounts for a decision. allowed is what it counts as when it allows; the
// denial's follows it.
func (c *Client) count(d *Decision, feature string, allowed answer) {
	lane := c.counters.lane()
	switch {
	case d.Shadowed:
		c.denials(feature).addShadowed(d.Reason, lane)
	case !d.Allowed:
		c.denials(feature).add(d.Reason, lane)
		allowed++
	}
	c.counters.all[lane].decisions[allowed].Add(1)
}

// unanswered is the Decision of a waiting call that found nothing to answer from.
func (c *Client) unanswered(e *entry, q *question, d *Decision, err error) {
	switch {
	case errors.Is(err, ErrUnknownCustomer):
		c.refuse(q, d, ReasonUnknownCustomer)
	case errors.Is(err, ErrClosed):
		c.byPolicy(nil, q, d, ReasonClosed)
	case e != nil:
		c.byPolicy(e, q, d, ReasonTooStale)
	default:
		c.byPolicy(nil, q, d, ReasonUnavailable)
	}
}

// ready waits until a customer can be answered for, and returns the entry to
// answer from. With an error the entry may be too old, or be missing.
func (c *Client) ready(ctx context.Context, customer string) (*entry, error) {
	hash := hashOf(customer)
	old := c.cache.find(hash, customer)
	if got, err, ok := c.loader.atHand(hash, customer); ok {
		return got.entry, err
	}
	loaded, err := c.loader.wait(ctx, customer, loadWaiting, seenNothing)
	if err == nil {
		return loaded, nil
	}
	if old != nil && old.blank() {
		old = nil // being loaded for the first time
	}
	usable := old != nil && c.loader.usable(old)
	switch {
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
