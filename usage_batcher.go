package entitlements

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"maps"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// The batcher takes usage in at memory speed and hands it to the Sink later.
//
//	Track ──fold──▶ open record ──┐
//	Record ───────▶ new record ───┤ intake (sharded)
//	                              ▼ every FlushInterval, or when half full
//	                            ready ──seal, up to FlushSize──▶ delivery ──▶ Sink
//	                                                   ▲             │
//	                                                   └── retries ◀─┘
//
// A call takes its customer's lock for a few nanoseconds, and a shard's lock when
// it begins a record: once per customer, feature and flush. Records are sealed
// when they are dispatched and not before, so that in an outage usage goes on
// folding and what is pending grows with what is distinct.
type batcher struct {
	sink     Sink // nil: usage is only counted locally
	limits   SinkLimits
	cfg      *Config
	clock    *clock
	door     *door
	books    *books
	counters *stripes
	running  *running
	dead     func(Usage, error) // never blocks
	levels   *levels            // nil: nobody is told
	holds    *holds
	spool    *spool // nil: usage is only in memory
	parking  parking

	instance string // prefix of all IDs: unique to this Client
	sequence atomic.Uint64
	pending  atomic.Int64 // records that are not settled
	cohort   atomic.Pointer[cohort]
	forced   atomic.Bool // gather at the next wake-up, due or not
	wake     chan struct{}
	tally    usageTally

	intake [16]intake

	mu       sync.Mutex // guards the fields below; taken before an account's lock, never after
	ready    []*record  // gathered, oldest first
	alone    []*record  // to be sent one by one, in turn with those in ready
	turn     bool       // of alone
	expired  []*record  // tried for too long: to be settled
	doubtful []*record  // of unknown fate for too long: likewise
	lost     uint64     // calls that close gave up
	retries  []*delivery
	flying   map[*delivery]struct{}
	busy     int               // calls of Deliver that have not returned, in time or not
	suspects map[suspect]int64 // until when the usage of a feature travels alone
	cohorts  []*cohort         // those that a Flush waits for, oldest first
	paceAt   int64             // precise: the sink's rate limit allows no record before
	changed  chan struct{}     // closed and replaced when records settle
	shut     bool

	// adopted is what earlier processes parked. One that was killed before it had
	// noted that left the record in a segment too.
	adopted   map[parkedKey]bool
	redriven  map[parkedKey]bool // their lines could not be removed yet
	redriving sync.Mutex         // one call of Redrive at a time; taken before all others
}

// intake is where records begin. Sharded by customer.
type intake struct {
	mu     sync.Mutex // guards the fields below
	fresh  []*record
	waited []*record // somebody waits for these: they go at the next wake-up
	closed bool
	_      [64]byte
}

// usageTally counts calls by where they ended up.
type usageTally struct {
	restored, delivered, inDoubt, deadLettered atomic.Uint64
	spooled                                    atomic.Uint64 // left to the next run
	spilt                                      atomic.Uint64 // pending, and on disk only; changed under batcher.mu
	dropped                                    [dropReasons]atomic.Uint64
}

type dropReason uint8

const (
	dropOverflow dropReason = iota
	dropInvalid
	dropClosed
	dropUndelivered
	dropNoSink
	dropReasons
)

var dropNames = [dropReasons]string{"overflow", "invalid", "closed", "undelivered", "no_sink"}

func newBatcher(cfg *Config, clock *clock, counters *stripes, books *books, running *running, levels *levels, dead func(Usage, error)) *batcher {
	var prefix [12]byte
	_, _ = rand.Read(prefix[:]) // never fails: crypto/rand ends the program instead
	b := &batcher{
		sink: cfg.Sink, cfg: cfg, clock: clock, books: books, counters: counters, running: running, dead: dead, levels: levels,
		holds:    &holds{ttl: int64(cfg.ReservationTTL)},
		instance: hex.EncodeToString(prefix[:]) + "-",
		wake:     make(chan struct{}, 1),
		flying:   make(map[*delivery]struct{}),
		redriven: make(map[parkedKey]bool),
		suspects: make(map[suspect]int64),
		changed:  make(chan struct{}),
		door:     newDoor("sink", clock, cfg.Logger),
	}
	if l, ok := cfg.Sink.(Limiter); ok {
		b.limits = l.Limits()
	}
	if b.limits.MaxBatch <= 0 || b.limits.MaxBatch > cfg.FlushSize {
		b.limits.MaxBatch = cfg.FlushSize
	}
	if rate := b.limits.Rate; rate > 0 {
		b.limits.MaxBatch = min(b.limits.MaxBatch, max(1, int(rate))) // what a second allows
	}
	b.cohort.Store(new(cohort))
	if cfg.SpoolDir != "" {
		b.spool = newSpool(cfg, clock, &b.parking, b.found, b.kick)
	}
	return b
}

