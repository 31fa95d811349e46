package paylera_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
)

func unix(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }

func oneRecord(id string) entitlements.Batch {
	return records(id)
}

// records makes a batch with those ids.
func records(ids ...string) entitlements.Batch {
	b := entitlements.Batch{ID: "batch-" + strings.Join(ids, "+"), Attempt: 1}
	for i, id := range ids {
		b.Usage = append(b.Usage, entitlements.Usage{
			ID: id, Customer: "cust", Feature: "api", Quantity: int64(i + 1), Time: july.Add(1500 * time.Microsecond),
		})
	}
	return b
}

// fates writes what a Deliver said of each record, as the core reads it.
func fates(n int, err error) string {
	all := func(s string) string { return strings.TrimSpace(strings.Repeat(s+" ", n)) }
	var d *entitlements.DeliveryError
	if errors.As(err, &d) {
		out := strings.Fields(all("accepted"))
		for _, i := range d.Retry {
			out[i] = "retry"
		}
		for _, i := range d.Unknown {
			out[i] = "unknown"
		}
		for _, r := range d.Rejected {
			out[r.Index] = "rejected"
		}
		s := strings.Join(out, " ")
		if d.After > 0 {
			s += " after " + d.After.String()
		}
		return s
	}
	after, transient := entitlements.RetryDelay(err)
	switch {
	case err == nil:
		return all("accepted")
	case entitlements.IsPermanent(err):
		return all("permanent")
	case transient && after > 0:
		return all("retry") + " after " + after.String()
	case transient:
		return all("retry")
	}
	return all("unknown")
}

// Every way a delivery can end, and what it says of the records.
func TestDeliverOutcomes(t *testing.T) {
	problem := func(status int, code string, headers ...string) answerFunc {
		return reply(status, `{"type":"`+code+`"}`, headers...)
	}
	for _, c := range []struct {
		name       string
		answer     answerFunc
		one, batch string // of one record, and of two in the Core family
	}{
		{"200", reply(200, `{}`), "accepted", "accepted accepted"},
		{"201", reply(201, `{}`), "accepted", "accepted accepted"},
		{"202", reply(202, ``), "accepted", "accepted accepted"},
		{"204", reply(204, ``), "accepted", "accepted accepted"},
		{"202 with a broken body", reply(202, `{`, "Content-Length: 50"), "accepted", "accepted accepted"},
		{"400", problem(400, "bad"), "permanent", "permanent permanent"},
		{"401", problem(401, "x"), "retry after 30s", "retry retry after 30s"},
		{"403", problem(403, "x"), "retry after 30s", "retry retry after 30s"},
		{"404", problem(404, "not_found"), "permanent", "permanent permanent"},
		{"a proxy's 404", reply(404, `<html>`, "Content-Type: text/html"), "retry after 30s", "retry retry after 30s"},
		{"a redirect", reply(301, ``, "Location: /x"), "retry after 30s", "retry retry after 30s"},
		{"408", reply(408, ``), "unknown", "unknown unknown"},
		{"conflict, SDK", problem(409, "paylera.idempotency_conflict"), "permanent", "permanent permanent"},
		{"mismatch, Core", problem(422, "idempotency.body_mismatch"), "permanent", "permanent permanent"},
		{"in progress", problem(409, "paylera.idempotency_in_progress"), "unknown after 1s", "unknown unknown after 1s"},
		{"duplicate", problem(409, "usage.duplicate_event"), "accepted", "permanent permanent"},
		{"413", problem(413, "x"), "permanent", "permanent permanent"},
		{"422", problem(422, "validation.failed"), "permanent", "permanent permanent"},
		{"429", problem(429, "x", "Retry-After: 4"), "retry after 4s", "retry retry after 4s"},
		{"429, no wait named", problem(429, "x"), "retry after 1s", "retry retry after 1s"},
		{"500", problem(500, "x"), "unknown", "unknown unknown"},
		{"503 that names a wait", problem(503, "x", "Retry-After: 4"), "unknown after 4s", "unknown unknown after 4s"},
		{"502 of a proxy", reply(502, `<html>`, "Content-Type: text/html"), "unknown", "unknown unknown"},
		{"broken off", hangUp, "unknown", "unknown unknown"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, url := api(t, c.answer)
			sdk := open(t, url, paylera.Config{})
			require.Equal(t, c.one, fates(1, sdk.Deliver(within(t), records("a"))), "SDK")
			core := open(t, url, paylera.Config{Family: paylera.Core})
			require.Equal(t, c.one, fates(1, core.Deliver(within(t), records("a"))), "Core, one")
			require.Equal(t, c.batch, fates(2, core.Deliver(within(t), records("a", "b"))), "Core, two")
		})
	}
}

