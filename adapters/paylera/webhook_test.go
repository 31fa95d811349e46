package paylera_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
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

const secret = "whsec_4bTz"

// invalidations is what a Client would be told.
type invalidations struct {
	mu   sync.Mutex // guards all
	told []string
	hook func() // called first, may be nil
}

func (i *invalidations) Invalidate(customers ...string) {
	if i.hook != nil {
		i.hook()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.told = append(i.told, customers...)
}

func (i *invalidations) InvalidateAll() { i.Invalidate("*") }

func (i *invalidations) all() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]string(nil), i.told...)
}

func sign(secret string, at time.Time, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = io.WriteString(mac, unix(at)+"."+body)
	return "t=" + unix(at) + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

// post sends a body to the receiver with that signature header and returns the
// status.
func post(a *paylera.Adapter, header, body string) int {
	r := httptest.NewRequest(http.MethodPost, "/webhooks", strings.NewReader(body))
	r.Header.Set("Paylera-Signature", header)
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	return w.Code
}

// signed sends a body that is signed now.
func signed(a *paylera.Adapter, body string) int {
	return post(a, sign(secret, time.Now(), body), body)
}

// watch runs the adapter's Watch for the rest of the bubble.
func watch(t *testing.T, a *paylera.Adapter) *invalidations {
	t.Helper()
	var told invalidations
	go func() { _ = a.Watch(t.Context(), &told) }()
	synctest.Wait()
	return &told
}

func receiver(t *testing.T, cfg paylera.Config) *paylera.Adapter {
	t.Helper()
	if cfg.WebhookSecrets == nil {
		cfg.WebhookSecrets = []string{secret}
	}
	if cfg.Transport == nil {
		cfg.Transport = fake(&recorder{}, reply(200, `{"features":{}}`))
	}
	return open(t, "http://api.invalid", cfg)
}

func updated(id, subscription string) string {
	return fmt.Sprintf(`{"id":%q,"type":"subscription.updated","aggregate_type":"subscription","aggregate_id":%q}`, id, subscription)
}

func TestWebhookAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := receiver(t, paylera.Config{})
		require.Equal(t, 503, signed(a, updated("evt_0", "sub")), "nobody watches yet")
		told := watch(t, a)
		require.Equal(t, 200, signed(a, updated("evt_0", "sub")), "it was not remembered as handled")
		require.Equal(t, []string{"sub"}, told.all())

		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut} {
			w := httptest.NewRecorder()
			a.ServeHTTP(w, httptest.NewRequest(method, "/", nil))
			require.Equal(t, 405, w.Code, method)
			require.Equal(t, "POST", w.Header().Get("Allow"))
		}
		for _, body := range []string{"", "x", `{"id":`, "null", "[]", `"evt"`, "7", "{} {}"} {
			require.Equal(t, 400, signed(a, body), "%q", body)
		}
		pad := func(n int) string {
			start := `{"id":"evt_big","type":"subscription.updated","aggregate_id":"big","data":{"x":"`
			return start + strings.Repeat("x", n-len(start)-3) + `"}}`
		}
		require.Equal(t, 413, signed(a, pad(1<<20+1)))
		require.Equal(t, 200, signed(a, pad(1<<20)))
		require.Equal(t, []string{"sub", "big"}, told.all())

		require.Equal(t, 503, signed(receiver(t, paylera.Config{WebhookSecrets: []string{}}), updated("evt", "sub")), "no secret is set up")
	})
}

func TestWebhookEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			event string // without its id
			want  []string
		}{
			{`"type":"subscription.activated","aggregate_id":"sub"`, []string{"sub"}},
			{`"type":"subscription.updated","aggregate_id":"sub"`, []string{"sub"}},
			{`"type":"subscription.paused","aggregate_id":"sub"`, []string{"sub"}},
			{`"type":"subscription.resumed","aggregate_id":"sub"`, []string{"sub"}},
			{`"type":"subscription.past_due","aggregate_id":"sub"`, []string{"sub"}},
			{`"type":"subscription.canceled","aggregate_id":"sub"`, []string{"sub"}},
			{`"type":"subscription.reactivated","aggregate_id":"sub"`, []string{"sub"}},
			{`"type":"subscription.trial_started","aggregate_id":"sub"`, []string{"sub"}},
			{`"type":"subscription.trial_ended","aggregate_id":"sub"`, []string{"sub"}},
			{`"type":"subscription.trial_extended","aggregate_id":"sub"`, []string{"sub"}},
			{`"type":"subscription.usage_threshold_crossed","aggregate_id":"sub"`, []string{"sub"}},
			{`"type":"subscription.updated","data":{"subscription_id":"sub"}`, []string{"sub"}},
			{`"type":"subscription.updated","aggregate_id":"sub","data":{"subscription_id":"sub"}`, []string{"sub"}},
			{`"type":"subscription.usage_threshold_crossed","aggregate_type":"meter","aggregate_id":"m","data":{"subscription_id":"sub"}`, []string{"sub"}},
			{`"type":"subscription.updated","aggregate_type":"Subscription","aggregate_id":"sub","data":[1]`, []string{"sub"}},
			{`"type":"subscription.updated"`, nil},
			{`"type":"subscription.updated","aggregate_id":7,"data":{"subscription_id":{}}`, nil},
			{`"type":"subscription.renamed","aggregate_id":"sub"`, nil},
			{`"type":"invoice.paid","aggregate_type":"invoice","aggregate_id":"in_1","data":{"subscription_id":"sub"}`, nil},
			{`"type":null`, nil},
		} {
			a := receiver(t, paylera.Config{})
			told := watch(t, a)
			require.Equal(t, 200, signed(a, `{"id":"evt_1",`+c.event+`}`), c.event)
			require.Equal(t, c.want, told.all(), c.event)
		}
	})
}

