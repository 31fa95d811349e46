package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/bench/workload"
)

// A load is who asks for what, and how often: drawn from a Workload, or recorded.
type load struct {
	customers []string
	features  []string // those that are asked about, then those that are only used
	popular   []int32  // all customers, the one that is asked for most first
	metered   map[int32][]int32
	player    func() player

	index map[string]int32                              // of customers
	plans [workload.Plans]map[string]entitlements.Grant // what customers without usage share
}

// A player tells what happens in each stretch of time, one after the other: the
// next begins where the last has ended.
type player interface {
	play(to time.Duration, ask func(customer, feature int32), use func(customer, feature int32, n int64))
}

// complete fills in what follows from customers and features.
func (l *load) complete() *load {
	l.index = make(map[string]int32, len(l.customers))
	for i, customer := range l.customers {
		l.index[customer] = int32(i)
	}
	for p := range l.plans {
		l.plans[p] = make(map[string]entitlements.Grant, len(l.features))
		for f, code := range l.features {
			l.plans[p][code] = entitlements.Grant{Enabled: workload.Granted(p, f)}
		}
	}
	return l
}

// grants is what a customer has in the billing API: nine in ten features, and a
// quota without a limit of what it is known to use.
func (l *load) grants(customer int32) map[string]entitlements.Grant {
	grants := l.plans[workload.PlanOf(int(customer))]
	if len(l.metered[customer]) == 0 {
		return grants
	}
	grants = maps.Clone(grants)
	for _, f := range l.metered[customer] {
		grants[l.features[f]] = entitlements.Grant{Kind: entitlements.KindMetered, Enabled: true, Limit: entitlements.Unlimited}
	}
	return grants
}

// synthetic makes the load of a Workload.
func synthetic(w Workload) *load {
	l := &load{metered: make(map[int32][]int32)}
	for i := range w.Customers {
		l.customers = append(l.customers, fmt.Sprintf("customer-%07d", i))
		l.popular = append(l.popular, int32(i))
	}
	for i := range w.Features {
		l.features = append(l.features, fmt.Sprintf("feature-%03d", i))
	}
	cells := 0
	if w.Usage > 0 {
		cells = w.Cells
	}
	for i := range cells {
		customer, feature := int32(i%w.Customers), int32(w.Features+i/w.Customers)
		if int(feature) == len(l.features) {
			l.features = append(l.features, fmt.Sprintf("metered-%03d", i/w.Customers))
		}
		l.metered[customer] = append(l.metered[customer], feature)
	}
	// Whoever plays this load draws the same customers: the popular ones are found
	// by counting.
	counts := make([]int, w.Customers)
	next := customersOf(w)
	for range 20 * w.Customers {
		counts[next()]++
	}
	slices.SortStableFunc(l.popular, func(a, b int32) int { return counts[b] - counts[a] })
	l.player = func() player { return &drawn{w: w, next: customersOf(w), rng: rand.New(rand.NewPCG(5, 6))} }
	return l.complete()
}

func customersOf(w Workload) func() int {
	return workload.Customers(rand.New(rand.NewPCG(1, 2)), w.Customers, w.Zipf)
}

// drawn plays a Workload.
type drawn struct {
	w            Workload
	next         func() int
	rng          *rand.Rand
	asked, spent int64
}

func (d *drawn) play(to time.Duration, ask func(customer, feature int32), use func(customer, feature int32, n int64)) {
	for ; d.asked < int64(d.w.Checks*to.Seconds()); d.asked++ {
		ask(int32(d.next()), int32(d.rng.IntN(d.w.Features)))
	}
	for ; d.spent < int64(d.w.Usage*to.Seconds()); d.spent++ {
		cell := d.rng.IntN(d.w.Cells)
		use(int32(cell%d.w.Customers), int32(d.w.Features+cell/d.w.Customers), 1)
	}
}