// What was certainly never sent may be sent for ever; what may have been, not.
func TestDeliverKnowsWhatWasSent(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	refused := "http://" + listener.Addr().String()
	require.NoError(t, listener.Close())
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	release := make(chan struct{})
	_, hanging := api(t, func(http.ResponseWriter, request) { <-release })
	defer close(release)

	for _, family := range []paylera.Family{paylera.SDK, paylera.Core} {
		deliver := func(ctx context.Context, url string, transport http.RoundTripper) string {
			a := open(t, url, paylera.Config{Family: family, Transport: transport})
			return fates(1, a.Deliver(ctx, records("a")))
		}
		require.Equal(t, "retry", deliver(within(t), refused, nil), "refused")
		require.Equal(t, "retry", deliver(within(t), "http://name.invalid", &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
		}}), "no such name")
		require.Equal(t, "retry", deliver(within(t), "http://slow.invalid", &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return nil, errors.New("some dialer's own words")
		}}), "a dialer of the program's own")
		require.Equal(t, "retry", deliver(within(t), strings.Replace(hanging, "http:", "https:", 1), &http.Transport{TLSHandshakeTimeout: 20 * time.Millisecond}), "no TLS")
		require.Equal(t, "retry", deliver(ended, hanging, nil), "ended before")
		short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		require.Equal(t, "unknown", deliver(short, hanging, nil), "ended while waiting for the answer")
		// A transport that doesn't trace leaves only its error to go by.
		require.Equal(t, "unknown", deliver(within(t), hanging, paylera.RoundTripperFunc(func(*http.Request) (*http.Response, error) {
			return nil, errors.New("something broke")
		})), "an error that says nothing")
		require.Equal(t, "retry", deliver(within(t), hanging, paylera.RoundTripperFunc(func(*http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Err: errors.New("refused")}
		})), "a dial error")
	}
}

func TestDeliverBatchBody(t *testing.T) {
	rec, url := api(t, reply(202, `{}`))
	a := open(t, url, paylera.Config{
		Family: paylera.Core, Meters: map[string]string{"api": "api_calls"}, Decimals: map[string]int{"storage": 3}, PropertiesField: "properties",
	})
	batch := entitlements.Batch{ID: "b-1", Usage: []entitlements.Usage{
		{ID: "u-1", Customer: "cust", Feature: "api", Quantity: 7, Time: time.Date(2026, 7, 1, 14, 0, 0, 1_999_999, time.FixedZone("", 7200))},
		{ID: "u-2", Customer: "other", Feature: "storage", Quantity: math.MinInt64, Properties: map[string]string{"region": "eu"}},
		{ID: "\xff", Customer: "cust", Feature: "api", Quantity: -1},
	}}
	require.NoError(t, a.Deliver(within(t), batch))
	got := rec.last(t)
	require.Equal(t, "/v1/usage/batch", got.path)
	require.Equal(t, "b-1", got.header.Get("Idempotency-Key"))
	require.Equal(t, "application/json", got.header.Get("Content-Type"))
	events := got.fields(t)["events"].([]any)
	require.Len(t, events, 3)
	require.Equal(t, map[string]any{
		"subscription_id": "cust", "meter": "api_calls", "quantity": "7", "external_id": "u-1", "timestamp": "2026-07-01T12:00:00.001Z",
	}, events[0])
	require.Equal(t, map[string]any{
		"subscription_id": "other", "meter": "storage", "quantity": "-9223372036854775.808", "external_id": "u-2",
		"properties": map[string]any{"region": "eu"},
	}, events[1], "no time means the API's")
	// An id that JSON can't carry is still its own.
	require.Regexp(t, `^sha256-[0-9a-f]{64}$`, events[2].(map[string]any)["external_id"])
}

