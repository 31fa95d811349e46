package entitlements_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
)

// opened is a Client that is closed when the test, or its bubble, ends: so every
// bubble is also a test that no goroutine is left. Its cache is smaller than the
// default, which takes a while to allocate.
func opened(t testing.TB, cfg Config) *Client {
	t.Helper()
	if cfg.MaxCustomers == 0 {
		cfg.MaxCustomers = 5000
	}
	c, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// grantedX is a customer that has the feature "x" and lacks "y".
func grantedX(customer string) *Entitlements {
	return &Entitlements{Customer: customer, Plan: "plan", Features: map[string]Grant{"x": {Enabled: true}, "y": {}}}
}

// withX is what a scripted Source is given for grantedX.
func withX() map[string]Grant { return grantedX("").Features }

// spy is a Source made of a function. It notes who was asked for and when.
type spy struct {
	answer func(ctx context.Context, customer string) (*Entitlements, error) // nil = grantedX

	mu    sync.Mutex // guards the fields below
	calls []spyCall
	busy  int
	most  int            // calls at once
	each  map[string]int // calls at once by customer
	twice bool           // one customer was asked for twice at once
}

type spyCall struct {
	customer string
	at       time.Time
}

func (s *spy) Fetch(ctx context.Context, customer string) (*Entitlements, error) {
	s.mu.Lock()
	s.calls = append(s.calls, spyCall{customer, time.Now()})
	s.busy++
	s.most = max(s.most, s.busy)
	if s.each == nil {
		s.each = make(map[string]int)
	}
	s.each[customer]++
	s.twice = s.twice || s.each[customer] > 1
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.busy--
		s.each[customer]--
	}()
	if s.answer == nil {
		return grantedX(customer), nil
	}
	return s.answer(ctx, customer)
}

// seen is the calls so far.
func (s *spy) seen() []spyCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]spyCall(nil), s.calls...)
}

func (s *spy) count(customer string) (n int) {
	for _, call := range s.seen() {
		if call.customer == customer {
			n++
		}
	}
	return n
}

// since is the calls that began at or after a moment.
func (s *spy) since(begin time.Time) (calls []spyCall) {
	for _, call := range s.seen() {
		if !call.at.Before(begin) {
			calls = append(calls, call)
		}
	}
	return calls
}

// named names n of them.
func named(prefix string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%06d", prefix, i)
	}
	return names
}

// loaded loads customers one after the other.
func loaded(t testing.TB, c *Client, customers ...string) {
	t.Helper()
	for _, customer := range customers {
		_, err := c.Load(context.Background(), customer)
		require.NoError(t, err)
	}
}

// took is how long f took. In a bubble it is exact.
func took(f func()) time.Duration {
	begin := time.Now()
	f()
	return time.Since(begin)
}

// nap waits, and ends with the context, as a well-behaved backend's client does.
func nap(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
