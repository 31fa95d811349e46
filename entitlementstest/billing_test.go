package entitlementstest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

type (
	grants = map[string]entitlements.Grant
	object = map[string]any
)

func metered(limit int64) entitlements.Grant {
	return entitlements.Grant{Kind: entitlements.KindMetered, Enabled: true, Limit: limit}
}

func newBilling(t *testing.T, cfg entitlementstest.BillingConfig) *entitlementstest.Billing {
	b := entitlementstest.NewBilling(cfg)
	t.Cleanup(b.Close)
	return b
}

// reply is an answer that was read whole.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) json(t *testing.T) object {
	var v object
	require.NoError(t, json.Unmarshal([]byte(r.body), &v), r.body)
	return v
}

// try sends a request. Headers come in pairs.
func try(b *entitlementstest.Billing, method, path, body string, header ...string) (reply, error) {
	request, err := http.NewRequest(method, b.URL+path, bytes.NewBufferString(body))
	if err != nil {
		return reply{}, err
	}
	request.Header.Set("Authorization", "Bearer "+b.Token)
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := b.Client().Do(request)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(content)}, err
}

func send(t *testing.T, b *entitlementstest.Billing, method, path, body string, header ...string) reply {
	t.Helper()
	r, err := try(b, method, path, body, header...)
	require.NoError(t, err)
	return r
}

const stamp = "2026-11-20T10:00:00.000Z"

func event(subscription, meter, quantity, id string) string {
	return fmt.Sprintf(`{"subscription_id":%q,"meter":%q,"quantity":%q,"timestamp":%q,"external_id":%q}`, subscription, meter, quantity, stamp, id)
}

func TestEntitlements(t *testing.T) {
	resets := time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)
	api := metered(1500)
	api.Used, api.ResetsAt, api.Soft = 250, resets, true
	set := grants{
		"api":    api,
		"sso":    {Enabled: true, ExpiresAt: resets},
		"seats":  {Kind: entitlements.KindNumeric, Enabled: true, Limit: 5},
		"region": {Kind: entitlements.KindText, Enabled: true, Text: "eu"},
		"open":   metered(entitlements.Unlimited),
	}
	cfg := entitlementstest.BillingConfig{Meters: map[string]entitlementstest.Meter{"api": {Decimals: 3}}}

	t.Run("map", func(t *testing.T) {
		b := newBilling(t, cfg)
		b.Put("cust_1", set)
		features := send(t, b, "GET", "/v1/subscriptions/cust_1/entitlements", "").json(t)["features"].(object)
		require.Equal(t, object{
			"kind": "metered", "enabled": true, "limit": 1.5, "used": 0.25, "remaining": 1.25,
			"overage_allowed": true, "resets_at": "2099-01-01T00:00:00Z",
		}, features["api"])
		require.Equal(t, object{"kind": "boolean", "enabled": true, "expires_at": "2099-01-01T00:00:00Z"}, features["sso"])
		require.Equal(t, object{"kind": "numeric", "enabled": true, "limit": 5.0, "value": 5.0}, features["seats"])
		require.Equal(t, object{"kind": "text", "enabled": true, "value": "eu"}, features["region"])
		require.Equal(t, object{"kind": "metered", "enabled": true, "unlimited": true, "used": 0.0}, features["open"])
	})
	t.Run("array, other names", func(t *testing.T) {
		cfg := cfg
		cfg.Shape, cfg.Spelling = entitlementstest.ShapeArray, entitlementstest.SpellingVerbose
		b := newBilling(t, cfg)
		b.Put("cust_1", set)
		list := send(t, b, "GET", "/v1/subscriptions/cust_1/entitlements", "").json(t)["features"].([]any)
		require.Len(t, list, 5)
		require.Equal(t, object{
			"feature_code": "api", "type": "metered", "has_access": true, "included_usage": 1.5, "usage": 0.25, "balance": 1.25,
			"soft_limit": true, "next_reset_at": float64(resets.UnixMilli()),
		}, list[0])
	})
}