func TestDeliverTrackBody(t *testing.T) {
	rec, url := api(t, reply(202, `{}`))
	u := entitlements.Usage{ID: "u-1", Customer: "cust", Feature: "api", Quantity: 12345, Time: july, Properties: map[string]string{"a": "b"}}
	batch := entitlements.Batch{ID: "b-1", Usage: []entitlements.Usage{u}}

	require.NoError(t, open(t, url, paylera.Config{Decimals: map[string]int{"api": 3}}).Deliver(within(t), batch))
	got := rec.last(t)
	require.Equal(t, "/v1/track", got.path)
	require.Equal(t, "u-1", got.header.Get("Idempotency-Key"))
	require.Equal(t, map[string]any{
		"subscription_id": "cust", "feature_code": "api", "quantity": "12.345", "timestamp": "2026-07-01T12:00:00.000Z",
	}, got.fields(t))

	// As the Python page has it.
	a := open(t, url, paylera.Config{
		Subscriptions: func(context.Context, string) ([]string, error) { return []string{"sub_1"}, nil },
		Track:         paylera.Track{SubjectField: "customer_id", AmountField: "value", TimestampField: "-", ExternalIDField: "external_id"},
	})
	require.NoError(t, a.Deliver(within(t), batch))
	require.Equal(t, map[string]any{
		"customer_id": "cust", "feature_code": "api", "value": "12345", "external_id": "u-1",
	}, rec.last(t).fields(t))
}

func TestDeliverRefusesWhatNoAPICouldTake(t *testing.T) {
	for _, family := range []paylera.Family{paylera.SDK, paylera.Core} {
		rec, url := api(t, reply(202, `{}`))
		a := open(t, url, paylera.Config{Family: family})
		batch := records("a", "", "c", "d")
		batch.Usage[2].Feature = "\xff"
		batch.Usage[3].Customer = "\xff"
		require.Equal(t, "accepted rejected rejected rejected", fates(4, a.Deliver(within(t), batch)), "the good one goes")
		require.Len(t, rec.all(), 1)
		require.NoError(t, a.Deliver(within(t), entitlements.Batch{ID: "empty"}))
		require.Len(t, rec.all(), 1, "nothing to send")
	}
	rec, url := api(t, reply(202, `{}`))
	big := entitlements.Batch{ID: "big", Usage: make([]entitlements.Usage, 1001)}
	err := open(t, url, paylera.Config{Family: paylera.Core}).Deliver(within(t), big)
	require.True(t, entitlements.IsPermanent(err), "halving it is all that it lacks")
	require.ErrorIs(t, err, paylera.ErrTooLarge)
	require.Empty(t, rec.all())
}

// One by one, each record has its own fate.
func TestDeliverTracksPartially(t *testing.T) {
	rec, url := api(t, func(w http.ResponseWriter, r request) {
		switch r.header.Get("Idempotency-Key") {
		case "bad":
			write(w, 422, `{"type":"paylera.validation_failed"}`)
		case "broken":
			write(w, 500, `{}`)
		default:
			write(w, 202, `{}`)
		}
	})
	a := open(t, url, paylera.Config{})
	err := a.Deliver(within(t), records("a", "bad", "broken", "d", "a"))
	require.Equal(t, "accepted rejected unknown accepted accepted", fates(5, err))
	var d *entitlements.DeliveryError
	require.ErrorAs(t, err, &d)
	require.ErrorIs(t, d.Rejected[0].Err, paylera.ErrInvalid)
	require.Len(t, rec.all(), 5, "an id that comes twice is sent twice, one after the other")
	require.Equal(t, "a", rec.last(t).header.Get("Idempotency-Key"))
}

// Once the API says to wait, the rest is not sent.
func TestDeliverTracksStops(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer answerFunc
		want   string
		sent   int
	}{
		{"429", reply(429, `{}`, "Retry-After: 9"), "retry after 9s", 1},
		{"401", reply(401, `{}`), "retry after 30s", 1},
		{"no answer", reply(500, `{}`), "", 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec, url := api(t, c.answer)
			a := open(t, url, paylera.Config{Track: paylera.Track{Concurrency: 1}})
			var ids []string
			for i := range 50 {
				ids = append(ids, fmt.Sprint("id-", i))
			}
			err := a.Deliver(within(t), records(ids...))
			require.Len(t, rec.all(), c.sent)
			if c.want != "" {
				after, ok := entitlements.RetryDelay(err)
				require.True(t, ok)
				require.Equal(t, c.want, "retry after "+after.String())
				return
			}
			got := strings.Fields(fates(50, err))
			require.Equal(t, strings.Fields(strings.Repeat("unknown ", 8)), got[:8])
			require.Equal(t, strings.Fields(strings.Repeat("retry ", 42)), got[8:])
		})
	}
}

