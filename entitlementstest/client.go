package entitlementstest

import (
	"context"
	"maps"
	"testing"
	"time"

	"github.com/entitlements-go/entitlements"
)

// NewClient returns a real client for unit tests: every customer of grants
// (customer -> feature -> grant) is cached, nothing goes over a network, and
// usage is counted in the client only. Every other customer is unknown. It is
// closed when the test ends.
//
// Nothing expires during a test, and a snapshot that was invalidated comes back
// as it was.
func NewClient(t testing.TB, grants map[string]map[string]entitlements.Grant) *entitlements.Client {
	t.Helper()
	customers := make(map[string]*entitlements.Entitlements, len(grants))
	for customer, features := range grants {
		customers[customer] = &entitlements.Entitlements{Customer: customer, Features: maps.Clone(features)}
	}
	client, err := entitlements.New(entitlements.Config{
		Source: entitlements.Static(customers),
		// The default would do for most tests; a test that uses more customers
		// than a program's default must not see evictions.
		MaxCustomers: max(1000, 2*len(grants)),
		TTL:          24 * time.Hour,
	})
	if err != nil {
		t.Fatalf("entitlementstest: new client: %v", err)
	}
	t.Cleanup(func() {
		// A context of its own: the test's is over by now.
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := client.Close(ctx); err != nil {
			t.Errorf("entitlementstest: close client: %v", err)
		}
	})
	if _, err := client.Warm(t.Context(), nil); err != nil {
		t.Fatalf("entitlementstest: warm client: %v", err)
	}
	return client
}