func TestWebhookDedupes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := receiver(t, paylera.Config{})
		told := watch(t, a)
		for range 3 {
			require.Equal(t, 200, signed(a, updated("evt_1", "sub")))
			time.Sleep(time.Minute)
		}
		require.Equal(t, []string{"sub"}, told.all())
		// Without an id nothing can be told apart.
		for range 2 {
			require.Equal(t, 200, signed(a, `{"type":"subscription.updated","aggregate_id":"anon"}`))
		}
		require.Equal(t, []string{"sub", "anon", "anon"}, told.all())
	})
}

// What failed was not handled: the next delivery of it is.
func TestWebhookFailureIsNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails := errors.New("no database at 10.0.0.7")
		panics := false
		a := receiver(t, paylera.Config{Customer: func(_ context.Context, subscription string) (string, error) {
			return "customer of " + subscription, fails
		}})
		told := watch(t, a)
		told.hook = func() {
			if panics {
				panic("a bug")
			}
		}
		body := updated("evt_1", "sub")
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("Paylera-Signature", sign(secret, time.Now(), body))
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		require.Equal(t, 500, w.Code)
		require.NotContains(t, w.Body.String(), "10.0.0.7", "the cause stays here")

		fails, panics = nil, true
		require.Panics(t, func() { signed(a, body) })
		panics = false
		require.Equal(t, 200, signed(a, body))
		require.Equal(t, []string{"customer of sub"}, told.all())

		fails = fmt.Errorf("no row: %w", entitlements.ErrUnknownCustomer)
		require.Equal(t, 200, signed(a, updated("evt_2", "other")), "nobody here has it")
		require.Equal(t, []string{"customer of sub"}, told.all())
	})
}

// Without Config.Customer, what was fetched tells whose a subscription is.
func TestWebhookFindsWhoWasFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := receiver(t, paylera.Config{Subscriptions: func(_ context.Context, customer string) ([]string, error) {
			switch customer {
			case "alice", "bob":
				return []string{"team", "own-" + customer}, nil
			}
			return []string{customer + "'s"}, nil
		}})
		told := watch(t, a)
		require.Equal(t, 200, signed(a, updated("evt_1", "team")), "not cached here")
		require.Empty(t, told.all())
		for _, customer := range []string{"alice", "bob", "carol"} {
			_, err := a.Fetch(t.Context(), customer)
			require.NoError(t, err)
		}
		require.Equal(t, 200, signed(a, updated("evt_2", "team")))
		require.Equal(t, []string{"alice", "bob"}, told.all())
		require.Equal(t, 200, signed(a, updated("evt_3", "carol's")))
		require.Equal(t, []string{"alice", "bob", "carol"}, told.all())
	})
}

func TestWebhookThatOvertakesTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a *paylera.Adapter
		a = receiver(t, paylera.Config{
			Subscriptions: func(_ context.Context, customer string) ([]string, error) { return []string{"sub-" + customer}, nil },
			Transport: fake(&recorder{}, func(w http.ResponseWriter, _ request) {
				signed(a, updated("evt_1", "sub-alice"))
				write(w, 200, `{"features":{}}`)
			}),
		})
		told := watch(t, a)
		_, err := a.Fetch(t.Context(), "alice")
		require.NoError(t, err)
		require.Equal(t, []string{"alice"}, told.all(), "the answer on its way is out of date")
	})
}

func TestWatchEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := receiver(t, paylera.Config{})
		first := watch(t, a)
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		second := invalidations{hook: func() { <-release }}
		ended := make(chan error, 1)
		go func() { ended <- a.Watch(ctx, &second) }()
		synctest.Wait()

		// Both are told, and Watch waits for a handler that is telling.
		answered := make(chan int, 1)
		go func() { answered <- signed(a, updated("evt_1", "sub")) }()
		synctest.Wait()
		cancel()
		synctest.Wait()
		require.Empty(t, ended, "it still tells")
		close(release)
		synctest.Wait()
		require.ErrorIs(t, <-ended, context.Canceled)
		require.Equal(t, 200, <-answered)
		require.Equal(t, []string{"sub"}, first.all())
		require.Equal(t, []string{"sub"}, second.all())

		require.Equal(t, 200, signed(a, updated("evt_2", "sub")), "the other one still watches")
		require.Equal(t, []string{"sub"}, second.all(), "not told any more")
	})
}

func TestWebhooksConcurrently(t *testing.T) {
	a, err := paylera.New(paylera.Config{Token: token, WebhookSecrets: []string{secret}})
	require.NoError(t, err)
	var told invalidations
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = a.Watch(ctx, &told) })
	require.Eventually(t, func() bool { return signed(a, updated("evt_ready", "ready")) == 200 }, 5*time.Second, time.Millisecond)
	var handlers sync.WaitGroup
	for worker := range 8 {
		handlers.Go(func() {
			for i := range 50 {
				if signed(a, updated(fmt.Sprint(worker, "-", i), fmt.Sprint("sub_", i))) != 200 {
					t.Error("not handled")
				}
			}
		})
	}
	handlers.Wait()
	cancel()
	wg.Wait()
	require.Len(t, told.all(), 8*50+1)
	require.Equal(t, 503, signed(a, updated("evt_late", "sub")))
}
