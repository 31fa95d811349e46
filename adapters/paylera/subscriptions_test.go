package paylera_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
)

// directory is a program's own table of customers.
type directory struct {
	mu    sync.Mutex // guards table
	table map[string][]string
}

func (d *directory) set(customer string, subscriptions ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.table == nil {
		d.table = make(map[string][]string)
	}
	d.table[customer] = subscriptions
}

func (d *directory) subscriptions(_ context.Context, customer string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	subscriptions, ok := d.table[customer]
	if !ok {
		return nil, entitlements.ErrUnknownCustomer
	}
	return subscriptions, nil
}

// perSubscription answers a GET with the features of its subscription, and
// every POST with 202.
func perSubscription(bodies map[string]string) answerFunc {
	return func(w http.ResponseWriter, r request) {
		if r.method == http.MethodPost {
			write(w, 202, `{}`)
			return
		}
		id := strings.TrimSuffix(strings.TrimPrefix(r.path, "/v1/subscriptions/"), "/entitlements")
		body, ok := bodies[id]
		if !ok {
			write(w, 404, `{}`)
			return
		}
		write(w, 200, body, `ETag: "1"`, "Date: Wed, 01 Jul 2026 12:00:00 GMT")
	}
}

func TestSeveralSubscriptions(t *testing.T) {
	var d directory
	d.set("cust", "base", "addon", "gone")
	_, url := api(t, perSubscription(map[string]string{
		"base":  `{"plan":"base","as_of":"2026-07-01T11:59:58Z","features":{"sso":false,"api":{"limit":100,"usage":10},"region":"eu","seats":5}}`,
		"addon": `{"plan":"plus","as_of":"2026-07-01T11:59:50Z","features":{"sso":true,"api":{"limit":50,"usage":1},"region":"us","seats":7,"audit":true}}`,
	}))
	a := open(t, url, paylera.Config{Subscriptions: d.subscriptions})
	e, err := a.Fetch(within(t), "cust")
	require.NoError(t, err)
	require.Equal(t, map[string]entitlements.Grant{
		"sso":    {Kind: entitlements.KindBoolean, Enabled: true},
		"api":    {Kind: entitlements.KindMetered, Enabled: true, Limit: 150, Used: 11},
		"region": {Kind: entitlements.KindText, Enabled: true, Text: "eu"},
		"seats":  {Kind: entitlements.KindNumeric, Enabled: true, Limit: 7},
		"audit":  {Kind: entitlements.KindBoolean, Enabled: true},
	}, e.Features)
	require.Equal(t, "cust", e.Customer)
	require.Equal(t, "base,plus", e.Plan)
	require.Equal(t, july.Add(-10*time.Second), e.AsOf, "as old as its oldest part")
	require.Equal(t, july, e.ServerTime)
	require.Empty(t, e.Version, "one subscription's tag says nothing of the others")

	d.set("one", "addon")
	e, err = a.Fetch(within(t), "one")
	require.NoError(t, err)
	require.NotEmpty(t, e.Version)

	d.set("none")
	e, err = a.Fetch(within(t), "none")
	require.NoError(t, err, "known, and may do nothing")
	require.Empty(t, e.Features)

	d.set("all gone", "gone", "gone too")
	for _, customer := range []string{"all gone", "nobody"} {
		_, err = a.Fetch(within(t), customer)
		require.ErrorIs(t, err, entitlements.ErrUnknownCustomer, customer)
	}
}

// What fails for one subscription fails the fetch: a part is not the whole.
func TestSeveralSubscriptionsFailTogether(t *testing.T) {
	_, url := api(t, func(w http.ResponseWriter, r request) {
		if strings.Contains(r.path, "bad") {
			write(w, 500, `{}`)
			return
		}
		write(w, 200, `{"features":{"sso":true}}`)
	})
	a := open(t, url, paylera.Config{Subscriptions: func(context.Context, string) ([]string, error) { return []string{"good", "bad"}, nil }})
	_, err := a.Fetch(within(t), "cust")
	require.ErrorIs(t, err, paylera.ErrServer)

	broken := errors.New("no database")
	a = open(t, url, paylera.Config{Subscriptions: func(context.Context, string) ([]string, error) {
		return nil, entitlements.RetryAfter(time.Minute, broken)
	}})
	_, err = a.Fetch(within(t), "cust")
	require.ErrorIs(t, err, broken)
	after, _ := entitlements.RetryDelay(err)
	require.Equal(t, time.Minute, after, "the program's own mark is kept")
}

