package paylera

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/entitlements-go/entitlements"
)

// item is one feature of an answer, in every spelling that the vendor's pages
// use. Of several spellings of a quantity the first one here counts. Where both
// of limit and usage are known, balance is not looked at.
type item struct {
	Code        loose `json:"code"`
	FeatureCode loose `json:"feature_code"`

	// All that are present must be true.
	Allowed   *bool `json:"allowed"`
	Enabled   *bool `json:"enabled"`
	HasAccess *bool `json:"has_access"`

	Kind loose `json:"kind"`
	Type loose `json:"type"`

	Unlimited     *bool  `json:"unlimited"`
	Limit         scalar `json:"limit"`
	IncludedUsage scalar `json:"included_usage"`
	UsageLimit    scalar `json:"usage_limit"`
	Usage         scalar `json:"usage"`
	Used          scalar `json:"used"`
	Balance       scalar `json:"balance"`
	Remaining     scalar `json:"remaining"`

	// A soft limit may also be the number at which to warn; only true is overage.
	OverageAllowed json.RawMessage `json:"overage_allowed"`
	SoftLimit      json.RawMessage `json:"soft_limit"`

	PeriodStart scalar `json:"period_start"`
	NextResetAt scalar `json:"next_reset_at"`
	ResetsAt    scalar `json:"resets_at"`
	ExpiresAt   scalar `json:"expires_at"`

	Value json.RawMessage `json:"value"`
}

// grant derives what the item leaves out:
//
//   - Kind: of a kind that is not stated, or not known here, the quantities
//     speak: any of a limit, usage, balance or reset is metered, else a value
//     decides by its type. Metered is the safe reading of a bare limit: numeric
//     would allow without end.
//   - Enabled: without a verdict (allowed, enabled, has_access) an item grants
//     when it carries a quantity or a value, and a boolean one when its value is
//     true. An item that says nothing grants nothing.
//   - Limit, metered: without one it is balance + usage; without both, a granted
//     feature is not limited (pay as you go).
//   - Used, metered: without usage it is limit - balance.
func (it *item) grant(decimals int) (entitlements.Grant, error) {
	r := itemReader{decimals: decimals}
	limit, hasLimit, unlimited := r.limit(it)
	usage, hasUsage := r.quantity("usage", roundUp, it.Usage, it.Used)
	balance, hasBalance := r.quantity("balance", roundDown, it.Balance, it.Remaining)
	resets, hasResets := r.moment("resets_at", it.NextResetAt, it.ResetsAt)
	// A reset alone is enough: only what is counted can be reset.
	quantities := hasLimit || unlimited || hasUsage || hasBalance || hasResets

	g := entitlements.Grant{Kind: it.kind(quantities)}
	g.ExpiresAt, _ = r.moment("expires_at", it.ExpiresAt)
	var implied bool
	// Each kind reads only what belongs to it. Leftovers of another kind, as a plan
	// whose feature changed kind has, must not end up in the grant.
	switch g.Kind {
	case entitlements.KindBoolean:
		implied = isTrue(it.Value)
		if firstByte(it.Value) == 'f' {
			it.Enabled = new(bool) // a verdict too
		}
	case entitlements.KindNumeric:
		var value scalar
		r.check("value", json.Unmarshal(orNull(it.Value), &value))
		// value is the number of this kind; some pages call it limit all the same.
		n, hasValue := r.quantity("value", roundDown, value)
		if !hasValue {
			n, hasValue = limit, hasLimit
		}
		if unlimited {
			n, hasValue = entitlements.Unlimited, true
		}
		g.Limit, implied = n, hasValue
	case entitlements.KindText:
		if firstByte(it.Value) == '"' {
			r.check("value", json.Unmarshal(it.Value, &g.Text))
			implied = true
		} else if c := firstByte(it.Value); c != 0 && c != 'n' {
			g.Text, implied = string(it.Value), true // a number or an object, as it was written
		}
	case entitlements.KindMetered:
		implied = hasLimit || unlimited || hasBalance
		g.ResetsAt = resets
		g.PeriodStart, _ = r.moment("period_start", it.PeriodStart)
		g.Soft = isTrue(it.OverageAllowed) || isTrue(it.SoftLimit)
		switch {
		case unlimited:
			limit = entitlements.Unlimited
		case !hasLimit && hasBalance:
			// What is left and what is gone are what there was.
			limit = addSaturated(balance, usage)
		case !hasLimit:
			// Used stays as stated; whether it is granted at all is decided below.
			limit, unlimited = entitlements.Unlimited, true
		}
		// May be negative, when credit was carried over: then more than the limit
		// is left, which is what the balance says.
		if !hasUsage && hasBalance && !unlimited {
			usage = subtractSaturated(limit, balance)
		}
		g.Limit, g.Used = limit, usage
	}
	g.Enabled = it.verdict(implied)
	return g, r.err
}

