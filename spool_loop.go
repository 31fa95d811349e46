package entitlements

import (
	"context"
	"slices"
	"time"
)

// What the spool does on the disk, in a loop of its own: no call waits for it but
// those that ask for a sync.

// run makes segments before they are needed, syncs, and cleans up. Owned by New,
// ends with ctx.
func (s *spool) run(ctx context.Context) {
	ticker := time.NewTicker(s.sync)
	defer ticker.Stop()
	for {
		s.upkeep(false)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.upkeep(true)
		case <-s.wake:
		}
	}
}

// upkeep is one round of the loop.
func (s *spool) upkeep(due bool) {
	s.clean()
	err := s.provide()
	s.save()
	if s.crowded() {
		s.overfull()
	}
	s.mu.Lock()
	asked := s.asked
	s.mu.Unlock()
	if due || asked {
		if failed := s.syncAll(err); err == nil {
			err = failed
		}
	}
	if s.dir != "" && time.Since(s.adoptedAt) >= adoptEvery {
		s.adopt()
		s.retry()
	}
	s.tell(err)
}

// provide takes a slot and makes segments, as far as they are missing.
func (s *spool) provide() error {
	if s.dir == "" {
		if err := s.open(); err != nil {
			return err
		}
	}
	for {
		s.mu.Lock()
		missing := spareSegments - len(s.spare)
		if s.active == nil {
			missing++
		}
		size := segmentSize
		if large := roundUp(s.wanted); s.bytes+int64(large) > s.most {
			s.wanted = 0 // it is asked for again; others need not wait for that
		} else if large > size {
			size, missing = large, 1
		}
		over := missing > 0 && s.bytes+int64(size) > s.most
		s.full.Store(over && s.active == nil && len(s.spare) == 0)
		s.mu.Unlock()
		if missing <= 0 || over {
			return nil
		}
		if err := s.makeOne(size); err != nil {
			return err
		}
	}
}

func (s *spool) makeOne(size int) error {
	g, err := makeSegment(s.dir, size)
	if err != nil {
		return err
	}
	if err := g.lock(); err != nil && !s.unlocked {
		s.unlocked = true
		s.log.Warn("entitlements: memory can't be locked for Config.SpoolDir, each call that is counted is written", "error", err)
	}
	syncDir(s.dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes += int64(size)
	if size == segmentSize {
		s.spare = append(s.spare, g)
		return nil
	}
	// For one large record: it goes first.
	s.wanted = 0
	if s.active != nil {
		s.filled = append(s.filled, s.active)
	}
	s.active = g
	return nil
}

// save gives frames to records that are in memory only.
func (s *spool) save() {
	s.mu.Lock()
	unsaved := s.unsaved
	s.unsaved, s.saving = nil, len(unsaved)
	s.mu.Unlock()
	var large []*record
	for i, r := range unsaved {
		err := s.provide()
		if err == nil && s.saveOne(r) {
			continue
		}
		if err == nil && r.properties != nil && s.sizeOf(r) > segmentSize-segmentHeader {
			large = append(large, r) // there may be room for others
			continue
		}
		// No room for it, so for none: keep those that still need it.
		rest := slices.DeleteFunc(append(large, unsaved[i:]...), func(r *record) bool {
			a := r.account
			a.mu.Lock()
			defer a.mu.Unlock()
			return r.settled()
		})
		s.mu.Lock()
		s.unsaved, s.saving = append(rest, s.unsaved...), 0
		s.mu.Unlock()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsaved, s.saving = append(large, s.unsaved...), 0
}

// saveOne reports whether there was room.
func (s *spool) saveOne(r *record) bool {
	a := r.account
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.settled() {
		return true
	}
	r.meter.syncLocked()
	if !s.placeLocked(r) {
		return false
	}
	if r.meter.open == r {
		r.meter.foldsLocked(r)
	}
	r.placedLocked()
	return true
}

// syncAll makes what was counted before survive the machine.
func (s *spool) syncAll(err error) error {
	s.mu.Lock()
	pass := s.pass
	s.pass, s.asked = &syncPass{done: make(chan struct{})}, false
	segments := slices.Clone(s.filled)
	if s.active != nil {
		segments = append(segments, s.active)
	}
	pass.ok = len(s.unsaved) == 0 // a segment that could not be made is missed by these only
	s.mu.Unlock()
	for _, g := range segments {
		if failed := g.sync(); failed != nil {
			err = failed
		}
		if g.broken.Load() {
			pass.ok = false
		}
	}
	close(pass.done)
	return err
}

// durable waits until what was recorded before is on disk, or ctx ends.
func (s *spool) durable(ctx context.Context, done <-chan struct{}) bool {
	for again := false; ; again = true {
		s.mu.Lock()
		pass := s.pass
		s.asked = s.asked || !again
		s.mu.Unlock()
		if !again {
			s.nudge()
		}
		select {
		case <-pass.done:
			if pass.ok {
				return true
			}
		case <-done:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// clean removes segments whose records are settled, and lets go of the memory of
// others.
func (s *spool) clean() {
	s.mu.Lock()
	var gone, quiet []*segment
	s.filled = slices.DeleteFunc(s.filled, func(g *segment) bool {
		if g.live.Load() != 0 {
			return false
		}
		gone = append(gone, g)
		s.bytes -= int64(g.size)
		return true
	})
	for _, g := range s.filled[:max(0, len(s.filled)-mostMapped+1+spareSegments)] {
		if g.folds.Load() == 0 {
			quiet = append(quiet, g)
		}
	}
	s.mu.Unlock()
	for _, g := range gone {
		g.remove()
	}
	for _, g := range quiet {
		g.release()
	}
}

// tell notes whether usage reaches the disk.
func (s *spool) tell(err error) {
	s.mu.Lock()
	waiting := len(s.unsaved)
	broken := slices.ContainsFunc(s.filled, func(g *segment) bool { return g.broken.Load() }) || s.active != nil && s.active.broken.Load()
	s.mu.Unlock()
	bad := err != nil || broken || waiting > 0 && !s.full.Load()
	if was := s.degraded.Swap(bad); was == bad {
		return
	}
	if bad {
		s.log.Error("entitlements: usage is kept in memory only, Config.SpoolDir can't take it", "error", err, "records", waiting)
	} else {
		s.log.Info("entitlements: usage is on disk again")
	}
}
