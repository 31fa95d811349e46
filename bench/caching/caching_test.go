package caching

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements/bench/raw"
	"github.com/entitlements-go/entitlements/bench/workload"
)

func TestHitsWorkedOutByHand(t *testing.T) {
	w := workload.New(6, 0)
	for _, tc := range []struct {
		name         string
		trace        Trace
		lru, optimum float64
	}{
		// Two places. LRU: 0 and 1 come in, 0 is a hit, 2 takes the place of 1, 1 that
		// of 0, 0 that of 2, 2 that of 1. The optimum keeps 0 and 1, since 2 is needed
		// last: three hits.
		{"recency is wrong", Trace{Accesses: []int32{0, 1, 0, 2, 1, 0, 2}}, 1.0 / 7, 3.0 / 7},
		// A loop over three customers in two places: LRU never hits. The optimum keeps
		// 0 and 1 and passes 2 by.
		{"a loop", Trace{Accesses: []int32{0, 1, 2, 0, 1, 2, 0, 1, 2}}, 0, 4.0 / 9},
		// Customers who are asked about once: passing them by keeps 0 and 1.
		{"passers-by", Trace{Accesses: []int32{0, 1, 2, 3, 0, 1, 4, 5, 0, 1}}, 0, 4.0 / 10},
		// After the warm part LRU has 2 and 3, and misses 0 once. An optimum for the
		// rest has 0 and 3, though 1 and 2 came between them.
		{"warm", Trace{Accesses: []int32{0, 1, 2, 3, 3, 0, 3, 0}, Warm: 4}, 3.0 / 4, 1},
		{"nothing returns", Trace{Accesses: []int32{0, 1, 2, 3}}, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := newLRU(w, 2)
			require.NoError(t, err)
			hits, held, err := Measure(tc.trace, c)
			require.NoError(t, err)
			require.InDelta(t, tc.lru, hits, 1e-9)
			require.Equal(t, 2, held)
			require.InDelta(t, tc.optimum, Optimum(tc.trace, 2), 1e-9)
		})
	}
}

func TestEveryCacheWorksAndNoneBeatsTheOptimum(t *testing.T) {
	const customers, accesses, capacity = 500, 6000, 50
	w := workload.New(customers, 0)
	for _, trace := range Traces(customers, accesses) {
		best := Optimum(trace, capacity)
		for _, p := range Peers() {
			t.Run(trace.Name+"/"+p.Name, func(t *testing.T) {
				hits, held, err := measurePeer(p, w, trace, capacity)
				require.NoError(t, err)
				require.Greater(t, hits, 0.1) // an empty cache, or one that forgets at once, has none
				require.LessOrEqual(t, hits, best)
				require.LessOrEqual(t, held, capacity)
				require.Greater(t, held, capacity*9/10)
			})
		}
	}
}

func TestRunJudgesAtTenPercent(t *testing.T) {
	var rows []raw.Row
	setup := Setup{Customers: 500, Accesses: 3000, Percents: []int{judged, 50}}
	require.NoError(t, Run(setup, func(r raw.Row) { rows = append(rows, r) }))
	require.Len(t, rows, 2*4*(len(Peers())+1))
	for _, r := range rows {
		require.Equal(t, "caching", r.Suite)
		require.Equal(t, r.Who == Ours && r.Figures["capacity"] == judged, r.Pass != nil, "%s of %s", r.Work, r.Who)
	}
}