func TestMergeGrants(t *testing.T) {
	metered := func(limit, used int64) entitlements.Grant {
		return entitlements.Grant{Kind: entitlements.KindMetered, Enabled: true, Limit: limit, Used: used}
	}
	with := func(g entitlements.Grant, change func(*entitlements.Grant)) entitlements.Grant {
		change(&g)
		return g
	}
	boolean := entitlements.Grant{Kind: entitlements.KindBoolean, Enabled: true}
	ends := func(at time.Time) func(*entitlements.Grant) {
		return func(g *entitlements.Grant) { g.ExpiresAt = at }
	}
	resets := func(start, at time.Time) func(*entitlements.Grant) {
		return func(g *entitlements.Grant) { g.PeriodStart, g.ResetsAt = start, at }
	}
	soon, late := july.Add(time.Hour), july.Add(2*time.Hour)
	for _, c := range []struct {
		name       string
		a, b, want entitlements.Grant
	}{
		{"sums", metered(10, 1), metered(20, 2), metered(30, 3)},
		{"unlimited stays", metered(entitlements.Unlimited, 1), metered(-5, 2), metered(entitlements.Unlimited, 3)},
		{"saturates", metered(entitlements.Unlimited-1, entitlements.Unlimited-1), metered(5, 5), metered(entitlements.Unlimited, entitlements.Unlimited)},
		{"off adds nothing", metered(10, 1), with(metered(20, 2), func(g *entitlements.Grant) { g.Enabled = false }), metered(10, 1)},
		{"off gives way", with(metered(10, 1), func(g *entitlements.Grant) { g.Enabled = false }), metered(20, 2), metered(20, 2)},
		{"another kind adds nothing", boolean, metered(20, 2), boolean},
		{"soft", metered(1, 0), with(metered(1, 0), func(g *entitlements.Grant) { g.Soft = true }), with(metered(2, 0), func(g *entitlements.Grant) { g.Soft = true })},
		{"boolean ends with the last", with(boolean, ends(soon)), with(boolean, ends(late)), with(boolean, ends(late))},
		{"boolean never ends", with(boolean, ends(soon)), boolean, boolean},
		{"quota ends with the first", with(metered(1, 0), ends(late)), with(metered(1, 0), ends(soon)), with(metered(2, 0), ends(soon))},
		{"quota ends with the only one", metered(1, 0), with(metered(1, 0), ends(soon)), with(metered(2, 0), ends(soon))},
		{"resets with the last", with(metered(1, 0), resets(july, soon)), with(metered(1, 0), resets(soon, late)), with(metered(2, 0), resets(july, late))},
		{"never resets", with(metered(1, 0), resets(july, soon)), metered(1, 0), metered(2, 0)},
	} {
		require.Equal(t, c.want, paylera.MergeGrants(c.a, c.b), c.name)
	}
}

// An add-on that has run out must not take the base plan with it.
func TestExpiredSubscriptionLendsNothing(t *testing.T) {
	var d directory
	d.set("cust", "ended", "base")
	_, url := api(t, perSubscription(map[string]string{
		"ended": `{"features":{"api":{"limit":50,"expires_at":"2026-07-01T11:00:00Z"}}}`,
		"base":  `{"features":{"api":{"limit":100}}}`,
	}))
	a := open(t, url, paylera.Config{Subscriptions: d.subscriptions})
	e, err := a.Fetch(within(t), "cust")
	require.NoError(t, err)
	require.Equal(t, entitlements.Grant{Kind: entitlements.KindMetered, Enabled: true, Limit: 100}, e.Features["api"])
}

// billed tells which subscriptions the last deliveries went to, in order.
func billed(t *testing.T, rec *recorder) (to []string) {
	t.Helper()
	for _, r := range rec.all() {
		if r.method != http.MethodPost {
			continue
		}
		fields := r.fields(t)
		if s, ok := fields["subscription_id"].(string); ok {
			to = append(to, s)
			continue
		}
		for _, e := range fields["events"].([]any) {
			to = append(to, e.(map[string]any)["subscription_id"].(string))
		}
	}
	return to
}

func TestUsageGoesToTheFirstThatGrants(t *testing.T) {
	for _, family := range []paylera.Family{paylera.SDK, paylera.Core} {
		var d directory
		d.set("cust", "base", "addon", "more")
		rec, url := api(t, perSubscription(map[string]string{
			"base":  `{"features":{"sso":true,"api":{"kind":"metered","allowed":false,"limit":5}}}`,
			"addon": `{"features":{"api":{"limit":5}}}`,
			"more":  `{"features":{"api":{"limit":5}}}`,
		}))
		a := open(t, url, paylera.Config{Family: family, Subscriptions: d.subscriptions})

		// Nothing was fetched yet: the delivery finds out.
		require.NoError(t, a.Deliver(within(t), records("u-1")))
		require.Equal(t, []string{"addon"}, billed(t, rec))

		// Then it knows.
		before := len(rec.all())
		other := records("u-2")
		other.Usage[0].Feature = "granted by none"
		require.NoError(t, a.Deliver(within(t), other))
		require.Equal(t, []string{"addon", "base"}, billed(t, rec))
		require.Len(t, rec.all(), before+1)
	}
}

