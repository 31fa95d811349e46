package entitlements

import (
	"math"
	"math/big"
	"math/bits"
	"strconv"
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
	shares []share // ascending
	clock  *clock
	calls  *callbacks
	tell   func(UsageLevel)
	most   int // cells that are remembered

	mu   sync.Mutex // guards told
	told map[cellKey]told
}

// cellKey is a feature of a customer.
type cellKey struct{ customer, feature string }

// told is how many levels of a period have been told.
type told struct {
	begins, ends int64 // backend; 0 = unknown, or never
	levels       int
}

// samePeriod compares what is known of two periods. Both were the present one
// when they were looked at, so where nothing can be compared they are the same.
func (t told) samePeriod(other told) bool {
	switch {
	case t.begins != 0 && other.begins != 0:
		return t.begins == other.begins
	case t.ends != 0 && other.begins >= t.ends, other.ends != 0 && t.begins >= other.ends:
		return false
	case t.ends != 0 && other.ends != 0:
		return t.ends == other.ends
	}
	return true
}

// maxWarnings bounds the levels that wait for a slow callback.
const maxWarnings = 1024

func newLevels(cfg *Config, clock *clock, calls *callbacks) *levels {
	if cfg.OnUsage == nil {
		return nil
	}
	return &levels{
		shares: sharesOf(cfg.UsageLevels), clock: clock, calls: calls, tell: cfg.OnUsage,
		most: max(1024, cfg.MaxCustomers), told: make(map[cellKey]told),
	}
}

// crossed reports whether a step of a view reached a level of a grant's limit.
func (l *levels) crossed(g *grant, was, is int64) bool {
	if l == nil || g == nil {
		return false
	}
	for _, s := range l.shares {
		if at := s.of(g.quota()); was < at && at <= is {
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
		f := o.figure(g)
		r := f.read(now)
		if a := e.account.Load(); a != nil {
			if m := a.meter(g.code); m != nil {
				r = m.read(now)
			}
		}
		var d Decision
		d.judge(g, r, now, 0)
		l.reached(cellKey{e.key, g.code}, &f, &d, now)
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
	d.judge(g, m.read(now), now, 0)
	l.reached(cellKey{a.customer(), m.feature}, &f, &d, now)
}

// share is a level as a fraction: 0.55 of 100 is 55, which no product of floats
// is.
type share struct {
	level    float64
	num, den uint64
}

func sharesOf(levels []float64) (shares []share) {
	for _, level := range levels {
		s := share{level: level, num: math.MaxUint64, den: 1} // of a number without end
		r, ok := new(big.Rat).SetString(strconv.FormatFloat(level, 'g', -1, 64))
		switch {
		case ok && r.Num().IsUint64() && r.Denom().IsUint64():
			s.num, s.den = r.Num().Uint64(), r.Denom().Uint64()
		case level < 1: // of a number with too many digits
			s.den = 1e18
			s.num = uint64(level * 1e18)
		}
		shares = append(shares, s)
	}
	return shares
}

// of is the lowest view that is this share of a limit.
func (s share) of(limit int64) int64 {
	if limit <= 0 || limit == Unlimited {
		return math.MaxInt64
	}
	hi, lo := bits.Mul64(s.num, uint64(limit))
	if hi >= s.den {
		return math.MaxInt64
	}
	at, more := bits.Div64(hi, lo, s.den)
	if more > 0 {
		at++
	}
	return int64(min(max(1, at), math.MaxInt64))
}

// reached tells of the levels that the view has reached and that have not been
// told of in the figure's period, lowest first.
func (l *levels) reached(at cellKey, f *figure, d *Decision, now int64) {
	if d.Kind != KindMetered || d.Limit <= 0 || d.Limit == Unlimited || d.Reason == ReasonNotGranted || d.Reason == ReasonExpired {
		return
	}
	n := 0
	for n < len(l.shares) && d.Used >= l.shares[n].of(d.Limit) {
		n++
	}
	if n == 0 {
		return
	}
	is := told{begins: f.start, ends: f.resets}
	if f.start == 0 {
		is.begins = f.floor
	}
	if f.resets != 0 && now >= f.resets {
		is.begins, is.ends = f.resets, 0
	}
	l.mu.Lock()
	was := l.told[at]
	if !was.samePeriod(is) {
		was = told{}
	}
	if is.begins == 0 {
		is.begins = was.begins
	}
	if is.ends == 0 {
		is.ends = was.ends
	}
	is.levels = max(n, was.levels)
	if is != was {
		at.customer = strings.Clone(at.customer)
		l.rememberLocked(at, is, now)
	}
	// Queued under the lock, so that a lower level is told before a higher one.
	dropped := 0
	for _, s := range l.shares[was.levels:is.levels] {
		u := UsageLevel{Customer: at.customer, Feature: at.feature, Level: s.level, Used: d.Used, Limit: d.Limit, ResetsAt: d.ResetsAt}
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
func (l *levels) rememberLocked(at cellKey, t told, now int64) {
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