func TestEntitlementsOfAwkwardKeys(t *testing.T) {
	b := newBilling(t, entitlementstest.BillingConfig{})
	for _, key := range []string{"a/b", "..", "%2F", "ü ?#&"} {
		b.Put(key, grants{"sso": {Enabled: true}})
		r := send(t, b, "GET", "/v1/subscriptions/"+url.PathEscape(key)+"/entitlements", "")
		require.Equal(t, 200, r.status, key)
		require.Equal(t, key, r.json(t)["subscription_id"])
	}
	require.Equal(t, 404, send(t, b, "GET", "/v1/subscriptions/none/entitlements", "").status)
	require.Equal(t, 404, send(t, b, "GET", "/v2/else", "").status)
	b.Remove("a/b")
	require.Equal(t, 404, send(t, b, "GET", "/v1/subscriptions/a%2Fb/entitlements", "").status)
	require.Equal(t, 6, b.Requests(entitlementstest.RouteEntitlements))
	require.Equal(t, 1, b.Requests(entitlementstest.RouteUnknown))
	require.Equal(t, map[int]int{200: 4, 404: 3}, b.Statuses())
}

func TestEntityTag(t *testing.T) {
	for mode, afterUsage := range map[entitlementstest.ETag]int{
		entitlementstest.ETagAll: 200, entitlementstest.ETagContent: 304, entitlementstest.ETagNone: 200,
	} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			b := newBilling(t, entitlementstest.BillingConfig{ETag: mode})
			b.Put("c", grants{"api": metered(10)})
			get := func(tag string) reply {
				return send(t, b, "GET", "/v1/subscriptions/c/entitlements", "", "If-None-Match", tag)
			}
			tag := get("").header.Get("ETag")
			require.Equal(t, mode == entitlementstest.ETagNone, tag == "")
			if tag == "" {
				tag = `W/"x"`
			} else {
				same := get(`"other", ` + tag)
				require.Equal(t, 304, same.status)
				require.Empty(t, same.body)
				require.NotEmpty(t, same.header.Get("Date"))
			}
			require.Equal(t, 202, send(t, b, "POST", "/v1/usage", event("c", "api", "3", "e1")).status)
			require.Equal(t, afterUsage, get(tag).status)
			b.Put("c", grants{"api": metered(11)})
			require.Equal(t, 200, get(tag).status)
		})
	}
}

func TestClockOffset(t *testing.T) {
	b := newBilling(t, entitlementstest.BillingConfig{})
	b.Put("c", nil)
	b.SetClockOffset(-48 * time.Hour)
	before := time.Now().Add(-48 * time.Hour)
	r := send(t, b, "GET", "/v1/subscriptions/c/entitlements", "")
	after := time.Now().Add(-48 * time.Hour)
	asOf, err := time.Parse(time.RFC3339Nano, r.json(t)["as_of"].(string))
	require.NoError(t, err)
	require.False(t, asOf.Before(before.Truncate(0)) || asOf.After(after))
	date, err := http.ParseTime(r.header.Get("Date"))
	require.NoError(t, err)
	require.WithinDuration(t, asOf, date, time.Second)
}

func TestList(t *testing.T) {
	b := newBilling(t, entitlementstest.BillingConfig{})
	for i := range 230 {
		b.PutEntitlements(&entitlements.Entitlements{Customer: fmt.Sprintf("c%03d", i), Plan: "pro"})
	}
	walk := func(query string) (ids []string, pages int) {
		cursor := ""
		for {
			page := send(t, b, "GET", "/v1/subscriptions?"+query+"&cursor="+cursor, "").json(t)
			pages++
			for _, item := range page["data"].([]any) {
				ids = append(ids, item.(object)["id"].(string))
			}
			if !page["has_more"].(bool) {
				require.Nil(t, page["next_cursor"])
				return ids, pages
			}
			cursor = page["next_cursor"].(string)
		}
	}
	for query, want := range map[string]int{"": 10, "limit=100": 3, "limit=23": 10, "limit=1": 230} {
		ids, pages := walk(query)
		require.Len(t, ids, 230)
		require.IsIncreasing(t, ids)
		require.Equal(t, want, pages, query)
	}
	for _, query := range []string{"limit=0", "limit=101", "limit=x", "cursor=!"} {
		require.Equal(t, 422, send(t, b, "GET", "/v1/subscriptions?"+query, "").status, query)
	}
}

