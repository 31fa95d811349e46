package paylera_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
)

const proBody = `{"plan":{"code":"pro"},"as_of":"2026-07-01T12:00:00.5Z","features":{"sso":true,"api":{"limit":100,"usage":7}}}`

func TestFetch(t *testing.T) {
	rec, url := api(t, reply(200, proBody, "ETag: \"v1\"", "Date: Wed, 01 Jul 2026 12:00:01 GMT"))
	a := open(t, url, paylera.Config{})
	e, err := a.Fetch(within(t), "cust_1")
	require.NoError(t, err)
	require.Equal(t, "cust_1", e.Customer)
	require.Equal(t, "pro", e.Plan)
	require.Equal(t, july.Add(500*time.Millisecond), e.AsOf)
	require.Equal(t, july.Add(time.Second), e.ServerTime)
	require.Contains(t, e.Version, `"v1"`)
	require.Equal(t, map[string]entitlements.Grant{
		"sso": {Kind: entitlements.KindBoolean, Enabled: true},
		"api": {Kind: entitlements.KindMetered, Enabled: true, Limit: 100, Used: 7},
	}, e.Features)

	got := rec.last(t)
	require.Equal(t, "GET", got.method)
	require.Equal(t, "/v1/subscriptions/cust_1/entitlements", got.path)
	require.Equal(t, "Bearer "+token, got.header.Get("Authorization"))
	require.Equal(t, "2026-05-01", got.header.Get("Paylera-Version"))
	require.Regexp(t, `^entitlements-go-paylera/\S+ \(go1\.\S+.*\)$`, got.header.Get("User-Agent"))
	require.Empty(t, got.header.Get("Idempotency-Key"))
	require.Empty(t, got.header.Get("If-None-Match"))
}

// Keys are opaque bytes: none of them may become another path.
func TestFetchEscapesKeys(t *testing.T) {
	rec, url := api(t, reply(200, `{"features":{}}`))
	a := open(t, url, paylera.Config{})
	for key, want := range map[string]string{
		"a/b": "a%2Fb", "..": "%2E%2E", ".": "%2E", "../x": "..%2Fx", "a?b#c": "a%3Fb%23c", "50% ü": "50%25%20%C3%BC", "\xff\n": "%FF%0A",
	} {
		e, err := a.Fetch(within(t), key)
		require.NoError(t, err, key)
		require.Equal(t, key, e.Customer)
		require.Equal(t, "/v1/subscriptions/"+want+"/entitlements", rec.last(t).path)
	}
	before := len(rec.all())
	_, err := a.Fetch(within(t), "")
	require.ErrorIs(t, err, entitlements.ErrUnknownCustomer)
	require.Len(t, rec.all(), before, "nothing is asked for an empty key")
}

