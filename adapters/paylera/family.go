package paylera

import "strings"

// Family is one of the two overlapping contracts that Paylera publishes.
type Family uint8

const (
	// SDK is the contract of the vendor's own SDKs: tokens pl_live_ and
	// pl_test_, usage one event at a time through POST /v1/track.
	SDK Family = iota

	// Core is the contract of the API reference: tokens sk_live_ and
	// sk_sandbox_, usage in atomic batches through POST /v1/usage/batch. The
	// reference has no page on reading entitlements; assumption: the path is
	// that of the SDK family.
	Core
)

// String is lower case, for logs.
func (f Family) String() string {
	switch f {
	case SDK:
		return "sdk"
	case Core:
		return "core"
	}
	return "unknown"
}

// environment is what a token's prefix decides.
type environment struct {
	prefix  string
	baseURL string
	testing bool // a tenth of the live rate limits
}

// environments lists a family's environments, live first.
//
// Source: docs.paylera.com, /sdks (SDK) and /api (Core).
func (f Family) environments() [2]environment {
	if f == Core {
		return [2]environment{
			{prefix: "sk_live_", baseURL: "https://api.paylera.io"},
			{prefix: "sk_sandbox_", baseURL: "https://api.sandbox.paylera.io", testing: true},
		}
	}
	return [2]environment{
		{prefix: "pl_live_", baseURL: "https://api.paylera.dev"},
		{prefix: "pl_test_", baseURL: "https://api.test.paylera.dev", testing: true},
	}
}

// environmentOf finds the environment that a token belongs to. A token of the
// wrong environment is answered with 401, so guessing one would only turn a
// mistake in the configuration into an outage.
func (f Family) environmentOf(token string) (environment, bool) {
	for _, e := range f.environments() {
		if strings.HasPrefix(token, e.prefix) {
			return e, true
		}
	}
	return environment{}, false
}

// version is the contract version that this package was written against.
func (f Family) version() string {
	if f == Core {
		return "2026-04-01"
	}
	return "2026-05-01"
}
