package latency

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLateCallsHaveWaited(t *testing.T) {
	for _, tc := range []struct {
		name  string
		takes []time.Duration // of each call; one is due every 10
		want  []int64         // sorted
	}{
		{"all on time", []time.Duration{3, 4, 5}, []int64{3, 4, 5}},
		// The second stalls. The third, due at 20, begins at 45, the fourth at 46, and
		// only the sixth is on time again.
		{"a stall", []time.Duration{1, 35, 1, 1, 1, 1, 2}, []int64{1, 1, 2, 8, 17, 26, 35}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			now := time.Duration(1000)
			p := pacer{every: 10, now: func() time.Duration { return now }, yield: func() { now++ }}
			h, i := newHistogram(), 0
			prepared := 0
			p.run(len(tc.takes), h, func() { prepared++ }, func() {
				require.Equal(t, i+1, prepared)
				now += tc.takes[i]
				i++
			})
			var got []int64
			for _, bar := range h.Distribution() {
				for range bar.Count {
					got = append(got, bar.From)
				}
			}
			require.Equal(t, tc.want, got)
		})
	}
}

func TestGarbageIsWhatItSays(t *testing.T) {
	var g garbage
	g.fill(1 << 20)
	require.Len(t, g.live, 1024)
	yields := 0
	old := map[*block]bool{}
	for _, b := range g.live {
		require.NotNil(t, b)
		old[b] = true
	}
	g.replace(4<<20, func() { yields++ })
	require.EqualValues(t, 4<<20, g.made)
	require.Equal(t, 4<<20/1024/16, yields)
	kept := 0
	for _, b := range g.live {
		if old[b] {
			kept++
		}
	}
	require.Less(t, kept, 1024/10) // four in e⁻⁴ are left to chance

	g.replace(4<<20, func() { t.Error("nothing is due") })
}

func TestRun(t *testing.T) {
	rows, err := Run(Setup{
		Duration: 100 * time.Millisecond, Slice: 50 * time.Millisecond, PerSecond: 2000,
		Customers: 100, TTL: 100 * time.Millisecond, GarbageMB: 20, LiveMB: 1,
	})
	require.NoError(t, err)
	require.Len(t, rows, 3)
	for i, who := range []string{"an empty call", "Allowed", "Track"} {
		r := rows[i]
		require.Equal(t, "latency", r.Suite)
		require.Equal(t, who, r.Who)
		require.Equal(t, "100 customers, 2 × 2 000 calls/s, 20 MB/s of garbage, 1 MB live", r.Work)
		require.Equal(t, 2*2*100, int(r.Figures["calls"]), "each goroutine makes every call that is due")
		least := 1.0
		for _, p := range Percentiles {
			require.GreaterOrEqual(t, r.Figures[p.Name], least, p.Name)
			least = r.Figures[p.Name]
		}
		require.GreaterOrEqual(t, r.Figures["max"], least)
	}
	require.Positive(t, rows[0].Figures["refreshes"])
}
