package entitlements

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// leftover is a segment whose records are not in memory: an earlier process
// made it, or this one, and let go of its records.
type leftover struct {
	path  string
	spilt *segment // nil for one of an earlier process
}

// replay takes up the records of segments that are not in memory, a segment at a
// time, while there is room in memory. Those of earlier processes go on where they
// stopped: what was sent without an answer is tried again as what was sent then,
// with its ID, and only for as long as the sink dedupes.
func (b *batcher) replay(now int64) {
	for b.replayOne(now) {
		b.announce()
	}
}

// replayOne reports whether it took up a segment.
func (b *batcher) replayOne(now int64) bool {
	b.mu.Lock()
	shut := b.shut
	b.mu.Unlock()
	press := b.cfg.Overflow == DropOldest && b.spool.pressed()
	if shut || !press && b.pending.Load() >= int64(max(1, b.cfg.MaxPending/2)) {
		return false // the next run goes on, or this one when there is room
	}
	l, ok := b.spool.next()
	if !ok {
		return false
	}
	defer b.spool.taken()
	fresh, sent, calls := b.takeUp(l, now)
	b.mu.Lock()
	shut = b.shut
	if !shut && l.spilt != nil {
		b.tally.spilt.Add(-calls)
	}
	if !shut && !press {
		for _, r := range fresh {
			b.ready = append(b.ready, queued{record: r})
		}
		for len(sent) > 0 {
			n := min(len(sent), b.limits.MaxBatch)
			b.retries = append(b.retries, b.newDelivery(sent[:n:n]))
			sent = sent[n:]
		}
	}
	b.mu.Unlock()
	switch {
	case shut:
		b.settle(append(fresh, sent...), settlement{state: pieceLost, spooled: true, counted: l.spilt != nil})
	case press:
		b.settle(append(fresh, sent...), settlement{state: pieceLost, drop: dropOverflow, err: errDropped[dropOverflow]})
	}
	return true
}

// takeUp makes records of what has no end in a segment.
func (b *batcher) takeUp(l leftover, now int64) (fresh, sent []*record, calls uint64) {
	g, frames, err := b.spool.read(l)
	if err != nil {
		b.spool.setAside(l, err)
		return nil, nil, 0
	}
	for i := range frames {
		if l.spilt == nil && b.isParked(&frames[i]) {
			now := secondsOf(now, now)
			b.settledOnDisk([]mark{{g, frames[i].at, stageSettled, now, now}})
			continue
		}
		r := b.resume(g, &frames[i], now, l.spilt != nil)
		calls += r.calls
		if r.sent != 0 {
			sent = append(sent, r)
		} else {
			fresh = append(fresh, r)
		}
	}
	if l.spilt == nil {
		b.tally.restored.Add(calls)
	}
	return fresh, sent, calls
}

// resume makes a record of a frame.
func (b *batcher) resume(g *segment, f *frame, now int64, spilt bool) *record {
	a := b.books.lock(hashOf(f.customer), f.customer)
	defer a.mu.Unlock()
	r := b.meterLocked(a, f.feature).newRecord(piece{quantity: f.quantity, stamp: f.stamp})
	r.calls, r.id, r.properties = uint64(f.calls), f.id, f.properties
	r.segment, r.at, r.cohort = g, f.at, b.cohort.Load()
	if f.stage == stageSent {
		r.unknown = preciseOf(f.unknown, now)
		r.sent = r.unknown
	}
	if ago := preciseOf(f.first, now); ago > math.MinInt64/4 {
		r.first = ago
	} else if r.sent != 0 {
		r.first = now // nobody knows; it gets its time again
	}
	r.cohort.open.Add(1)
	b.pending.Add(1)
	r.meter.addLocked(r, int64(b.clock.tick)) // first: who looks without a lock sees it twice, not less
	if spilt {
		r.meter.unspillLocked(r)
	}
	return r
}

