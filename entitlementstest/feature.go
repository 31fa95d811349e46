package entitlementstest

import (
	"encoding/json"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"time"

	"github.com/entitlements-go/entitlements"
)

// Shape says how a response lists its features. The pages show a top-level
// features and not what is in it, so that a client has to read both.
type Shape uint8

const (
	ShapeMap   Shape = iota // an object, keyed by feature code
	ShapeArray              // an array of objects with a code
)

// Spelling says which names the fields of a feature have, of those that the
// pages use in one place or another.
type Spelling uint8

const (
	// SpellingPlain is code, kind, enabled, limit, used, remaining,
	// overage_allowed and resets_at, with times in RFC 3339.
	SpellingPlain Spelling = iota

	// SpellingVerbose is feature_code, type, has_access, included_usage, usage,
	// balance, soft_limit and next_reset_at, with times in unix milliseconds.
	SpellingVerbose
)

// plainItem is a feature in SpellingPlain. Numbers are json.Number, so that no
// digit of a decimal gets lost; what does not apply is left out.
type plainItem struct {
	Code        string      `json:"code,omitempty"`
	Kind        string      `json:"kind"`
	Enabled     bool        `json:"enabled"`
	Unlimited   bool        `json:"unlimited,omitempty"`
	Limit       json.Number `json:"limit,omitempty"`
	Used        json.Number `json:"used,omitempty"`
	Remaining   json.Number `json:"remaining,omitempty"`
	Soft        bool        `json:"overage_allowed,omitempty"`
	PeriodStart string      `json:"period_start,omitempty"`
	ResetsAt    string      `json:"resets_at,omitempty"`
	ExpiresAt   string      `json:"expires_at,omitempty"`
	Value       any         `json:"value,omitempty"`
}

// verboseItem is a feature in SpellingVerbose.
type verboseItem struct {
	Code        string      `json:"feature_code,omitempty"`
	Kind        string      `json:"type"`
	Enabled     bool        `json:"has_access"`
	Unlimited   bool        `json:"unlimited,omitempty"`
	Limit       json.Number `json:"included_usage,omitempty"`
	Used        json.Number `json:"usage,omitempty"`
	Remaining   json.Number `json:"balance,omitempty"`
	Soft        bool        `json:"soft_limit,omitempty"`
	PeriodStart int64       `json:"period_start,omitempty"`
	ResetsAt    int64       `json:"next_reset_at,omitempty"`
	ExpiresAt   int64       `json:"expires_at,omitempty"`
	Value       any         `json:"value,omitempty"`
}

// features is the value of a response's features, ready to encode, in an order
// that does not change: the entity tag is made from it.
func (b *Billing) features(v view) any {
	if b.cfg.Shape == ShapeArray {
		list := make([]any, 0, len(v.features))
		for _, code := range slices.Sorted(maps.Keys(v.features)) {
			list = append(list, b.item(code, v.features[code]))
		}
		return list
	}
	items := make(map[string]any, len(v.features))
	for code, f := range v.features {
		items[code] = b.item("", f)
	}
	return items
}

// item is one feature. An empty code leaves it out.
func (b *Billing) item(code string, f figure) any {
	g := f.grant
	p := plainItem{Code: code, Kind: g.Kind.String(), Enabled: g.Enabled, Soft: g.Soft}
	switch g.Kind {
	case entitlements.KindMetered:
		if p.Unlimited = g.Limit == entitlements.Unlimited; !p.Unlimited {
			limit := fromUnits(g.Limit, f.decimals)
			p.Limit = json.Number(formatDecimal(limit))
			p.Remaining = json.Number(formatDecimal(remaining(limit, f.used)))
		}
		p.Used = json.Number(formatDecimal(f.used))
	case entitlements.KindNumeric:
		// Under both names that the pages use for it.
		if p.Unlimited = g.Limit == entitlements.Unlimited; !p.Unlimited {
			p.Limit = json.Number(strconv.FormatInt(g.Limit, 10))
			p.Value = p.Limit
		}
	case entitlements.KindText:
		// Assumption: the pages know boolean, numeric and metered. A client that
		// must tolerate unknown kinds can as well be given one.
		p.Value = g.Text
	}
	if b.cfg.Spelling == SpellingVerbose {
		return verboseItem{
			Code: p.Code, Kind: p.Kind, Enabled: p.Enabled, Unlimited: p.Unlimited,
			Limit: p.Limit, Used: p.Used, Remaining: p.Remaining, Soft: p.Soft, Value: p.Value,
			PeriodStart: milliseconds(g.PeriodStart), ResetsAt: milliseconds(g.ResetsAt), ExpiresAt: milliseconds(g.ExpiresAt),
		}
	}
	p.PeriodStart, p.ResetsAt, p.ExpiresAt = rfc3339(g.PeriodStart), rfc3339(g.ResetsAt), rfc3339(g.ExpiresAt)
	return p
}

// remaining is what is left of a limit, never less than nothing: overage shows
// in used.
func remaining(limit, used *big.Int) *big.Int {
	rest := new(big.Int).Sub(limit, used)
	if rest.Sign() < 0 {
		rest.SetInt64(0)
	}
	return rest
}

// verdict is the API's own answer to a check.
func (f figure) verdict(granted bool, now time.Time) string {
	g := f.grant
	switch {
	case !granted || !g.Enabled:
		return "not_granted"
	case !g.ExpiresAt.IsZero() && !now.Before(g.ExpiresAt):
		return "expired"
	case g.Kind != entitlements.KindMetered || g.Limit == entitlements.Unlimited:
		return "granted"
	case f.used.Cmp(fromUnits(g.Limit, f.decimals)) < 0:
		return "granted"
	case g.Soft:
		return "overage"
	}
	return "limit_reached"
}

// rfc3339 is empty for never, which leaves the field out.
func rfc3339(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// milliseconds is 0 for never, which leaves the field out.
func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