// verdict is what the item says of itself, or else what follows from its parts.
// Several verdicts that differ are a contradiction, which grants nothing.
func (it *item) verdict(implied bool) bool {
	stated, all := false, true
	for _, v := range []*bool{it.Allowed, it.Enabled, it.HasAccess} {
		if v != nil {
			stated, all = true, all && *v
		}
	}
	if stated {
		return all
	}
	return implied
}

// kind is the stated one, or else the nearest by what the item carries: kinds
// that the vendor adds later must not break programs that were built before.
func (it *item) kind(quantities bool) entitlements.Kind {
	switch strings.ToLower(first(it.Kind, it.Type)) {
	case "boolean", "bool":
		return entitlements.KindBoolean
	case "numeric", "number", "integer":
		return entitlements.KindNumeric
	case "text", "string":
		return entitlements.KindText
	case "metered":
		return entitlements.KindMetered
	}
	switch c := firstByte(it.Value); {
	case quantities:
		return entitlements.KindMetered
	case c == '"':
		return entitlements.KindText
	case c == '-', c >= '0' && c <= '9':
		return entitlements.KindNumeric
	}
	return entitlements.KindBoolean
}

// itemReader reads members and keeps the first failure, so that the derivation
// above stays readable.
type itemReader struct {
	decimals int
	err      error
}

func (r *itemReader) check(name string, err error) {
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%s: %w", name, err)
	}
}

// limit also takes the word for a limit that is none.
func (r *itemReader) limit(it *item) (limit int64, has, unlimited bool) {
	unlimited = it.Unlimited != nil && *it.Unlimited
	for _, s := range []*scalar{&it.Limit, &it.IncludedUsage, &it.UsageLimit} {
		if strings.EqualFold(s.text, "unlimited") {
			unlimited, s.text = true, ""
		}
	}
	limit, has = r.quantity("limit", roundDown, it.Limit, it.IncludedUsage, it.UsageLimit)
	return limit, has, unlimited
}

// quantity reads the first spelling that is present. Two spellings of one thing
// are not compared: which one would be wrong, nothing tells.
func (r *itemReader) quantity(name string, round rounding, spellings ...scalar) (int64, bool) {
	for _, s := range spellings {
		if s.text != "" {
			n, err := parseDecimal(s.text, r.decimals, round)
			r.check(name, err)
			return n, true
		}
	}
	return 0, false
}

// moment is quantity for points in time; a time that is not set is absent.
func (r *itemReader) moment(name string, spellings ...scalar) (t time.Time, has bool) {
	for _, s := range spellings {
		if s.text != "" {
			t, err := parseMoment(s.text)
			r.check(name, err)
			return t, !t.IsZero()
		}
	}
	return time.Time{}, false
}

// isTrue is for members of which only true means anything.
func isTrue(raw json.RawMessage) bool { return firstByte(raw) == 't' }

// orNull gives an absent member to a decoder, which refuses no bytes at all.
func orNull(raw json.RawMessage) []byte {
	if len(raw) == 0 {
		return []byte("null")
	}
	return raw
}
