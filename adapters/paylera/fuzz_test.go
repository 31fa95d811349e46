package paylera_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
)

// FuzzVerify looks for a signature that is taken although the secret did not make
// it, or made it too long ago or for later. In header $T stands for the time that
// was signed, $V for the secret's signature and $O for the other secret's.
func FuzzVerify(f *testing.F) {
	f.Add("t=$T,v1=$V", "whsec_1", "whsec_2", "{}", int64(0))
	f.Add("v1=$O , v1=$V,v2=$V, t=$T", "whsec_1", "", "", int64(300))
	f.Fuzz(func(t *testing.T, header, secret, other, body string, apart int64) {
		if keyOf(secret) == "" {
			return // Config refuses it
		}
		now := july
		apart %= 1_000_000_000
		at := now.Add(time.Duration(apart) * time.Second)
		good := -300 <= apart && apart <= 300
		genuine := sign(secret, at, body)
		require.Equal(t, good, paylera.VerifySignature(genuine, []string{secret}, body, now) == nil, "signed %d s from now", apart)
		require.Error(t, paylera.VerifySignature(genuine, nil, body, now), "no secret")
		require.Error(t, paylera.VerifySignature(genuine, []string{secret}, body+" ", now), "another body")
		require.Error(t, paylera.VerifySignature(sign("", at, body), []string{secret}, body, now), "an empty secret")
		if keyOf(other) != keyOf(secret) {
			require.Error(t, paylera.VerifySignature(sign(other, at, body), []string{secret}, body, now), "another secret")
			require.Error(t, paylera.VerifySignature(genuine, []string{other}, body, now), "another secret")
			require.Equal(t, good, paylera.VerifySignature(genuine, []string{other, secret}, body, now) == nil, "while both are in use")
		}

		v1 := func(header string) string { return header[strings.Index(header, "v1=")+3:] }
		header = strings.NewReplacer("$T", unix(at), "$V", v1(genuine), "$O", v1(sign(other, at, body))).Replace(header)
		if paylera.VerifySignature(header, []string{secret}, body, now) != nil {
			return
		}
		stamp, _, err := paylera.ParseSignature(header)
		require.NoError(t, err)
		seconds, err := strconv.ParseInt(stamp, 10, 64)
		require.NoError(t, err)
		require.LessOrEqual(t, now.Sub(time.Unix(seconds, 0)).Abs(), 300*time.Second)
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(stamp + "." + body))
		require.Contains(t, strings.ToLower(header), hex.EncodeToString(mac.Sum(nil)))
	})
}

// keyOf is what HMAC makes of a secret: a long one is hashed, a short one is
// filled with zeros.
func keyOf(secret string) string {
	if len(secret) > sha256.BlockSize {
		sum := sha256.Sum256([]byte(secret))
		secret = string(sum[:])
	}
	return strings.TrimRight(secret, "\x00")
}

