package main

import "time"

// A budget keeps a search within its time: each run gets its share of what is
// left, and how much simulated time that is, is learnt from the runs before it.
type budget struct {
	deadline  time.Time
	fixed     time.Duration // of a run: what filling the cache takes
	perSecond time.Duration // of simulated time
}

const (
	leastSettle = 5 * time.Second
	leastWindow = 2 * time.Second
	usualWindow = 30 * time.Second
)

func newBudget(whole time.Duration) *budget { return &budget{deadline: time.Now().Add(whole)} }

// next is how long the next run should last in simulated time: a TTL to settle
// and as much to measure, or in the same proportion what there is time for.
// left is how many runs there are to come, this one among them.
func (b *budget) next(c Candidate, left int) span {
	full := span{max(c.TTL, leastSettle), max(c.TTL, usualWindow)}
	share := time.Until(b.deadline) / time.Duration(left)
	room := min(1, float64(share-b.fixed)/float64(max(1, b.perSecond))/full.length().Seconds())
	cut := func(d, least time.Duration) time.Duration {
		return max(least, time.Duration(float64(d)*room).Truncate(time.Second))
	}
	sp := span{cut(full.settle, leastSettle), cut(full.window, leastWindow)}
	// Whole flushes: half of one more would be a request too many, or too few.
	if over := sp.window % c.FlushInterval; over > 0 {
		sp.window += c.FlushInterval - over
	}
	return sp
}

// shortest is the run that tells what runs take.
func shortest() span { return span{leastSettle, leastWindow} }

// ran learns from a run.
func (b *budget) ran(took time.Duration, sp span) {
	seconds := sp.length().Seconds()
	if b.perSecond == 0 {
		// How it divides shows with the next one.
		b.fixed = took / 2
		b.perSecond = time.Duration(float64(took-b.fixed) / seconds)
		return
	}
	b.perSecond = (b.perSecond + max(0, time.Duration(float64(took-b.fixed)/seconds))) / 2
}
