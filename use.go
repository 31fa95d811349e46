package entitlements

import (
	"math"
	"slices"
)

// Use and Reserve decide and take in one step, under the account's lock: whoever
// comes next sees what was taken. The snapshot says what is granted, the meter
// what is left; a refresh, a flush or an eviction changes the meter under the
// same lock, so none of them can come in between.

// useQuickly is Use or Reserve for a snapshot that answers and a call that is
// allowed, far from every boundary, whose units the open record can take. It
// reports false, and has done nothing, when it is not that simple.
func (c *Client) useQuickly(e *entry, feature string, n int64, hold bool, d *Decision) (*Reservation, bool) {
	now := c.clock.coarse.Load()
	a := e.account.Load()
	if !c.answers(e, e.fetched.Load(), now) || a == nil || n <= 0 {
		return nil, false
	}
	set := a.full.Load()
	if set == nil {
		return nil, false
	}
	_ = set.first.only.current.Load() // the second line is on its way while the lock waits for the first
	a.mu.Lock()
	m := a.meter(feature)
	if m == nil || a.isLocked(accountRetired) || m.fold != AggregateSum || !hold && now >= m.until || !m.allowLocked(c.clock, n, hold, d) {
		a.mu.Unlock()
		return nil, false
	}
	count := freshAllowed
	var held *Reservation
	if hold {
		held = c.usage.holdLocked(m, n)
	} else {
		count = freshUsed
	}
	a.setLocked(accountIdle, false)
	g := m.grant
	a.mu.Unlock()

	d.Age = e.age(now)
	d.Origin = OriginFresh
	if now >= e.staleAt.Load() {
		count, d.Origin = count-freshAllowed+staleAllowed, e.staleOrigin()
		if e.pending.Load() == refreshNone {
			c.refresher.want(e)
		}
	}
	c.cache.used(e, now)
	c.counters.mine().decisions[count].Add(1)
	if c.levels != nil && c.levels.crossed(g, d.Used-n, d.Used) {
		c.levels.look(m)
	}
	return held, true
}

// allowLocked judges n more units, and folds them into the open record unless
// they are to be held. With false, d is as it was.
func (m *meter) allowLocked(clock *clock, n int64, hold bool, d *Decision) bool {
	g, v := m.grant, m.view.Load()
	if g == nil {
		return false
	}
	now := clock.backendNear(v.expires.Load(), v.resets)
	r := v.read(now)
	if r.used < 0 || !hold && !m.fitsLocked(now) {
		return false
	}
	d.judge(g, r, now, n)
	if !d.Allowed || !hold && !m.foldLocked(n) {
		*d = Decision{}
		return false
	}
	if !hold {
		d.Used = saturate(d.Used, n)
	}
	d.Remaining = max(0, d.Remaining-n)
	return true
}

// use answers a question that takes what it allows.
func (c *Client) use(q *question, d *Decision) {
	if c.badUse(q) {
		q.take = takeNothing
		if !c.clock.closed() {
			c.refuse(q, d, ReasonInvalid)
			return
		}
	}
	c.decide(hashOf(q.customer), q, d)
}

// badUse reports whether a question asks for what nobody can take.
func (c *Client) badUse(q *question) bool {
	return q.n <= 0 || q.event != nil && len(q.event.ID) > MaxKeyLength
}

// spend decides about a metered grant, and takes what it allows. It reports false
// when nothing is known of what was used: the entry was forgotten just now.
func (c *Client) spend(e *entry, g *grant, q *question, d *Decision) bool {
	b := c.usage
	a := e.account.Load()
	if a == nil || !a.lock() {
		a = b.books.lockShown(e)
	}
	m := b.meterLocked(a, q.feature)
	m.learnLocked(e)
	if q.take == takeHold && m.fold != AggregateSum {
		a.mu.Unlock()
		d.Reason = ReasonInvalid // there is no sum to hold a part of
		return true
	}
	if !m.view.Load().known() {
		a.mu.Unlock()
		return false
	}
	now, open := b.nowLocked(m)
	at := now
	if q.event != nil && !q.event.Time.IsZero() {
		at = nanos(q.event.Time)
	}
	r := m.view.Load().read(at)
	used := r.used
	if m.fold == AggregateMax || m.fold == AggregateLast {
		r.used = 0 // n is not added to anything: it is compared by itself
	}
	d.judge(g, r, now, q.n)
	c.lift(d, q.feature)
	if !d.Allowed {
		a.mu.Unlock()
		d.Used, d.Remaining = used, remaining(d.Limit, used, r.held)
		return true
	}
	m.floorLocked(at)
	var how charge
	if q.take == takeHold {
		q.held = b.holdLocked(m, q.n)
	} else {
		how = b.chargeLocked(m, q.n, q.event, now, open)
	}
	r = m.view.Load().read(at)
	a.mu.Unlock()
	d.Used, d.Remaining = r.used, remaining(d.Limit, r.used, r.held)
	if q.take == takeUse {
		b.charged(how)
	}
	if b.levels.crossed(g, used, d.Used) {
		b.levels.look(m)
	}
	return true
}

