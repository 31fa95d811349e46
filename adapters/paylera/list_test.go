package paylera_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
)

// pages answers a listing: the cursor is the number of the page.
func pages(pages ...string) answerFunc {
	return func(w http.ResponseWriter, r request) {
		query, _ := url.ParseQuery(r.query)
		n := 0
		_, _ = fmt.Sscan(query.Get("cursor"), &n)
		write(w, 200, pages[n])
	}
}

// collect ranges over a list to its end.
func collect(ctx context.Context, a *paylera.Adapter) (keys []string, err error) {
	for key, e := range a.List(ctx) {
		if e != nil {
			err = errors.Join(err, e)
			continue
		}
		keys = append(keys, key)
	}
	return keys, err
}

func TestList(t *testing.T) {
	rec, url := api(t, pages(
		`{"data":[{"id":"a"},{"subscription_id":"b","id":null}],"has_more":true,"next_cursor":"1"}`,
		`{"data":["c"],"has_more":true,"next_cursor":"2"}`,
		`{"data":[],"next_cursor":"3"}`,
		`{"data":[{"id":"d"}],"has_more":false,"next_cursor":"0"}`,
	))
	keys, err := collect(within(t), open(t, url, paylera.Config{}))
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "c", "d"}, keys)
	all := rec.all()
	require.Len(t, all, 4)
	require.Equal(t, "limit=100", all[0].query)
	require.Equal(t, "cursor=1&limit=100", all[1].query)
}

func TestListTurnsSubscriptionsIntoCustomers(t *testing.T) {
	_, url := api(t, pages(`{"data":["s1","s2","s3","s4"]}`))
	subscriptions := func(context.Context, string) ([]string, error) { return nil, nil }
	broken := errors.New("no database")
	a := open(t, url, paylera.Config{Subscriptions: subscriptions, Customer: func(_ context.Context, s string) (string, error) {
		switch s {
		case "s2":
			return "", nil
		case "s3":
			return "", entitlements.ErrUnknownCustomer
		}
		return "customer of " + s, nil
	}})
	keys, err := collect(within(t), a)
	require.NoError(t, err)
	require.Equal(t, []string{"customer of s1", "customer of s4"}, keys, "nobody here has the others")

	a = open(t, url, paylera.Config{Customer: func(context.Context, string) (string, error) { return "", broken }})
	_, err = collect(within(t), a)
	require.ErrorIs(t, err, broken)

	_, err = collect(within(t), open(t, url, paylera.Config{Subscriptions: subscriptions}))
	require.ErrorContains(t, err, "Config.Customer is required")
}

func TestListRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		pages []string
		keys  int
	}{
		"a cursor that comes back": {[]string{`{"data":["a"],"has_more":true,"next_cursor":"1"}`, `{"data":["b"],"has_more":true,"next_cursor":"1"}`}, 1},
		"a circle": {[]string{
			`{"data":["a"],"has_more":true,"next_cursor":"1"}`, `{"data":["b"],"has_more":true,"next_cursor":"2"}`,
			`{"data":["c"],"has_more":true,"next_cursor":"1"}`,
		}, 2},
		"more without a cursor": {[]string{`{"data":["a"],"has_more":true}`}, 0},
		"no data":               {[]string{`{"has_more":false}`}, 0},
		"no id":                 {[]string{`{"data":[{"customer":"x"}]}`}, 0},
		"not JSON":              {[]string{`<html>`}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var rec recorder
				a := open(t, "http://api.invalid", paylera.Config{Transport: fake(&rec, pages(c.pages...))})
				keys, err := collect(t.Context(), a)
				require.ErrorIs(t, err, paylera.ErrMalformed)
				require.Len(t, keys, c.keys)
			})
		})
	}
}