// track counts a call. e is the customer's entry, or nil.
func (b *batcher) track(e *entry, customer, feature string, n int64) {
	var a *account
	if e != nil {
		if a = e.account.Load(); a != nil && b.fold(a, feature, n) {
			return
		}
	}
	_ = b.addTo(a, &Usage{Customer: customer, Feature: feature, Quantity: n}, nil) // counted where it is dropped
}

// fold adds a call to the open record of a feature. It reports false when there
// is none, or when a boundary is so near that the exact clock must decide.
func (b *batcher) fold(a *account, feature string, n int64) bool {
	now := b.clock.coarse.Load()
	a.mu.Lock()
	if more := a.more.Load(); more != nil && a.first.feature != feature {
		if s := more.find(feature); s != nil && now != closedTime && s.takeLocked(n, b.clock.backend.Load()) {
			a.idle = false
			a.mu.Unlock()
			b.counters.mine().recorded.Add(1)
			return true
		}
	}
	m := a.meterLocked(feature)
	if m == nil || now >= m.until || !m.fitsLocked(b.clock.backend.Load()) {
		a.mu.Unlock()
		return false
	}
	was := m.shownLocked()
	if !m.foldLocked(n) {
		a.mu.Unlock()
		return false
	}
	is, g := m.shownLocked(), m.grant
	a.idle = false
	a.mu.Unlock()
	b.counters.mine().recorded.Add(1)
	if b.levels.crossed(g, was, is) {
		b.levels.look(m)
	}
	return true
}

// add counts a call. waiter is nil but for Report.
func (b *batcher) add(u *Usage, waiter *report) error { return b.addTo(nil, u, waiter) }

// addTo is add for who has the customer's account at hand, if it is not nil.
func (b *batcher) addTo(a *account, u *Usage, waiter *report) error {
	dropped, ok := dropInvalid, false
	var m *meter
	var g *grant
	var is int64
	switch {
	case b.clock.closed():
		dropped = dropClosed
	case validKey(u.Customer) && validKey(u.Feature) && len(u.ID) <= MaxKeyLength:
		if a == nil || !a.lock() {
			a = b.books.lock(hashOf(u.Customer), u.Customer)
		}
		m = b.meterLocked(a, u.Feature)
		at := b.clock.backendNow()
		dropped, ok = b.countLocked(m, u, waiter, at)
		if b.levels != nil {
			if !u.Time.IsZero() {
				at = nanos(u.Time)
			}
			is, g = m.view.Load().read(at).used, m.grant
		}
		a.mu.Unlock()
	}
	b.counted(dropped, ok)
	if b.levels.crossed(g, math.MinInt64, is) {
		b.levels.look(m)
	}
	if !ok {
		if waiter != nil {
			waiter.settle(errDropped[dropped])
		}
		return errDropped[dropped]
	}
	return nil
}

// counted accounts for a call that countLocked took, or could not.
func (b *batcher) counted(dropped dropReason, ok bool) {
	b.counters.mine().recorded.Add(1)
	if !ok {
		b.drop(dropped, 1)
		return
	}
	switch n := b.pending.Load(); {
	case b.cfg.Overflow == DropOldest && b.over(n):
		if b.spool != nil {
			b.kick() // what waits for the disk is for the loop
			return
		}
		b.makeRoom()
	case n >= int64(b.cfg.MaxPending+1)/2 && !b.forced.Load():
		b.kick()
	}
}

// meterLocked returns the meter of a feature, and makes one if there is none.
func (b *batcher) meterLocked(a *account, feature string) *meter {
	a.idle = false
	if m := a.meterLocked(feature); m != nil {
		return m
	}
	return a.addMeterLocked(feature, b.cfg.Aggregations[feature])
}