// lock takes the lock of an account, unless that has retired.
func (a *account) lock() bool {
	a.mu.Lock()
	if a.isLocked(accountRetired) {
		a.mu.Unlock()
		return false
	}
	return true
}

// fitsLocked reports whether the open record counts in the same period as a call
// at this moment, on the backend's clock: our idea of that clock may have moved
// since the record began.
func (m *meter) fitsLocked(at int64) bool {
	if m.view.Load().over(at) {
		return m.counts == periodNext
	}
	return m.counts == periodCurrent
}

// floorLocked takes a view below zero for zero: corrections give back what the
// view shows as used, and not more. What is too much is waived, here, and stays so
// for as long as the correction counts; what the backend then tells of it is
// another matter.
func (m *meter) floorLocked(at int64) {
	v := m.view.Load()
	below := max(v.read(at).used, -math.MaxInt64)
	if below >= 0 || m.fold != AggregateSum {
		return
	}
	m.syncLocked()
	in := periodCurrent
	if v.over(at) {
		in = periodNext
	}
	for _, r := range slices.Backward(m.records) {
		if r.counts != in || r.counted >= 0 {
			continue
		}
		n := max(below, r.counted)
		r.waived, r.counted, below = r.waived-n, r.counted-n, below-n
	}
	if in == periodCurrent {
		m.figure.used -= below
	}
	m.publishLocked()
}

// nowLocked is the backend's clock, and whether the open record is far from its
// end: then the coarse clock is good enough.
func (b *batcher) nowLocked(m *meter) (now int64, open bool) {
	if b.clock.coarse.Load() < m.until {
		v := m.view.Load()
		return b.clock.backendNear(v.expires.Load(), v.resets), true
	}
	return b.clock.backendNow(), false
}

// charge is how usage that was allowed was counted.
type charge struct {
	folded  bool // in the open record
	dropped dropReason
	ok      bool // in a record; else it is dropped
}

// chargeLocked counts n units that were allowed, or an event: in the open record,
// if that is far from its end and there is nothing to an event of its own. What
// there is no room for is lost to the Sink, but it was had: it stays in the view
// until the period ends.
func (b *batcher) chargeLocked(m *meter, n int64, event *Usage, now int64, open bool) charge {
	if open && event == nil && m.fitsLocked(now) && m.foldLocked(n) {
		return charge{folded: true, ok: true}
	}
	u := event
	if u == nil {
		u = &Usage{Quantity: n}
	}
	dropped, ok := b.countLocked(m, u, nil, now)
	switch {
	case ok && m.figure.fetched == 0:
		// By policy: when it is lost, nothing but this tells that it was had.
		if m.open != nil {
			m.open.allowed = true
		}
		m.records[len(m.records)-1].allowed = true
	case !ok && m.fold != AggregateUnique:
		stamp := m.figure.stampOf(now)
		if !u.Time.IsZero() {
			stamp = nanos(u.Time)
		}
		r := m.newRecord(piece{quantity: n, stamp: stamp, state: pieceLost, acked: b.clock.precise()})
		r.allowed = true
		m.addLocked(r, int64(b.clock.tick))
		m.compactLocked(r.acked, int64(b.clock.tick))
	}
	return charge{dropped: dropped, ok: ok}
}

// charge counts what a policy allowed, nothing being known of its grant.
func (b *batcher) charge(u *Usage) {
	if b.clock.closed() || !validKey(u.Customer) || !validKey(u.Feature) {
		_ = b.add(u, nil) // counted as dropped
		return
	}
	a := b.books.lock(hashOf(u.Customer), u.Customer)
	how := b.chargeLocked(b.meterLocked(a, u.Feature), u.Quantity, u, b.clock.backendNow(), false)
	a.mu.Unlock()
	b.charged(how)
}

// charged accounts for what chargeLocked did.
func (b *batcher) charged(how charge) {
	if how.folded {
		b.counters.mine().recorded.Add(1)
		return
	}
	b.counted(how.dropped, how.ok)
}
