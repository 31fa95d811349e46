package entitlementstest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

func TestNewClient(t *testing.T) {
	customers := map[string]map[string]entitlements.Grant{
		"acme":  {"sso": {Enabled: true}, "api": metered(3), "seats": {Kind: entitlements.KindNumeric, Enabled: true, Limit: 5}},
		"empty": nil,
	}
	var client *entitlements.Client
	t.Run("while the test runs", func(t *testing.T) {
		client = entitlementstest.NewClient(t, customers)
		// Without a context or a wait: everything is answerable at once.
		require.True(t, client.Allowed("acme", "sso"))
		require.EqualValues(t, 5, client.Number("acme", "seats", 0))
		require.Equal(t, entitlements.ReasonNotGranted, client.Decide("empty", "sso").Reason)
		d, err := client.Check(t.Context(), "nobody", "sso")
		require.NoError(t, err)
		require.Equal(t, entitlements.ReasonUnknownCustomer, d.Reason)

		for range 3 {
			require.True(t, client.Allowed("acme", "api"))
			client.Track("acme", "api", 1)
		}
		d = client.Decide("acme", "api")
		require.Equal(t, entitlements.ReasonLimitReached, d.Reason)
		require.EqualValues(t, 3, d.Used)

		client.Invalidate("acme")
		d, err = client.Check(t.Context(), "acme", "sso")
		require.NoError(t, err)
		require.True(t, d.Allowed)

		// The grants are the client's from the start on.
		delete(customers["acme"], "sso")
		client.InvalidateAll()
		d, err = client.Check(t.Context(), "acme", "sso")
		require.NoError(t, err)
		require.True(t, d.Allowed)
	})
	require.Equal(t, entitlements.ReasonClosed, client.Decide("acme", "sso").Reason, "closed with its test")
}

func TestNewClientOfMany(t *testing.T) {
	t.Parallel()
	customers := make(map[string]map[string]entitlements.Grant)
	for i := range 3000 {
		customers[string(rune('A'+i%26))+string(rune(0x4e00+i))] = map[string]entitlements.Grant{"sso": {Enabled: true}}
	}
	client := entitlementstest.NewClient(t, customers)
	for customer := range customers {
		require.True(t, client.Allowed(customer, "sso"), customer)
	}
}
