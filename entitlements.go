package entitlements

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"
)

// Client decides what customers may do and records what they used. Make one per
// process with [New] and share it: all its methods are safe for concurrent use.
//
// Calls without a context never block, do no I/O and return no error. Calls with
// a context may wait and return one.
type Client struct {
	cfg       Config
	clock     *clock
	counters  *stripes
	features  *featureIndex
	cache     *cache
	loader    *loader
	refresher *refresher
	usage     *batcher
	running   *running
	levels    *levels
	shadow    atomic.Pointer[shadowed] // nil: none
	dead      callbacks
	warnings  callbacks
	changes   subscribers
	snapshots *snapshots // nil: nothing is kept

	stopLoops context.CancelCauseFunc
	loops     sync.WaitGroup

	closing  atomic.Bool
	closed   chan struct{} // closed when Close is complete
	closeErr error         // written before closed is closed
}

// New validates cfg, starts the background work and returns at once: it uses no
// network, so a program starts while its billing API is down. The error names
// every field that is wrong, its bound and the value got.
func New(cfg Config) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, running: newRunning(), counters: newStripes(), features: newFeatureIndex(), closed: make(chan struct{})}
	c.clock = newClock(cfg.TTL)
	if c.cache, err = newCache(&c.cfg, c.clock); err != nil {
		return nil, err
	}
	books := newBooks(c.cache.find, c.features, c.clock.tick)
	c.dead = callbacks{running: c.running, log: cfg.Logger}
	c.changes.calls = callbacks{running: c.running, log: cfg.Logger, bound: maxChanges}
	c.warnings = callbacks{running: c.running, log: cfg.Logger, bound: maxWarnings}
	c.levels = newLevels(&c.cfg, c.clock, &c.warnings)
	c.usage = newBatcher(&c.cfg, c.clock, c.counters, books, c.running, c.levels, c.deadLetter)
	c.loader = newLoader(&c.cfg, c.clock, c.cache, books, c.running, c.features)
	c.refresher = newRefresher(&c.cfg, c.clock, c.loader)
	c.loader.watched = c.changes.watched
	c.loader.landed = func(l landed) {
		c.refresher.landed(l)
		c.changes.landed(l)
		c.levels.landed(l.entry)
		if c.snapshots != nil {
			c.snapshots.changed.Store(true)
		}
	}
	c.SetShadow(cfg.Shadow...)
	if cfg.SnapshotFile != "" {
		c.snapshots = &snapshots{client: c}
		c.snapshots.restore()
	}

	ctx, stop := context.WithCancelCause(context.Background())
	c.stopLoops = stop
	c.loops.Go(func() { c.clock.run(ctx) })
	c.loops.Go(func() { c.refresher.run(ctx) })
	if s := c.usage.spool; s != nil {
		s.start()
		c.usage.nudge() // what an earlier run left goes at once
		c.loops.Go(func() { s.run(ctx) })
	}
	c.loops.Go(func() { c.usage.run(ctx) })
	if c.snapshots != nil {
		c.loops.Go(func() { c.snapshots.run(ctx) })
	}
	if w, ok := cfg.Source.(Watcher); ok {
		c.loops.Go(func() { c.watch(ctx, w) })
	}
	return c, nil
}

// Allowed reports whether customer may use feature now: [Client.Decide] without
// the reason. It does not block and, for a cached customer, does not allocate.
// After Close it answers by policy.
func (c *Client) Allowed(customer, feature string) bool {
	hash, now := hashOf(customer), c.clock.coarse.Load()
	is := c.cache.table.ready(hash, customer, now)
	number := c.features.find(feature)
	if is.plan != nil {
		if fixed, enabled := is.plan.verdict(number); fixed && (enabled || !c.shadows()) {
			c.hit(is, number, enabled, now)
			return enabled
		}
	}
	var d Decision
	c.decide(hash, &question{customer: customer, feature: feature, number: number}, &d)
	return d.Allowed
}

