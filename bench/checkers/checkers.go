// Package checkers is what a service could gate features with: this library, the
// maps and caches that teams build on, and the SDKs of feature-flag and
// entitlement services, each behind the same small interface and with the same
// customers, plans and verdicts.
package checkers

import (
	"fmt"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// A Checker answers whether a customer may use a feature. It is safe for
// concurrent use.
type Checker interface {
	Check(customer, feature string) bool
	Close()
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
	Module string // its import path; "" is the standard library
	Kind   Kind
	// MaxCustomers is the largest workload that it is measured with, 0 for any:
	// what an SDK does per check does not depend on how many customers there are.
	MaxCustomers int
	// New loads the workload: every customer is known and cached when it returns.
	New func(w *workload.Workload) (Checker, error)
}

// Peers are all of them, ours first, in the order in which tables list them.
func Peers() []Peer {
	return []Peer{}
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