// FuzzEvent looks for webhook bodies that panic, or that are about something that
// they don't name.
func FuzzEvent(f *testing.F) {
	f.Add([]byte(updated("evt_1", "sub_1")))
	f.Fuzz(func(t *testing.T, body []byte) {
		id, kind, subscriptions, changes, err := paylera.DecodeEvent(body)
		isObject := json.Valid(body) && bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{"))
		require.Equal(t, isObject, err == nil)
		if err != nil {
			require.Empty(t, id+kind)
			require.Empty(t, subscriptions)
			require.False(t, changes)
			return
		}
		require.LessOrEqual(t, len(subscriptions), 2)
		if changes {
			require.True(t, strings.HasPrefix(kind, "subscription."), kind)
		}
		wire := map[string]any{"id": id, "type": kind}
		for i, subscription := range subscriptions {
			require.NotEmpty(t, subscription)
			if i == 0 {
				wire["aggregate_id"] = subscription
			} else {
				require.NotEqual(t, subscriptions[0], subscription)
				wire["data"] = map[string]any{"subscription_id": subscription}
			}
		}
		encoded, err := json.Marshal(wire)
		require.NoError(t, err)
		id2, kind2, subscriptions2, changes2, err := paylera.DecodeEvent(encoded)
		require.NoError(t, err)
		require.Equal(t, []any{id, kind, subscriptions, changes}, []any{id2, kind2, subscriptions2, changes2})
	})
}

// FuzzPage looks for pages that panic, or that lose a subscription.
func FuzzPage(f *testing.F) {
	f.Add([]byte(`{"data":[{"id":"sub_1"},{"subscription_id":"sub_2"},"sub_3"],"has_more":true,"next_cursor":"c"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		subscriptions, next, err := paylera.DecodePage(body)
		if err != nil {
			require.Empty(t, subscriptions)
			require.Empty(t, next)
			return
		}
		var wire struct {
			Data []json.RawMessage `json:"data"`
			More *bool             `json:"has_more"`
		}
		require.NoError(t, json.Unmarshal(body, &wire))
		require.Len(t, subscriptions, len(wire.Data))
		require.NotContains(t, subscriptions, "")
		if wire.More != nil {
			require.Equal(t, *wire.More, next != "")
		}
		encoded, err := json.Marshal(map[string]any{"data": append([]string{}, subscriptions...), "next_cursor": next})
		require.NoError(t, err)
		subscriptions2, next2, err := paylera.DecodePage(encoded)
		require.NoError(t, err)
		require.Equal(t, subscriptions, subscriptions2)
		require.Equal(t, next, next2)
	})
}

// FuzzOutcome looks for answers to usage that panic, or whose status does not
// decide: usage must be neither billed twice nor forgotten because of a body.
func FuzzOutcome(f *testing.F) {
	f.Add(409, "application/json", "", "", "", `{"type":"usage.duplicate_event"}`)
	f.Add(429, "application/problem+json", "3", "", "", `{"detail":"slow down, `+token+`"}`)
	f.Fuzz(func(t *testing.T, status int, contentType, retryAfter, reset, date, body string) {
		status = 200 + int(uint(status-200)%400)
		var rec recorder
		transport := fake(&rec, func(w http.ResponseWriter, _ request) {
			write(w, status, body)
		})
		answering := paylera.RoundTripperFunc(func(r *http.Request) (*http.Response, error) {
			answer, err := transport.RoundTrip(r)
			if err == nil {
				for name, value := range map[string]string{
					"Content-Type": contentType, "Retry-After": retryAfter, "Date": date,
					"X-Ratelimit-Reset": reset, "X-Ratelimit-Remaining": "0", "X-Request-Id": body,
				} {
					answer.Header.Set(name, value)
				}
			}
			return answer, err
		})
		for _, family := range []paylera.Family{paylera.SDK, paylera.Core} {
			for n, batch := range map[int]entitlements.Batch{1: records("a"), 2: records("a", "b")} {
				if n == 2 && family == paylera.SDK {
					continue // one by one
				}
				a := open(t, "http://api.invalid", paylera.Config{Family: family, Transport: answering})
				err := a.Deliver(t.Context(), batch)
				for _, fate := range strings.Fields(fates(n, err))[:n] {
					switch {
					case status < 300:
						require.Equal(t, "accepted", fate)
					case status >= 500:
						require.Equal(t, "unknown", fate)
					case status == 401, status == 403, status == 429:
						require.Equal(t, "retry", fate)
					case fate == "accepted":
						require.Equal(t, []int{409, 1}, []int{status, n}, body)
						require.Regexp(t, `(?i)duplicate|already|\\u`, body)
					}
				}
				if err != nil {
					wait, _ := entitlements.RetryDelay(err)
					var details *entitlements.DeliveryError
					if errors.As(err, &details) {
						wait = details.After
					}
					require.GreaterOrEqual(t, wait, time.Duration(0))
					require.LessOrEqual(t, wait, time.Hour)
					require.NotContains(t, err.Error(), map[paylera.Family]string{paylera.SDK: token, paylera.Core: coreToken}[family])
					require.Less(t, len(err.Error()), 2000)
				}

				// What the headers hold back is held for a minute at most.
				asked := len(rec.all())
				err = a.Deliver(t.Context(), batch)
				if len(rec.all()) == asked {
					wait, ok := entitlements.RetryDelay(err)
					require.True(t, ok, "nothing was sent: %v", err)
					require.Positive(t, wait)
					require.LessOrEqual(t, wait, time.Minute)
				}
			}
		}
	})
}

// FuzzMoment looks for times that panic, or that can't be written again.
func FuzzMoment(f *testing.F) {
	f.Add("2026-07-01T12:00:00.123+02:00")
	f.Add("1782907200")
	f.Add("1782907200123")
	f.Fuzz(func(t *testing.T, text string) {
		at, err := paylera.ParseMoment(text)
		if err != nil || at.IsZero() {
			require.True(t, at.IsZero())
			return
		}
		_, err = at.MarshalJSON()
		require.NoError(t, err, "%v", at)
		again, err := paylera.ParseMoment(at.Format(time.RFC3339Nano))
		require.NoError(t, err)
		require.True(t, at.Equal(again), "%v, %v", at, again)
		if ms := at.UnixMilli(); ms >= 100_000_000_000 {
			again, err = paylera.ParseMoment(strconv.FormatInt(ms, 10))
			require.NoError(t, err)
			require.True(t, at.Truncate(time.Millisecond).Equal(again), "%v, %v", at, again)
		}
	})
}

// FuzzParseDecimal compares with exact arithmetic.
func FuzzParseDecimal(f *testing.F) {
	f.Add("12.345", 3)
	f.Add("-1e-3", 2)
	f.Fuzz(func(t *testing.T, text string, decimals int) {
		decimals = int(uint(decimals) % 19)
		if _, exponent, ok := strings.Cut(strings.ToLower(text), "e"); ok && len(exponent) > 4 {
			return // too large for exact arithmetic
		}
		down, err := paylera.ParseDecimalDown(text, decimals)
		up, errUp := paylera.ParseDecimalUp(text, decimals)
		require.Equal(t, err, errUp)
		if err != nil {
			return
		}
		exact, ok := new(big.Rat).SetString(text)
		require.True(t, ok)
		exact.Mul(exact, new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(decimals)), nil)))
		floor, rest := new(big.Int).DivMod(exact.Num(), exact.Denom(), new(big.Int)) // rest is not negative
		held := func(n *big.Int) int64 {
			switch {
			case n.IsInt64():
				return n.Int64()
			case n.Sign() < 0:
				return math.MinInt64
			}
			return math.MaxInt64
		}
		require.Equal(t, held(floor), down)
		if rest.Sign() != 0 {
			floor.Add(floor, big.NewInt(1))
		}
		require.Equal(t, held(floor), up)
	})
}
