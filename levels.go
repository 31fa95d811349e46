package entitlements

import (
	"math"
	"strings"
	"sync"
	"time"
)

// UsageLevel says that a customer has used a share of a metered feature's Limit.
type UsageLevel struct {
	Customer, Feature string
	Level             float64 // of [Config.UsageLevels]: 0.8 is 80 % of Limit
	Used, Limit       int64   // the local view, and what it was compared with
	ResetsAt          time.Time
}

// levels watches the local views for [Config.OnUsage]: each call whether its step
// reaches a level, and each load what others have used. What was told is
// remembered apart from meters and cache, which forget. A nil levels watches
// nothing.
type levels struct {
	shares []float64 // ascending
	clock  *clock
	calls  *callbacks
	tell   func(UsageLevel)
	most   int // cells that are remembered

	mu   sync.Mutex // guards told
	told map[cell]told
}

// cell is a feature of a customer.
type cell struct{ customer, feature string }

// told is how many levels of a period have been told.
type told struct {
	period int64 // backend: when it began, as far as is known
	ends   int64 // backend; 0 = never, or unknown
	levels int
}

// maxWarnings bounds the levels that wait for a slow callback.
const maxWarnings = 1024

func newLevels(cfg *Config, clock *clock, calls *callbacks) *levels {
	if cfg.OnUsage == nil {
		return nil
	}
	return &levels{
		shares: cfg.UsageLevels, clock: clock, calls: calls, tell: cfg.OnUsage,
		most: max(1024, cfg.MaxCustomers), told: make(map[cell]told),
	}
}

// crossed reports whether a step of a view reached a level of a grant's limit.
func (l *levels) crossed(g *grant, was, is int64) bool {
	if l == nil || g == nil {
		return false
	}
	for _, share := range l.shares {
		if at := viewAt(share, g.quota()); was < at && at <= is {
			return true
		}
	}
	return false
}

// landed looks at what a load brought: others may have used the rest.
func (l *levels) landed(e *entry) {
	if l == nil || e == nil {
		return
	}
	p, o := e.content()
	if o == nil {
		return
	}
	now := l.clock.backendNow()
	for i := range p.grants {
		g := &p.grants[i]
		if g.kind != KindMetered {
			continue
		}
		f := &o.figures[g.own]
		r := f.read(now)
		if a := e.account.Load(); a != nil {
			if m := a.meter(g.code); m != nil {
				r = m.view.Load().read(now)
			}
		}
		var d Decision
		d.judge(g, r, now, 0)
		l.reached(cell{e.key(), g.code}, f, &d, now)
	}
}

// look tells what the view of a meter has reached.
func (l *levels) look(m *meter) {
	a := m.account
	a.mu.Lock()
	f, g := m.figure, m.grant
	a.mu.Unlock()
	if g == nil {
		return
	}
	now := l.clock.backendNow()
	var d Decision
	d.judge(g, m.view.Load().read(now), now, 0)
	l.reached(cell{a.customer(), m.feature}, &f, &d, now)
}

// viewAt is the lowest view that is this share of the limit.
func viewAt(share float64, limit int64) int64 {
	if limit == Unlimited {
		return math.MaxInt64
	}
	// 0.55 × 100 is a little more than 55.
	at := math.Ceil(share * float64(limit) * (1 - 1e-12))
	if at >= math.MaxInt64 {
		return math.MaxInt64
	}
	return max(1, int64(at))
}

// reached tells of the levels that the view has reached and that have not been
// told of in the figure's period, lowest first.
func (l *levels) reached(at cell, f *figure, d *Decision, now int64) {
	if d.Kind != KindMetered || d.Limit <= 0 || d.Reason == ReasonNotGranted || d.Reason == ReasonExpired {
		return
	}
	n := 0
	for n < len(l.shares) && d.Used >= viewAt(l.shares[n], d.Limit) {
		n++
	}
	if n == 0 {
		return
	}
	period, ends := f.start, f.resets
	if period == 0 {
		period = f.floor
	}
	if f.resets != 0 && now >= f.resets {
		period, ends = f.resets, 0
	}
	l.mu.Lock()
	was := l.told[at]
	if was.period != period {
		was.levels = 0
	}
	if n <= was.levels {
		l.mu.Unlock()
		return
	}
	at.customer = strings.Clone(at.customer)
	l.rememberLocked(at, told{period, ends, n}, now)
	// Queued under the lock, so that a lower level is told before a higher one.
	dropped := 0
	for _, share := range l.shares[was.levels:n] {
		u := UsageLevel{Customer: at.customer, Feature: at.feature, Level: share, Used: d.Used, Limit: d.Limit, ResetsAt: d.ResetsAt}
		if _, full := l.calls.queueUp(func() { l.tell(u) }); full {
			dropped++
		}
	}
	l.mu.Unlock()
	if dropped > 0 {
		l.calls.log.Warn("entitlements: Config.OnUsage is too slow, calls of it are dropped")
	}
}

// rememberLocked notes what was told, and makes room for it: first by what is
// over, then by any others.
func (l *levels) rememberLocked(at cell, t told, now int64) {
	if _, known := l.told[at]; !known && len(l.told) >= l.most {
		for other, was := range l.told {
			if was.ends != 0 && now >= was.ends {
				delete(l.told, other)
			}
		}
		for other := range l.told {
			if len(l.told) < l.most-l.most/8 {
				break
			}
			delete(l.told, other)
		}
	}
	l.told[at] = t
}