// Decide is Allowed with the reason, and what a front end shows beside it. Of a
// metered feature it says whether one more unit is allowed, without counting it.
//
// It answers from the cached snapshot, however old, up to [Config.MaxStale].
// When nothing usable is cached it starts a load and answers by policy. It does
// not block and, for a cached customer, does not allocate. After Close it answers
// by policy with [ReasonClosed].
func (c *Client) Decide(customer, feature string) (d Decision) {
	hash, now := hashOf(customer), c.clock.coarse.Load()
	is := c.cache.table.ready(hash, customer, now)
	number := c.features.find(feature)
	if is.plan != nil {
		if fixed, enabled := is.plan.verdict(number); fixed && (enabled || !c.shadows()) {
			c.explain(is, number, enabled, now, &d)
			c.hit(is, number, enabled, now)
			return d
		}
	}
	c.decide(hash, &question{customer: customer, feature: feature, number: number}, &d)
	return d
}

// Number is the limit of a numeric grant that is allowed now, else fallback. It
// answers, and costs, as Decide does.
func (c *Client) Number(customer, feature string, fallback int64) int64 {
	return numberOf(c.Decide(customer, feature), fallback)
}

// Text is the value of a text grant that is allowed now, else fallback. It
// answers, and costs, as Decide does.
func (c *Client) Text(customer, feature string, fallback string) string {
	return textOf(c.Decide(customer, feature), fallback)
}

// Use decides whether customer may have n units of a metered feature now, and
// counts them when it may, in one step: however many goroutines call it, a hard
// limit never lets through more than there is, whatever is refreshed, delivered
// or evicted meanwhile. The Decision shows the view after the step; a denied Use
// counts nothing. Past a soft limit it allows with [ReasonOverage].
//
// n is in the feature's smallest unit; below 1 it is denied with
// [ReasonInvalid]. Of a feature that is not metered, Use is Decide and, when
// allowed, Track. When nothing usable is cached, policy decides; what that
// counts is in the view when a snapshot arrives. Where [Config.Aggregations] has
// Max or Last, n itself is compared with the limit; of Unique, n is compared
// with what the backend told to be left.
//
// What is counted is delivered as Track delivers it. What is dropped or dead
// later stays in the view until its period ends. It does not block and, for a
// cached customer in the steady state, does not allocate. For limits that several
// processes share see [Config.TTL].
func (c *Client) Use(customer, feature string, n int64) (d Decision) {
	if e := c.cache.table.find(hashOf(customer), customer); e != nil {
		if _, ok := c.useQuickly(e, feature, n, false, &d); ok {
			return d
		}
	}
	q := question{customer: customer, feature: feature, number: c.features.find(feature), n: n, take: takeUse}
	c.use(&q, &d)
	return d
}

// UseEvent is Use for an event with an idempotency key, a time or properties of
// its own: u.Quantity units, judged and counted in the period that u.Time falls
// in. The backend counts a repeated ID once; the local view may count it twice,
// until its next refresh.
func (c *Client) UseEvent(u Usage) (d Decision) {
	q := question{customer: u.Customer, feature: u.Feature, number: c.features.find(u.Feature), n: u.Quantity, take: takeUse, event: &u}
	c.use(&q, &d)
	return d
}

// Reserve is Use for work whose cost is known when it is done: it holds n units
// of a metered feature, which no other call can have meanwhile, until the
// Reservation is committed, released, or older than [Config.ReservationTTL]. Held
// units are not in Remaining, and are never delivered. The Reservation is nil
// when the Decision denies; a nil one takes every call.
//
// It answers as Use does. Of a feature that is not metered nothing needs to be
// held; what is committed is recorded. Where [Config.Aggregations] has anything
// but Sum there is no sum to hold a part of: denied with [ReasonInvalid]. Units
// held when a period ends are held in the next one. One small allocation.
func (c *Client) Reserve(customer, feature string, n int64) (r *Reservation, d Decision) {
	if e := c.cache.table.find(hashOf(customer), customer); e != nil {
		if r, ok := c.useQuickly(e, feature, n, true, &d); ok {
			return r, d
		}
	}
	q := question{customer: customer, feature: feature, number: c.features.find(feature), n: n, take: takeHold}
	c.use(&q, &d)
	return q.held, d
}

// SetShadow replaces the features in shadow mode, [Config.Shadow]: "*" is all,
// none switches it off. What would be denied of them is let through from now on,
// be the customer unknown or the Client closed, and counted in
// [DecisionStats.ShadowedBy].
func (c *Client) SetShadow(features ...string) { c.shadow.Store(newShadowed(features)) }

