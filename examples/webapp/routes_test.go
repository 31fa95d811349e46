package main

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

func TestRoutes(t *testing.T) {
	client := entitlementstest.NewClient(t, map[string]map[string]entitlements.Grant{
		"acme": {"export": {Enabled: true}, "completions": {Kind: entitlements.KindMetered, Enabled: true, Limit: 2}},
		"bolt": {"export": {Enabled: false}},
	})
	handler := routes(client, http.NotFoundHandler())
	for _, step := range []struct {
		method, path, customer string
		status                 int
	}{
		{"GET", "/export", "acme", http.StatusOK},
		{"GET", "/export", "bolt", http.StatusPaymentRequired},
		{"GET", "/export", "nobody", http.StatusForbidden},
		{"GET", "/export", "", http.StatusForbidden},
		{"POST", "/completions", "acme", http.StatusOK},
		{"POST", "/completions", "acme", http.StatusOK},
		{"POST", "/completions", "acme", http.StatusTooManyRequests},
		{"POST", "/completions", "bolt", http.StatusPaymentRequired},
		{"GET", "/features", "acme", http.StatusOK},
		{"GET", "/healthz", "", http.StatusOK},
	} {
		r := httptest.NewRequestWithContext(t.Context(), step.method, step.path, nil)
		r.Header.Set("X-Customer", step.customer)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		require.Equal(t, step.status, w.Code, "%s %s as %q: %s", step.method, step.path, step.customer, w.Body)
	}
}