func TestCheck(t *testing.T) {
	b := newBilling(t, entitlementstest.BillingConfig{})
	soft := metered(1)
	soft.Soft = true
	b.Put("sub", grants{"api": metered(1), "soft": soft, "sso": {Enabled: true}, "off": {}, "old": {Enabled: true, ExpiresAt: time.Unix(1, 0)}})
	b.SetCustomer("sub", "cust")
	check := func(feature string) any {
		r := send(t, b, "POST", "/v1/check", fmt.Sprintf(`{"customer_id":"cust","feature_code":%q}`, feature)).json(t)
		require.Equal(t, r["reason"] == "granted" || r["reason"] == "overage", r["allowed"])
		return r["reason"]
	}
	require.Equal(t, "granted", check("api"))
	for _, meter := range []string{"api", "soft"} {
		require.Equal(t, 202, send(t, b, "POST", "/v1/usage", event("sub", meter, "1", "e")).status)
	}
	require.Equal(t, "limit_reached", check("api"))
	require.Equal(t, "overage", check("soft"))
	require.Equal(t, "granted", check("sso"))
	require.Equal(t, "not_granted", check("off"))
	require.Equal(t, "not_granted", check("none"))
	require.Equal(t, "expired", check("old"))
	require.Equal(t, 404, send(t, b, "POST", "/v1/check", `{"customer_id":"sub","feature_code":"api"}`).status)
	require.Equal(t, 400, send(t, b, "POST", "/v1/check", `{`).status)
}

func TestTokensAndFamilies(t *testing.T) {
	b := newBilling(t, entitlementstest.BillingConfig{})
	b.AllowToken("pl_test_more")
	get := func(token string) reply {
		return send(t, b, "GET", "/v1/subscriptions/none/entitlements", "", "Authorization", "Bearer "+token)
	}
	require.Equal(t, 401, get("pl_live_wrong").status)
	require.Equal(t, 404, get("pl_test_more").status)
	b.ForbidToken("pl_test_more")
	require.Equal(t, 403, get("pl_test_more").status)
	b.RevokeToken("pl_test_more")
	require.Equal(t, 401, get("pl_test_more").status)
	require.Equal(t, 401, send(t, b, "GET", "/v1/subscriptions", "", "Authorization", "Basic x").status)

	sdk := get(b.Token)
	require.Equal(t, "application/problem+json", sdk.header.Get("Content-Type"))
	require.Equal(t, "paylera.not_found", sdk.json(t)["type"])
	require.NotContains(t, sdk.json(t), "problem")
	require.NotEmpty(t, sdk.header.Get("X-Request-Id"))
	core := get(b.CoreToken)
	require.Equal(t, "resource.not_found", core.json(t)["problem"])
	require.NotEmpty(t, core.json(t)["trace_id"])
	require.Equal(t, "2026-04-01", core.header.Get("Paylera-Version"))

	old := send(t, b, "GET", "/v1/subscriptions", "", "Paylera-Version", "2025-01-01")
	require.NotEmpty(t, old.header.Get("Sunset"))
	require.NotEmpty(t, old.header.Get("Deprecation"))
	require.Empty(t, sdk.header.Get("Sunset"))
}

func TestRateLimits(t *testing.T) {
	b := newBilling(t, entitlementstest.BillingConfig{RateLimits: entitlementstest.RateLimits{Reads: 2, Usage: 3}})
	b.Put("c", grants{"api": metered(10)})
	// A thousand at once within one second can't all pass, whatever second a
	// single one falls into.
	refused := reply{}
	for refused.status != 429 {
		r := send(t, b, "GET", "/v1/subscriptions", "")
		require.Equal(t, "2", r.header.Get("X-RateLimit-Limit"))
		require.NotEmpty(t, r.header.Get("X-RateLimit-Reset"))
		refused = r
	}
	require.Equal(t, "1", refused.header.Get("Retry-After"))
	require.Equal(t, "0", refused.header.Get("X-RateLimit-Remaining"))
	require.Equal(t, "paylera.rate_limit_exceeded", refused.json(t)["type"])

	events := strings.Join([]string{event("c", "api", "1", "1"), event("c", "api", "1", "2"), event("c", "api", "1", "3"), event("c", "api", "1", "4")}, ",")
	require.Equal(t, 429, send(t, b, "POST", "/v1/usage/batch", `{"events":[`+events+`]}`).status, "four events never fit in a limit of three")
	require.Zero(t, b.Total("c", "api"))
	b.SetRateLimits(entitlementstest.RateLimits{})
	r := send(t, b, "POST", "/v1/usage/batch", `{"events":[`+events+`]}`)
	require.Equal(t, 202, r.status)
	require.Empty(t, r.header.Get("X-RateLimit-Limit"))
}
