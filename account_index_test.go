package entitlements

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
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

// Who looks without the lock may miss somebody that is being moved, and never finds
// somebody else.
func TestAccountIndex_WithoutTheLock(t *testing.T) {
	var x accountIndex
	var customers []string
	for i := range 12 {
		customers = append(customers, fmt.Sprint("customer-", i))
	}
	here := newAccount("here", hashOf("here"))
	x.add(hashOf("here"), here)
	var found atomic.Int64
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				customer := customers[i%len(customers)]
				if a := x.find(hashOf(customer), customer); a != nil {
					assert.Equal(t, customer, a.customer())
				}
				if a := x.find(hashOf("here"), "here"); a != nil {
					assert.Same(t, here, a)
					found.Add(1)
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(3, 4))
	accounts := make(map[string]*account)
	for step := 0; step < 200_000 || found.Load() == 0; step++ {
		customer := customers[rng.IntN(len(customers))]
		if a := accounts[customer]; a != nil {
			x.remove(a)
			delete(accounts, customer)
			continue
		}
		accounts[customer] = newAccount(customer, hashOf(customer))
		x.add(hashOf(customer), accounts[customer])
	}
	close(done)
	readers.Wait()
	require.Same(t, here, x.find(hashOf("here"), "here"))
}
