package paylera_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements/adapters/paylera"
)

const (
	token     = "pl_test_7vQxS3cretS3cretS3cret"
	coreToken = "sk_sandbox_9kLmS3cretS3cret"
)

// request is a request as the API got it.
type request struct {
	method, path, query string // path is escaped
	header              http.Header
	body                string
}

// fields reads a JSON body.
func (r request) fields(t testing.TB) map[string]any {
	t.Helper()
	var fields map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.body), &fields))
	return fields
}

// recorder keeps what the API got.
type recorder struct {
	mu   sync.Mutex // guards all
	seen []request
}

func (r *recorder) note(req *http.Request) request {
	body, _ := io.ReadAll(req.Body)
	got := request{req.Method, req.URL.EscapedPath(), req.URL.RawQuery, req.Header.Clone(), string(body)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, got)
	return got
}

func (r *recorder) all() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]request(nil), r.seen...)
}

func (r *recorder) last(t testing.TB) request {
	t.Helper()
	all := r.all()
	require.NotEmpty(t, all)
	return all[len(all)-1]
}

type answerFunc func(w http.ResponseWriter, r request)

// api is a server on loopback that records what it gets.
func api(t testing.TB, answer answerFunc) (*recorder, string) {
	t.Helper()
	var rec recorder
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, rec.note(r)) }))
	t.Cleanup(server.Close)
	return &rec, server.URL
}

// open makes an adapter; what cfg leaves out is set for the server.
func open(t testing.TB, url string, cfg paylera.Config) *paylera.Adapter {
	t.Helper()
	if cfg.Token == "" {
		cfg.Token = token
		if cfg.Family == paylera.Core {
			cfg.Token = coreToken
		}
	}
	cfg.BaseURL = url
	a, err := paylera.New(cfg)
	require.NoError(t, err)
	t.Cleanup(a.CloseIdleConnections)
	return a
}

// fake is a transport without a network, for synctest bubbles.
func fake(rec *recorder, answer answerFunc) http.RoundTripper {
	return paylera.RoundTripperFunc(func(r *http.Request) (*http.Response, error) {
		if r.Body == nil {
			r.Body = http.NoBody
		}
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
		w := httptest.NewRecorder()
		answer(w, rec.note(r))
		return w.Result(), nil
	})
}

// reply answers with a status, a body and headers given as "Name: value".
func reply(status int, body string, headers ...string) answerFunc {
	return func(w http.ResponseWriter, _ request) { write(w, status, body, headers...) }
}

func write(w http.ResponseWriter, status int, body string, headers ...string) {
	w.Header().Set("Content-Type", "application/json")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		w.Header().Set(name, value)
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// hangUp breaks the connection, the request having been read.
func hangUp(w http.ResponseWriter, _ request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// rid is an id that no test used before.
func rid() string { return rand.Text() }
