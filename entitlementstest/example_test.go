package entitlementstest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// A unit test of code that asks a client: no network, no fakes of one's own.
func ExampleNewClient() {
	_ = func(t *testing.T) { // a test function
		client := entitlementstest.NewClient(t, map[string]map[string]entitlements.Grant{
			"acme": {
				"export": {Enabled: true},
				"api":    {Kind: entitlements.KindMetered, Enabled: true, Limit: 100},
			},
		})
		if !client.Allowed("acme", "export") {
			t.Error("acme may export")
		}
	}
}

// A Source has just the optional interfaces that a test gives it. Embedding the
// interfaces puts several together.
func ExampleSource() {
	s := entitlementstest.NewSource(map[string]map[string]entitlements.Grant{
		"acme": {"export": {Enabled: true}},
	})
	both := struct {
		*entitlementstest.Source
		entitlements.ConditionalSource
		entitlements.Watcher
	}{s, s.Conditional(), s.Watching()}

	s.Next(entitlementstest.FetchStep{Err: errors.New("connection refused")})
	_, err := both.Fetch(context.Background(), "acme")
	fmt.Println(err)
	e, err := both.Fetch(context.Background(), "acme")
	fmt.Println(e.Features["export"].Enabled, err)
	_, err = both.FetchChanged(context.Background(), "acme", e.Version)
	fmt.Println(err)
	fmt.Println(s.Calls("acme"), "calls")
	// Output:
	// connection refused
	// true <nil>
	// entitlements: not modified
	// 3 calls
}

// A Sink recognises records by their ID, as a backend does: here the answer to
// the first delivery gets lost.
func ExampleSink() {
	sink := entitlementstest.NewSink()
	sink.Next(entitlementstest.DeliverStep{Lost: errors.New("connection reset")})
	batch := entitlements.Batch{ID: "b1", Usage: []entitlements.Usage{
		{ID: "u1", Customer: "acme", Feature: "api", Quantity: 5},
	}}
	fmt.Println(sink.Deliver(context.Background(), batch))
	fmt.Println(sink.Deliver(context.Background(), batch))
	fmt.Println(sink.Total("acme", "api"), "units,", sink.Duplicates(), "duplicate")
	// Output:
	// connection reset
	// <nil>
	// 5 units, 1 duplicate
}

// A billing API on loopback, in a plain program.
func ExampleBilling() {
	billing := entitlementstest.NewBilling(entitlementstest.BillingConfig{})
	defer billing.Close()
	billing.Put("acme", map[string]entitlements.Grant{
		"api": {Kind: entitlements.KindMetered, Enabled: true, Limit: 100},
	})
	call := func(method, path, body string) {
		request, err := http.NewRequest(method, billing.URL+path, strings.NewReader(body))
		if err != nil {
			panic(err)
		}
		request.Header.Set("Authorization", "Bearer "+billing.Token)
		response, err := billing.Client().Do(request)
		if err != nil {
			panic(err)
		}
		defer func() { _ = response.Body.Close() }()
		_, _ = io.Copy(io.Discard, response.Body)
		fmt.Println(response.Status)
	}
	const event = `{"subscription_id":"acme","feature_code":"api","quantity":"3","external_id":"e1"}`
	call("POST", "/v1/track", event)
	call("POST", "/v1/track", event)
	billing.Inject(entitlementstest.RouteCheck, entitlementstest.Fault{Status: http.StatusServiceUnavailable})
	call("POST", "/v1/check", `{"subscription_id":"acme","feature_code":"api"}`)
	call("POST", "/v1/check", `{"subscription_id":"acme","feature_code":"api"}`)
	fmt.Println(billing.Used("acme", "api"), "used,", billing.UsageCounts().Duplicates, "duplicate")
	// Output:
	// 202 Accepted
	// 202 Accepted
	// 503 Service Unavailable
	// 200 OK
	// 3 used, 1 duplicate
}
