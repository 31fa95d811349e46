package paylera_test

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements/adapters/paylera"
)

type vector struct {
	name, secret, stamp, body, v1 string
}

// vectors reads what openssl signed.
func vectors(t testing.TB) (vs []vector) {
	t.Helper()
	f, err := os.Open("testdata/signatures.tsv")
	require.NoError(t, err)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		c := strings.Split(lines.Text(), "\t")
		require.Len(t, c, 5)
		body, err := base64.StdEncoding.DecodeString(c[3])
		require.NoError(t, err)
		vs = append(vs, vector{c[0], c[1], c[2], string(body), c[4]})
	}
	require.NotEmpty(t, vs)
	return vs
}

func TestWebhookVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(july)) // when they were signed
				a := receiver(t, paylera.Config{WebhookSecrets: []string{v.secret}})
				told := watch(t, a)
				header := "t=" + v.stamp + ",v1=" + v.v1
				require.Equal(t, 401, post(a, header, v.body+" "), "one byte more")
				require.Equal(t, 401, post(a, header, v.body[1:]), "one byte less")
				require.Equal(t, 401, post(a, header, strings.ReplaceAll(v.body, "evt", "evu")), "another body")
				require.Equal(t, 401, post(a, "t=1782907201,v1="+v.v1, v.body), "another time")
				require.Equal(t, 401, post(receiver(t, paylera.Config{WebhookSecrets: []string{v.secret + "x"}}), header, v.body), "another secret")
				require.Empty(t, told.all())
				require.Equal(t, 200, post(a, header, v.body))
				require.Equal(t, []string{"sub_1"}, told.all())
			})
		})
	}
}

func TestWebhookClockSkew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := receiver(t, paylera.Config{})
		watch(t, a)
		for apart, want := range map[time.Duration]int{
			0:                        200,
			300 * time.Second:        200,
			301 * time.Second:        401,
			-300 * time.Second:       200,
			-301 * time.Second:       401,
			24 * time.Hour:           401,
			-24 * time.Hour:          401,
			-1000 * 365 * time.Hour:  401,
			100 * 365 * 24 * 3600e9:  401,
			-100 * 365 * 24 * 3600e9: 401, // before 1970: no digits alone
		} {
			body := updated(fmt.Sprint("evt", apart), "sub")
			require.Equal(t, want, post(a, sign(secret, time.Now().Add(apart), body), body), "signed %v from now", apart)
		}
		// Half a second past the tolerance is past it.
		body := updated("evt_half", "sub")
		header := sign(secret, time.Now(), body)
		time.Sleep(300*time.Second + 500*time.Millisecond)
		require.Equal(t, 401, post(a, header, body))
	})
}

func TestWebhookSignatureHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := receiver(t, paylera.Config{WebhookSecrets: []string{"new", secret}})
		watch(t, a)
		now := unix(time.Now())
		n := 0
		check := func(want int, name string, header func(v1 func(secret string) string) string) {
			n++
			body := updated(fmt.Sprint("evt_", n), "sub")
			got := post(a, header(func(secret string) string {
				_, v1, _ := strings.Cut(sign(secret, time.Now(), body), "v1=")
				return v1
			}), body)
			require.Equal(t, want, got, name)
		}
		bad := strings.Repeat("0", 64)
		type v1 = func(string) string
		check(200, "either secret", func(v v1) string { return "t=" + now + ",v1=" + v("new") })
		check(200, "either secret", func(v v1) string { return "t=" + now + ",v1=" + v(secret) })
		check(200, "any v1", func(v v1) string { return "t=" + now + ",v1=" + bad + ",v1=" + v(secret) })
		check(200, "any v1", func(v v1) string { return "t=" + now + ",v1=" + v(secret) + ",v1=" + bad })
		check(200, "an unreadable v1 beside a good one", func(v v1) string { return "t=" + now + ",v1=zz,v1=" + v(secret) })
		check(200, "spaces", func(v v1) string { return " t = " + now + " , v1 = " + v(secret) + " " })
		check(200, "any order", func(v v1) string { return "v1=" + v(secret) + ",t=" + now })
		check(200, "capitals", func(v v1) string { return "t=" + now + ",v1=" + strings.ToUpper(v(secret)) })
		check(200, "schemes to come", func(v v1) string { return "t=" + now + ",v2=x=y,v1=" + v(secret) + ",alg=none" })
		check(401, "v0", func(v v1) string { return "t=" + now + ",v0=" + v(secret) })
		check(401, "half a v1", func(v v1) string { return "t=" + now + ",v1=" + v(secret)[:32] })
		check(401, "empty v1", func(v1) string { return "t=" + now + ",v1=" })
		check(401, "no t", func(v v1) string { return "v1=" + v(secret) })
		check(401, "two t", func(v v1) string { return "t=" + now + ",t=" + now + ",v1=" + v(secret) })
		check(401, "a sign", func(v v1) string { return "t=+" + now + ",v1=" + v(secret) })
		check(401, "leading zero changes what was signed", func(v v1) string { return "t=0" + now + ",v1=" + v(secret) })
		check(401, "no =", func(v v1) string { return "t=" + now + ",junk,v1=" + v(secret) })
		check(401, "nothing", func(v1) string { return "" })
		check(401, "too long", func(v v1) string { return "t=" + now + ",x=" + strings.Repeat("x", 5000) + ",v1=" + v(secret) })
		check(401, "no secret at all", func(v v1) string { return "t=" + now + ",v1=" + v("") })

		// Two headers: only one of them can have been meant.
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}"))
		r.Header.Add("Paylera-Signature", sign(secret, time.Now(), "{}"))
		r.Header.Add("Paylera-Signature", sign(secret, time.Now(), "{}"))
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		require.Equal(t, 401, w.Code)
		require.NotContains(t, w.Body.String(), secret)
	})
}

// FuzzSignature looks for headers that panic the parser, or that it reads
// otherwise than as one time and whole signatures.
func FuzzSignature(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add("t=" + v.stamp + ",v1=" + v.v1)
	}
	f.Add("t=1,v1=00,v1=" + strings.Repeat("ab", 32) + ", v2=x")
	f.Add("t=1,t=2")
	f.Add("=,=")
	f.Fuzz(func(t *testing.T, header string) {
		stamp, v1, err := paylera.ParseSignature(header)
		if err != nil {
			require.Zero(t, v1)
			require.Empty(t, stamp)
			return
		}
		require.Regexp(t, `^[0-9]{1,12}$`, stamp)
		require.Positive(t, v1)
		require.Contains(t, header, stamp)
		require.LessOrEqual(t, 64*v1, len(header))
	})
}
