package entitlements

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Keys that differ in one byte, in their length, or in where a byte stands must
// spread over sets and tags as if by chance.
func TestHashSpreads(t *testing.T) {
	for name, key := range map[string]func(i int) string{
		"counter":     func(i int) string { return fmt.Sprint(i) },
		"short":       func(i int) string { return fmt.Sprintf("%03x", i) },
		"four":        func(i int) string { return fmt.Sprintf("%04x", i) },
		"eight":       func(i int) string { return fmt.Sprintf("%08x", i) },
		"sixteen":     func(i int) string { return fmt.Sprintf("customer-%07d", i) },
		"seventeen":   func(i int) string { return fmt.Sprintf("%d-%s", 10000+i, "customer-xx") },
		"thirty-two":  func(i int) string { return fmt.Sprintf("%032x", i) },
		"uuid":        func(i int) string { return fmt.Sprintf("%08x-0000-7000-8000-%012x", i, i) },
		"high zeroes": func(i int) string { return string(rune('a'+i%26)) + strings.Repeat("\x00", i/26) },
	} {
		t.Run(name, func(t *testing.T) {
			keys, seen := 2000, make(map[uint64]string)
			if name == "high zeroes" {
				keys = 26 * 30 // to 30 zero bytes
			}
			const buckets = 64
			var high, low [buckets]int
			for i := range keys {
				k := key(i)
				h := hashOf(k)
				if other, ok := seen[h]; ok {
					t.Fatalf("%q and %q hash alike", k, other)
				}
				seen[h] = k
				high[h>>58]++
				low[h&(buckets-1)]++
			}
			for i := range buckets {
				// Six standard deviations: one run in a hundred million.
				mean := float64(keys) / buckets
				require.InDelta(t, mean, high[i], 6.5*math.Sqrt(mean))
				require.InDelta(t, mean, low[i], 6.5*math.Sqrt(mean))
			}
		})
	}
}

func TestHashOfEqualStringsIsEqual(t *testing.T) {
	for n := range 64 {
		key := strings.Repeat("k", n)
		require.Equal(t, hashOf(key), hashOf(strings.Clone(key)))
		if n > 0 {
			require.NotEqual(t, hashOf(key), hashOf(key[1:]))
		}
	}
}
