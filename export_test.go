package entitlements

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"slices"
	"time"
)

// SamePlan reports whether two cached customers share one plan.
func SamePlan(c *Client, a, b string) bool {
	return c.cache.find(hashOf(a), a).plan.Load() == c.cache.find(hashOf(b), b).plan.Load()
}

// Table is the table with hashes of the test's choice.
type Table struct{ t *table }

func NewTable(customers int) Table {
	return Table{newTable(customers, newClock(time.Second), &Config{TTL: time.Second, MaxStale: time.Hour})}
}

// NewCompleteTable is one that loses nobody.
func NewCompleteTable(customers int) Table {
	t := NewTable(customers)
	t.t.behind = make(map[string]*entry)
	return t
}

func (t Table) Sets() int                         { return len(t.t.sets) }
func (t Table) Clear()                            { t.t.clear() }
func (t Table) Insert(hash uint64, e TableEntry)  { t.t.insert(hash, e.e) }
func (t Table) Remove(hash uint64, e TableEntry)  { t.t.remove(hash, e.e) }
func (t Table) Find(hash uint64, key string) bool { return t.t.find(hash, key) != nil }

// Displaced is how many of those whose first set is that of hash have no slot.
func (t Table) Displaced(hash uint64) int { return int(t.t.displaced[t.t.first(hash)].Load()) }

// KeyOf is the key of what is found for key, "" for nothing.
func (t Table) KeyOf(hash uint64, key string) string {
	if e := t.t.find(hash, key); e != nil {
		return e.key
	}
	return ""
}

// Holds reports whether key is found as this very entry.
func (t Table) Holds(hash uint64, key string, e TableEntry) bool { return t.t.find(hash, key) == e.e }

type TableEntry struct{ e *entry }

func NewTableEntry(key string, lastUse int64) TableEntry { return TableEntry{newEntry(key, lastUse)} }

// NewTableAnswer is an entry that answers, by a plan that is called like it.
func NewTableAnswer(key string) TableEntry {
	e := newEntry(key, 0)
	e.plan.Store(&plan{name: key})
	e.staleAt.Store(int64(time.Hour))
	e.fetched.Store(0)
	return TableEntry{e}
}

// PlanOf is the name of the plan by which the table answers for a key.
func (t Table) PlanOf(hash uint64, key string) string {
	if is := t.t.ready(hash, key, 1); is.plan != nil {
		return is.plan.name
	}
	return ""
}

// Publish lets the table show what an entry has.
func (t Table) Publish(e TableEntry) { t.t.publish(e.e) }

// Wheel is a wheel of entries that tests name by number.
type Wheel struct {
	w       *wheel
	entries map[*entry]int
}

func NewWheel(width, now time.Duration) *Wheel {
	return &Wheel{newWheel(int64(width), int64(now)), make(map[*entry]int)}
}

func (w *Wheel) Put(n int, due time.Duration) {
	e := newEntry("", 0)
	w.entries[e] = n
	w.w.put(e, int64(due))
}

func (w *Wheel) Drain(now time.Duration) (due []int) {
	w.w.drain(int64(now), func(t timed) { due = append(due, w.entries[t.entry]) })
	return due
}

func (w *Wheel) Wait(now time.Duration) time.Duration { return time.Duration(w.w.wait(int64(now))) }

const WheelSlots = wheelSlots

// Offset is what a clock takes for the backend's offset after these answers.
func Offset(server, sent, received []time.Time) time.Duration {
	c := newClock(30 * time.Second)
	for i := range server {
		c.observe(server[i], sent[i], received[i])
	}
	return time.Duration(c.offset.Load())
}

// Tick is the tick of the coarse clock at a TTL.
func Tick(ttl time.Duration) time.Duration { return newClock(ttl).tick }

func Nanos(t time.Time) int64     { return nanos(t) }
func FromNanos(n int64) time.Time { return fromNanos(n) }

