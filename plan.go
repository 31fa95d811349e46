package entitlements

import (
	"maps"
	"slices"
	"sync"
	"unique"
	"weak"
)

// A plan is the part of a snapshot that customers share: the grants without
// usage, periods and expiry. Customers whose content is equal share one plan,
// whatever the backend calls it, so that a customer costs its key and its clock
// and the grants stay in the processor's cache. Immutable.
type plan struct {
	name   string
	hash   uint64
	dated  int // grants that have a part of the customer's own
	grants []grant

	// slots is an open-addressed hash table of the grants, at most half full, and
	// codes are their codes. Both are small, so that the hot path of all plans
	// together fits in the nearest cache; the grants need not.
	slots []slot
	codes []string
}

// slot is a place in the hash table: 0 when it is empty, else the high half of
// the code's hash, two flags, and the grant's index plus one.
type slot uint64

const (
	slotFixed   slot = 1 << 30 // nothing but slotEnabled decides, at any time: not metered, never expires
	slotEnabled slot = 1 << 31
	slotIndex   slot = slotFixed - 1
)

// grant is one feature of a plan.
type grant struct {
	code    string
	limit   int64
	text    string
	own     int32 // index into own.figures, -1 without a part of the customer's own
	kind    Kind
	enabled bool
	soft    bool
	denied  *denialCounts
}

// find returns the slot of a feature, 0 when the plan does not have it.
func (p *plan) find(hash uint64, code string) slot {
	mask := uint64(len(p.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		s := p.slots[i]
		if s == 0 || uint64(s)>>32 == hash>>32 && p.codes[s&slotIndex-1] == code {
			return s
		}
	}
}

// grant is what a slot stands for, nil for an empty one.
func (p *plan) grant(s slot) *grant {
	if s == 0 {
		return nil
	}
	return &p.grants[s&slotIndex-1]
}

// look is find for those who need the whole grant; nil when there is none.
func (p *plan) look(code string) *grant { return p.grant(p.find(hashOf(code), code)) }

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

func newPlan(e *Entitlements, hash uint64, denied *denials) *plan {
	size := 4
	for size < 2*len(e.Features) {
		size *= 2
	}
	p := &plan{name: e.Plan, hash: hash, grants: make([]grant, 0, len(e.Features)), slots: make([]slot, size)}
	for _, code := range slices.Sorted(maps.Keys(e.Features)) {
		g := e.Features[code]
		dated := isDated(&g)
		own := int32(-1)
		if dated {
			own = int32(p.dated)
			p.dated++
		}
		p.codes = append(p.codes, intern(code))
		p.grants = append(p.grants, grant{
			code: intern(code), limit: g.Limit, text: g.Text, own: own,
			kind: g.Kind, enabled: g.Enabled, soft: g.Soft, denied: denied.of(code),
		})
		h := hashOf(code)
		i := h & uint64(size-1)
		for p.slots[i] != 0 {
			i = (i + 1) & uint64(size-1)
		}
		p.slots[i] = slot(h>>32<<32) | slot(len(p.grants))
		if !dated {
			p.slots[i] |= slotFixed
		}
		if g.Enabled {
			p.slots[i] |= slotEnabled
		}
	}
	return p
}

// intern returns the one copy of a feature code that all plans and Features use,
// so that comparing two of them is mostly comparing a pointer with itself.
func intern(code string) string { return unique.Make(code).Value() }

// planHash is equal for equal content, in whatever order a map yields it.
func planHash(e *Entitlements) uint64 {
	const odd = 0x9e3779b97f4a7c15
	sum := hashOf(e.Plan)
	for code, g := range e.Features {
		h := hashOf(code)*odd ^ uint64(g.Limit)
		flags := uint64(g.Kind) << 3
		for i, set := range [...]bool{g.Enabled, g.Soft, isDated(&g)} {
			if set {
				flags |= 1 << i
			}
		}
		h = (h^h>>29)*odd ^ flags
		if g.Text != "" {
			h ^= hashOf(g.Text)
		}
		sum += (h ^ h>>32) * odd
	}
	return sum
}

// plans interns plans. It holds them weakly: a plan that no customer has any
// more is collected, and its place is swept once the table has doubled.
type plans struct {
	denied *denials

	mu     sync.Mutex // guards the fields below
	byHash map[uint64]weak.Pointer[plan]
	sweep  int
}

func newPlans(denied *denials) *plans {
	return &plans{denied: denied, byHash: make(map[uint64]weak.Pointer[plan]), sweep: 64}
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
	p := newPlan(e, hash, ps.denied)
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

// figures is the customer's own part of e for the grants of p, fetched between
// two precise times with this horizon.
func (p *plan) figures(e *Entitlements, fetched, received, horizon int64) []figure {
	if p.dated == 0 {
		return nil
	}
	out := make([]figure, p.dated)
	for i := range p.grants {
		if at := p.grants[i].own; at >= 0 {
			g := e.Features[p.grants[i].code]
			start := nanos(g.PeriodStart)
			out[at] = figure{
				used: g.Used, start: start, floor: start, resets: nanos(g.ResetsAt), expires: nanos(g.ExpiresAt),
				fetched: fetched, received: received, horizon: horizon,
			}
		}
	}
	return out
}