// Track counts n units of usage, whether or not they are allowed and whether or
// not the customer is known. Decide sees them at once; the Sink gets them within
// [Config.FlushInterval]. n is in the feature's smallest unit; negative is a
// correction.
//
// Calls for one customer and feature fold into one record per flush and UTC
// minute, so memory and requests grow with what is distinct. It does not block
// and, in the steady state, does not allocate. What does not fit in
// [Config.MaxPending], has an invalid key or comes after Close is counted in
// [UsageStats] as dropped.
func (c *Client) Track(customer, feature string, n int64) {
	c.usage.track(c.usage.books.glance(hashOf(customer), customer), customer, feature, n)
}

// Record is Track for an event: with an idempotency key, a time or properties of
// its own. An event with an ID or properties travels as its own record. It does
// not block.
func (c *Client) Record(u Usage) { _ = c.usage.add(&u, nil) } // counted where it is dropped

// Invalidate says that what is cached of these customers may be wrong. Each
// cached one is reloaded at once, however often it is called at most once while
// a reload runs and once after it. Checks answer from the old snapshot until the
// reload lands; Check, Load and Resolve wait for it. A customer that is not
// cached is no longer remembered as unknown or failed. None is a no-op. It does
// not block.
func (c *Client) Invalidate(customers ...string) {
	for _, customer := range customers {
		if e := c.loader.invalidate(customer); e != nil {
			c.refresher.hurry(e)
		}
	}
}

// InvalidateAll says that everything cached may be wrong. Reloads are spread
// over half of [Config.TTL]; Check, Load and Resolve wait for the reload of
// theirs. It does not block.
func (c *Client) InvalidateAll() {
	c.loader.invalidateAll()
	c.refresher.everything()
}

// Forget erases what is cached of these customers at once, as for a request to
// delete their data. Usage that was recorded and not delivered yet stays;
// [Config.SnapshotFile] forgets with its next write, within a minute. It does not
// block.
func (c *Client) Forget(customers ...string) {
	for _, customer := range customers {
		c.loader.forget(customer)
	}
	if c.snapshots != nil {
		c.snapshots.changed.Store(true)
	}
}

// Subscribe calls f with every change of a cached customer's content, in order,
// on a goroutine that all subscribers share. At most 1024 changes wait for slow
// subscribers; more are dropped and logged. stop ends it; a call that is under
// way goes on.
func (c *Client) Subscribe(f func(Change)) (stop func()) { return c.changes.add(f) }

// Check is Decide after waiting for a load when nothing usable is cached, or
// when what is cached was invalidated. It makes at most one request, shared with
// all who ask for the customer meanwhile.
//
// The Decision is valid beside any error. The error is ctx's when it ended
// first, [ErrClosed], [ErrInvalidKey], or [ErrUnavailable] when the load failed;
// an unknown customer is a Decision, not an error.
func (c *Client) Check(ctx context.Context, customer, feature string) (d Decision, err error) {
	if err := c.usable(customer, "feature", feature); err != nil {
		return c.Decide(customer, feature), err // closed or invalid, and says so
	}
	q := question{customer: customer, feature: feature, number: c.features.find(feature)}
	e, err := c.ready(ctx, customer)
	if e != nil {
		if c.answer(e, &q, &d) {
			return d, err
		}
	}
	c.unanswered(e, &q, &d, err)
	return d, ignoreUnknown(err)
}

// Resolve waits until customer is answerable, and returns a handle on which
// everything is non-blocking: for the top of a request. A customer that the
// backend does not know is answerable: all is denied. Errors are as for Check,
// and the handle is valid beside any of them.
func (c *Client) Resolve(ctx context.Context, customer string) (Customer, error) {
	if err := c.usable(customer, "", ""); err != nil {
		return c.Customer(customer), err
	}
	e, err := c.ready(ctx, customer)
	if e == nil {
		return c.Customer(customer), ignoreUnknown(err)
	}
	return Customer{client: c, entry: e, key: e.key}, err
}

// Load returns a fresh copy of all that customer may do, after waiting as Check
// does. Used is what the backend told; [Client.Decide] adds what was counted
// here since. Errors are as for Check, and [ErrUnknownCustomer].
func (c *Client) Load(ctx context.Context, customer string) (*Entitlements, error) {
	if err := c.usable(customer, "", ""); err != nil {
		return nil, err
	}
	e, err := c.ready(ctx, customer)
	if err != nil {
		return nil, err
	}
	return e.export(), nil
}

