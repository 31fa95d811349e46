package entitlements_test

import (
	"bytes"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// Two customers whose hashes are equal in every bit are told apart by their keys.
func TestTableResolvesCollisionsByKey(t *testing.T) {
	for _, hash := range []uint64{0, 1, 0x7f, 0x80, 0xff, math.MaxUint64, 1 << 63} {
		table := NewTable(1000)
		var entries []TableEntry
		for i := range 7 {
			e := NewTableEntry(fmt.Sprint("k", i), int64(i))
			entries = append(entries, e)
			table.Insert(hash, e)
		}
		for i, e := range entries {
			require.True(t, table.Holds(hash, fmt.Sprint("k", i), e))
		}
		require.False(t, table.Find(hash, "k7"))
		require.False(t, table.Find(hash, ""))
		table.Remove(hash, entries[3])
		require.False(t, table.Find(hash, "k3"))
		for i, e := range entries {
			require.Equal(t, i != 3, table.Holds(hash, fmt.Sprint("k", i), e))
		}
	}
}

// The tags of one set are compared at once, where a match borrows from the tag
// above it: every pair of neighbouring tags must still be told apart.
func TestTableTellsNeighbouringTagsApart(t *testing.T) {
	for tag := range uint64(128) {
		table := NewTable(1) // one set
		low, high := NewTableEntry("low", 1), NewTableEntry("high", 1)
		table.Insert(tag, low)
		table.Insert((tag+1)%128, high)
		require.True(t, table.Holds(tag, "low", low))
		require.True(t, table.Holds((tag+1)%128, "high", high))
		for other := range uint64(128) {
			require.False(t, table.Find(other, "absent"))
		}
		table.Remove(tag, low)
		require.False(t, table.Find(tag, "low"))
		require.True(t, table.Holds((tag+1)%128, "high", high))
	}
}

func TestTableForgetsTheLeastRecentlyUsedOfAFullSet(t *testing.T) {
	table := NewTable(1)
	require.Equal(t, 1, table.Sets())
	for i := range 8 {
		table.Insert(uint64(i), NewTableEntry(fmt.Sprint(i), int64(10+(i+4)%8))) // 4 is the oldest, then 5
	}
	table.Insert(100, NewTableEntry("a", 100))
	require.False(t, table.Find(4, "4"))
	require.True(t, table.Find(100, "a"))
	table.Insert(101, NewTableEntry("b", 101))
	require.False(t, table.Find(5, "5"))
	for _, i := range []int{0, 1, 2, 3, 6, 7} {
		require.True(t, table.Find(uint64(i), fmt.Sprint(i)))
	}
}

// Where nobody may be lost, those that a set has no room for are found all the
// same, also by readers while they change places.
func TestTableFindsWhoHasNoSlot(t *testing.T) {
	table := NewCompleteTable(1)
	const n = 40
	var entries []TableEntry
	for i := range n {
		entries = append(entries, NewTableEntry(fmt.Sprint(i), int64(i)))
		table.Insert(uint64(i), entries[i])
	}
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for range 20 {
				for i, e := range entries {
					if !table.Holds(uint64(i), fmt.Sprint(i), e) {
						t.Errorf("%d was lost", i)
					}
				}
			}
		})
	}
	readers.Wait()
	for i := range n / 2 {
		table.Remove(uint64(i), entries[i])
	}
	again := NewTableEntry("39", 1)
	table.Insert(39, again) // the old one has left, and is removed later
	table.Remove(39, entries[39])
	entries[39] = again
	for i, e := range entries {
		require.Equal(t, i >= n/2, table.Holds(uint64(i), fmt.Sprint(i), e))
	}
	for i, e := range entries {
		table.Remove(uint64(i), e)
		require.False(t, table.Find(uint64(i), fmt.Sprint(i)))
	}
	require.Zero(t, table.Displaced(0), "a miss takes no lock again")
}

func TestTableReplacesAnEntryOfTheSameKey(t *testing.T) {
	table := NewTable(1)
	old, fresh := NewTableEntry("a", 1), NewTableEntry("a", 2)
	table.Insert(5, old)
	table.Insert(6, NewTableEntry("b", 1))
	table.Insert(5, fresh)
	require.True(t, table.Holds(5, "a", fresh))
	table.Remove(5, old) // is not there any more
	require.True(t, table.Holds(5, "a", fresh))
	table.Remove(5, fresh)
	require.False(t, table.Find(5, "a"), "the old one did not come back")
	require.True(t, table.Find(6, "b"))
	table.Clear()
	require.False(t, table.Find(6, "b"))
}

func TestTableKeysOfEveryLength(t *testing.T) {
	table := NewTable(10_000)
	key := make([]byte, 255)
	for i := range key {
		key[i] = byte(i)
		table.Insert(spread(i), NewTableEntry(string(key[:i+1]), 1))
	}
	for i := range key {
		require.True(t, table.Find(spread(i), string(key[:i+1])), "%d bytes", i+1)
		if i > 0 {
			require.False(t, table.Find(spread(i), string(key[:i])), "its prefix")
		}
		other := bytes.Clone(key[:i+1])
		for at := range other { // and any one byte counts
			other[at] ^= 0x55
			require.False(t, table.Find(spread(i), string(other)), "%d of %d bytes", at, i+1)
			other[at] ^= 0x55
		}
	}
	// A key that ends in zeros is not the one without them.
	table.Insert(uint64(1)<<62+1, NewTableEntry("z\x00", 1))
	require.False(t, table.Find(uint64(1)<<62+1, "z"))
	require.False(t, table.Find(uint64(1)<<62+1, "z\x00\x00"))
	require.True(t, table.Find(uint64(1)<<62+1, "z\x00"))
}

