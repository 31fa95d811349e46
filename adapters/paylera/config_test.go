package paylera_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements/adapters/paylera"
)

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		cfg  paylera.Config
		want string
	}{
		{paylera.Config{}, "paylera: Config.Token is required"},
		{paylera.Config{Token: "secret"}, "paylera: Config.Token must start with pl_live_ or pl_test_ in the sdk family when BaseURL is empty"},
		{paylera.Config{Token: "pl_live_secret", Family: paylera.Core}, "paylera: Config.Token must start with sk_live_ or sk_sandbox_ in the core family when BaseURL is empty"},
		{paylera.Config{Token: "pl_live_secret\n"}, "paylera: Config.Token must be printable ASCII without spaces"},
		{paylera.Config{Token: token, Family: 7}, "paylera: Config.Family must be SDK or Core, got 7"},
		{paylera.Config{Token: token, BaseURL: "api.paylera.dev"}, "paylera: Config.BaseURL must be an absolute http or https URL"},
		{paylera.Config{Token: token, BaseURL: "https://user:secret@x"}, "paylera: Config.BaseURL must not carry a user or a password"},
		{paylera.Config{Token: token, BaseURL: "https://x?a=secret"}, "paylera: Config.BaseURL must not carry a query or a fragment"},
		{paylera.Config{Token: token, BaseURL: "https://x:secret"}, "paylera: Config.BaseURL must be a URL"},
		{paylera.Config{Token: token, Version: "a b"}, `paylera: Config.Version must be printable ASCII without spaces, got "a b"`},
		{paylera.Config{Token: token, Timeout: -1}, "paylera: Config.Timeout must be at least 1ms, got -1ns"},
		{paylera.Config{Token: token, Interceptors: []paylera.Interceptor{nil}}, "paylera: Config.Interceptors[0] must not be nil"},
		{paylera.Config{Token: token, Remember: -1}, "paylera: Config.Remember must be at least 1, got -1"},
		{paylera.Config{Token: token, Decimals: map[string]int{"f": 19}}, `paylera: Config.Decimals["f"] must be 0 to 18, got 19`},
		{paylera.Config{Token: token, Meters: map[string]string{"f": ""}}, `paylera: Config.Meters["f"] must be 1 to 255 bytes, got 0`},
		{paylera.Config{Token: token, Track: paylera.Track{Concurrency: -2}}, "paylera: Config.Track.Concurrency must be at least 1, got -2"},
		{paylera.Config{Token: token, Track: paylera.Track{AmountField: "timestamp"}}, `paylera: Config.Track.TimestampField must differ from Track.AmountField, got "timestamp"`},
		{paylera.Config{Token: token, Track: paylera.Track{AmountField: "-"}}, `paylera: Config.Track.AmountField must be a field name, got "-"`},
		{paylera.Config{Token: token, PropertiesField: "feature_code"}, `paylera: Config.PropertiesField must differ from the feature code, got "feature_code"`},
		{paylera.Config{Token: token, WebhookSecrets: []string{"whsec_secret", ""}}, "paylera: Config.WebhookSecrets[1] must not be empty"},
		{paylera.Config{Token: token, WebhookSecrets: []string{" \n"}}, "paylera: Config.WebhookSecrets[0] must not be empty"},
		{paylera.Config{Token: token, WebhookSecrets: []string{"\x00\x00"}}, "paylera: Config.WebhookSecrets[0] must not be empty"},
	} {
		_, err := paylera.New(c.cfg)
		require.EqualError(t, err, c.want)
		require.NotContains(t, err.Error(), "secret")
	}
	_, err := paylera.New(paylera.Config{Remember: -1})
	require.ErrorContains(t, err, "Token is required")
	require.ErrorContains(t, err, "Remember must be", "all that is wrong is told at once")
}

func TestEnvironmentByPrefix(t *testing.T) {
	for _, c := range []struct {
		family              paylera.Family
		token, url, version string
		rate                float64
	}{
		{paylera.SDK, "pl_live_x", "https://api.paylera.dev", "2026-05-01", 5000},
		{paylera.SDK, "pl_test_x", "https://api.test.paylera.dev", "2026-05-01", 500},
		{paylera.Core, "sk_live_x", "https://api.paylera.io", "2026-04-01", 5000},
		{paylera.Core, "sk_sandbox_x", "https://api.sandbox.paylera.io", "2026-04-01", 500},
	} {
		var rec recorder
		var url string
		a, err := paylera.New(paylera.Config{Token: c.token, Family: c.family, Transport: paylera.RoundTripperFunc(func(r *http.Request) (*http.Response, error) {
			url = r.URL.Scheme + "://" + r.URL.Host
			return fake(&rec, reply(200, `{"features":{}}`)).RoundTrip(r)
		})})
		require.NoError(t, err)
		_, err = a.Fetch(within(t), "cust")
		require.NoError(t, err)
		require.Equal(t, c.url, url)
		require.Equal(t, c.version, rec.last(t).header.Get("Paylera-Version"))
		require.Equal(t, "Bearer "+c.token, rec.last(t).header.Get("Authorization"))
		require.InDelta(t, c.rate, a.Limits().Rate, 0)
	}
}

func TestOverrides(t *testing.T) {
	rec, url := api(t, reply(200, `{"features":{}}`))
	a := open(t, url+"/billing/", paylera.Config{Token: "any", Version: "2030-01-01"})
	_, err := a.Fetch(within(t), "cust")
	require.NoError(t, err)
	require.Equal(t, "/billing/v1/subscriptions/cust/entitlements", rec.last(t).path)
	require.Equal(t, "2030-01-01", rec.last(t).header.Get("Paylera-Version"))
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		name   string
		cfg    paylera.Config
		batch  int
		atomic bool
		window time.Duration
	}{
		{"SDK", paylera.Config{}, 200, false, 24 * time.Hour},
		{"SDK with an id in the body", paylera.Config{Track: paylera.Track{ExternalIDField: "external_id"}}, 200, false, 0},
		{"Core", paylera.Config{Family: paylera.Core}, 1000, true, 0},
		{"a window of one's own", paylera.Config{Family: paylera.Core, DedupWindow: time.Hour}, 1000, true, time.Hour},
		{"never", paylera.Config{DedupWindow: -1}, 200, false, -1},
	} {
		limits := open(t, "http://127.0.0.1:1", c.cfg).Limits()
		require.Equal(t, c.batch, limits.MaxBatch, c.name)
		require.Equal(t, c.atomic, limits.Atomic, c.name)
		require.Equal(t, c.window, limits.DedupWindow, c.name)
	}
}

// Whatever is printed, the token and the webhook secrets are not in it.
func TestPrintingShowsNoSecret(t *testing.T) {
	cfg := paylera.Config{Token: token, WebhookSecrets: []string{"whsec_S3cret"}}
	a, err := paylera.New(cfg)
	require.NoError(t, err)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		require.NotContains(t, fmt.Sprintf(verb, cfg), "S3cret", verb)
		require.NotContains(t, fmt.Sprintf(verb, a), "S3cret", verb)
		require.NotContains(t, fmt.Sprintf(verb, *a), "S3cret", verb)
	}
}
