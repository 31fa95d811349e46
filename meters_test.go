package entitlements

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Features that get a number after their meter was made are found all the same, and
// those that never get one.
func TestMetersAreFoundByNumberAndByName(t *testing.T) {
	features := newFeatureIndex()
	features.add([]string{"a", "b"})
	a := newAccount("c", 1)
	codes := []string{"first", "a", "b", "stranger", "d", "e", "f", "g", "h"}
	for i, code := range codes {
		m := a.addMeterLocked(code, AggregateSum, features)
		for _, earlier := range codes[:i+1] {
			require.Equal(t, earlier, a.meter(earlier).feature)
		}
		require.Same(t, m, a.meter(code))
	}
	features.add([]string{"stranger"})
	for _, code := range codes {
		require.Equal(t, code, a.meter(code).feature)
	}
	require.Nil(t, a.meter("nobody"))
}
