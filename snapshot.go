package entitlements

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// snapshots keep what is cached in a file, so that a program that starts while
// its billing API is down can answer: Config.SnapshotFile. The file is written in
// the background and by Close, and read by New.
//
// What it says ages on by the wall clock while nobody runs. A clock that moved
// backwards meanwhile makes nothing younger than it was when it was written.
type snapshots struct {
	client  *Client
	changed atomic.Bool // something was loaded or forgotten since the last write

	mu      sync.Mutex // held to write the file; guards failing
	failing bool       // said so in the log
}

// snapshotEvery is the least time between two writes.
const snapshotEvery = time.Minute

// run writes now and then. Owned by New, ends with ctx.
func (s *snapshots) run(ctx context.Context) {
	ticker := time.NewTicker(snapshotEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if s.changed.Swap(false) && !s.save() {
				s.changed.Store(true)
			}
		}
	}
}

// save writes the file beside the one that is there, and then puts it in its
// place: whoever reads finds the one or the other. It logs the first failure of a
// row.
func (s *snapshots) save() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.client
	err := replaceFile(c.cfg.SnapshotFile, s.write)
	switch {
	case err != nil && !s.failing:
		c.cfg.Logger.Error("entitlements: Config.SnapshotFile can't be written", "error", err)
	case err == nil && s.failing:
		c.cfg.Logger.Info("entitlements: Config.SnapshotFile is written again")
	}
	s.failing = err != nil
	return err == nil
}

// replaceFile lets write fill a new file, and renames it when it is on disk.
func replaceFile(name string, write func(*os.File) error) (err error) {
	dir := filepath.Dir(name)
	sweepTemporary(name)
	f, err := os.CreateTemp(dir, filepath.Base(name)+temporary) // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err = write(f); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), name); err != nil {
		return err
	}
	syncDir(dir)
	return nil
}

// temporary is what the name of a file ends in while it is written.
const temporary = ".tmp*"

// sweepTemporary removes what a process left that was killed while it wrote.
func sweepTemporary(name string) {
	left, _ := filepath.Glob(escapeGlob(name) + temporary)
	for _, l := range left {
		if info, err := os.Stat(l); err == nil && time.Since(info.ModTime()) > time.Hour {
			_ = os.Remove(l)
		}
	}
}

// escapeGlob makes a name one that a pattern takes literally.
func escapeGlob(name string) string {
	out := make([]byte, 0, len(name))
	for i := range len(name) {
		if c := name[i]; c == '*' || c == '?' || c == '[' || c == '\\' && filepath.Separator != '\\' {
			out = append(out, '[', c, ']')
		} else {
			out = append(out, name[i])
		}
	}
	return string(out)
}

// write writes all that is cached.
func (s *snapshots) write(f *os.File) error {
	c := s.client
	w := newSnapshotWriter(f, c.cfg.SnapshotKey, savedHeader{saved: time.Now().UnixNano(), offset: c.clock.offset.Load()})
	now := c.clock.precise()
	numbers := make(map[*plan]int)
	c.cache.each(func(e *entry) {
		p, o := e.content()
		if e.blank() {
			return
		}
		number, known := numbers[p]
		if !known {
			number = len(numbers)
			numbers[p] = number
			w.plan(p)
		}
		w.customer(saveEntry(e, p, o, number, now, c.clock))
	})
	return w.close(f)
}

// saveEntry is what is kept of an entry. Its figures have the local view for
// Used: what was delivered, but not told of yet, is not told by anything else
// after a restart.
func saveEntry(e *entry, p *plan, o *own, number int, now int64, clock *clock) *savedCustomer {
	fetched := e.fetched.Load()
	c := &savedCustomer{key: e.key, plan: number, age: now - fetched}
	if o == nil {
		c.figures = make([]savedFigure, p.dated)
		return c
	}
	c.version, c.asOf, c.serverTime = o.version, o.reading.asOf, o.reading.serverTime
	a := e.account.Load()
	for i := range p.grants {
		g := &p.grants[i]
		if g.own < 0 {
			continue
		}
		f := o.figure(g)
		if a != nil && g.kind == KindMetered {
			if r, at, known := a.read(g.code, p.index, clock); known {
				f.used = r.used
				if r.resets != 0 && at >= r.resets {
					f.start, f.floor, f.resets = r.resets, r.resets, 0 // when this one ends is not known
				}
			}
		}
		c.figures = append(c.figures, savedFigure{
			used: f.used, start: f.start, resets: f.resets, expires: f.expires, floor: f.floor,
			fetched: f.fetched - fetched, received: f.received - fetched, horizon: f.horizon - fetched,
		})
	}
	return c
}

