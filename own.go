package entitlements

import (
	"slices"
	"unsafe"
)

// own is a customer's part of a snapshot. Immutable.
//
// Most of it is not its own at all: the customers of one batch were fetched at one
// moment, and many are billed for the same period. So what figures have in common
// is in a reading, which customers share, and only what was used is here.
type own struct {
	plan    *plan
	version string
	reading *reading
	used    *int64 // the first of them, by grant.own, when the reading has one figure for all
}

// newOwn makes room for what n figures have of their own, where they are few in
// one piece with the rest.
func newOwn(n int) *own {
	switch n {
	case 1:
		o := new(struct {
			own
			used [1]int64
		})
		o.own.used = &o.used[0]
		return &o.own
	case 2, 3:
		o := new(struct {
			own
			used [3]int64
		})
		o.own.used = &o.used[0]
		return &o.own
	default:
		return &own{used: unsafe.SliceData(make([]int64, n))}
	}
}

// useds is what was used of each, empty when the reading has whole figures.
func (o *own) useds() []int64 {
	if o.used == nil {
		return nil
	}
	return unsafe.Slice(o.used, o.plan.dated)
}

// reading is when and how a backend read what it told. Immutable.
type reading struct {
	asOf       int64    // backend
	serverTime int64    // backend
	all        figure   // of each, but for what is used
	each       []figure // instead, when they differ in more: by grant.own
}

// packOwn packs figures, by grant.own, which it does not keep. It shares the last
// reading when that says the same.
func packOwn(p *plan, version string, asOf, serverTime int64, figures []figure, last *reading) *own {
	r := reading{asOf: asOf, serverTime: serverTime}
	var o *own
	switch {
	case !alike(figures):
		o = new(own)
		r.each = slices.Clone(figures)
	case len(figures) == 0:
		o = new(own)
	default:
		o = newOwn(len(figures))
		r.all = figures[0]
		r.all.used = 0
	}
	o.plan, o.version = p, version
	used := o.useds()
	for i := range used {
		used[i] = figures[i].used
	}
	if last != nil && last.says(&r) {
		o.reading = last
	} else {
		kept := r // a copy, so that one that is shared is not made on the heap first
		o.reading = &kept
	}
	return o
}

// says reports whether a reading is the same as another.
func (r *reading) says(other *reading) bool {
	return r.asOf == other.asOf && r.serverTime == other.serverTime && r.all == other.all && r.each == nil && other.each == nil
}

// alike reports whether figures differ in what is used only.
func alike(figures []figure) bool {
	for i := range figures {
		f := figures[i]
		if f.used = figures[0].used; f != figures[0] {
			return false
		}
	}
	return true
}

// figure is that of a grant that has a part of the customer's own.
func (o *own) figure(g *grant) figure {
	if r := o.reading; r.each != nil {
		return r.each[g.own]
	}
	f := o.reading.all
	f.used = o.useds()[g.own]
	return f
}

// figures unpacks all of them, into a slice that may be reused.
func (o *own) figures(into []figure) []figure {
	into = append(into[:0], o.reading.each...)
	for _, used := range o.useds() {
		f := o.reading.all
		f.used = used
		into = append(into, f)
	}
	return into
}
