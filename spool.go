package entitlements

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The spool keeps usage on disk until it has an end, so that a process that is
// killed at any moment loses none that it had returned from counting.
//
//	Track ──fold──▶ count in a frame ─┐
//	Record ───────▶ new frame ────────┤ segment, mapped
//	                                  ▼ every SpoolSync
//	                                fsync
//	Deliver ──────▶ stage of a frame; a segment whose records are settled goes
//
// A call stores into memory that the kernel keeps when the process dies. It
// never waits for a disk: segments are made before they are needed, and where
// there is none, a record stays in memory until there is.
//
// SpoolDir has numbered slots. A process locks one, and takes over what is in
// those that nobody has locked.
type spool struct {
	root string
	most int64
	sync time.Duration
	log  *slog.Logger
	wake chan struct{}

	mostUnsaved int // records that are in memory only

	clock    *clock
	parking  *parking
	parked   func([]parkedLine) // is told what earlier processes parked
	overfull func()             // is told when records must go

	dir  string   // of the slot, "" until there is one; owned by the loop
	slot *os.File // its lock

	degraded  atomic.Bool
	damaged   atomic.Uint64 // bytes
	full      atomic.Bool   // SpoolMaxBytes is reached
	unlocked  bool          // it was said that memory can't be locked; owned by the loop
	adoptedAt time.Time     // owned by the loop

	mu      sync.Mutex // guards the fields below; nothing slow under it
	active  *segment
	spare   []*segment
	filled  []*segment // no more frames are put in
	unsaved []*record  // they are only in memory
	saving  int        // so are these, which the loop has taken out of unsaved
	backlog []leftover // segments that wait to be read, oldest first
	aside   []leftover // segments that could not be read, until the next try
	bytes   int64      // of all segments
	wanted  int        // bytes that a record needs, more than a segment has
	pass    *syncPass  // the next one
	asked   bool       // somebody waits for it
	reading bool       // one of backlog is on its way to the batcher
	closed  bool
}

// syncPass is one round of fsync.
type syncPass struct {
	done chan struct{}
	ok   bool // all that was counted before it is on disk
}

const (
	spareSegments = 2

	// mostMapped is how many segments stay locked in memory though nothing in them
	// folds any more. What becomes of their records is then a store, not a write.
	mostMapped = 5

	adoptEvery = time.Minute
	slots      = 1 << 10
)

func newSpool(cfg *Config, clock *clock, parking *parking, parked func([]parkedLine), overfull func()) *spool {
	return &spool{
		clock: clock, root: cfg.SpoolDir, most: cfg.SpoolMaxBytes, sync: cfg.SpoolSync, log: cfg.Logger,
		mostUnsaved: cfg.MaxPending, parking: parking, parked: parked, overfull: overfull,
		wake: make(chan struct{}, 1), pass: &syncPass{done: make(chan struct{})},
	}
}

// start is the first round: it makes one segment, so that what is counted from
// here on is on disk.
func (s *spool) start() {
	err := s.open()
	if err == nil {
		err = s.makeOne(segmentSize)
	}
	s.tell(err)
}

func roundUp(size int) int { return (size + segmentSize - 1) / segmentSize * segmentSize }

// sizeOf is what a record takes on disk, more or less.
func (s *spool) sizeOf(r *record) int {
	return (&frame{customer: r.account.customer(), feature: r.feature, properties: r.properties}).sizeOf() + MaxKeyLength
}

// fits reports whether there is ever room for a record.
func (s *spool) fits(r *record) bool {
	if r.properties == nil {
		return true
	}
	large := roundUp(s.sizeOf(r) + segmentHeader)
	return large == segmentSize || int64(large+(1+spareSegments)*segmentSize) <= s.most
}

// begin gives a record a frame. Its account's lock is held. Where there is no
// segment now the record is in memory only, until there is. It reports false, and
// has done nothing, when there is no room by SpoolMaxBytes, or too many are in
// memory only.
func (s *spool) begin(r *record) bool {
	if s.placeLocked(r) {
		return true
	}
	s.nudge()
	if !s.room() {
		return false
	}
	s.later(r)
	return true
}

// isFilled reports whether nothing more is put into a segment, nor changes in it.
func (s *spool) isFilled(g *segment) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return g != s.active && g.folds.Load() == 0
}

// leave notes that the records of segments are not in memory any more.
func (s *spool) leave(segments map[*segment]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for g := range segments {
		s.backlog = append(s.backlog, leftover{g.path, g})
	}
	slices.SortFunc(s.backlog, func(a, b leftover) int { return strings.Compare(filepath.Base(a.path), filepath.Base(b.path)) })
}

