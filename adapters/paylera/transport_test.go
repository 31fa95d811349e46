package paylera_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
)

func TestInterceptors(t *testing.T) {
	var order, endpoints []string
	tag := func(name string) paylera.Interceptor {
		return func(next http.RoundTripper) http.RoundTripper {
			return paylera.RoundTripperFunc(func(r *http.Request) (*http.Response, error) {
				order = append(order, name)
				endpoints = append(endpoints, paylera.Endpoint(r.Context()))
				return next.RoundTrip(r)
			})
		}
	}
	// What a program does when its token expires.
	refresh := func(next http.RoundTripper) http.RoundTripper {
		return paylera.RoundTripperFunc(func(r *http.Request) (*http.Response, error) {
			res, err := next.RoundTrip(r)
			if err != nil || res.StatusCode != http.StatusUnauthorized {
				return res, err
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			again := r.Clone(r.Context())
			if r.GetBody != nil {
				if again.Body, err = r.GetBody(); err != nil {
					return nil, err
				}
			}
			again.Header.Set("Authorization", "Bearer fresh")
			return next.RoundTrip(again)
		})
	}
	rec, url := api(t, func(w http.ResponseWriter, r request) {
		if r.header.Get("Authorization") != "Bearer fresh" {
			write(w, 401, `{}`)
			return
		}
		write(w, 200, `{"features":{}}`)
	})
	a := open(t, url, paylera.Config{Interceptors: []paylera.Interceptor{tag("outer"), refresh, tag("inner")}})
	_, err := a.Fetch(within(t), "cust")
	require.NoError(t, err)
	require.Equal(t, []string{"outer", "inner", "inner"}, order)
	require.Equal(t, "GET /v1/subscriptions/{id}/entitlements", endpoints[0])

	// The same chain carries usage, whose body is sent again whole.
	order, endpoints = nil, nil
	require.NoError(t, a.Deliver(within(t), oneRecord("id-1")))
	require.Equal(t, []string{"outer", "inner", "inner"}, order)
	require.Equal(t, "POST /v1/track", endpoints[0])
	all := rec.all()
	require.Equal(t, all[len(all)-2].body, all[len(all)-1].body)
	require.Contains(t, all[len(all)-1].body, "quantity")
	require.Empty(t, paylera.Endpoint(context.Background()))
}

func TestConnectionsAreReused(t *testing.T) {
	var mu sync.Mutex
	opened := 0
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		write(w, 500, strings.Repeat("x", 100_000))
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		if s == http.StateNew {
			opened++
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	a := open(t, server.URL, paylera.Config{})
	for range 5 {
		_, err := a.Fetch(within(t), "cust")
		require.ErrorIs(t, err, paylera.ErrServer)
		require.ErrorIs(t, a.Deliver(within(t), oneRecord("id")), paylera.ErrServer)
	}
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, 1, opened, "error bodies are drained")
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var stolen recorder
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stolen.note(r)
		write(w, 200, `{"features":{}}`)
	}))
	t.Cleanup(other.Close)
	_, url := api(t, reply(307, ``, "Location: "+other.URL))
	_, err := open(t, url, paylera.Config{}).Fetch(within(t), "cust")
	require.ErrorIs(t, err, paylera.ErrMalformed)
	require.Empty(t, stolen.all())
}

func TestSunsetIsLoggedOnce(t *testing.T) {
	_, url := api(t, reply(200, `{"features":{}}`, "Sunset: Sat, 01 Jan 2028 00:00:00 GMT", "Deprecation: true"))
	var logged bytes.Buffer
	a := open(t, url, paylera.Config{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	for range 3 {
		_, err := a.Fetch(within(t), "cust")
		require.NoError(t, err)
	}
	require.Equal(t, 1, strings.Count(logged.String(), "\n"))
	require.Contains(t, logged.String(), "2026-05-01")
	require.Contains(t, logged.String(), "01 Jan 2028")
}

// Once nothing is left, nothing is sent until the reset; the other class goes on.
func TestRateLimitIsObeyedBeforehand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		empty := true
		a, err := paylera.New(paylera.Config{Token: token, Transport: fake(&rec, func(w http.ResponseWriter, r request) {
			if r.method == http.MethodPost {
				write(w, 200, `{}`)
				return
			}
			if empty {
				// A server whose clock is an hour ahead: only its own times compare.
				now := time.Now().Add(time.Hour)
				write(w, 200, `{"features":{}}`, "Date: "+now.UTC().Format(http.TimeFormat),
					"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: "+unix(now.Add(2*time.Second)))
				return
			}
			write(w, 200, `{"features":{}}`, "X-RateLimit-Remaining: 5", "X-RateLimit-Reset: "+unix(time.Now()))
		})})
		require.NoError(t, err)
		_, err = a.Fetch(t.Context(), "cust")
		require.NoError(t, err, "the answer itself is good")
		empty = false

		time.Sleep(500 * time.Millisecond)
		_, err = a.Fetch(t.Context(), "cust")
		require.ErrorIs(t, err, paylera.ErrRateLimited)
		after, ok := entitlements.RetryDelay(err)
		require.True(t, ok)
		require.Equal(t, 1500*time.Millisecond, after)
		require.Len(t, rec.all(), 1, "nothing was sent")

		require.NoError(t, a.Deliver(t.Context(), oneRecord("id")), "usage has its own limit")

		time.Sleep(after)
		_, err = a.Fetch(t.Context(), "cust")
		require.NoError(t, err)
	})
}

// A delivery that was held back accepted nothing.
func TestRateLimitHoldsUsageBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, family := range []paylera.Family{paylera.SDK, paylera.Core} {
			var rec recorder
			a := open(t, "http://api.invalid", paylera.Config{Family: family, Transport: fake(&rec, func(w http.ResponseWriter, _ request) {
				write(w, 202, `{}`, "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: "+unix(time.Now().Add(3*time.Second)))
			})})
			require.NoError(t, a.Deliver(t.Context(), oneRecord("a")))
			err := a.Deliver(t.Context(), oneRecord("b"))
			after, ok := entitlements.RetryDelay(err)
			require.True(t, ok)
			require.Equal(t, 3*time.Second, after)
			require.Len(t, rec.all(), 1)
		}
	})
}

// A reset far away is a broken clock, not a reason to stop for a day.
func TestRateLimitHoldIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		a := open(t, "http://api.invalid", paylera.Config{Transport: fake(&rec, func(w http.ResponseWriter, _ request) {
			write(w, 200, `{"features":{}}`, "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: "+unix(time.Now().Add(24*time.Hour)))
		})})
		_, err := a.Fetch(t.Context(), "cust")
		require.NoError(t, err)
		_, err = a.Fetch(t.Context(), "cust")
		after, ok := entitlements.RetryDelay(err)
		require.True(t, ok)
		require.Equal(t, time.Minute, after)
	})
}
