// Package checkers is what a service could gate features with: this library, the
// maps and caches that teams build on, and the SDKs of feature-flag and
// entitlement services, each behind the same small interface and with the same
// customers, plans and verdicts.
package checkers

import (
	"fmt"
	"time"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// A Checker answers whether a customer may use a feature. It is safe for
// concurrent use.
type Checker interface {
	Check(customer, feature string) bool
	Close()
}

// A Resolver is a Checker that can hold on to a customer for the length of a
// request, so that only the first question looks them up.
type Resolver interface {
	Checker
	// Resolve returns a function that answers for the customer, by the feature's
	// index in the workload's Features. A call of it does not allocate.
	Resolve(customer string) func(feature int) bool
}

// Kind says what a peer is, and so what it is fairly compared with.
type Kind string

const (
	Ours  Kind = "ours"
	Map   Kind = "map"   // no expiry, no bound
	Cache Kind = "cache" // a bounded cache with a plan per customer
	SDK   Kind = "sdk"   // evaluates rules for a user
)

// A Peer makes a Checker.
type Peer struct {
	Name   string
	Module string // what Version is asked for; "" is the standard library
	Kind   Kind
	// MaxCustomers is the largest workload that it is measured with, 0 for any:
	// what an SDK does per check does not depend on how many customers there are.
	MaxCustomers int
	// New loads the workload: every customer is known and cached when it returns.
	New func(w *workload.Workload) (Checker, error)
}

// Peers are all of them, ours first, in the order in which tables list them.
func Peers() []Peer {
	const (
		ristretto = "github.com/dgraph-io/ristretto/v2"
		otter     = "github.com/maypok86/otter/v2"
		sdkMax    = 10_000
	)
	return []Peer{
		{"entitlements", "github.com/entitlements-go/entitlements", Ours, 0, newLibrary},

		{"map", "", Map, 0, newPlainMap},
		{"sync.Map", "", Map, 0, newSyncMap},
		{"xsync", "github.com/puzpuzpuz/xsync/v4", Map, 0, newXsync},

		{"ristretto", ristretto, Cache, 0, newRistretto(0)},
		{"ristretto with TTL", ristretto, Cache, 0, newRistretto(time.Hour)},
		{"otter", otter, Cache, 0, newOtter(0)},
		{"otter with TTL", otter, Cache, 0, newOtter(time.Hour)},
		{"sturdyc", "github.com/viccon/sturdyc", Cache, 0, newSturdyc},
		{"golang-lru", "github.com/hashicorp/golang-lru/v2", Cache, 0, newGolangLRU},
		{"theine", "github.com/Yiling-J/theine-go", Cache, 0, newTheine},

		{"LaunchDarkly", "github.com/launchdarkly/go-server-sdk/v7", SDK, sdkMax, newLaunchDarkly},
		{"OpenFeature in-memory", "github.com/open-feature/go-sdk", SDK, sdkMax, newOpenFeature},
		{"GrowthBook", "github.com/growthbook/growthbook-golang", SDK, sdkMax, newGrowthBook},
		{"PostHog", "github.com/posthog/posthog-go", SDK, sdkMax, newPostHog},
		{"Statsig", "github.com/statsig-io/go-sdk", SDK, sdkMax, newStatsig},
	}
}

// Prove asks a checker questions of the workload and returns an error when it
// answers one otherwise than the model does.
func Prove(c Checker, w *workload.Workload, questions int) error {
	for i := range questions {
		customer, feature := w.Ask(i)
		if got, want := c.Check(customer, feature), w.Answer(i); got != want {
			return fmt.Errorf("%s, %s: answered %t, the model says %t", customer, feature, got, want)
		}
	}
	return nil
}
