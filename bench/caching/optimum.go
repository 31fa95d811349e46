package caching

import "container/heap"

// Optimum is the hit ratio that no cache of this capacity can beat, be it told
// the whole trace in advance: Belady's MIN, with the right to pass a customer by.
//
// A customer who was asked about is kept if the next question about it comes
// sooner than that about one who is kept: then the one whose next question is the
// furthest away goes. By an exchange argument nothing does better: of two
// customers one place can serve, and the nearer question frees it earlier.
//
// The warm part of a trace is worth nothing to an optimum for the rest: all that
// it can do is to bring customers in. So it stands for one question about each of
// them, and which of these stay is decided by the same rule.
func Optimum(t Trace, capacity int) float64 {
	accesses := make([]int32, 0, len(t.Accesses))
	customers := int32(0)
	for _, customer := range t.Accesses {
		customers = max(customers, customer+1)
	}
	seen := make([]bool, customers)
	for _, customer := range t.Accesses[:t.Warm] {
		if !seen[customer] {
			seen[customer] = true
			accesses = append(accesses, customer)
		}
	}
	warm := len(accesses)
	accesses = append(accesses, t.Accesses[t.Warm:]...)
	next := nextUses(accesses, int(customers))

	// Kept customers are in the heap by their next use, which is theirs alone. When
	// that comes, the customer leaves it in spirit: a use in the past lies below all
	// others and is never at the top while anybody is kept.
	var uses furthest
	kept, held, hits := make([]bool, customers), 0, 0
	for i, customer := range accesses {
		if kept[customer] {
			kept[customer] = false
			held--
			if i >= warm {
				hits++
			}
		}
		if next[i] == len(accesses) {
			continue
		}
		if held == capacity {
			if uses[0] < next[i] {
				continue
			}
			kept[accesses[heap.Pop(&uses).(int)]] = false
			held--
		}
		heap.Push(&uses, next[i])
		kept[customer] = true
		held++
	}
	return float64(hits) / float64(len(accesses)-warm)
}

// nextUses is for each access when the same customer is asked about again:
// len(accesses) for never.
func nextUses(accesses []int32, customers int) []int {
	next, later := make([]int, len(accesses)), make([]int, customers)
	for customer := range later {
		later[customer] = len(accesses)
	}
	for i := len(accesses) - 1; i >= 0; i-- {
		next[i], later[accesses[i]] = later[accesses[i]], i
	}
	return next
}

// furthest is a heap of uses, the furthest on top.
type furthest []int

func (f furthest) Len() int           { return len(f) }
func (f furthest) Less(i, j int) bool { return f[i] > f[j] }
func (f furthest) Swap(i, j int)      { f[i], f[j] = f[j], f[i] }
func (f *furthest) Push(use any)      { *f = append(*f, use.(int)) }

func (f *furthest) Pop() any {
	last := len(*f) - 1
	use := (*f)[last]
	*f = (*f)[:last]
	return use
}