func TestJudge(t *testing.T) {
	for _, tc := range []struct {
		trace             string
		ours, alone, best float64
		bar               string
		pass              bool
	}{
		{"Zipf 1.0", 77, 77.5, 79, "≥ best peer − 3 points, ≥ ristretto − 0.5 points", true},
		{"Zipf 1.0", 76.9, 77.5, 79, "≥ best peer − 3 points, ≥ ristretto − 0.5 points", false},
		{"shifting set", 65, 60, 68, "≥ best peer − 3 points, ≥ ristretto + 5 points", true},
		{"shifting set", 64.9, 60, 60, "≥ best peer − 3 points, ≥ ristretto + 5 points", false},
		{"shifting set", 65, 60, 68.1, "≥ best peer − 3 points, ≥ ristretto + 5 points", false},
		{"churn", 60, 90, 63, "≥ best peer − 3 points", false},
		{"churn", 60, 50, 63, "≥ best peer − 3 points", true},
	} {
		rows := []raw.Row{
			{Who: Ours, Figures: map[string]float64{"hits": tc.ours}},
			{Who: "ristretto", Figures: map[string]float64{"hits": tc.alone}},
			{Who: "otter", Figures: map[string]float64{"hits": tc.best}},
		}
		judge(tc.trace, rows)
		require.Equal(t, tc.bar, rows[0].Bar)
		require.Equal(t, tc.pass, *rows[0].Pass, "%+v", tc)
	}
}

func TestTracesAreWhatTheySay(t *testing.T) {
	const customers, accesses = 2000, 100_000
	traces := Traces(customers, accesses)
	require.Equal(t, traces, Traces(customers, accesses))
	for _, trace := range traces {
		require.Len(t, trace.Accesses, accesses, trace.Name)
		require.Equal(t, accesses/3, trace.Warm, trace.Name)
		require.GreaterOrEqual(t, slices.Min(trace.Accesses), int32(0), trace.Name)
		require.Less(t, slices.Max(trace.Accesses), int32(customers), trace.Name)
	}
	steady, scanned, shifting, churning := traces[0].Accesses, traces[1].Accesses, traces[2].Accesses, traces[3].Accesses

	// By Zipf's law with exponent 1 the first of 2000 gets 1 in 8.18, and twice what
	// the second does; a tenth of them get 0.72 of all.
	popular := byCount(steady)
	require.InDelta(t, accesses/8.18, counted(steady, popular[:1]), accesses/100)
	require.InDelta(t, 2, float64(counted(steady, popular[:1]))/float64(counted(steady, popular[1:2])), 0.2)
	require.InDelta(t, 0.72*accesses, counted(steady, popular[:customers/10]), accesses/50)

	// Between two scans there are 2.5 requests for each customer. A scan asks three
	// times about each, in order: once on from the one before, and twice again.
	inOrder, again := 0, 0
	for i := 1; i < len(scanned); i++ {
		switch scanned[i] - scanned[i-1] {
		case 1:
			inOrder++
		case 0:
			again++
		}
	}
	require.InDelta(t, accesses/5.5, inOrder, accesses/50)
	require.InDelta(t, 2*accesses/5.5, again, accesses/50)

	// Who is popular in one tenth of the time is not in the next.
	const step = accesses / 10
	for at := 0; at+2*step <= accesses; at += step {
		before, after := shifting[at:at+step], shifting[at+step:at+2*step]
		top := byCount(before)[:20]
		require.Greater(t, counted(before, top), step*4/10)
		require.Less(t, counted(after, top), step/10)
	}

	// Everybody comes, and who was asked about in the first tenth is hardly ever
	// asked about in the last.
	require.Greater(t, len(byCount(churning)), customers*8/10)
	require.Less(t, counted(churning[accesses-step:], byCount(churning[:step])), step/10)
}

// byCount is the customers of some accesses, the most frequent first.
func byCount(accesses []int32) []int32 {
	counts := map[int32]int{}
	for _, customer := range accesses {
		counts[customer]++
	}
	out := make([]int32, 0, len(counts))
	for customer := range counts {
		out = append(out, customer)
	}
	slices.SortFunc(out, func(a, b int32) int { return counts[b] - counts[a] })
	return out
}

// counted is how many of the accesses are of these customers.
func counted(accesses, customers []int32) (n int) {
	among := map[int32]bool{}
	for _, customer := range customers {
		among[customer] = true
	}
	for _, customer := range accesses {
		if among[customer] {
			n++
		}
	}
	return n
}
