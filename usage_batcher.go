package entitlements

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"strconv"
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
// A call takes its customer's lock for a few nanoseconds, if it takes one, and a
// shard's when it begins a record: once per customer, feature and flush. Records
// are sealed when they are dispatched and not before, so that in an outage usage
// goes on folding and what is pending grows with what is distinct.
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
	flushing atomic.Int32 // calls of Flush
	forced   atomic.Bool  // gather at the next wake-up, due or not
	wake     chan struct{}
	tally    usageTally

	intake [16]intake

	mu       sync.Mutex // guards the fields below; taken before an account's lock, never after
	ready    []queued   // gathered, oldest first
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
	fresh  []queued
	waited []queued // somebody waits for these: they go at the next wake-up
	closed bool
	_      [64]byte
}

// queued is a record that waits to be dispatched, or the account of cells that do.
type queued struct {
	record  *record
	account *account
}

// intakeOf is the shard of an account.
func (b *batcher) intakeOf(a *account) *intake { return &b.intake[a.shard%uint8(len(b.intake))] }

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
	books.requeue = b.requeue
	if cfg.SpoolDir != "" {
		b.spool = newSpool(cfg, clock, &b.parking, b.found, b.kick)
	}
	return b
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
				b.end(r.cohort, 1)
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
		text = strconv.AppendUint(append(text, b.instance...), id, 32)
		one := text[begin:]
		return unsafe.String(unsafe.SliceData(one), len(one)) // never written again
	}
}