// The next page is on its way while the caller works on this one, and no
// further; however the loop ends, nothing is left running: a goroutine that
// stayed would fail the bubble.
func TestListFetchesAhead(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(keys int, cancel context.CancelFunc) (stop bool)
	}{
		{"left early", func(keys int, _ context.CancelFunc) bool { return keys == 1 }},
		{"left on the second page", func(keys int, _ context.CancelFunc) bool { return keys == 3 }},
		{"context ended", func(keys int, cancel context.CancelFunc) bool {
			if keys == 1 {
				cancel()
			}
			return false
		}},
		{"to the end", func(int, context.CancelFunc) bool { return false }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var rec recorder
				var running atomic.Int64
				slow := func(next http.RoundTripper) http.RoundTripper {
					return paylera.RoundTripperFunc(func(r *http.Request) (*http.Response, error) {
						running.Add(1)
						defer running.Add(-1)
						select {
						case <-time.After(time.Second):
							return next.RoundTrip(r)
						case <-r.Context().Done():
							return nil, r.Context().Err()
						}
					})
				}
				a := open(t, "http://api.invalid", paylera.Config{
					Interceptors: []paylera.Interceptor{slow},
					Transport: fake(&rec, pages(
						`{"data":["a","b"],"has_more":true,"next_cursor":"1"}`,
						`{"data":["c","d"],"has_more":true,"next_cursor":"2"}`,
						`{"data":["e","f"]}`,
					)),
				})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				began := time.Now()
				keys, failed := 0, error(nil)
				for _, err := range a.List(ctx) {
					if err != nil {
						failed = err
						break
					}
					keys++
					synctest.Wait() // the next page is on its way
					if c.end(keys, cancel) {
						break
					}
					time.Sleep(time.Second) // the caller's work
				}
				require.Zero(t, running.Load(), "List waits for its own request to end")
				switch c.name {
				case "to the end":
					require.Equal(t, 6, keys)
					require.Equal(t, 7*time.Second, time.Since(began), "only the first page was waited for")
				case "context ended":
					require.ErrorIs(t, failed, context.Canceled)
				case "left early":
					require.Equal(t, time.Second, time.Since(began), "left at once")
					require.Len(t, rec.all(), 1)
				}
			})
		})
	}
}

func TestListPanics(t *testing.T) {
	a := open(t, "http://api.invalid", paylera.Config{Transport: paylera.RoundTripperFunc(func(*http.Request) (*http.Response, error) {
		panic("a bug")
	})})
	require.PanicsWithValue(t, "a bug", func() { _, _ = collect(context.Background(), a) })
}

// The adapter's own calls retry as the vendor advises.
func TestDirectCallsRetry(t *testing.T) {
	type attempt struct {
		status int
		wait   string // Retry-After
	}
	bad, limited := attempt{status: 500}, attempt{status: 429, wait: "7"}
	for _, c := range []struct {
		name     string
		attempts []attempt // the last one repeats
		n        int
		err      error
		min, max time.Duration
	}{
		{"at once", []attempt{{status: 200}}, 1, nil, 0, 0},
		{"1 s, 2 s", []attempt{bad, bad, {status: 200}}, 3, nil, 2700 * time.Millisecond, 3300 * time.Millisecond},
		{"Retry-After", []attempt{limited, {status: 200}}, 2, nil, 7 * time.Second, 7 * time.Second},
		{"five times at most", []attempt{bad}, 5, paylera.ErrServer, 13500 * time.Millisecond, 16500 * time.Millisecond},
		{"not what can't be mended", []attempt{{status: 403}}, 1, paylera.ErrAuthorization, 0, 0},
		{"nor what does not exist", []attempt{{status: 404}}, 1, entitlements.ErrUnknownCustomer, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var rec recorder
				a := open(t, "http://api.invalid", paylera.Config{Transport: fake(&rec, func(w http.ResponseWriter, _ request) {
					at := c.attempts[min(len(rec.all()), len(c.attempts))-1]
					body := `{"features":{}}`
					if at.wait != "" {
						write(w, at.status, body, "Retry-After: "+at.wait)
						return
					}
					write(w, at.status, body)
				})})
				began := time.Now()
				_, err := a.Lookup(t.Context(), "cust")
				if c.err == nil {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, c.err)
				}
				require.Len(t, rec.all(), c.n)
				require.GreaterOrEqual(t, time.Since(began), c.min)
				require.LessOrEqual(t, time.Since(began), c.max)
			})
		})
	}
}

// A wait that would outlast the context is not begun; one that the context
// ends tells what it waited for.
func TestRetryWithinTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		a := open(t, "http://api.invalid", paylera.Config{Transport: fake(&rec, reply(429, `{}`, "Retry-After: 60"))})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		_, err := a.Lookup(ctx, "cust")
		require.ErrorIs(t, err, paylera.ErrRateLimited)
		require.Zero(t, time.Since(began))
		after, _ := entitlements.RetryDelay(err)
		require.Equal(t, time.Minute, after)

		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(5*time.Second, cancel)
		_, err = a.Lookup(ctx, "cust")
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, paylera.ErrRateLimited)
		require.Equal(t, 5*time.Second, time.Since(began))
	})
}
