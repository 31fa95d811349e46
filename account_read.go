package entitlements

// beginMoveLocked begins a move of more than one number, of which readers see all
// or nothing. It reports false within another move, which this is then part of.
func (a *account) beginMoveLocked() bool {
	if a.moves.Load()&1 != 0 {
		return false
	}
	a.moves.Add(1)
	return true
}

func (a *account) endMoveLocked(begun bool) {
	if begun {
		a.moves.Add(1)
	}
}

// readWhole calls f until what it has read is of one moment: nobody moved anything
// in between when moves is even, and the same before and after. For a writer that
// is interrupted in the middle it waits as every other writer does.
func (a *account) readWhole(f func()) {
	for range 64 {
		before := a.moves.Load()
		f()
		if before&1 == 0 && a.moves.Load() == before {
			return
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

// read is the local view of a metered feature, and the moment that it was judged
// at: what is used and what is held. It reports false when no figure is known.
func (a *account) read(feature string, features *featureIndex, clock *clock) (r meterRead, now int64, known bool) {
	a.readWhole(func() { r, now, known = a.readOnce(feature, features, clock) })
	return r, now, known
}

func (a *account) readOnce(feature string, features *featureIndex, clock *clock) (r meterRead, now int64, known bool) {
	if m := a.meter(feature); m != nil {
		v := m.view.Load()
		if !v.known() {
			return r, 0, false
		}
		now = clock.backendNear(v.expires.Load(), v.resets)
		return v.read(now), now, true
	}
	f, known := a.entry.Load().figureOf(feature)
	if !known || a.places.Load() == 0 {
		return r, 0, false
	}
	now = clock.backendNear(f.expires, f.resets)
	r = f.read(now)
	units, counted := a.missing(features.find(feature), &f, int64(clock.tick))
	if f.resets == 0 || now < f.resets {
		r.used = saturate(r.used, units)
	}
	return r, now, counted
}

// read is the local view at a moment on the backend's clock, for who holds no lock.
func (m *meter) read(now int64) (r meterRead) {
	m.account.readWhole(func() { r = m.view.Load().read(now) })
	return r
}
