package entitlements

import (
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The client reads three clocks.
//
// "Coarse" is nanoseconds since New on the monotonic clock, written by one
// goroutine every tick and read by every check: an atomic load instead of the
// 40 ns of time.Now. Ages are judged on it. Whoever is within a margin of a
// boundary asks precise() instead, so that boundaries are exact.
//
// "Backend" is the backend's wall clock in unix nanoseconds, as far as it is
// known: the local clock plus an offset learnt from answers. Expiry and period
// ends are judged on it, because that is the clock they were written by.

// closedTime is what coarse shows once the client is closed. It is past every
// deadline, so that the hot path needs no look at a closed flag: its one
// compare fails, and the slow path finds out why.
const closedTime = math.MaxInt64

type clock struct {
	start time.Time
	tick  time.Duration

	// margin is how near to a boundary the coarse clock is not good enough: a
	// tick, and as much again for a late one.
	margin int64

	coarse  atomic.Int64
	backend atomic.Int64
	offset  atomic.Int64 // backend minus local, 0 while below offsetFloor

	mu      sync.Mutex // guards samples
	samples []int64    // the latest offsets seen, oldest first
}

const (
	// offsetFloor is the offset that counts as none: a Date header has a
	// resolution of one second, and the answer was on its way for a while.
	offsetFloor = int64(2 * time.Second)

	offsetSamples = 15
)

func newClock(ttl time.Duration) *clock {
	tick := min(max(ttl/4, 25*time.Millisecond), 100*time.Millisecond)
	c := &clock{start: time.Now(), tick: tick, margin: int64(2 * tick)}
	c.advance()
	return c
}

// precise is the monotonic time since New. It is never 0, which stands for
// "not yet" elsewhere.
func (c *clock) precise() int64 { return int64(time.Since(c.start)) + 1 }

// backendNow is the backend's clock, read exactly.
func (c *clock) backendNow() int64 { return time.Now().UnixNano() + c.offset.Load() }

// backendNear is the backend's clock, read exactly only when one of the two
// boundaries is too near for the coarse one.
func (c *clock) backendNear(a, b int64) int64 {
	now := c.backend.Load()
	if c.isNear(now, a) || c.isNear(now, b) {
		return c.backendNow()
	}
	return now
}

func (c *clock) isNear(now, boundary int64) bool {
	return boundary != 0 && now > boundary-c.margin && now < boundary+c.margin
}

func (c *clock) advance() {
	c.backend.Store(c.backendNow())
	for now := c.precise(); ; {
		was := c.coarse.Load()
		if was == closedTime || c.coarse.CompareAndSwap(was, now) {
			return
		}
	}
}

// close lets every later look at the coarse clock see closedTime.
func (c *clock) close() { c.coarse.Store(closedTime) }

func (c *clock) closed() bool { return c.coarse.Load() == closedTime }

// run keeps the coarse clocks. Owned by New, ends with ctx.
func (c *clock) run(ctx context.Context) {
	ticker := time.NewTicker(c.tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			c.advance()
		}
	}
}

// observe learns the backend's clock from an answer that arrived between two
// readings of the local wall clock.
func (c *clock) observe(server, sent, received time.Time) {
	if server.IsZero() {
		return
	}
	middle := sent.Add(received.Sub(sent) / 2)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.samples) == offsetSamples {
		c.samples = slices.Delete(c.samples, 0, 1)
	}
	c.samples = append(c.samples, int64(server.Add(resolution(server)/2).Sub(middle)))
	median := medianOf(c.samples)
	if -offsetFloor <= median && median <= offsetFloor {
		median = 0
	}
	if c.offset.Swap(median) != median {
		c.backend.Store(c.backendNow())
	}
}

// medianOf is the lower median, so that of two it takes the earlier clock.
func medianOf(samples []int64) int64 {
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[(len(sorted)-1)/2]
}

// resolution is what a reading of a backend's clock may be short by. A reading
// of whole seconds comes from a header that can say no more.
func resolution(t time.Time) time.Duration {
	switch ns := t.Nanosecond(); {
	case ns == 0:
		return time.Second
	case ns%int(time.Millisecond) == 0:
		return time.Millisecond
	default:
		return 0
	}
}

// nanos is a wall clock time as unix nanoseconds, with 0 for the zero time. What
// int64 cannot hold (before 1678, after 2262) becomes its first or last moment.
func nanos(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.Year() < 1678:
		return math.MinInt64
	case t.Year() >= 2262:
		return math.MaxInt64
	}
	if n := t.UnixNano(); n != 0 {
		return n
	}
	return 1
}

// fromNanos is the inverse of nanos, in UTC.
func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