// The outcomes of a fetch, and what the contract of a Source makes of them.
func TestFetchOutcomes(t *testing.T) {
	type want struct {
		kind      error
		permanent bool
		after     time.Duration // of a RetryAfter; -1 is none
	}
	const date = "Date: Wed, 01 Jul 2026 12:00:00 GMT"
	for _, c := range []struct {
		name   string
		answer answerFunc
		want   want
	}{
		{"400", reply(400, `{}`), want{paylera.ErrInvalid, false, -1}},
		{"401", reply(401, `{}`), want{paylera.ErrAuthentication, true, -1}},
		{"403", reply(403, `{}`), want{paylera.ErrAuthorization, true, -1}},
		{"404", reply(404, `{}`), want{paylera.ErrNotFound, false, -1}},
		{"412", reply(412, `{}`), want{paylera.ErrPrecondition, false, -1}},
		{"a proxy's 404", reply(404, `<html>`, "Content-Type: text/html; charset=utf-8"), want{paylera.ErrMalformed, false, -1}},
		{"429, seconds", reply(429, `{}`, "Retry-After: 7"), want{paylera.ErrRateLimited, false, 7 * time.Second}},
		{"429, a date on the server's clock", reply(429, `{}`, date, "Retry-After: Wed, 01 Jul 2026 12:00:09 GMT"), want{paylera.ErrRateLimited, false, 9 * time.Second}},
		{"429, a date gone by", reply(429, `{}`, date, "Retry-After: Wed, 01 Jul 2026 11:00:00 GMT"), want{paylera.ErrRateLimited, false, 0}},
		{"429, reset", reply(429, `{}`, date, "X-RateLimit-Reset: 1782907205"), want{paylera.ErrRateLimited, false, 5 * time.Second}},
		{"429, nothing said", reply(429, `{}`), want{paylera.ErrRateLimited, false, time.Second}},
		{"429, nonsense", reply(429, `{}`, "Retry-After: soon"), want{paylera.ErrRateLimited, false, time.Second}},
		{"429, years", reply(429, `{}`, "Retry-After: 99999999999999999999"), want{paylera.ErrRateLimited, false, time.Hour}},
		{"500", reply(500, `{}`), want{paylera.ErrServer, false, -1}},
		{"502", reply(502, `<html>`, "Content-Type: text/html"), want{paylera.ErrServer, false, -1}},
		{"503 that names a wait", reply(503, `{}`, "Retry-After: 3"), want{paylera.ErrServer, false, 3 * time.Second}},
		{"a redirect", reply(302, ``, "Location: http://127.0.0.1:1/"), want{paylera.ErrMalformed, false, -1}},
		{"304 that nobody asked for", reply(304, ``), want{paylera.ErrMalformed, false, -1}},
		{"not JSON", reply(200, `<html>`), want{paylera.ErrMalformed, false, -1}},
		{"empty", reply(200, ``), want{paylera.ErrMalformed, false, -1}},
		{"no features", reply(200, `{"plan":"pro"}`), want{paylera.ErrMalformed, false, -1}},
		{"too long", reply(200, `{"features":{}}`+strings.Repeat(" ", 1<<20)), want{paylera.ErrMalformed, false, -1}},
		{"another's", reply(200, `{"subscription_id":"other","features":{}}`), want{paylera.ErrMalformed, false, -1}},
		{"broken off", hangUp, want{paylera.ErrNoAnswer, false, -1}},
		{"half a body", reply(200, `{"features":`, "Content-Length: 100"), want{paylera.ErrNoAnswer, false, -1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec, url := api(t, c.answer)
			e, err := open(t, url, paylera.Config{}).Fetch(within(t), "cust")
			require.Nil(t, e)
			require.ErrorIs(t, err, c.want.kind)
			var failed *paylera.Error
			require.ErrorAs(t, err, &failed)
			require.Equal(t, "GET /v1/subscriptions/{id}/entitlements", failed.Endpoint)
			require.Equal(t, c.want.permanent, entitlements.IsPermanent(err))
			after, ok := entitlements.RetryDelay(err)
			if !ok {
				after = -1
			}
			require.Equal(t, c.want.after, after)
			require.Equal(t, c.want.kind == paylera.ErrNotFound, errors.Is(err, entitlements.ErrUnknownCustomer))
			require.NotErrorIs(t, err, entitlements.ErrNotModified)
			require.Len(t, rec.all(), 1, "one attempt")
		})
	}
}

func TestFetchHonoursContext(t *testing.T) {
	release := make(chan struct{})
	_, url := api(t, func(http.ResponseWriter, request) { <-release })
	defer close(release)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := open(t, url, paylera.Config{}).Fetch(ctx, "cust")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, paylera.ErrNoAnswer)
	require.NotErrorIs(t, err, entitlements.ErrUnknownCustomer)

	// Config.Timeout bounds a request whose context does not.
	_, err = open(t, url, paylera.Config{Timeout: 20 * time.Millisecond}).Fetch(context.Background(), "cust")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestFetchChanged(t *testing.T) {
	rec, url := api(t, func(w http.ResponseWriter, r request) {
		if r.header.Get("If-None-Match") == `W/"7"` {
			write(w, 304, "")
			return
		}
		write(w, 200, `{"features":{}}`, `ETag: W/"7"`)
	})
	a := open(t, url, paylera.Config{})
	e, err := a.Fetch(within(t), "cust")
	require.NoError(t, err)
	unchanged, err := a.FetchChanged(within(t), "cust", e.Version)
	require.ErrorIs(t, err, entitlements.ErrNotModified)
	require.WithinDuration(t, time.Now(), unchanged.ServerTime, 5*time.Second, "the API's clock")

	// An ETag says something about its own subscription only, however alike.
	_, err = a.FetchChanged(within(t), "other", e.Version)
	require.NoError(t, err)
	require.Empty(t, rec.last(t).header.Get("If-None-Match"))

	// What was read with other decimals must be read again.
	scaled := open(t, url, paylera.Config{Decimals: map[string]int{"api": 2}})
	_, err = scaled.FetchChanged(within(t), "cust", e.Version)
	require.NoError(t, err)

	for _, version := range []string{"some-version", "", `W/"7"`, "\n"} {
		_, err = a.FetchChanged(within(t), "cust", version)
		require.NoError(t, err, "%q is no version of ours", version)
	}
}

