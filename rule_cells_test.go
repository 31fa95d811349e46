package entitlements_test

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
)

// honest is a backend that keeps nothing for itself: what it was given it tells.
type honest struct {
	mu     sync.Mutex // guards the fields below
	used   map[string]int64
	grants []string // the features that the plan has
}

func (h *honest) Fetch(_ context.Context, customer string) (*Entitlements, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := &Entitlements{Customer: customer, Plan: "p", Features: make(map[string]Grant)}
	for _, code := range h.grants {
		e.Features[code] = Grant{Kind: KindMetered, Enabled: true, Limit: Unlimited, Used: h.used[code]}
	}
	return e, nil
}

func (h *honest) Deliver(_ context.Context, batch Batch) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range batch.Usage {
		h.used[batch.Usage[i].Feature] += batch.Usage[i].Quantity
	}
	return nil
}

func (h *honest) grant(codes ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.grants = codes
}

// A customer that uses a hundred features, half of which no plan has at first,
// while records are sealed and delivered, plans change, and checks look on: every
// call arrives once, and no check ever sees less than was counted before it.
func TestRule15_OneCustomerUsesVeryManyFeatures(t *testing.T) {
	synctest.Test(t, testOneCustomerUsesVeryManyFeatures)
}

func testOneCustomerUsesVeryManyFeatures(t *testing.T) {
	codes := make([]string, 100)
	for i := range codes {
		codes[i] = fmt.Sprintf("feature-with-a-long-name-%02d", i)
	}
	backend := &honest{used: make(map[string]int64)}
	backend.grant(codes[:50]...)
	c := usageClient(t, Config{Source: backend, Sink: backend})
	loaded(t, c, "acme")

	const writers, laps = 2, 400
	counted := make([]atomic.Int64, len(codes)) // calls of Track that have returned
	var writing, others sync.WaitGroup
	stop := make(chan struct{})
	for range writers {
		writing.Go(func() {
			for lap := range laps {
				if lap == laps/2 {
					backend.grant(codes...)
					c.Invalidate("acme")
				}
				for i, code := range codes {
					c.Track("acme", code, int64(i))
					counted[i].Add(1)
				}
			}
		})
	}
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = c.Flush(context.Background())
			}
		}
	})
	missed := make([]string, 2)
	for r := range missed {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for i, code := range codes {
					least := counted[i].Load() * int64(i)
					d := c.Decide("acme", code)
					if d.Reason == ReasonGranted && d.Used < least {
						missed[r] = fmt.Sprintf("%s: %d, although %d were counted", code, d.Used, least)
						return
					}
				}
			}
		})
	}
	writing.Wait()
	close(stop)
	others.Wait()
	require.Equal(t, []string{"", ""}, missed)
	require.NoError(t, c.Flush(t.Context()))
	s := requireBalancedUsage(t, c)
	require.EqualValues(t, writers*laps*len(codes), s.Delivered)
	for i, code := range codes {
		require.EqualValues(t, writers*laps*i, backend.used[code], code)
	}
	time.Sleep(time.Second) // from here on an answer has all that was acknowledged, for certain
	c.Invalidate("acme")
	_, err := c.Load(t.Context(), "acme")
	require.NoError(t, err)
	for i, code := range codes {
		require.EqualValues(t, writers*laps*i, c.Decide("acme", code).Used, code)
	}
}

// What a slot takes in place of a meter is little: where sums or counts grow
// large, the meter takes over and nothing is lost.
func TestRule15_LargeQuantitiesOfManyFeatures(t *testing.T) {
	backend := &honest{used: make(map[string]int64)}
	c := usageClient(t, Config{Source: backend, Sink: backend})
	loaded(t, c, "acme")
	want := make(map[string]int64)
	for i := range 8 {
		code := fmt.Sprint("f", i)
		for lap := range 100 {
			n := int64(1) << (8 * i % 60) // up to 2^56
			if lap%3 == 2 {
				n = -n
			}
			c.Track("acme", code, n)
			want[code] += n
		}
	}
	require.NoError(t, c.Flush(t.Context()))
	require.Equal(t, want, backend.used)
	requireBalancedUsage(t, c)
}

// A large step goes past the slot. What the slot takes after that must not push the
// sum over its end: a quota would open.
func TestRule03_AQuotaStaysShutAtTheEndOfTheRange(t *testing.T) {
	for _, code := range []string{"first", "second"} {
		t.Run(code, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				backend := &honest{used: make(map[string]int64)}
				backend.grant("first", "second")
				c := usageClient(t, Config{Source: backend, Sink: backend, FlushInterval: 30 * time.Second})
				loaded(t, c, "acme")
				c.Track("acme", "first", 1)
				c.Track("acme", code, 1)
				c.Track("acme", code, math.MaxInt64-10)
				c.Track("acme", code, 1000)
				for range 2 {
					require.Equal(t, int64(math.MaxInt64), c.Decide("acme", code).Used)
					requireBalancedUsage(t, c) // looks at every record, which absorbs what slots have
				}
			})
		})
	}
}