// countLocked folds u into the open record after an exact look at the clock, or
// begins a new one. It reports why not, when it can't.
func (b *batcher) countLocked(m *meter, u *Usage, waiter *report, now int64) (dropReason, bool) {
	now = m.figure.stampOf(now)
	stamp := now
	if !u.Time.IsZero() {
		stamp = nanos(u.Time)
	}
	folds := waiter == nil && b.folds(m, u, stamp, now)
	if r := m.open; folds && r != nil && stamp < r.ends && m.counts == m.figure.period(stamp) && m.foldLocked(u.Quantity) {
		return 0, true
	}
	if b.sink == nil {
		b.endLocalLocked(m.account, now) // one that ended must not keep its successor out
	}
	r := &record{
		piece: piece{quantity: u.Quantity, stamp: stamp},
		meter: m, calls: 1, id: strings.Clone(u.ID), properties: maps.Clone(u.Properties), report: waiter,
	}
	if why, ok := b.admit(r); !ok {
		return why, false
	}
	m.addLocked(r, int64(b.clock.tick))
	if folds {
		r.ends = b.endOf(m, stamp)
		m.openLocked(r, b.clock.precise()+min(r.ends-now, int64(forever))-b.clock.margin)
		if b.levels == nil && b.spool == nil { // else each call is to be looked at, or stored
			m.shareLocked(r.ends - b.clock.margin)
		}
	}
	r.placedLocked()
	return 0, true
}

// admit lets a new record wait to be delivered, or says why not.
func (b *batcher) admit(r *record) (dropReason, bool) {
	if b.spool != nil && !b.spool.fits(r) {
		return dropOverflow, false
	}
	over := b.over(b.pending.Add(1))
	if b.spool != nil {
		over = !b.spool.begin(r)
	}
	if over && (b.cfg.Overflow == DropNewest || b.sink == nil || b.spool != nil && b.spool.flooded()) {
		b.pending.Add(-1)
		return dropOverflow, false
	}
	if b.take(r) {
		if over && b.spool != nil {
			b.spool.later(r)
		}
		return 0, true
	}
	b.pending.Add(-1)
	if r.segment != nil {
		r.placedLocked()
		b.settledOnDisk(r.markLocked(nil, stageSettled, b.clock.precise()))
	}
	return dropClosed, false
}

// over reports whether there are more records than there is room for.
func (b *batcher) over(records int64) bool {
	if b.spool != nil {
		return b.spool.crowded()
	}
	return records > int64(b.cfg.MaxPending)
}

// take puts a new record into the intake, unless that is closed.
func (b *batcher) take(r *record) bool {
	in := &b.intake[r.meter.account.shard%uint16(len(b.intake))]
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return false
	}
	r.cohort = b.cohort.Load()
	r.cohort.open.Add(1)
	switch {
	case b.sink == nil: // its account keeps it
	case r.report != nil:
		in.waited = append(in.waited, r)
	default:
		in.fresh = append(in.fresh, r)
	}
	return true
}

// folds reports whether a call may share a record with others. With a Sink they
// must be of one minute and have nothing of their own; without one only the
// period counts.
func (b *batcher) folds(m *meter, u *Usage, stamp, now int64) bool {
	if m.fold == AggregateUnique {
		return false
	}
	if b.sink == nil {
		return m.figure.period(stamp) == m.figure.period(now)
	}
	return u.ID == "" && u.Properties == nil && stamp/int64(time.Minute) == now/int64(time.Minute)
}

// endOf is the moment at which a record that begins at stamp stops taking calls:
// the end of its UTC minute, and the end of its period. Without a Sink nothing
// is sent, so only the period matters.
func (b *batcher) endOf(m *meter, stamp int64) int64 {
	end := int64(math.MaxInt64)
	if b.sink != nil {
		end = stamp - stamp%int64(time.Minute) + int64(time.Minute)
	}
	if resets := m.figure.resets; resets > stamp {
		end = min(end, resets)
	}
	return end
}

// makeRoom drops the oldest record that is not being sent.
func (b *batcher) makeRoom() {
	b.mu.Lock()
	if len(b.ready) == 0 {
		b.gatherLocked(true)
	}
	if len(b.ready) == 0 {
		b.mu.Unlock()
		return // all of it is being sent or tried again: at most FlushConcurrency batches
	}
	oldest := b.ready[:1:1]
	b.ready = b.ready[1:]
	b.mu.Unlock()
	b.settle(oldest, settlement{state: pieceLost, drop: dropOverflow, err: errDropped[dropOverflow]})
}

