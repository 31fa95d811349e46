package paylera_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
)

var july = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func TestDecodeItem(t *testing.T) {
	const (
		boolean = entitlements.KindBoolean
		numeric = entitlements.KindNumeric
		text    = entitlements.KindText
		metered = entitlements.KindMetered
	)
	for _, c := range []struct {
		name, item string
		want       entitlements.Grant
	}{
		{"bare true", `true`, entitlements.Grant{Kind: boolean, Enabled: true}},
		{"bare false", `false`, entitlements.Grant{Kind: boolean}},
		{"bare null", `null`, entitlements.Grant{}},
		{"bare number", `25`, entitlements.Grant{Kind: numeric, Enabled: true, Limit: 25}},
		{"bare fraction rounds down", `25.9`, entitlements.Grant{Kind: numeric, Enabled: true, Limit: 25}},
		{"bare string", `"eu"`, entitlements.Grant{Kind: text, Enabled: true, Text: "eu"}},

		{"allowed", `{"allowed":true}`, entitlements.Grant{Kind: boolean, Enabled: true}},
		{"enabled", `{"enabled":true,"type":"boolean"}`, entitlements.Grant{Kind: boolean, Enabled: true}},
		{"has_access", `{"has_access":true,"kind":"boolean"}`, entitlements.Grant{Kind: boolean, Enabled: true}},
		{"one verdict of several says no", `{"allowed":true,"enabled":false}`, entitlements.Grant{Kind: boolean}},
		{"a boolean's value", `{"kind":"boolean","value":true}`, entitlements.Grant{Kind: boolean, Enabled: true}},
		{"a boolean's value says no", `{"kind":"boolean","allowed":true,"value":false}`, entitlements.Grant{Kind: boolean}},
		{"says nothing", `{}`, entitlements.Grant{Kind: boolean}},
		{"null verdict is none", `{"allowed":null,"kind":"boolean"}`, entitlements.Grant{Kind: boolean}},
		{"expires", `{"allowed":true,"expires_at":"2026-07-01T14:00:00+02:00"}`, entitlements.Grant{Kind: boolean, Enabled: true, ExpiresAt: july}},
		{"expires, unix", `{"allowed":true,"expires_at":1782907200}`, entitlements.Grant{Kind: boolean, Enabled: true, ExpiresAt: july}},
		{"expires, unix ms", `{"allowed":true,"expires_at":1782907200000}`, entitlements.Grant{Kind: boolean, Enabled: true, ExpiresAt: july}},
		{"expires, unix in a string", `{"allowed":true,"expires_at":"1782907200"}`, entitlements.Grant{Kind: boolean, Enabled: true, ExpiresAt: july}},
		{"expires, unset", `{"allowed":true,"expires_at":0}`, entitlements.Grant{Kind: boolean, Enabled: true}},
		{"expires, Go's zero time", `{"allowed":true,"expires_at":"0001-01-01T00:00:00Z"}`, entitlements.Grant{Kind: boolean, Enabled: true}},
		{"expired before all calendars", `{"allowed":true,"expires_at":-99999999999999}`, entitlements.Grant{Kind: boolean, Enabled: true, ExpiresAt: time.Time{}.Add(time.Millisecond)}},
		{"expires after all calendars", `{"allowed":true,"expires_at":9223372036854775807}`, entitlements.Grant{Kind: boolean, Enabled: true}},

		{"numeric value", `{"kind":"numeric","allowed":true,"value":"25.5"}`, entitlements.Grant{Kind: numeric, Enabled: true, Limit: 25}},
		{"numeric limit", `{"kind":"numeric","limit":25}`, entitlements.Grant{Kind: numeric, Enabled: true, Limit: 25}},
		{"numeric unlimited", `{"kind":"numeric","unlimited":true}`, entitlements.Grant{Kind: numeric, Enabled: true, Limit: entitlements.Unlimited}},
		{"numeric by its value", `{"value":7}`, entitlements.Grant{Kind: numeric, Enabled: true, Limit: 7}},
		{"text by its value", `{"value":"eu"}`, entitlements.Grant{Kind: text, Enabled: true, Text: "eu"}},
		{"text, switched off", `{"kind":"text","enabled":false,"value":"eu"}`, entitlements.Grant{Kind: text, Text: "eu"}},
		{"text that is a number", `{"kind":"text","value":7}`, entitlements.Grant{Kind: text, Enabled: true, Text: "7"}},

		{
			"metered", `{"kind":"metered","allowed":true,"limit":100,"usage":7,"next_reset_at":"2026-07-01T12:00:00Z"}`,
			entitlements.Grant{Kind: metered, Enabled: true, Limit: 100, Used: 7, ResetsAt: july},
		},
		{
			"metered, other names", `{"type":"metered","included_usage":"100","used":"7","resets_at":1782907200,"soft_limit":true}`,
			entitlements.Grant{Kind: metered, Enabled: true, Limit: 100, Used: 7, ResetsAt: july, Soft: true},
		},
		{
			"metered, third name", `{"type":"metered","usage_limit":100,"usage":7,"overage_allowed":true}`,
			entitlements.Grant{Kind: metered, Enabled: true, Limit: 100, Used: 7, Soft: true},
		},
		{"soft limit as a number is hard", `{"type":"metered","limit":100,"soft_limit":80}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: 100}},
		{"a bare limit is metered", `{"limit":100}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: 100}},
		{"an unknown kind with a limit is metered", `{"kind":"tiered","limit":100,"usage":1}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: 100, Used: 1}},
		{"an unknown kind with a verdict", `{"kind":"quantum","allowed":true,"spin":{"up":[1]}}`, entitlements.Grant{Kind: boolean, Enabled: true}},
		{"the first spelling counts", `{"limit":1,"included_usage":2,"usage_limit":3,"usage":4,"used":5}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: 1, Used: 4}},
		{"null is absent", `{"limit":null,"included_usage":2}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: 2}},
		{"exhausted", `{"kind":"metered","allowed":false,"limit":5,"usage":5}`, entitlements.Grant{Kind: metered, Limit: 5, Used: 5}},
		{"limit 0 is a limit", `{"kind":"metered","allowed":true,"limit":0}`, entitlements.Grant{Kind: metered, Enabled: true}},
		{"limit rounds down, usage up", `{"limit":"10.9","usage":"3.1"}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: 10, Used: 4}},

		{"used is limit - balance", `{"limit":100,"balance":93}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: 100, Used: 7}},
		{"used is limit - remaining, past the limit", `{"limit":100,"remaining":-3}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: 100, Used: 103}},
		{"used saturates", `{"limit":9223372036854775806,"balance":-5}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: math.MaxInt64 - 1, Used: math.MaxInt64}},
		{"stated usage wins over balance", `{"limit":100,"usage":8,"balance":93}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: 100, Used: 8}},
		{"limit is balance + usage", `{"balance":93,"usage":7}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: 100, Used: 7}},
		{"limit saturates", `{"balance":"9223372036854775807","usage":7}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: entitlements.Unlimited, Used: 7}},
		{"balance alone", `{"balance":93}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: 93}},
		{"unlimited", `{"unlimited":true,"limit":5,"usage":7}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: entitlements.Unlimited, Used: 7}},
		{"unlimited as a word", `{"limit":"unlimited","usage":7}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: entitlements.Unlimited, Used: 7}},
		{"unlimited has no derived usage", `{"unlimited":true,"balance":7}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: entitlements.Unlimited}},
		{"granted without a limit", `{"kind":"metered","allowed":true,"usage":7}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: entitlements.Unlimited, Used: 7}},
		{"neither granted nor limited", `{"kind":"metered","usage":7}`, entitlements.Grant{Kind: metered, Limit: entitlements.Unlimited, Used: 7}},
		{"period start", `{"limit":1,"period_start":"2026-07-01T12:00:00Z"}`, entitlements.Grant{Kind: metered, Enabled: true, Limit: 1, PeriodStart: july}},
	} {
		t.Run(c.name, func(t *testing.T) {
			features, err := paylera.DecodeFeatures([]byte(`{"features":{"f":`+c.item+`}}`), nil)
			require.NoError(t, err)
			require.Equal(t, map[string]entitlements.Grant{"f": c.want}, features)
			if c.item[0] != '{' {
				return
			}
			// The array shape reads the same items.
			for _, code := range []string{`"code":"f"`, `"feature_code":"f"`} {
				item := "{" + code + "," + c.item[1:]
				if c.item == `{}` {
					item = "{" + code + "}"
				}
				features, err = paylera.DecodeFeatures([]byte(`{"features":[`+item+`]}`), nil)
				require.NoError(t, err)
				require.Equal(t, map[string]entitlements.Grant{"f": c.want}, features)
			}
		})
	}
}

func TestDecodeScales(t *testing.T) {
	decimals := map[string]int{"f": 3}
	features, err := paylera.DecodeFeatures([]byte(`{"features":{
		"f":{"limit":"12.3459","usage":"0.0001"}, "g":{"limit":"12.9","usage":"0.1"}}}`), decimals)
	require.NoError(t, err)
	require.Equal(t, int64(12345), features["f"].Limit, "limits round down")
	require.Equal(t, int64(1), features["f"].Used, "usage rounds up")
	require.Equal(t, int64(12), features["g"].Limit)
	require.Equal(t, int64(1), features["g"].Used)
}

func TestDecodeRefuses(t *testing.T) {
	for name, body := range map[string]string{
		"empty":              ``,
		"not JSON":           `<html>`,
		"cut":                `{"features":{"f":tr`,
		"two values":         `{"features":{}} {}`,
		"null":               `null`,
		"an array":           `[]`,
		"no features":        `{"plan":"pro"}`,
		"null features":      `{"features":null}`,
		"features a string":  `{"features":"all"}`,
		"features true":      `{"features":true}`,
		"item an array":      `{"features":{"f":[true]}}`,
		"no code":            `{"features":[{"allowed":true}]}`,
		"array of strings":   `{"features":["sso"]}`,
		"verdict a string":   `{"features":{"f":{"allowed":"yes"}}}`,
		"limit unreadable":   `{"features":{"f":{"allowed":true,"limit":"many"}}}`,
		"limit an object":    `{"features":{"f":{"allowed":true,"limit":{"amount":5}}}}`,
		"limit a boolean":    `{"features":{"f":{"allowed":true,"limit":false}}}`,
		"usage unreadable":   `{"features":{"f":{"limit":1,"usage":"0x1"}}}`,
		"value unreadable":   `{"features":{"f":{"kind":"numeric","value":"x"}}}`,
		"value of no number": `{"features":{"f":{"kind":"numeric","value":{}}}}`,
		"end unreadable":     `{"features":{"f":{"allowed":true,"expires_at":"tomorrow"}}}`,
		"end half a date":    `{"features":{"f":{"allowed":true,"expires_at":"2026-07-01T"}}}`,
		"as_of unreadable":   `{"as_of":"then","features":{}}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := paylera.DecodeFeatures([]byte(body), nil)
			require.Error(t, err)
		})
	}
}

