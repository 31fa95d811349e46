package recorders_test

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements/bench/recorders"
)

// post sends a body as it is and returns the status of the answer.
func post(t *testing.T, s *Server, path string, body []byte, header ...string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+path, bytes.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return res.StatusCode
}

// A request that is sent again counts once where the wire lets the server know.
func TestServerCountsOnce(t *testing.T) {
	const payload = "X-LaunchDarkly-Payload-ID"
	for _, tt := range []struct {
		name, path, body      string
		header                []string
		delivered, duplicates int64
	}{
		{
			"usage", "/v1/usage/batch", `{"events":[
				{"subscription_id":"a","meter":"m","quantity":"7","external_id":"1"},
				{"subscription_id":"b","meter":"m","quantity":"2","external_id":"1"}]}`, nil, 9, 9,
		},
		{"segment", "/v1/batch", `{"batch":[{"messageId":"1"},{"messageId":"2"}]}`, nil, 2, 2},
		{"posthog, with a uuid", "/batch/", `{"batch":[{"uuid":"1"},{"uuid":"2"}]}`, nil, 2, 2},
		{"posthog, without", "/batch/", `{"batch":[{"uuid":""},{"uuid":""}]}`, nil, 4, 0},
		{"LaunchDarkly", "/bulk", `[{"kind":"index"},{"kind":"custom"},{"kind":"custom"}]`, []string{payload, "1"}, 2, 2},
		{"channel", "/usage", `[{"customer":"a","feature":"m"}]`, nil, 2, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, 0)
			for range 2 {
				require.Equal(t, 2, post(t, s, tt.path, []byte(tt.body), tt.header...)/100)
			}
			want := Counts{Requests: 2, Bytes: int64(2 * len(tt.body)), Delivered: tt.delivered, Duplicates: tt.duplicates}
			require.Equal(t, want, counts(t, s))
			require.Equal(t, want, counts(t, s), "asked twice")
		})
	}
}

func TestServerReadsGzip(t *testing.T) {
	var body bytes.Buffer
	z := gzip.NewWriter(&body)
	_, err := z.Write([]byte(`[{"customer":"a","feature":"m"}]`))
	require.NoError(t, err)
	require.NoError(t, z.Close())

	s := newServer(t, 0)
	post(t, s, "/usage", body.Bytes(), "Content-Encoding", "gzip")
	require.Equal(t, Counts{Requests: 1, Bytes: int64(body.Len()), Delivered: 1}, counts(t, s))
}

// Nothing passes uncounted without a word.
func TestServerTellsWhatItCantRead(t *testing.T) {
	for _, tt := range []struct{ path, body, want string }{
		{"/v2/usage", `[]`, "POST /v2/usage: no recorder sends there"},
		{"/usage", `[`, "POST /usage: unexpected end of JSON input"},
		{"/v1/usage/batch", `{"events":[{"external_id":"1","quantity":"1.5"}]}`, `quantity of 1: strconv.ParseInt: parsing "1.5"`},
		{"/bulk", `[{"kind":"custom"}]`, "X-LaunchDarkly-Payload-ID is required"},
		{"/v1/traces", "\xff", "POST /v1/traces: proto"},
		{"/v1/metrics", "\xff", "POST /v1/metrics: proto"},
	} {
		t.Run(tt.path, func(t *testing.T) {
			s := newServer(t, 0)
			post(t, s, tt.path, []byte(tt.body))
			_, err := s.Counts()
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestServerTakesItsTime(t *testing.T) {
	const latency = 20 * time.Millisecond
	s := newServer(t, latency)
	begin := time.Now()
	post(t, s, "/usage", []byte(`[]`))
	require.GreaterOrEqual(t, time.Since(begin), latency)
}