// later is for a record that is in memory only.
func (s *spool) later(r *record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsaved = append(s.unsaved, r)
}

// placeLocked gives a record a frame, if there is room. Its account's lock is
// held, until placedLocked.
func (s *spool) placeLocked(r *record) bool {
	m := r.meter
	f := frame{
		id: r.id, customer: m.account.customer(), feature: m.feature, stamp: r.stamp, properties: r.properties,
		quantity: r.quantity, calls: uint32(r.calls), stage: stagePending,
	}
	if r.first != 0 { // from memory, until now
		now := s.clock.precise()
		f.first = secondsOf(r.first, now)
		if r.sent != 0 {
			f.stage, f.unknown = stageSent, secondsOf(r.sent, now)
			if r.unknown != 0 {
				f.unknown = secondsOf(r.unknown, now)
			}
		}
	}
	size := f.sizeOf()
	s.mu.Lock()
	if size > segmentSize-segmentHeader && (s.active == nil || s.active.size == segmentSize) {
		s.wanted = max(s.wanted, size+segmentHeader) // one of its own
		s.mu.Unlock()
		return false
	}
	if g := s.active; g != nil && (g.next+size > g.size || g.broken.Load()) {
		s.filled = append(s.filled, g)
		s.active = nil
	}
	if s.active == nil && len(s.spare) > 0 {
		s.active, s.spare = s.spare[0], s.spare[1:]
		s.nudge()
	}
	g := s.active
	if g == nil || g.next+size > g.size || s.closed {
		s.mu.Unlock()
		return false
	}
	g.commitLocked(&f)
	s.mu.Unlock()
	r.keepLocked(g, &f)
	if g.written(f.at, size) {
		return true
	}
	// It gets another place, under the same ID. Here it may be in part.
	r.segment = nil
	g.live.Add(-1)
	g.rest()
	return false
}

// placedLocked says that a new record folds already, if it does at all.
func (r *record) placedLocked() {
	if r.segment != nil {
		r.segment.rest()
	}
}

// keepLocked notes where a record is on disk, and under which ID.
func (r *record) keepLocked(g *segment, f *frame) {
	r.segment, r.at = g, f.at
	if r.id == "" {
		r.id = frameID(g.prefix, f.at)
	}
}

func (s *spool) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// room reports whether another record may be kept.
func (s *spool) room() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.spare) > 0 {
		return true
	}
	return s.bytes+int64(segmentSize) <= s.most && s.waitingLocked() < s.mostUnsaved
}

// waitingLocked is how many records are in memory only.
func (s *spool) waitingLocked() int { return len(s.unsaved) + s.saving }

// flooded reports whether records come faster than the loop makes room for them.
func (s *spool) flooded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waitingLocked() >= s.mostUnsaved+max(64, s.mostUnsaved/4)
}

// crowded reports whether too many records wait for room on disk.
func (s *spool) crowded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.spare) == 0 && (len(s.unsaved) > 0 && s.bytes+int64(segmentSize) > s.most || s.waitingLocked() > s.mostUnsaved)
}

// pressed reports whether records wait for room on disk which others must make:
// which is not yet there, nor about to be.
func (s *spool) pressed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unsaved) == 0 || len(s.spare) > 0 {
		return false
	}
	bytes := s.bytes + int64(segmentSize)
	for _, g := range s.filled {
		if g.live.Load() == 0 {
			bytes -= int64(g.size)
		}
	}
	return bytes > s.most
}

// unplaced returns the records that are in memory only, oldest first, and how many
// of them are too many.
func (s *spool) unplaced() (records []*record, over int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.spare) > 0 || len(s.unsaved) <= s.mostUnsaved {
		return nil, 0
	}
	return slices.Clone(s.unsaved), len(s.unsaved) - s.mostUnsaved
}

// forget is for records that are dropped.
func (s *spool) forget(dropped map[*record]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsaved = slices.DeleteFunc(s.unsaved, func(r *record) bool { return dropped[r] })
}

// close writes what is left. The loop has ended.
func (s *spool) close() {
	s.mu.Lock()
	s.closed = true
	segments := append(slices.Clone(s.filled), s.spare...)
	if s.active != nil {
		segments = append(segments, s.active)
	}
	s.active, s.spare, s.filled = nil, nil, nil
	s.mu.Unlock()
	for _, g := range segments {
		if g.live.Load() == 0 {
			g.remove()
		} else {
			g.close()
		}
	}
	if s.slot != nil {
		_ = s.slot.Close()
	}
}
