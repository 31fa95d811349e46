package main

import "time"

// A budget keeps a search within its time: each run gets its share of what is
// left, and how much simulated time that is, is learnt from the runs before it.
type budget struct {
	whole     time.Duration
	deadline  time.Time
	fixed     time.Duration // of a run: what filling the cache takes
	perSecond time.Duration // of simulated time
	room      float64       // how much of its full span a run gets, at most 1
}

const (
	leastSettle = 2 * time.Second // until the billing API limits as it always will
	leastWindow = 6 * time.Second // in which one burst is told from too many requests
	usualWindow = 30 * time.Second
)

func newBudget(whole time.Duration) *budget {
	return &budget{whole: whole, deadline: time.Now().Add(whole)}
}

// full is how long a run should last in simulated time: a TTL, in which all that is
// cached is loaded again, after a while in which the billing API limits already.
func full(c Candidate) span { return span{max(c.TTL/4, leastSettle), max(c.TTL, usualWindow)} }

// next is how long the next run lasts: full, or in the same proportion what there
// is time for. left is how many runs there are to come, this one among them.
func (b *budget) next(c Candidate, left int) span {
	share := time.Until(b.deadline)
	if left > 1 {
		// The last one is what is promised: it gets what it needs, within reason.
		share = (share - min(b.takes(full(c)), b.whole/4)) / time.Duration(left-1)
	}
	if b.room == 0 {
		share = max(share, b.whole/8) // the first: all others are compared with it
	}
	room := float64(share-b.fixed) / float64(max(1, b.takes(full(c))-b.fixed))
	// Runs are compared, so they last equally long where that can be: what one run
	// took more or less than the one before it changes nothing.
	if left == 1 || room < 0.8*b.room || room > 1.5*b.room {
		b.room = min(1, max(0, room))
	}
	return full(c).part(b.room).wholeFlushes(c)
}

// takes is how long a run is thought to take.
func (b *budget) takes(sp span) time.Duration {
	return b.fixed + time.Duration(sp.length().Seconds()*float64(b.perSecond))
}

// part is a span in proportion, in whole seconds. No part is too short to say
// anything.
func (s span) part(of float64) span {
	cut := func(d, least time.Duration) time.Duration {
		return max(least, time.Duration(float64(d)*of).Truncate(time.Second))
	}
	return span{cut(s.settle, leastSettle), cut(s.window, leastWindow)}
}

// wholeFlushes lengthens a window: half a flush would be a request too many, or
// too few.
func (s span) wholeFlushes(c Candidate) span {
	if over := s.window % c.FlushInterval; over > 0 {
		s.window += c.FlushInterval - over
	}
	return s
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