// One customer's trouble is not the others'.
func TestUsageWithoutASubscription(t *testing.T) {
	for _, family := range []paylera.Family{paylera.SDK, paylera.Core} {
		rec, url := api(t, reply(202, `{}`))
		a := open(t, url, paylera.Config{Family: family, Subscriptions: func(ctx context.Context, customer string) ([]string, error) {
			switch customer {
			case "unknown":
				return nil, fmt.Errorf("no row: %w", entitlements.ErrUnknownCustomer)
			case "none":
				return nil, nil
			case "broken":
				return nil, entitlements.Permanent(errors.New("no database"))
			case "hangs":
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return []string{"sub"}, nil
		}})
		batch := records("a", "b", "c", "d", "e")
		for i, customer := range []string{"unknown", "none", "broken", "hangs", "good"} {
			batch.Usage[i].Customer = customer
		}
		ctx, cancel := context.WithTimeout(context.Background(), 800*time.Millisecond)
		defer cancel()
		require.Equal(t, "rejected rejected retry retry accepted", fates(5, a.Deliver(ctx, batch)))
		require.Equal(t, []string{"sub"}, billed(t, rec))

		alone := records("a")
		alone.Usage[0].Customer = "broken"
		require.Equal(t, "retry", fates(1, a.Deliver(within(t), alone)), "a Source's mark means something else here")
	}
}

// The API recognises a record by its subscription as well. One of unknown fate
// goes where it went before, whatever the customer has by now.
func TestUnknownFateStaysWithItsSubscription(t *testing.T) {
	for _, family := range []paylera.Family{paylera.SDK, paylera.Core} {
		var d directory
		d.set("cust", "old")
		var mu sync.Mutex
		status := 500
		rec, url := api(t, func(w http.ResponseWriter, _ request) {
			mu.Lock()
			defer mu.Unlock()
			write(w, status, `{}`)
		})
		answer := func(s int) {
			mu.Lock()
			defer mu.Unlock()
			status = s
		}
		a := open(t, url, paylera.Config{Family: family, Subscriptions: d.subscriptions})
		require.Error(t, a.Deliver(within(t), records("u-1")))
		d.set("cust", "new")
		answer(429) // refused this time; the first may still have been accepted
		require.Error(t, a.Deliver(within(t), records("u-1")))
		answer(202)
		require.NoError(t, a.Deliver(within(t), records("u-1")))
		require.NoError(t, a.Deliver(within(t), records("u-2")))
		require.Equal(t, []string{"old", "old", "old", "new"}, billed(t, rec))
	}
}

// A body that differs needs a key that differs.
func TestBatchKeyFollowsItsContent(t *testing.T) {
	failing := true
	rec, url := api(t, hangUp)
	a := open(t, url, paylera.Config{
		Family: paylera.Core, Transport: &http.Transport{DisableKeepAlives: true},
		Subscriptions: func(_ context.Context, customer string) ([]string, error) {
			if customer == "shaky" && failing {
				return nil, errors.New("no database")
			}
			return []string{customer}, nil
		},
	})
	batch := records("a", "b", "c")
	batch.Usage[1].Customer = "shaky"
	require.Equal(t, "unknown retry unknown", fates(3, a.Deliver(within(t), batch)))
	failing = false
	require.Equal(t, "unknown unknown unknown", fates(3, a.Deliver(within(t), batch)))
	all := rec.all()
	require.NotEqual(t, all[0].header.Get("Idempotency-Key"), all[1].header.Get("Idempotency-Key"))
	require.Equal(t, batch.ID, all[1].header.Get("Idempotency-Key"))
}

// A batch that is refused while some records were left out is halved whole.
func TestRefusedBatchWithRecordsLeftOut(t *testing.T) {
	_, url := api(t, reply(422, `{}`))
	a := open(t, url, paylera.Config{Family: paylera.Core})
	batch := records("", "b", "c")
	require.Equal(t, "permanent permanent permanent", fates(3, a.Deliver(within(t), batch)))
	require.Equal(t, "rejected rejected", fates(2, a.Deliver(within(t), records("", "b"))))
}

func TestMemoryIsBounded(t *testing.T) {
	_, url := api(t, reply(200, `{"features":{}}`))
	a := open(t, url, paylera.Config{Remember: 3, Subscriptions: func(_ context.Context, customer string) ([]string, error) {
		return []string{"sub-" + customer, "shared"}, nil
	}})
	for i := range 10 {
		_, err := a.Fetch(within(t), strconv.Itoa(i))
		require.NoError(t, err)
	}
	customers, subscriptions := a.Remembered()
	require.Equal(t, 3, customers)
	require.Equal(t, 4, subscriptions, "three of their own and the shared one")
}
