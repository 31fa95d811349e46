package entitlements

// rescue gives the records of segments that can't be written any more a place in
// another: what is in a broken one is as durable as the system's memory, no more.
// They keep their IDs, so that one which is read from both is known by the Sink.
func (b *batcher) rescue() {
	if !b.spool.hurt() {
		return
	}
	b.mu.Lock()
	records, _ := b.waitingLocked()
	b.mu.Unlock()
	for _, r := range records {
		if !b.spool.move(r) {
			return // the loop makes room; then it goes on
		}
	}
}

// hurt reports whether there are records in a segment that is broken.
func (s *spool) hurt() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active != nil && s.active.broken.Load() {
		return true
	}
	for _, g := range s.filled {
		if g.broken.Load() && g.live.Load() > 0 {
			return true
		}
	}
	return false
}

// move reports false when there is no room.
func (s *spool) move(r *record) bool {
	m := r.meter
	m.account.mu.Lock()
	defer m.account.mu.Unlock()
	was, at := r.segment, r.at
	if r.settled() || was == nil || !was.broken.Load() {
		return true
	}
	m.syncLocked()
	if !s.placeLocked(r) {
		r.segment, r.at = was, at
		s.nudge()
		return false
	}
	if m.open == r {
		was.rest()
		m.foldsLocked(r)
	}
	r.placedLocked()
	if was.live.Add(-1) == 0 {
		s.nudge()
	}
	return true
}
