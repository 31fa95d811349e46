package workload_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	. "github.com/entitlements-go/entitlements/bench/workload"
)

func TestShapes(t *testing.T) {
	const customers = 1000
	uniform := New(customers, 0)
	zipf := uniform.Zipf(1.1)
	require.Equal(t, New(customers, 1.1).Asked, zipf.Asked, "as if it had been made so")
	for name, tc := range map[string]struct {
		w           *Workload
		most, least int // questions about the customer who is asked about most
		distinct    int
	}{
		"uniform": {uniform, len(uniform.Asked) / customers * 12 / 10, len(uniform.Asked) / customers, customers},
		"Zipf":    {zipf, len(zipf.Asked) / 4, len(zipf.Asked) / 8, customers},
		"one":     {uniform.One(), len(uniform.Asked), len(uniform.Asked), 1},
	} {
		t.Run(name, func(t *testing.T) {
			counts, most := map[int32]int{}, 0
			for _, q := range tc.w.Asked {
				counts[q.Customer]++
				most = max(most, counts[q.Customer])
			}
			require.Len(t, counts, tc.distinct)
			require.LessOrEqual(t, most, tc.most)
			require.GreaterOrEqual(t, most, tc.least)
			require.Equal(t, uniform.Customers, tc.w.Customers)
			for i := range 2000 {
				require.Equal(t, tc.w.Answer(i), tc.w.Floor(i), "the floor answers as the model does")
			}
		})
	}
}

func TestSourceGrants(t *testing.T) {
	w := New(2*Plans, 0)
	s := w.Source()
	metered := entitlements.Grant{Kind: entitlements.KindMetered, Enabled: true, Limit: 7}
	s.Grant(map[string]entitlements.Grant{"calls": metered, w.Features[0]: metered}, func(customer int) bool { return customer%2 == 1 })
	all, err := s.FetchBatch(t.Context(), append(w.Customers[:2*Plans:2*Plans], "a stranger"))
	require.NoError(t, err)
	require.Len(t, all, 2*Plans)
	for i, customer := range w.Customers {
		e, err := s.Fetch(t.Context(), customer)
		require.NoError(t, err)
		require.Equal(t, all[customer], e)
		for f, code := range w.Features[1:] {
			require.Equal(t, entitlements.Grant{Enabled: Granted(PlanOf(i), f+1)}, e.Features[code])
		}
		if i%2 == 1 {
			require.Equal(t, metered, e.Features["calls"])
			require.Equal(t, metered, e.Features[w.Features[0]])
		} else {
			require.NotContains(t, e.Features, "calls")
			require.Equal(t, entitlements.Grant{Enabled: Granted(PlanOf(i), 0)}, e.Features[w.Features[0]])
		}
	}
	_, err = s.Fetch(t.Context(), "a stranger")
	require.ErrorIs(t, err, entitlements.ErrUnknownCustomer)
}
