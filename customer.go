package entitlements

import "iter"

// Customer is a handle on one customer, for the length of a request: the same
// answers as the Client's methods, without looking the customer up each time. It
// is a value, sees every refresh, and keeps nothing in the cache. The zero
// Customer denies and counts nothing.
type Customer struct {
	client *Client
	entry  *entry // nil when nothing was cached
	key    string
}

// Feature is a handle on a feature code, for the life of the program and for
// Customers of any Client. The zero Feature is denied.
type Feature struct {
	code   string
	index  *featureIndex // that number is of
	number int
}

// Customer returns a handle. It does not block, and loads nothing: see
// [Client.Resolve] for one that is answerable.
func (c *Client) Customer(key string) Customer {
	return Customer{client: c, entry: c.cache.find(hashOf(key), key), key: key}
}

// Feature returns a handle. Make it once, at start-up. An empty or too long code
// makes a Feature that is denied with [ReasonInvalid].
//
// What has a handle, or is in a plan that was loaded, is part of the catalog, up to
// 1 024 features: usage of these takes a small part of the memory that usage of
// other codes takes.
func (c *Client) Feature(code string) Feature {
	code = intern(code)
	if !validKey(code) {
		return Feature{code: code, number: noFeature}
	}
	c.features.add([]string{code})
	return Feature{code: code, index: c.features, number: c.features.find(code)}
}

// numberIn is the feature's number in a Client's index.
func (f Feature) numberIn(c *Client) int {
	if f.index == c.features {
		return f.number
	}
	return c.features.find(f.code)
}

// Key is the customer's key.
func (cu Customer) Key() string { return cu.key }

// Code is the feature's code.
func (f Feature) Code() string { return f.code }

// Allowed is [Client.Allowed].
func (cu Customer) Allowed(f Feature) bool {
	if e := cu.entry; e != nil {
		if now := cu.client.clock.coarse.Load(); cu.client.answers(e, e.fetched.Load(), now) {
			if f.index == cu.client.features {
				if fixed, enabled := e.plan.Load().verdict(f.number); fixed && (enabled || !cu.client.shadows()) {
					cu.client.served(e, f.number, enabled, now)
					return enabled
				}
			}
		}
	}
	return cu.Decide(f).Allowed
}

// Decide is [Client.Decide].
func (cu Customer) Decide(f Feature) (d Decision) {
	cu.ask(f, &question{}, &d)
	return d
}

// Use is [Client.Use].
func (cu Customer) Use(f Feature, n int64) (d Decision) {
	if cu.entry != nil {
		if _, ok := cu.client.useQuickly(cu.entry, f.code, n, false, &d); ok {
			return d
		}
	}
	cu.ask(f, &question{n: n, take: takeUse}, &d)
	return d
}

// Reserve is [Client.Reserve].
func (cu Customer) Reserve(f Feature, n int64) (r *Reservation, d Decision) {
	if cu.entry != nil {
		if r, ok := cu.client.useQuickly(cu.entry, f.code, n, true, &d); ok {
			return r, d
		}
	}
	q := question{n: n, take: takeHold}
	cu.ask(f, &q, &d)
	return q.held, d
}

// ask answers a question about this customer.
func (cu Customer) ask(f Feature, q *question, d *Decision) {
	c := cu.client
	if c == nil {
		return
	}
	q.customer, q.feature, q.number = cu.key, f.code, f.numberIn(c)
	if q.take != takeNothing && c.badUse(q) {
		c.use(q, d)
		return
	}
	e := cu.entry
	if e != nil && !e.gone.Load() && c.answer(e, q, d) {
		return
	}
	hash := hashOf(cu.key)
	if e != nil && c.cache.find(hash, cu.key) == nil {
		// It made room for others after the handle was made. What was resolved
		// stays answerable for as long as it is fresh enough.
		c.usage.books.show(e)
		if c.answer(e, q, d) {
			return
		}
	}
	c.decide(hash, q, d)
}

// Number is [Client.Number].
func (cu Customer) Number(f Feature, fallback int64) int64 { return numberOf(cu.Decide(f), fallback) }

// Text is [Client.Text].
func (cu Customer) Text(f Feature, fallback string) string { return textOf(cu.Decide(f), fallback) }

// Track is [Client.Track].
func (cu Customer) Track(f Feature, n int64) {
	c := cu.client
	if c == nil {
		return
	}
	var a *account
	if e := cu.entry; e != nil {
		a = e.account.Load()
	}
	if a == nil {
		a = c.usage.books.glance(hashOf(cu.key), cu.key)
	}
	c.usage.track(a, cu.key, f.code, n)
}

// All is every feature that the customer's plan has, in the order of their codes,
// with its Decision: for a front end. It counts as no check. A customer that is
// not cached has none.
func (cu Customer) All() iter.Seq2[string, Decision] {
	return func(yield func(string, Decision) bool) {
		c := cu.client
		if c == nil {
			return
		}
		e := cu.entry
		if e == nil || e.gone.Load() {
			if found := c.cache.find(hashOf(cu.key), cu.key); found != nil {
				e = found
			} else if e != nil {
				c.usage.books.show(e)
			}
		}
		if e == nil {
			return
		}
		p, _ := e.content()
		now := c.clock.precise()
		if e.blank() || c.clock.closed() || e.age(now) >= c.cfg.MaxStale {
			return
		}
		for i := range p.grants {
			code := p.grants[i].code
			var d Decision
			c.judge(e, &question{feature: code, number: c.features.find(code)}, &d)
			d.Age, d.Origin = e.age(now), OriginFresh
			if now >= e.staleAt.Load() {
				d.Origin = e.staleOrigin()
			}
			if !yield(code, d) {
				return
			}
		}
	}
}