func spread(i int) uint64 { return uint64(i+1) * 0x9e3779b97f4a7c15 }

// Readers that race with writers are answered by the plan of their customer or not
// at all.
func TestTableReadersAreNeverAnsweredForAnother(t *testing.T) {
	table := NewTable(1)
	keys := make([]string, 20) // more than a set holds
	entries := make([]TableEntry, len(keys))
	for i := range keys {
		keys[i] = fmt.Sprintf("%0*d", 1+2*i, i) // of all ways to compare keys
		entries[i] = NewTableAnswer(keys[i])
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	wrong, right := atomic.Int64{}, atomic.Int64{}
	for range 2 {
		wg.Go(func() {
			for !stop.Load() {
				for i, key := range keys {
					switch table.PlanOf(uint64(i%3), key) {
					case "":
					case key:
						right.Add(1)
					default:
						wrong.Add(1)
					}
				}
			}
		})
	}
	for range 2000 {
		for i, e := range entries {
			table.Insert(uint64(i%3), e)
			table.Publish(e)
			if i%4 == 0 {
				table.Remove(uint64(i%3), e)
			}
		}
	}
	stop.Store(true)
	wg.Wait()
	require.Zero(t, wrong.Load())
	require.NotZero(t, right.Load())
}

// Readers that race with writers see the entry of their key or none.
func TestTableReadersNeverSeeAnothersEntry(t *testing.T) {
	table := NewTable(1)
	var entries []TableEntry
	for i := range 20 { // more than a set holds
		entries = append(entries, NewTableEntry(fmt.Sprint(i), int64(i)))
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	wrong := atomic.Int64{}
	for range 2 {
		wg.Go(func() {
			for !stop.Load() {
				for i := range entries {
					key := fmt.Sprint(i)
					if found := table.KeyOf(uint64(i), key); found != "" && found != key {
						wrong.Add(1)
					}
					if table.Find(uint64(i), key+"x") {
						wrong.Add(1)
					}
				}
			}
		})
	}
	for range 3000 {
		for i, e := range entries {
			table.Insert(uint64(i), e)
			if i%3 == 0 {
				table.Remove(uint64(i), e)
			}
		}
	}
	stop.Store(true)
	wg.Wait()
	require.Zero(t, wrong.Load())
}

// A customer that is forgotten is not answered for, whatever else the cache is
// doing with it.
func TestForgetMeetsAnEviction(t *testing.T) {
	src := entitlementstest.NewSource(map[string]map[string]Grant{"a": {"api": {Enabled: true}}})
	c, err := New(Config{Source: src, MaxCustomers: 100})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(t.Context()) })
	_, err = c.Load(t.Context(), "a")
	require.NoError(t, err)
	require.True(t, c.Allowed("a", "api"))
	src.Remove("a")
	require.False(t, ForgetDuringEviction(c, "a", "api").Allowed)
}

// Whoever asks while a customer is loaded for the first time is told so, or is
// answered: the snapshot is not too old.
func TestAFirstLoadIsNotTooStale(t *testing.T) {
	grants := map[string]map[string]Grant{}
	for i := range 2000 {
		grants[fmt.Sprint(i)] = map[string]Grant{"api": {Enabled: true}}
	}
	c, err := New(Config{Source: entitlementstest.NewSource(grants), MaxCustomers: 10_000})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(t.Context()) })
	for customer := range grants {
		var wg sync.WaitGroup
		var tooStale atomic.Int64
		for range 3 {
			wg.Go(func() {
				for d := c.Decide(customer, "api"); !d.Allowed; d = c.Decide(customer, "api") {
					if d.Reason == ReasonTooStale {
						tooStale.Add(1)
					}
				}
			})
		}
		wg.Wait()
		require.Zero(t, tooStale.Load(), customer)
	}
}

// A check that meets a Forget is answered from before it or by policy.
func TestACheckMeetsForget(t *testing.T) {
	src := entitlementstest.NewSource(map[string]map[string]Grant{"a": {"api": {Enabled: true, ExpiresAt: time.Now().Add(time.Hour)}}})
	c, err := New(Config{Source: src, MaxCustomers: 100, OnUnavailable: FailOpen})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(t.Context()) })
	var done atomic.Bool
	var wg sync.WaitGroup
	var wrong atomic.Int64
	for range 2 {
		wg.Go(func() {
			for !done.Load() {
				if d := c.Decide("a", "api"); !d.Allowed || d.Age > time.Hour {
					wrong.Add(1)
				}
			}
		})
	}
	for range 500 {
		_, err := c.Resolve(t.Context(), "a")
		require.NoError(t, err)
		c.Forget("a")
	}
	done.Store(true)
	wg.Wait()
	require.Zero(t, wrong.Load())
}

// Codes that differ in a few characters are found as fast as others.
func TestFeatureCodesAreSpread(t *testing.T) {
	for _, pattern := range []string{"f%04d", "f%04d_on", "max_%04d_qty", "%04d_feature", "feature_%04d", "feature.%04d.enabled", "a-very-long-prefix-of-codes.%04d.limits.of-the-plan"} {
		codes := make([]string, 1000)
		for i := range codes {
			codes[i] = fmt.Sprintf(pattern, i)
		}
		require.Less(t, FeatureProbes(codes), 40, pattern)
	}
}
