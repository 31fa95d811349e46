package main

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/entitlements-go/entitlements"
)

// app is the service. Features are resolved once.
type app struct {
	client              *entitlements.Client
	export, completions entitlements.Feature
}

func routes(client *entitlements.Client, webhooks http.Handler) http.Handler {
	a := &app{client: client, export: client.Feature("export"), completions: client.Feature("completions")}
	mux := http.NewServeMux()
	mux.Handle("GET /export", a.resolve(a.exportData))
	mux.Handle("POST /completions", a.resolve(a.complete))
	mux.Handle("GET /features", a.resolve(a.features))
	mux.Handle("POST /webhooks/paylera", webhooks)
	mux.HandleFunc("GET /healthz", a.health)
	return mux
}

type customerKey struct{}

// resolve finds out who asks and waits, at most as long as the request lives,
// until that customer can be answered for. Handlers below it never wait.
func (a *app) resolve(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("X-Customer") // your authentication goes here
		customer, err := a.client.Resolve(r.Context(), key)
		if err != nil && r.Context().Err() != nil {
			return // nobody waits any more
		}
		// Any other error leaves a handle that answers by policy.
		next(w, r.WithContext(context.WithValue(r.Context(), customerKey{}, customer)))
	})
}

func customerOf(r *http.Request) entitlements.Customer {
	customer, _ := r.Context().Value(customerKey{}).(entitlements.Customer)
	return customer // the zero Customer is denied everything
}

// exportData is gated.
func (a *app) exportData(w http.ResponseWriter, r *http.Request) {
	if d := customerOf(r).Decide(a.export); !d.Allowed {
		deny(w, d)
		return
	}
	answer(w, http.StatusOK, map[string]any{"rows": []string{"one", "two"}})
}

// complete is metered. A unit is held before the work, so that no other request
// can have it, and committed once the work succeeded: what failed costs nothing.
func (a *app) complete(w http.ResponseWriter, r *http.Request) {
	reserved, d := customerOf(r).Reserve(a.completions, 1)
	if !d.Allowed {
		deny(w, d)
		return
	}
	defer reserved.Release() // nothing is left to release once it is committed
	text := "…"              // your model goes here
	reserved.Commit(1)
	answer(w, http.StatusOK, map[string]any{"text": text, "remaining": d.Remaining})
}

// features is for a front end that greys out what it can't offer.
func (a *app) features(w http.ResponseWriter, r *http.Request) {
	out := make(map[string]any)
	for code, d := range customerOf(r).All() {
		out[code] = map[string]any{"allowed": d.Allowed, "reason": d.Reason.String()}
	}
	answer(w, http.StatusOK, out)
}

func (a *app) health(w http.ResponseWriter, _ *http.Request) {
	// Not ready is not unhealthy: checks go on being answered.
	h := a.client.Health()
	answer(w, http.StatusOK, map[string]any{"source_ready": h.Source.Ready, "sink_ready": h.Sink.Ready})
}

// deny says why in the status: 429 for what time heals, 402 for what money does,
// 503 when it is not the customer's doing.
func deny(w http.ResponseWriter, d entitlements.Decision) {
	status := http.StatusPaymentRequired
	switch d.Reason {
	case entitlements.ReasonLimitReached:
		status = http.StatusTooManyRequests
	case entitlements.ReasonLoading, entitlements.ReasonUnavailable, entitlements.ReasonTooStale, entitlements.ReasonClosed:
		status = http.StatusServiceUnavailable
	case entitlements.ReasonInvalid, entitlements.ReasonUnknownCustomer:
		status = http.StatusForbidden
	}
	answer(w, status, map[string]any{"error": d.Reason.String(), "limit": d.Limit, "used": d.Used})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone: nobody to tell
}
