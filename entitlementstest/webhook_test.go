package entitlementstest_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements/entitlementstest"
)

// receiver notes the webhooks that it gets and answers with a status.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex // guards the fields below
	status int
	got    []object
	header []http.Header
	raw    []string
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{status: 200}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		var event object
		_ = json.Unmarshal(body, &event)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got, r.header, r.raw = append(r.got, event), append(r.header, request.Header), append(r.raw, string(body))
		w.WriteHeader(r.status)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

// of lists the events' aggregates, in order of arrival.
func (r *receiver) of() (ids []any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, event := range r.got {
		ids = append(ids, event["aggregate_id"])
	}
	return ids
}

func TestWebhookIsSigned(t *testing.T) {
	b, r := newBilling(t, entitlementstest.BillingConfig{}), newReceiver(t)
	b.RegisterWebhook(r.URL, "whsec_ü")
	b.SetClockOffset(-time.Hour)
	require.NoError(t, b.Change(t.Context(), "c", grants{"sso": {Enabled: true}}))
	require.Len(t, r.got, 1)
	require.Equal(t, "subscription.updated", r.got[0]["type"])
	require.Equal(t, "c", r.got[0]["aggregate_id"])
	require.Equal(t, r.got[0]["id"], r.header[0].Get("Paylera-Event-Id"))

	stamp, signature, ok := strings.Cut(strings.TrimPrefix(r.header[0].Get("Paylera-Signature"), "t="), ",v1=")
	require.True(t, ok)
	mac := hmac.New(sha256.New, []byte("whsec_ü"))
	mac.Write([]byte(stamp + "." + r.raw[0]))
	require.Equal(t, hex.EncodeToString(mac.Sum(nil)), signature)
	require.InDelta(t, time.Now().Add(-time.Hour).Unix(), mustInt(t, stamp), 60)
	require.Equal(t, 200, send(t, b, "GET", "/v1/subscriptions/c/entitlements", "").status)
}

func mustInt(t *testing.T, text string) int64 {
	var n int64
	require.NoError(t, json.Unmarshal([]byte(text), &n))
	return n
}

func TestWebhookOrderAndRetry(t *testing.T) {
	b, r := newBilling(t, entitlementstest.BillingConfig{}), newReceiver(t)
	require.NoError(t, b.Change(t.Context(), "a", nil), "without an endpoint it is a Put")
	b.RegisterWebhook(r.URL, "s")
	r.answer(500)
	require.Error(t, b.SendWebhook(t.Context(), "subscription.paused", "a", nil))
	require.Error(t, b.Change(t.Context(), "b", nil))
	require.Equal(t, 2, b.PendingWebhooks())
	r.answer(200)
	// The event that was refused goes first, and b's stays where it is.
	require.NoError(t, b.SendWebhook(t.Context(), "subscription.resumed", "a", object{"extra": 1}))
	require.Equal(t, 1, b.PendingWebhooks())
	n, err := b.RetryWebhooks(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, []any{"a", "b", "a", "a", "b"}, r.of())
	require.Equal(t, "subscription.paused", r.got[2]["type"])
	require.Equal(t, "subscription.resumed", r.got[3]["type"])
	require.EqualValues(t, 1, r.got[3]["data"].(object)["extra"])
	require.Equal(t, r.got[0]["id"], r.got[2]["id"], "a retry is the same event")
	require.NotEqual(t, r.header[0].Get("Paylera-Delivery-Id"), r.header[2].Get("Paylera-Delivery-Id"))
	require.NoError(t, b.ResendWebhooks(t.Context()))
	require.Equal(t, []any{"a", "b", "a", "a", "b", "a", "a", "b"}, r.of())
	require.Equal(t, 8, b.WebhookAttempts())
}

func TestWebhookIsSwitchedOff(t *testing.T) {
	b, r := newBilling(t, entitlementstest.BillingConfig{}), newReceiver(t)
	b.RegisterWebhook(r.URL, "s")
	r.answer(401)
	for range 99 {
		err := b.Change(t.Context(), "c", nil)
		require.Error(t, err)
		require.NotErrorIs(t, err, entitlementstest.ErrWebhookDisabled)
	}
	require.ErrorIs(t, b.Change(t.Context(), "c", nil), entitlementstest.ErrWebhookDisabled)
	require.Zero(t, b.PendingWebhooks())
	require.NoError(t, b.Change(t.Context(), "c", nil))
	require.Len(t, r.of(), 100)
}
