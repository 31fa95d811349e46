package entitlements

import (
	"maps"
	"slices"
	"sync"
	"weak"
)

// A plan is the part of a snapshot that customers share: the grants without
// usage, periods and expiry. Customers whose content is equal share one plan,
// whatever the backend calls it, so that a customer costs its key and its clock
// and the grants stay in the processor's cache. Immutable.
type plan struct {
	// What the hot path needs of features by number: the first 64 beside the rest
	// of the plan, those after them in more.
	first verdicts
	more  []verdicts

	name   string
	dated  int // grants that have a part of the customer's own
	grants []grant
	index  *featureIndex

	byNumber []uint32         // index into grants plus one, 0 = not granted
	byCode   map[string]int32 // index into grants, of codes that have no number
}

// verdicts answers for 64 features, a bit each.
type verdicts struct {
	fixed   uint64 // nothing but enabled decides, at any time: not metered, never expires, or not granted
	enabled uint64
	valued  uint64 // there is more to say than yes or no: a number or a text
}

// grant is one feature of a plan.
type grant struct {
	code    string
	limit   int64
	text    string
	own     int32 // index into own.figures, -1 without a part of the customer's own
	kind    Kind
	enabled bool
	soft    bool
}

// verdict says whether the answer about a feature is fixed, and what it is.
func (p *plan) verdict(feature int) (fixed, enabled bool) {
	v := &p.first
	if uint(feature) >= 64 {
		at := uint(feature)/64 - 1
		if at >= uint(len(p.more)) {
			return false, false // no number, or one that is younger than the plan
		}
		v = &p.more[at]
	}
	bit := uint64(1) << (uint(feature) % 64)
	return v.fixed&bit != 0, v.enabled&bit != 0
}

// grant returns what the plan has of a feature, or nil.
func (p *plan) grant(feature int, code string) *grant {
	if uint(feature) < uint(len(p.byNumber)) {
		if i := p.byNumber[feature]; i != 0 {
			return &p.grants[i-1]
		}
		return nil
	}
	if i, ok := p.byCode[code]; ok {
		return &p.grants[i]
	}
	return nil
}

// look is grant for those who have only the code.
func (p *plan) look(code string) *grant { return p.grant(p.index.find(code), code) }

// metered is look for a metered grant. It always has a part of the customer's own.
func (p *plan) metered(code string) *grant {
	if g := p.look(code); g != nil && g.kind == KindMetered {
		return g
	}
	return nil
}

// isDated reports whether a grant has a part that belongs to the customer.
func isDated(g *Grant) bool { return g.Kind == KindMetered || !g.ExpiresAt.IsZero() }

// equals reports whether p is the plan of e.
func (p *plan) equals(e *Entitlements) bool {
	if p.name != e.Plan || len(p.grants) != len(e.Features) {
		return false
	}
	for i := range p.grants {
		g := &p.grants[i]
		other, ok := e.Features[g.code]
		if !ok || g.kind != other.Kind || g.enabled != other.Enabled || g.limit != other.Limit ||
			g.soft != other.Soft || g.text != other.Text || (g.own >= 0) != isDated(&other) {
			return false
		}
	}
	return true
}

func newPlan(e *Entitlements, index *featureIndex) *plan {
	codes := slices.Sorted(maps.Keys(e.Features))
	numbers := index.add(codes)
	p := &plan{
		name: e.Plan, index: index, grants: make([]grant, 0, len(codes)),
		more: make([]verdicts, max(0, (len(numbers.codes)-1)/64)), byNumber: make([]uint32, len(numbers.codes)),
	}
	// What the plan does not have is denied at any time.
	for n := range numbers.codes {
		p.verdictsOf(n).fixed |= 1 << (n % 64)
	}
	for _, code := range codes {
		g := e.Features[code]
		own := int32(-1)
		if isDated(&g) {
			own = int32(p.dated)
			p.dated++
		}
		p.grants = append(p.grants, grant{
			code: intern(code), limit: g.Limit, text: g.Text, own: own,
			kind: g.Kind, enabled: g.Enabled, soft: g.Soft,
		})
		n := numbers.find(code)
		if n == noFeature {
			if p.byCode == nil {
				p.byCode = make(map[string]int32)
			}
			p.byCode[intern(code)] = int32(len(p.grants) - 1)
			continue
		}
		p.byNumber[n] = uint32(len(p.grants))
		bit := uint64(1) << (n % 64)
		if own >= 0 {
			p.verdictsOf(n).fixed &^= bit
		}
		if g.Enabled {
			p.verdictsOf(n).enabled |= bit
		}
		if g.Kind != KindBoolean || g.Text != "" {
			p.verdictsOf(n).valued |= bit
		}
	}
	return p
}

func (p *plan) verdictsOf(number int) *verdicts {
	if uint(number) < 64 {
		return &p.first
	}
	return &p.more[uint(number)/64-1]
}

// planHash is equal for equal content, in whatever order a map yields it.
func planHash(e *Entitlements) uint64 {
	const odd = 0x9e3779b97f4a7c15
	sum := hashOf(e.Plan)
	for code, g := range e.Features {
		flags := uint64(g.Kind) << 3
		for i, set := range [...]bool{g.Enabled, g.Soft, isDated(&g)} {
			if set {
				flags |= 1 << i
			}
		}
		// Sums tell apart only what is scattered: a switch that moved one bit of a term
		// would be undone by another feature's.
		h := fold(hashOf(code)^uint64(g.Limit)*odd, flags^odd)
		if g.Text != "" {
			h = fold(h^odd, hashOf(g.Text))
		}
		sum += h * odd
	}
	return sum
}

// plans interns plans. It holds them weakly: a plan that no customer has any
// more is collected, and its place is swept once the table has doubled.
type plans struct {
	index *featureIndex

	mu     sync.Mutex // guards the fields below
	byHash map[uint64]weak.Pointer[plan]
	sweep  int
}

func newPlans(index *featureIndex) *plans {
	return &plans{index: index, byHash: make(map[uint64]weak.Pointer[plan]), sweep: 64}
}

func (ps *plans) intern(e *Entitlements) *plan {
	hash := planHash(e)
	ps.mu.Lock()
	known := ps.byHash[hash].Value()
	ps.mu.Unlock()
	// Equality is settled outside the lock: it costs a look-up per feature.
	if known != nil && known.equals(e) {
		return known
	}
	p := newPlan(e, ps.index)
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.byHash[hash] = weak.Make(p)
	if len(ps.byHash) > ps.sweep {
		for h, w := range ps.byHash {
			if w.Value() == nil {
				delete(ps.byHash, h)
			}
		}
		ps.sweep = max(64, 2*len(ps.byHash))
	}
	return p
}

// figures appends the customer's own part of e for the grants of p, fetched between
// two precise times with this horizon, and here when the backend's clock shows
// now.
func (p *plan) figures(figures []figure, e *Entitlements, fetched, received, horizon, now int64) []figure {
	for i := range p.grants {
		if p.grants[i].own < 0 {
			continue
		}
		g := e.Features[p.grants[i].code]
		start := nanos(g.PeriodStart)
		figures = append(figures, figure{
			used: g.Used, start: start, floor: min(start, now), resets: nanos(g.ResetsAt), expires: nanos(g.ExpiresAt),
			fetched: fetched, received: received, horizon: horizon,
		})
	}
	return figures
}
