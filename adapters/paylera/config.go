package paylera

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/entitlements-go/entitlements"
)

// Config sets up an [Adapter]. Only Token is required. It is read once, by
// [New]; printing it never shows the token or a secret.
type Config struct {
	// Token is the API key. Its prefix chooses the environment: pl_live_ or
	// pl_test_ in the SDK family, sk_live_ or sk_sandbox_ in the Core family.
	// Any other prefix needs BaseURL. Required.
	Token string

	// Family is the contract that is spoken. Defaults to SDK.
	Family Family

	// BaseURL is the API's address, for proxies and tests. Defaults to the
	// address of the token's environment.
	BaseURL string

	// Version is sent as the Paylera-Version header. Defaults to 2026-05-01
	// for SDK and 2026-04-01 for Core.
	Version string

	// Timeout bounds one request, beside the deadline of its context. Defaults
	// to 30 s.
	Timeout time.Duration

	// Transport carries the requests, below the interceptors. Defaults to a
	// transport of the adapter's own, set up as [http.DefaultTransport] is but
	// with 64 idle connections.
	Transport http.RoundTripper

	// Interceptors stand between the adapter and Transport, the first one
	// outermost, for every request the adapter makes. Defaults to none.
	Interceptors []Interceptor

	// Subscriptions maps a customer key to its subscriptions, best first. With
	// several, booleans are or-ed, limits and usage of metered features are
	// summed, the largest number and the first text win, and usage is billed to
	// the first subscription that grants the feature. None is a customer who
	// may do nothing; [entitlements.ErrUnknownCustomer] is one who does not
	// exist. It is called once per fetch and once per customer in a delivery,
	// by several goroutines at once. Defaults to the key itself as the one
	// subscription.
	Subscriptions func(ctx context.Context, customer string) ([]string, error)

	// Customer is the other way round, for webhooks and for listing; ""
	// and [entitlements.ErrUnknownCustomer] say that nobody here has that
	// subscription. Defaults to the subscription itself when Subscriptions is
	// nil, else to a memory of the last Remember customers that were fetched:
	// webhooks only, and blind to a subscription that is new to its customer.
	Customer func(ctx context.Context, subscription string) (string, error)

	// Remember bounds what is remembered of customers: which subscriptions they
	// have. Only used when Subscriptions is set. Defaults to 100 000.
	Remember int

	// Meters maps a feature code to the meter that its usage is sent to, in the
	// Core family. Defaults to the feature code.
	Meters map[string]string

	// Decimals says by feature code how many decimals the API's quantities have
	// in units of [entitlements.Usage.Quantity], between 0 and 18: with 3, the
	// quantity 12345 is "12.345" on the wire. Limits are scaled back rounding
	// down, usage rounding up. Defaults to 0.
	Decimals map[string]int

	// Track shapes POST /v1/track, in the SDK family.
	Track Track

	// PropertiesField is the name under which [entitlements.Usage.Properties]
	// are sent. No page says that a usage event can carry any. Defaults to "":
	// they are not sent.
	PropertiesField string

	// DedupWindow overrides how long the API is taken to recognise a usage
	// record; negative is never. Defaults to 24 h for SDK, the stated life of an
	// idempotency key, and to for ever for Core, whose external_id has no stated
	// end (assumption), as well as for SDK with Track.ExternalIDField.
	DedupWindow time.Duration

	// WebhookSecrets are the signing secrets of the webhook endpoint; several
	// during a rotation. Defaults to none: every webhook is answered 503.
	WebhookSecrets []string

	// Logger gets one line when the API announces the end of Version. Defaults
	// to discarding.
	Logger *slog.Logger
}

// Track shapes the body of POST /v1/track, on which the vendor's pages differ.
type Track struct {
	// SubjectField names whom the usage belongs to. Its value is the
	// subscription, or the customer key when the field is customer_id. Defaults
	// to subscription_id.
	SubjectField string

	// AmountField names the quantity, a decimal string. The Go page says
	// quantity, the Python page value. Defaults to quantity.
	AmountField string

	// TimestampField names the time of use. Assumption: it is read as in the
	// Core family, since usage that is delivered late would else be billed in
	// the wrong period. "-" leaves it out. Defaults to timestamp.
	TimestampField string

	// ExternalIDField, when set, also sends [entitlements.Usage.ID] in the body,
	// and states that the API recognises a repeated one for ever, as the Core
	// family does with external_id. Defaults to "": only the Idempotency-Key
	// dedupes, for 24 h.
	ExternalIDField string

	// Concurrency is the most requests of one Deliver at once. Defaults to 8.
	Concurrency int
}

const maxDecimals = 18

// String says what is set up, without the token and the secrets.
func (c Config) String() string {
	return fmt.Sprintf("paylera.Config{Family: %v, BaseURL: %q, Version: %q}", c.Family, c.BaseURL, c.Version)
}