// restore reads the file, if there is a good one. What is wrong with it is
// logged, and keeps nobody from starting.
func (s *snapshots) restore() {
	c := s.client
	began := time.Now()
	n, err := s.read()
	switch {
	case errors.Is(err, fs.ErrNotExist): // the first start
	case err != nil:
		c.cfg.Logger.Error("entitlements: Config.SnapshotFile is not used", "error", err, "customers", n)
	default:
		c.cfg.Logger.Info("entitlements: restored", "customers", n, "took", time.Since(began))
	}
}

func (s *snapshots) read() (customers int, err error) {
	c := s.client
	f, err := os.Open(c.cfg.SnapshotFile)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if err := verifySnapshot(f, info.Size(), c.cfg.SnapshotKey); err != nil {
		return 0, err
	}
	var plans []*plan
	asleep := int64(0)
	err = readSnapshot(f,
		func(h savedHeader) {
			// A clock that was set back shows what it showed then: nothing gets
			// younger, nor comes back.
			slept := time.Now().UnixNano() - h.saved
			asleep = max(0, slept)
			c.clock.offset.Store(h.offset - min(0, slept))
			c.clock.advance()
		},
		func(e *Entitlements) { plans = append(plans, c.loader.plans.intern(e)) },
		func(saved *savedCustomer) bool {
			if c.restoreEntry(saved, plans[saved.plan], asleep) {
				customers++
			}
			return customers < c.cfg.MaxCustomers
		})
	if err != nil {
		return customers, fmt.Errorf("read: %w", err)
	}
	return customers, nil
}

// restoreEntry puts a customer into the cache as it was, older by the time that
// nobody ran. It reports false for one that could answer nothing any more.
func (c *Client) restoreEntry(saved *savedCustomer, p *plan, asleep int64) bool {
	age := saved.age + asleep
	if age < 0 || age > int64(forever) || len(saved.figures) != p.dated {
		return false
	}
	if age >= int64(c.cfg.MaxStale) && !c.cfg.lastKnown() {
		return false
	}
	fetched := c.clock.precise() - age
	e := newEntry(saved.key, c.clock.coarse.Load())
	var o *own
	if p.dated > 0 || saved.version != "" || saved.asOf != 0 || saved.serverTime != 0 {
		figures := make([]figure, p.dated)
		for i, f := range saved.figures {
			figures[i] = figure{
				used: f.used, start: f.start, resets: f.resets, expires: f.expires, floor: f.floor,
				fetched: fetched + min(0, f.fetched), received: fetched + f.received, horizon: fetched + min(0, f.horizon),
			}
			if figures[i].fetched == 0 {
				figures[i].fetched = -1 // 0 says that there is none
			}
		}
		o = packOwn(p, saved.version, saved.asOf, saved.serverTime, figures, nil)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.storeLocked(p, o)
	e.fetched.Store(fetched) // and stale, so that the first check has it loaded
	return c.cache.add(hashOf(saved.key), e) == e
}

// lastKnown reports whether a snapshot past MaxStale can answer anything.
func (c *Config) lastKnown() bool {
	if c.OnUnavailable == LastKnown {
		return true
	}
	for _, p := range c.FeaturePolicy {
		if p == LastKnown {
			return true
		}
	}
	return false
}

// close writes what is cached for the last time, for as long as ctx lets it: a
// disk that hangs must not.
func (s *snapshots) close(ctx context.Context, running *running) {
	done := make(chan struct{})
	if !running.start(func() {
		defer close(done)
		s.save()
	}) {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}