func TestDecodeTolerates(t *testing.T) {
	for name, body := range map[string]string{
		"no feature":      `{"features":{}}`,
		"no feature, []":  `{"features":[]}`,
		"unknown members": `{"object":"x","plan":{"tiers":[1,2]},"features":{},"next_action":null}`,
		"odd plan":        `{"plan":[1],"features":{}}`,
		"spaces":          " \n{ \"features\" :\t{ } }\n",
	} {
		t.Run(name, func(t *testing.T) {
			features, err := paylera.DecodeFeatures([]byte(body), nil)
			require.NoError(t, err)
			require.NotNil(t, features)
			require.Empty(t, features)
		})
	}
}

// FuzzDecode looks for bodies that panic, and for grants that no rule of the
// decoder allows: a refusal must never come out as a permission.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"features":{"a":true,"b":5,"c":"x","d":{"limit":"1.5","balance":1}}}`), 3)
	f.Add([]byte(`{"features":[{"code":"a","allowed":false,"unlimited":true}]}`), 0)
	f.Fuzz(func(t *testing.T, body []byte, decimals int) {
		decimals = min(max(decimals, 0), 18)
		features, err := paylera.DecodeFeatures(body, map[string]int{"a": decimals, "b": decimals})
		if err != nil {
			require.Nil(t, features)
			return
		}
		require.NotNil(t, features)
		var wire struct {
			Features map[string]struct {
				Allowed *bool `json:"allowed"`
			}
		}
		// Only exact re-readings can be compared: the map shape without bare values.
		exact := json.Unmarshal(body, &wire) == nil
		for code, g := range features {
			require.LessOrEqual(t, g.Kind, entitlements.KindMetered)
			if w, ok := wire.Features[code]; exact && ok && w.Allowed != nil && !*w.Allowed {
				require.False(t, g.Enabled, "%q was refused", code)
			}
			if g.Kind != entitlements.KindMetered {
				require.Zero(t, g.Used)
				require.True(t, g.ResetsAt.IsZero())
			}
			for _, at := range []time.Time{g.ExpiresAt, g.ResetsAt, g.PeriodStart} {
				_, err := at.MarshalJSON()
				require.NoError(t, err, "a time that can't be stored")
			}
		}
		again, err := paylera.DecodeFeatures(body, map[string]int{"a": decimals, "b": decimals})
		require.NoError(t, err)
		require.Equal(t, features, again)
	})
}
