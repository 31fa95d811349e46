package entitlements

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAccountIndex(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var x accountIndex
	want := make(map[string]*account)
	for step := range 20_000 {
		customer := fmt.Sprint("customer-", rng.IntN(1000))
		hash := hashOf(customer)
		growing := step/2500%2 == 0
		switch a := want[customer]; {
		case a == nil && (growing || rng.IntN(4) == 0):
			a = newAccount(customer, hash)
			x.add(hash, a)
			want[customer] = a
		case a != nil && (!growing || rng.IntN(4) == 0):
			x.remove(a)
			delete(want, customer)
		}
		customer = fmt.Sprint("customer-", rng.IntN(1000))
		require.Equal(t, want[customer], x.find(hashOf(customer), customer))
	}
	require.Equal(t, len(want), x.count)
	seen := make(map[string]*account)
	for a := range x.all {
		seen[a.customer()] = a
	}
	require.Equal(t, want, seen)
	for _, a := range want {
		x.remove(a)
	}
	require.Zero(t, x.count)
	require.Len(t, x.places.Load().sets, 1, "it shrinks")
	x.remove(newAccount("nobody", hashOf("nobody")))
}