// RestoreSnapshot reads a file's content as New does, once its signature is good.
func RestoreSnapshot(content []byte, maxCustomers int) (customers int, err error) {
	c, err := New(Config{Source: Static(nil), MaxCustomers: maxCustomers})
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close(context.Background()) }()
	var plans []*plan
	err = readSnapshot(bytes.NewReader(content), func(savedHeader) {},
		func(e *Entitlements) { plans = append(plans, c.loader.plans.intern(e)) },
		func(saved *savedCustomer) bool {
			if c.restoreEntry(saved, plans[saved.plan], 0) {
				customers++
				c.Decide(saved.key, "api")
			}
			return customers < maxCustomers
		})
	return customers, err
}

// RefuseMapping lets the system refuse to lock memory, until restore is called.
func RefuseMapping() (restore func()) {
	was := mapSegment
	mapSegment = func(*os.File, int) ([]byte, error) { return nil, errors.ErrUnsupported }
	return func() { mapSegment = was }
}

// CopySegment is a segment like another, with IDs of its own.
func CopySegment(data []byte) []byte {
	var id [segmentID]byte
	_, _ = rand.Read(id[:])
	data = bytes.Clone(data)
	putHeader(data, id)
	return data
}

// SmallSegments lets a segment of a spool have room for some fifty records.
func SmallSegments(t interface{ Cleanup(func()) }) {
	was := segmentSize
	segmentSize = 4096
	t.Cleanup(func() { segmentSize = was })
}

// FoldLate gives a record its place, lets the loop find that place filled, and
// syncs it, before the record is opened and a call folds into it: as a goroutine
// does that is interrupted there. It reports whether the next sync takes up what
// was folded.
func FoldLate(dir string) (synced bool, err error) {
	cfg := &Config{SpoolDir: dir, SpoolMaxBytes: 1 << 30, SpoolSync: time.Second, Logger: slog.New(slog.DiscardHandler)}
	s := newSpool(cfg, newClock(time.Second), new(parking), func([]parkedLine) {}, func() {})
	s.start()
	defer s.close()
	a := newAccount("a", 1)
	m := a.addMeterLocked("api", AggregateSum, newFeatureIndex())
	r := &record{account: a, meter: m, calls: 1, piece: piece{quantity: 1}}
	if !s.begin(r) {
		return false, errors.New("no room")
	}
	g := r.segment
	s.mu.Lock()
	s.filled, s.active = append(s.filled, g), nil
	for range spareSegments { // later ones, so that its memory is wanted
		s.filled = append(s.filled, s.spare...)
		s.spare = nil
		s.mu.Unlock()
		if err := s.provide(); err != nil {
			return false, err
		}
		s.mu.Lock()
	}
	for _, other := range s.filled {
		other.live.Add(1) // they stay
	}
	s.mu.Unlock()
	s.clean()
	if err := s.syncAll(nil); err != nil {
		return false, err
	}
	m.openLocked(r, 1)
	m.foldLocked(1)
	m.sealLocked()
	return g.dirty.Load(), nil
}

// BreakSegments does what an fsync that fails does.
func BreakSegments(c *Client) {
	s := c.usage.spool
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range append(slices.Clone(s.filled), s.active) {
		g.broken.Store(true)
	}
}

// ForgetDuringEviction forgets a customer while the cache is letting go of it, and
// asks about it before that is done.
func ForgetDuringEviction(c *Client, customer, feature string) Decision {
	e := c.cache.find(hashOf(customer), customer)
	t := c.cache.table
	e.gone.Store(true) // as far as cache.left had come
	c.Forget(customer)
	d := c.Decide(customer, feature)
	t.remove(hashOf(customer), e)
	c.cache.count.Add(-1)
	return d
}

// FeatureProbes is the most places that a code of these is looked for in.
func FeatureProbes(codes []string) (most int) {
	t := newFeatureIndex().add(codes)
	for _, code := range codes {
		head, tail := endsOf(code)
		at := t.place(code, head, tail)
		for n := 1; ; n++ {
			if s := t.slots[(at+n-1)&(len(t.slots)-1)]; t.codes[s.number] == code {
				most = max(most, n)
				break
			}
		}
	}
	return most
}
