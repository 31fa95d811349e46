package entitlementstest

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// RateLimits are the tenant's limits per second; 0 is none. Reads counts
// requests, [RouteCheck] among them, and Usage counts events. The pages promise
// 1000 and 5000 in production, a tenth of each in the sandbox, and a limit on
// writes, of which there are none here.
type RateLimits struct{ Reads, Usage int }

// rateLimiter counts in fixed windows of a second. (Assumption: the pages name
// rates and a reset time, not the algorithm; with fixed windows X-RateLimit-Reset
// means what it says.)
type rateLimiter struct {
	mu      sync.Mutex // guards the fields below
	limits  RateLimits
	windows [2]rateWindow // reads, usage
}

type rateWindow struct {
	second int64
	used   int
}

// rateState is what the X-RateLimit headers tell; limit 0 is no limit.
type rateState struct {
	limit, remaining int
	reset            time.Time
	refused          bool
	wait             time.Duration
}

func (l *rateLimiter) init(limits RateLimits) { l.limits = limits }

// take takes n of the route's budget, or nothing when that does not fit.
func (l *rateLimiter) take(route Route, n int, now time.Time) rateState {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit, class := l.limits.Reads, 0
	if route.usage() {
		limit, class = l.limits.Usage, 1
	}
	if limit <= 0 {
		return rateState{}
	}
	w := &l.windows[class]
	if second := now.Unix(); w.second != second {
		*w = rateWindow{second: second}
	}
	state := rateState{limit: limit, reset: time.Unix(w.second+1, 0)}
	if w.used+n > limit {
		state.refused, state.wait = true, state.reset.Sub(now)
	} else {
		w.used += n
	}
	state.remaining = limit - w.used
	return state
}

func (s rateState) header(h http.Header) {
	if s.limit == 0 {
		return
	}
	h.Set("X-RateLimit-Limit", strconv.Itoa(s.limit))
	h.Set("X-RateLimit-Remaining", strconv.Itoa(s.remaining))
	h.Set("X-RateLimit-Reset", strconv.FormatInt(s.reset.Unix(), 10))
}

// seconds is a wait as Retry-After tells it: whole seconds, never too short.
func seconds(d time.Duration) string {
	return strconv.Itoa(int(math.Ceil(d.Seconds())))
}

// SetRateLimits changes the limits.
func (b *Billing) SetRateLimits(limits RateLimits) {
	b.limits.mu.Lock()
	defer b.limits.mu.Unlock()
	b.limits.limits = limits
}