// kick lets the loop gather and dispatch now.
func (b *batcher) kick() {
	b.forced.Store(true)
	b.nudge()
}

func (b *batcher) nudge() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *batcher) drop(reason dropReason, calls uint64) {
	b.tally.dropped[reason].Add(calls)
}

// run gathers and dispatches. Owned by New, ends with ctx.
func (b *batcher) run(ctx context.Context) {
	timer := time.NewTimer(min(b.cfg.FlushInterval, b.cfg.ReservationTTL))
	defer timer.Stop()
	due := b.clock.precise() + int64(b.cfg.FlushInterval)
	swept, shard := int64(0), 0
	spills, rescues := int64(0), int64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-b.wake:
		}
		now := b.clock.precise()
		forced := b.forced.Swap(false)
		b.mu.Lock()
		b.gatherLocked(forced || now >= due)
		b.mu.Unlock()
		if forced || now >= due {
			due = now + int64(b.cfg.FlushInterval)
		}
		if b.spool != nil {
			if now >= spills { // it looks at all records, and those of a minute still fold
				spills = now + int64(time.Minute)
				b.spill()
			}
			if now >= rescues { // likewise, if a segment is broken
				rescues = now + int64(time.Second)
				b.rescue()
			}
			b.replay(now)
			b.overflow()
		}
		wait := b.dispatch(ctx, now)
		if now-swept >= int64(250*time.Millisecond) {
			swept, shard = now, shard+1
			b.sweep(shard, now)
		}
		timer.Reset(time.Duration(max(1, min(wait, due-now, b.expire(now)))))
	}
}

// gatherLocked takes the intake over: all of it, or only what somebody waits for.
// Records stay open: they go on folding.
func (b *batcher) gatherLocked(all bool) {
	for i := range b.intake {
		in := &b.intake[i]
		in.mu.Lock()
		b.ready = append(b.ready, in.waited...)
		clear(in.waited)
		in.waited = in.waited[:0]
		if all {
			// Copied under the shard's lock: a pointer each, and rarely contended.
			b.ready = append(b.ready, in.fresh...)
			clear(in.fresh)
			in.fresh = in.fresh[:0]
		}
		in.mu.Unlock()
	}
}

// sweep lets go of accounts in which nothing is missing any more.
func (b *batcher) sweep(shard int, now int64) {
	// A load that is under way may have begun this long ago, and what it brings
	// may be older still where the Source reads from a lagging copy; more than
	// MaxStale is refused at the door.
	grace := int64(b.cfg.FetchTimeout) + int64(b.cfg.UsageLag) + 2*int64(b.clock.tick)
	if b.books.reads.Load() != readsNow {
		grace += int64(b.cfg.MaxStale)
	}
	backendNow := b.clock.backendNow()
	lost := now - int64(min(b.cfg.IdleAfter, b.cfg.MaxStale))
	b.books.sweep(shard, now-grace, lost, backendNow, func(a *account) {
		if b.sink == nil {
			b.endLocalLocked(a, backendNow)
		}
	})
}

// endLocalLocked ends the records that no Sink takes and whose period is over.
func (b *batcher) endLocalLocked(a *account, now int64) {
	for m := range a.meters() {
		m.syncLocked()
		f := &m.figure
		for _, r := range m.records {
			if !r.settled() && (r.counts == periodPast || r.counts == periodCurrent && f.resets != 0 && now >= f.resets) {
				b.drop(dropNoSink, r.calls)
				b.settleLocked(r, pieceLost)
				r.cohort.open.Add(-1)
			}
		}
	}
}

// newIDs yields as many unique IDs as are asked for: random per Client, then a
// counter. They share their memory, since they travel together.
func (b *batcher) newIDs(n int) (next func() string) {
	const digits = 13 // of the largest counter
	id := b.sequence.Add(uint64(n)) - uint64(n)
	text := make([]byte, 0, n*(len(b.instance)+digits))
	return func() string {
		id++
		begin := len(text)
		text = strconv.AppendUint(append(text, b.instance...), id, 36)
		one := text[begin:]
		return unsafe.String(unsafe.SliceData(one), len(one)) // never written again
	}
}
