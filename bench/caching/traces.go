package caching

import (
	"math/rand/v2"
	"sort"
)

// A Trace is which customers are asked about, in order.
type Trace struct {
	Name     string
	Accesses []int32 // indexes of customers
	Warm     int     // the first so many fill the cache and are not counted
}

// What the traces are made of, as shares of their customers and accesses.
const (
	warmShare    = 3   // a third of a trace fills the cache
	scanPause    = 2.5 // requests between two scans, in customers
	scanChecks   = 3   // features that a scan asks about for each customer
	shiftSteps   = 10  // how often the popular set moves in a trace
	shiftShare   = 10  // it moves by a tenth of all customers
	liveShare    = 5   // a fifth of all customers is there at once; the rest were or will be
	tracesSeed   = 20
	popularsSeed = 21
)

// Traces makes all traces for this many customers. They are the same each time.
func Traces(customers, accesses int) []Trace {
	traces := []Trace{
		{Name: "Zipf 1.0", Accesses: steady(customers, accesses)},
		{Name: "Zipf 1.0 with scans", Accesses: scanned(customers, accesses)},
		{Name: "shifting set", Accesses: shifting(customers, accesses)},
		{Name: "churn", Accesses: churning(customers, accesses)},
	}
	for i := range traces {
		traces[i].Warm = accesses / warmShare
	}
	return traces
}

// zipf draws ranks, 0 the most popular, by Zipf's law. That of math/rand wants an
// exponent above 1.
type zipf struct {
	rng        *rand.Rand
	cumulative []float64 // weight of the ranks up to and including this one
	popular    []int     // the customer of each rank
}

func newZipf(customers int) *zipf {
	z := &zipf{
		rng:        rand.New(rand.NewPCG(tracesSeed, 1)),
		cumulative: make([]float64, customers),
		popular:    rand.New(rand.NewPCG(popularsSeed, 1)).Perm(customers),
	}
	total := 0.0
	for rank := range z.cumulative {
		total += 1 / float64(rank+1) // to the power of the exponent, which is 1
		z.cumulative[rank] = total
	}
	return z
}

func (z *zipf) rank() int {
	at := z.rng.Float64() * z.cumulative[len(z.cumulative)-1]
	return min(sort.SearchFloat64s(z.cumulative, at), len(z.cumulative)-1)
}

// steady is requests whose popular customers stay the same.
func steady(customers, accesses int) []int32 {
	z, out := newZipf(customers), make([]int32, accesses)
	for i := range out {
		out[i] = int32(z.popular[z.rank()])
	}
	return out
}

// scanned is the same requests, interrupted by a job that goes through all
// customers once, as a nightly one does, and asks about a few features of each.
func scanned(customers, accesses int) []int32 {
	z, out := newZipf(customers), make([]int32, 0, accesses+scanChecks*customers)
	for len(out) < accesses {
		for range int(scanPause * float64(customers)) {
			out = append(out, int32(z.popular[z.rank()]))
		}
		for i := range customers * scanChecks {
			out = append(out, int32(i/scanChecks))
		}
	}
	return out[:accesses]
}

// shifting is requests whose popular customers change all at once, now and then:
// who comes next was rare before, and who goes is rare from then on.
func shifting(customers, accesses int) []int32 {
	z, out := newZipf(customers), make([]int32, accesses)
	for i := range out {
		moved := i * shiftSteps / accesses * (customers / shiftShare)
		out[i] = int32(z.popular[(z.rank()+moved)%customers])
	}
	return out
}

// churning is customers who arrive, are as popular as Zipf's law has it for a
// while, and never return, as trials do. Each arrival takes the place, and the
// popularity, of one who leaves.
func churning(customers, accesses int) []int32 {
	live := max(1, customers/liveShare)
	z, out := newZipf(live), make([]int32, accesses)
	place := make([]int32, live)
	for rank := range place {
		place[rank] = int32(rank)
	}
	arrived := live
	for i := range out {
		for arrived < live+i*(customers-live)/accesses {
			place[z.rng.IntN(live)] = int32(arrived)
			arrived++
		}
		out[i] = place[z.rank()]
	}
	return out
}