// Warm loads many customers, at most [Config.FetchConcurrency] requests at a
// time and behind callers who wait, and returns when each of them is loaded or
// has failed. nil means all that the Source lists; it must be a [Lister] then. A
// customer that is cached already is not loaded again.
//
// The error is ctx's, [ErrClosed], the list's, or [ErrUnavailable] with the first
// failure when some could not be loaded; the report is valid beside any.
func (c *Client) Warm(ctx context.Context, customers iter.Seq[string]) (WarmReport, error) {
	return c.warm(ctx, customers)
}

// Report is Record for usage that must not be lost: it returns nil when all of
// it is delivered. Each is a record of its own, sent without waiting for
// [Config.FlushInterval].
//
// The error is ctx's when it ended first: then the usage stays pending and is
// still tried. [ErrClosed] and [ErrInvalidKey] say that nothing was recorded;
// any other error that some of it was given up, and why. To retry, use the same
// IDs.
func (c *Client) Report(ctx context.Context, usage ...Usage) error {
	if c.clock.closed() {
		return ErrClosed
	}
	return c.usage.report(ctx, usage)
}

// Flush waits until what was recorded before the call is delivered, or given up
// as a dead letter or in doubt. When ctx ends first the error is
// [*UndeliveredError], and what is left stays pending. Without a Sink it returns
// at once.
func (c *Client) Flush(ctx context.Context) error {
	if c.clock.closed() {
		return ErrClosed
	}
	return c.usage.flush(ctx)
}

// Redrive lets parked records be pending again, with the IDs that they have: dead
// letters, and those in doubt, which the backend may have counted already if its
// dedup window is over. It returns how many. With [Config.SpoolDir] those of
// earlier runs and of processes that died are among them; without it the latest
// 10 000 of this Client.
//
// The error is ctx's, [ErrClosed], or what the disk said; what was taken up by
// then stays so. What there is no room for stays parked.
func (c *Client) Redrive(ctx context.Context, f RedriveFilter) (int, error) {
	if c.clock.closed() {
		return 0, ErrClosed
	}
	return c.usage.redrive(ctx, &f)
}

// Close stops taking usage, delivers what is pending until ctx ends (without a
// deadline: 30 s), then stops everything else. It is complete when it returns:
// no goroutine of the Client is left, unless a Source, Sink or callback ignores
// its context. It can be called more than once, and while anything else is; a
// later call waits for the first, within its own ctx.
//
// [*UndeliveredError] says what was left: nil means that nothing was.
func (c *Client) Close(ctx context.Context) error {
	if c.closing.CompareAndSwap(false, true) {
		c.shutDown(ctx)
		return c.closeErr
	}
	select {
	case <-c.closed:
		return c.closeErr
	case <-ctx.Done():
	}
	// With one context for both, the first is about to say what it left.
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case <-c.closed:
		return c.closeErr
	case <-late.C:
		return fmt.Errorf("entitlements: another call of Close is still draining: %w", ctx.Err())
	}
}

// Stats is a moment's account. It takes time in proportion to the records that
// are pending: a few milliseconds for 100 000.
func (c *Client) Stats() Stats {
	return Stats{Cache: c.cacheStats(), Source: c.sourceStats(), Decisions: c.decisionStats(), Usage: c.usage.stats()}
}

// Health is how Source and Sink do, for a readiness page.
func (c *Client) Health() Health {
	var h Health
	h.Source, _ = c.loader.door.report()
	h.Sink, _ = c.usage.door.report()
	return h
}

// usable checks what a waiting call was given.
func (c *Client) usable(customer, field, value string) error {
	switch {
	case c.clock.closed():
		return ErrClosed
	case !validKey(customer):
		return invalidKey("customer", customer)
	case field != "" && !validKey(value):
		return invalidKey(field, value)
	}
	return nil
}

// ignoreUnknown takes an unknown customer for the answer that it is.
func ignoreUnknown(err error) error {
	if errors.Is(err, ErrUnknownCustomer) {
		return nil
	}
	return err
}

func numberOf(d Decision, fallback int64) int64 {
	if granted(&d) && d.Kind == KindNumeric && d.Origin != OriginPolicy {
		return d.Limit
	}
	return fallback
}

func textOf(d Decision, fallback string) string {
	if granted(&d) && d.Kind == KindText && d.Origin != OriginPolicy {
		return d.Text
	}
	return fallback
}
