package chaos_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
)

// While every request hangs, calls without a context return: none of them waits
// for a request, or for a lock that is held during one. Requests time out, but
// none does before all calls have returned.
func TestNothingWaitsForAHangingRequest(t *testing.T) {
	for i, a := range apis {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			hang(t, a, rand.New(rand.NewPCG(*from, uint64(i))))
		})
	}
}

func hang(t *testing.T, a api, rng *rand.Rand) {
	const long = 2 * time.Minute
	begun, ended := make(chan string, 100), atomic.Int64{}
	watch := func(next http.RoundTripper) http.RoundTripper {
		return paylera.RoundTripperFunc(func(r *http.Request) (*http.Response, error) {
			defer ended.Add(1)
			select {
			case begun <- paylera.Endpoint(r.Context()):
			default: // nobody waits for so many
			}
			return next.RoundTrip(r)
		})
	}
	s := newService(t, a, newCustomers(rng, 3), true,
		paylera.Config{Timeout: long, Interceptors: []paylera.Interceptor{watch}},
		entitlements.Config{FetchTimeout: long, FlushTimeout: long, FlushInterval: 20 * time.Millisecond})
	for len(begun) > 0 {
		<-begun
	}
	p := &program{t: t, client: s.client, cached: true}

	s.network.change(halfOpen, true)
	s.transport.CloseIdleConnections()
	ended.Store(0)
	for _, c := range s.customers {
		p.track(c.events, 1)
		s.client.Invalidate(c.key)
	}
	hanging := make(map[string]bool)
	for len(hanging) < 2 { // a load and a delivery
		select {
		case endpoint := <-begun:
			hanging[endpoint] = true
		case <-time.After(time.Minute):
			require.Fail(t, "no request was made", "%v", hanging)
		}
	}
	var wg sync.WaitGroup
	for g := range 4 {
		mine := rand.New(rand.NewPCG(rng.Uint64(), 0))
		wg.Go(func() {
			for i := range 500 {
				c := s.customers[mine.IntN(len(s.customers))]
				p.use(c.calls, 1)
				p.use(c.tokens, 1)
				p.track(c.events, 1)
				p.check(c)
				if i%20 == 0 {
					p.record(c.jobs, 1, mine) // each of them is a request later
				}
				p.call(func() { s.client.Invalidate(c.key) })
				cold := fmt.Sprintf("cold-%d-%d", g, i)
				p.call(func() { assert.False(t, s.client.Use(cold, "calls", 1).Allowed) })
				p.call(func() { assert.False(t, s.client.Allowed(cold, "export")) })
				if i%100 == 0 {
					p.call(func() { s.client.InvalidateAll() })
					p.call(func() { s.client.Stats() })
					p.call(func() { s.client.Health() })
				}
			}
		})
	}
	wg.Wait()
	require.Zero(t, ended.Load(), "requests that ended meanwhile")
	t.Logf("%d calls, the longest %v", p.made.Load(), time.Duration(p.longest.Load()))

	s.network.change(fair, true)
	require.NoError(t, s.client.Flush(within(t, time.Minute)))
	s.requireBilled(t)
	requireAccounted(t, s.client, p.recorded.Load())
}
