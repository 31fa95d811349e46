package paylera

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// limitClass is one of the API's separate allowances.
//
// Source: docs.paylera.com, /api/rate-limits: reads 1000/s, writes 200/s, usage
// 5000 events/s, a tenth of each in the test environments. Assumption:
// /v1/track counts as usage.
type limitClass uint8

const (
	classRead limitClass = iota
	classUsage

	classCount
)

// usageRate is the stated allowance for usage, in records per second.
const usageRate = 5000

// maxHold bounds how long an answer can stop all requests of its class. The
// allowances are per second; a Reset far away is a clock that is wrong.
const maxHold = time.Minute

// rateGate holds requests back once an answer said that nothing is left: being
// told 429 costs a request each time, and the vendor counts them.
type rateGate struct {
	start  time.Time                // monotonic base of the holds
	closed [classCount]atomic.Int64 // nanoseconds after start until which a class is held
}

func newRateGate() *rateGate { return &rateGate{start: time.Now()} }

// wait reports how long a request of that class has to wait; 0 is not at all.
func (g *rateGate) wait(class limitClass) time.Duration {
	return max(0, time.Duration(g.closed[class].Load())-time.Since(g.start))
}

// observe reads an answer's X-RateLimit headers. Answers overtake each other,
// so that one with something left never shortens a hold.
func (g *rateGate) observe(class limitClass, h http.Header) {
	remaining, err := strconv.ParseInt(strings.TrimSpace(h.Get("X-RateLimit-Remaining")), 10, 64)
	hold, ok := untilReset(h)
	if err != nil || remaining > 0 || !ok {
		return
	}
	until := int64(time.Since(g.start) + min(hold, maxHold))
	for {
		old := g.closed[class].Load()
		if until <= old || g.closed[class].CompareAndSwap(old, until) {
			return
		}
	}
}
