package paylera

import (
	"strings"
	"time"

	"github.com/entitlements-go/entitlements"
)

// merge makes one answer of a customer's several subscriptions, best first, and
// says which of them is the first to grant each feature.
//
// AsOf and ServerTime are taken from the answer that is the furthest behind, as
// a pair: only their difference counts, and the sum of all usage is as old as
// its oldest part. Version stays empty, since one subscription's 304 would say
// nothing about the others.
func merge(customer string, subscriptions []string, parts []*entitlements.Entitlements) (*entitlements.Entitlements, map[string]string) {
	merged := &entitlements.Entitlements{Customer: customer, Features: make(map[string]entitlements.Grant)}
	grants := make(map[string]string)
	var plans []string
	behind := time.Duration(-2) // less than any answer's
	for i, part := range parts {
		if part == nil { // a subscription that is gone
			continue
		}
		now := part.ServerTime
		if now.IsZero() {
			now = time.Now()
		}
		// How far the usage of this answer lags behind its own clock; two answers'
		// clocks are never compared.
		lag := time.Duration(-1) // without AsOf, an answer is as of its fetch
		if !part.AsOf.IsZero() {
			lag = max(0, now.Sub(part.AsOf))
		}
		if lag > behind {
			behind, merged.AsOf, merged.ServerTime = lag, part.AsOf, part.ServerTime
		}
		if part.Plan != "" {
			plans = append(plans, part.Plan)
		}
		for code, grant := range part.Features {
			if expired(grant, now) {
				// It must not lend its limit to those that still run, nor its end.
				grant.Enabled = false
			}
			// Usage is billed to the first that grants, which the caller remembers.
			have, ok := merged.Features[code]
			if grant.Enabled && grants[code] == "" {
				grants[code] = subscriptions[i]
			}
			if ok {
				grant = mergeGrants(have, grant)
			}
			merged.Features[code] = grant
		}
	}
	merged.Plan = strings.Join(plans, ",")
	return merged, grants
}

// expired judges on the clock of the answer that brought the grant.
func expired(g entitlements.Grant, now time.Time) bool {
	return !g.ExpiresAt.IsZero() && !now.Before(g.ExpiresAt)
}

// mergeGrants joins two grants of one feature, of which a came first. One that
// is switched off, or of another kind, adds nothing.
//
// Where one Grant can't tell what two do, the reading is the one that allows
// less until the next fetch: the sum of two quotas ends with the one that ends
// first, and counts as used until the one that resets last.
func mergeGrants(a, b entitlements.Grant) entitlements.Grant {
	switch {
	case !b.Enabled:
		return a
	case !a.Enabled:
		return b
	case a.Kind != b.Kind:
		return a
	}
	switch a.Kind {
	case entitlements.KindBoolean:
		// Either will do, for as long as either lasts.
		a.ExpiresAt = later(a.ExpiresAt, b.ExpiresAt)
	case entitlements.KindNumeric:
		// Seats would add up, retention days would not; the larger one is never
		// more than was granted. Its end is its own.
		if b.Limit > a.Limit {
			a = b
		}
	case entitlements.KindMetered:
		// Not left to the addition: a correction could make the other one negative.
		if a.Limit == entitlements.Unlimited || b.Limit == entitlements.Unlimited {
			a.Limit = entitlements.Unlimited
		} else {
			a.Limit = addSaturated(a.Limit, b.Limit)
		}
		a.Used = addSaturated(a.Used, b.Used)
		a.Soft = a.Soft || b.Soft
		a.ResetsAt = later(a.ResetsAt, b.ResetsAt)
		// The period of the sum is the hull of both, where both are known.
		if a.PeriodStart.IsZero() || b.PeriodStart.IsZero() {
			a.PeriodStart = time.Time{}
		} else if b.PeriodStart.Before(a.PeriodStart) {
			a.PeriodStart = b.PeriodStart
		}
		if a.ExpiresAt.IsZero() || !b.ExpiresAt.IsZero() && b.ExpiresAt.Before(a.ExpiresAt) {
			a.ExpiresAt = b.ExpiresAt
		}
	}
	return a
}

// later is the later of two ends, of which zero is never.
func later(a, b time.Time) time.Time {
	if a.IsZero() || b.IsZero() {
		return time.Time{}
	}
	if b.After(a) {
		return b
	}
	return a
}