// Format writes String for every verb: %#v and the like must not show secrets
// either.
func (c Config) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// withDefaults validates c and fills in what is left at its zero value. It
// reports everything that is wrong, not only the first, and never the value of
// a secret.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("paylera: Config."+format, args...))
	}
	if c.Family > Core {
		fail("Family must be SDK or Core, got %d", c.Family)
	}
	environments := c.Family.environments()
	env, known := c.Family.environmentOf(c.Token)
	switch {
	case c.Token == "":
		fail("Token is required")
	case !isHeaderText(c.Token):
		fail("Token must be printable ASCII without spaces")
	case !known && c.BaseURL == "":
		fail("Token must start with %s or %s in the %v family when BaseURL is empty",
			environments[0].prefix, environments[1].prefix, c.Family)
	}
	if c.BaseURL == "" {
		c.BaseURL = env.baseURL
	} else if reason := badBaseURL(c.BaseURL); reason != "" {
		// Not quoted: a password in it would be one more secret in a log.
		fail("BaseURL %s", reason)
	}
	c.BaseURL = strings.TrimRight(c.BaseURL, "/")
	if c.Version == "" {
		c.Version = c.Family.version()
	} else if !isHeaderText(c.Version) {
		fail("Version must be printable ASCII without spaces, got %q", c.Version)
	}
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	} else if c.Timeout < time.Millisecond {
		fail("Timeout must be at least %v, got %v", time.Millisecond, c.Timeout)
	}
	for i, interceptor := range c.Interceptors {
		if interceptor == nil {
			fail("Interceptors[%d] must not be nil", i)
		}
	}
	count(fail, "Remember", &c.Remember, 100_000)
	count(fail, "Track.Concurrency", &c.Track.Concurrency, 8)
	for feature, decimals := range c.Decimals {
		if decimals < 0 || decimals > maxDecimals {
			fail("Decimals[%q] must be 0 to %d, got %d", feature, maxDecimals, decimals)
		}
	}
	for feature, meter := range c.Meters {
		if meter == "" || len(meter) > entitlements.MaxKeyLength {
			fail("Meters[%q] must be 1 to %d bytes, got %d", feature, entitlements.MaxKeyLength, len(meter))
		}
	}
	c.Track.validate(fail, c.PropertiesField)
	for i, secret := range c.WebhookSecrets {
		// An HMAC with an empty key is one that everybody can compute, and zeros are
		// what fills up an empty one.
		if strings.TrimSpace(strings.Trim(secret, "\x00")) == "" {
			fail("WebhookSecrets[%d] must not be empty", i)
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	// The caller's maps and slices stay the caller's.
	c.Meters, c.Decimals = maps.Clone(c.Meters), maps.Clone(c.Decimals)
	c.Interceptors, c.WebhookSecrets = slices.Clone(c.Interceptors), slices.Clone(c.WebhookSecrets)
	return c, errors.Join(errs...)
}

// validate fills in the names of the fields and refuses two of the same name:
// one would silently overwrite the other in the body.
func (t *Track) validate(fail func(string, ...any), properties string) {
	names := map[string]string{"feature_code": "the feature code"}
	for _, f := range []struct {
		field, def string
		name       *string
	}{
		{"Track.SubjectField", "subscription_id", &t.SubjectField},
		{"Track.AmountField", "quantity", &t.AmountField},
		{"Track.TimestampField", "timestamp", &t.TimestampField},
		{"Track.ExternalIDField", "", &t.ExternalIDField},
		{"PropertiesField", "", &properties},
	} {
		if *f.name == "" {
			*f.name = f.def
		}
		if *f.name == "" || *f.name == "-" {
			continue
		}
		if other, taken := names[*f.name]; taken {
			fail("%s must differ from %s, got %q", f.field, other, *f.name)
		}
		names[*f.name] = f.field
	}
	for _, f := range []struct{ field, name string }{{"SubjectField", t.SubjectField}, {"AmountField", t.AmountField}} {
		if f.name == "-" {
			fail("Track.%s must be a field name, got %q", f.field, f.name)
		}
	}
}

func count(fail func(string, ...any), name string, n *int, def int) {
	switch {
	case *n == 0:
		*n = def
	case *n < 0:
		fail("%s must be at least 1, got %d", name, *n)
	}
}

// badBaseURL says what is wrong with an address, or "".
func badBaseURL(s string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "must be a URL"
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return "must be an absolute http or https URL"
	case u.User != nil:
		return "must not carry a user or a password"
	case u.RawQuery != "" || u.Fragment != "":
		return "must not carry a query or a fragment"
	}
	return ""
}

// isHeaderText reports whether s can be sent in a header as it is, unambiguously.
func isHeaderText(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return s != ""
}