func TestVersionNeedsETag(t *testing.T) {
	for _, etag := range []string{"", "unquoted", `"` + strings.Repeat("x", 300) + `"`, `"a b"`} {
		_, url := api(t, reply(200, `{"features":{}}`, "ETag: "+etag))
		e, err := open(t, url, paylera.Config{}).Fetch(within(t), "cust")
		require.NoError(t, err)
		require.Empty(t, e.Version, "%q", etag)
	}
}

func TestClocks(t *testing.T) {
	const date = "Date: Wed, 01 Jul 2026 12:00:00 GMT"
	for _, c := range []struct {
		name           string
		headers        []string
		asOf, serverAt time.Time
	}{
		{"date only", []string{date}, time.Time{}, july},
		{"as-of header", []string{date, "Paylera-As-Of: 1782907190"}, july.Add(-10 * time.Second), july},
		{"from a cache", []string{date, "Age: 30"}, july, july.Add(30 * time.Second)},
		{"as-of, from a cache", []string{date, "Age: 30", "Paylera-As-Of: 1782907190"}, july.Add(-10 * time.Second), july.Add(30 * time.Second)},
		{"nonsense", []string{"Date: now", "Age: old", "Paylera-As-Of: then"}, time.Time{}, time.Time{}},
	} {
		_, url := api(t, reply(200, `{"features":{}}`, c.headers...))
		e, err := open(t, url, paylera.Config{}).Fetch(within(t), "cust")
		require.NoError(t, err)
		require.Equal(t, c.asOf, e.AsOf, c.name)
		require.Equal(t, c.serverAt, e.ServerTime, c.name)
	}
}

// Errors say all that the API said, in either family's words, and no secret.
func TestErrorFacts(t *testing.T) {
	for _, c := range []struct {
		name, body      string
		headers         []string
		code, id, about string
	}{
		{
			"SDK", `{"type":"paylera.authorization_failed","title":"No.","detail":"Not yours."}`,
			[]string{"X-Request-Id: req_1"},
			"paylera.authorization_failed", "req_1", "Not yours.",
		},
		{
			"Core", `{"type":"https://docs/errors","problem":"authorization.denied","title":"No.","trace_id":"tr_1"}`,
			nil, "authorization.denied", "tr_1", "No.",
		},
		{"odd types", `{"type":5,"code":"c","detail":{"x":1},"message":"m","trace_id":null}`, nil, "c", "", "m"},
		{"no JSON", `nope`, nil, "", "", ""},
	} {
		_, url := api(t, reply(403, c.body, c.headers...))
		_, err := open(t, url, paylera.Config{}).Fetch(within(t), "cust")
		var failed *paylera.Error
		require.ErrorAs(t, err, &failed, c.name)
		require.Equal(t, 403, failed.Status)
		require.Equal(t, c.code, failed.Code, c.name)
		require.Equal(t, c.id, failed.RequestID, c.name)
		require.Equal(t, c.about, failed.Detail, c.name)
		require.False(t, failed.Retryable())
		require.Contains(t, err.Error(), "paylera: GET /v1/subscriptions/{id}/entitlements: not authorized (status 403")
	}
}

func TestErrorsHideTheToken(t *testing.T) {
	echo := `{"type":"` + token + `","detail":"bad token ` + token + `","trace_id":"` + token + `","title":"` + token + `"}`
	for name, answer := range map[string]answerFunc{
		"in a problem":     reply(401, echo),
		"in a header":      reply(500, `{}`, "X-Request-Id: "+token),
		"in a body":        reply(200, `{"features":{"`+token+`":[]}}`, "X-Request-Id: "+token),
		"in a long detail": reply(400, `{"detail":"`+strings.Repeat("x", 290)+token+`"}`),
	} {
		_, url := api(t, answer)
		_, err := open(t, url, paylera.Config{}).Fetch(within(t), "cust")
		require.Error(t, err)
		// Half of it would do harm as well.
		require.NotContains(t, err.Error(), token[8:18], name)
	}
	// An interceptor that tells too much.
	a := open(t, "http://127.0.0.1:1", paylera.Config{Interceptors: []paylera.Interceptor{func(http.RoundTripper) http.RoundTripper {
		return paylera.RoundTripperFunc(func(r *http.Request) (*http.Response, error) {
			return nil, &tellTale{r.Header.Get("Authorization")}
		})
	}}})
	_, err := a.Fetch(within(t), "cust_7")
	require.NotContains(t, err.Error(), token)
	require.NotContains(t, err.Error(), "127.0.0.1", "no URL")
	require.ErrorIs(t, err, context.Canceled, "what matters of the chain is kept")
	var told *tellTale
	require.NotErrorAs(t, err, &told)
}

type tellTale struct{ secret string }

func (e *tellTale) Error() string { return "failed with " + e.secret }
func (e *tellTale) Unwrap() error { return context.Canceled }