// preciseOf is a time of day, in unix seconds, on the clock that began with this
// process. What was in the future, or is not known, was long ago.
func preciseOf(seconds, now int64) int64 {
	ago := time.Now().UnixNano() - seconds*int64(time.Second)
	if seconds == 0 || ago < -int64(time.Second) {
		return math.MinInt64 / 4
	}
	if t := now - ago; t != 0 {
		return t
	}
	return -1
}

// secondsOf is the other way round, never later.
func secondsOf(precise, now int64) int64 {
	if precise == 0 {
		return 0
	}
	return max(1, (time.Now().UnixNano()-(now-precise))/int64(time.Second))
}

// next takes the oldest segment that waits to be read.
func (s *spool) next() (l leftover, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.backlog) == 0 {
		return l, false
	}
	l, s.backlog = s.backlog[0], s.backlog[1:]
	s.reading = true
	return l, true
}

// taken says that what next returned is in memory.
func (s *spool) taken() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading = false
}

// behind reports whether segments wait to be read.
func (s *spool) behind() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reading || len(s.backlog) > 0 || slices.ContainsFunc(s.aside, func(l leftover) bool { return l.spilt != nil })
}

// setAside is for a segment that can't be read now. It is tried again later. One
// that somebody removed is not.
func (s *spool) setAside(l leftover, err error) {
	s.log.Error("entitlements: usage in Config.SpoolDir can't be read", "file", l.path, "error", err)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aside = append(s.aside, l)
}

// retry lets what was set aside be read again.
func (s *spool) retry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.backlog, s.aside = append(s.backlog, s.aside...), nil
}

// read returns what has no end in a segment. What is damaged in it is kept beside
// it, and told of.
func (s *spool) read(l leftover) (*segment, []frame, error) {
	path, g := l.path, l.spilt
	if g == nil {
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, nil, err
		}
		g = &segment{path: path, file: file}
	}
	data, err := g.content()
	if err != nil {
		if l.spilt == nil {
			_ = g.file.Close()
		}
		return nil, nil, err
	}
	g.size = len(data)
	prefix, whole, foreign := readHeader(data)
	if foreign != nil {
		prefix = prefixIn(path)
	}
	g.prefix = prefix
	var frames []frame
	intact, copied := 0, true
	damaged := readSegment(data, prefix, func(f frame) {
		intact++
		if f.stage != stageSettled {
			frames = append(frames, f)
		}
	})
	switch {
	case foreign != nil && intact == 0:
		copied = s.quarantine(path, data, len(data), foreign)
	case foreign != nil:
		copied = s.quarantine(path, data, damaged+segmentHeader, foreign)
	case damaged > 0:
		copied = s.quarantine(path, data, damaged, errDamaged)
	case !whole:
		copied = s.quarantine(path, data, 0, errCut)
	}
	g.live.Store(int64(len(frames)))
	if !copied {
		g.live.Add(1) // it stays, for the next run to try
	}
	if l.spilt == nil {
		s.mu.Lock()
		s.filled = append([]*segment{g}, s.filled...)
		s.mu.Unlock()
	}
	if len(frames) == 0 {
		s.nudge() // it goes
	}
	return g, frames, nil
}

// quarantine keeps a copy of a segment that is not whole, and tells of it. It
// reports whether it could.
func (s *spool) quarantine(path string, data []byte, damaged int, why error) bool {
	s.damaged.Add(uint64(damaged))
	copied := path + ".damaged"
	err := os.WriteFile(copied, data, 0o600)
	s.log.Error("entitlements: part of Config.SpoolDir can't be read, what is intact is delivered",
		"file", path, "reason", why, "bytes", damaged, "copy", copied, "copyError", err)
	return err == nil
}

// prefixIn is the beginning of the IDs of a segment whose header is damaged: its
// name says it too.
func prefixIn(path string) string {
	name := strings.TrimSuffix(filepath.Base(path), segmentSuffix)
	_, id, _ := strings.Cut(name, "-")
	return id + "-"
}