func TestDeliverTracksConcurrently(t *testing.T) {
	var mu sync.Mutex
	now, most := 0, 0
	gate := make(chan struct{}, 100)
	_, url := api(t, func(w http.ResponseWriter, _ request) {
		mu.Lock()
		now++
		most = max(most, now)
		if now == 3 {
			for range 30 {
				gate <- struct{}{} // all three are in: go on
			}
		}
		mu.Unlock()
		<-gate
		mu.Lock()
		now--
		mu.Unlock()
		write(w, 202, `{}`)
	})
	a := open(t, url, paylera.Config{Track: paylera.Track{Concurrency: 3}})
	require.NoError(t, a.Deliver(within(t), records("a", "b", "c", "d", "e", "f", "g", "h", "i")))
	require.Equal(t, 3, most)
}

// A panic of the program's own code reaches the caller, who can recover it.
func TestDeliverPanics(t *testing.T) {
	a := open(t, "http://api.invalid", paylera.Config{Transport: paylera.RoundTripperFunc(func(*http.Request) (*http.Response, error) {
		panic("an interceptor's bug")
	})})
	require.PanicsWithValue(t, "an interceptor's bug", func() { _ = a.Deliver(within(t), records("a", "b")) })
}

func TestIdempotencyKeys(t *testing.T) {
	long := strings.Repeat("x", 255)
	for _, c := range []struct {
		name   string
		cfg    paylera.Config
		renews bool
		id     func(entitlements.Batch) string
	}{
		{"SDK", paylera.Config{}, false, func(b entitlements.Batch) string { return b.Usage[0].ID }},
		{"SDK with an id in the body", paylera.Config{Track: paylera.Track{ExternalIDField: "external_id"}}, true, func(b entitlements.Batch) string { return b.Usage[0].ID }},
		{"Core", paylera.Config{Family: paylera.Core}, true, func(b entitlements.Batch) string { return b.ID }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var answer atomic.Value
			rec, url := api(t, func(w http.ResponseWriter, r request) { answer.Load().(answerFunc)(w, r) })
			a := open(t, url, c.cfg)
			b := records("u-1")
			deliver := func(ctx context.Context, with answerFunc) string {
				answer.Store(with)
				before := len(rec.all())
				_ = a.Deliver(ctx, b)
				require.Len(t, rec.all(), before+1)
				return rec.last(t).header.Get("Idempotency-Key")
			}
			first := deliver(within(t), reply(409, `{"type":"idempotency_in_progress"}`))
			require.Equal(t, c.id(b), first)
			require.Equal(t, first, deliver(within(t), reply(500, `{}`)), "still in progress: the same key")
			second := deliver(within(t), reply(500, `{}`))
			require.Equal(t, !c.renews, first == second, "after a received 5xx: %s then %s", first, second)
			third := deliver(within(t), reply(202, `{}`))
			require.Equal(t, !c.renews, second == third)
			require.Equal(t, "mine", deliver(paylera.WithIdempotencyKey(within(t), "mine"), reply(202, `{}`)), "a caller's own wins")
			require.Equal(t, third, deliver(paylera.WithIdempotencyKey(within(t), "not\nfit"), reply(202, `{}`)))

			// A failed transport keeps the key. No keep-alive: net/http repeats a POST
			// with an Idempotency-Key by itself on a reused connection.
			a = open(t, url, withTransport(c.cfg, &http.Transport{DisableKeepAlives: true}))
			require.Equal(t, c.id(b), deliver(within(t), answerFunc(hangUp)))
			require.Equal(t, c.id(b), deliver(within(t), answerFunc(hangUp)))

			b = records(long)
			b.ID = long
			require.Equal(t, long, deliver(within(t), reply(500, `{}`)))
			require.LessOrEqual(t, len(deliver(within(t), reply(202, `{}`))), 255)
			b = records("a\nb")
			b.ID = "a\nb"
			require.Regexp(t, `^sha256-[0-9a-f]{64}$`, deliver(within(t), reply(202, `{}`)))
		})
	}
}

func withTransport(cfg paylera.Config, rt http.RoundTripper) paylera.Config {
	cfg.Transport = rt
	return cfg
}

// A key of several requests would make the API take all but one for a mistake.
func TestOwnKeyIsForOneRequest(t *testing.T) {
	rec, url := api(t, reply(202, `{}`))
	ctx := paylera.WithIdempotencyKey(within(t), "mine")
	require.NoError(t, open(t, url, paylera.Config{}).Deliver(ctx, records("a", "b")))
	for _, r := range rec.all() {
		require.NotEqual(t, "mine", r.header.Get("Idempotency-Key"))
	}
	require.NoError(t, open(t, url, paylera.Config{Family: paylera.Core}).Deliver(ctx, records("a", "b")))
	require.Equal(t, "mine", rec.last(t).header.Get("Idempotency-Key"))
}
