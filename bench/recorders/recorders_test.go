package recorders_test

import (
	"context"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements/bench/recorders"
	"github.com/entitlements-go/entitlements/bench/workload"
)

// small is made once: no test changes it.
var small = sync.OnceValue(func() *workload.Workload { return workload.New(1000, 0) })

func newServer(t *testing.T, latency time.Duration) *Server {
	t.Helper()
	s, err := NewServer(latency)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func peerNamed(t *testing.T, name string) Peer {
	t.Helper()
	for _, p := range Peers() {
		if p.Name == name {
			return p
		}
	}
	require.FailNow(t, "no such peer", name)
	return Peer{}
}

func counts(t *testing.T, s *Server) Counts {
	t.Helper()
	c, err := s.Counts()
	require.NoError(t, err)
	return c
}

// Each wire format is counted to the call: 500 are fewer than any peer drops.
func TestEveryCallIsCounted(t *testing.T) {
	for _, tt := range []struct {
		name  string
		pairs int // how many customers and features the calls are spread over
	}{{"of one pair", 1}, {"of many pairs", 500}} {
		for _, peer := range Peers() {
			t.Run(tt.name+"/"+peer.Name, func(t *testing.T) {
				t.Parallel()
				w, s := small(), newServer(t, 0)
				r, err := peer.New(s, w)
				require.NoError(t, err)
				for i := range 500 {
					r.Record(w.Ask(i % tt.pairs))
				}
				r.Flush(t.Context())
				require.Zero(t, r.Close(t.Context()))

				got := counts(t, s)
				require.EqualValues(t, 500, got.Delivered)
				require.Zero(t, got.Duplicates)
				require.Zero(t, got.Overflowed)
				require.Positive(t, got.Requests)
				require.Positive(t, got.Bytes)
			})
		}
	}
}

// A counter sends its totals again with each export.
func TestTotalsAreCountedOnce(t *testing.T) {
	w, s := small(), newServer(t, 0)
	r, err := peerNamed(t, "OTel counter").New(s, w)
	require.NoError(t, err)
	for i := range 500 {
		r.Record(w.Ask(i))
	}
	r.Flush(t.Context())
	require.EqualValues(t, 500, counts(t, s).Delivered)
	for i := range 300 {
		r.Record(w.Ask(i))
	}
	r.Flush(t.Context())
	r.Close(t.Context())
	require.EqualValues(t, 800, counts(t, s).Delivered)
}

// What a counter has no series for any more is delivered, and told apart.
func TestOverflowIsToldApart(t *testing.T) {
	const limit = 2000 // the SDK's default, the series of the overflow included
	w, s := small(), newServer(t, 0)
	r, err := peerNamed(t, "OTel counter").New(s, w)
	require.NoError(t, err)
	calls := 0
	for _, feature := range w.Features[:4] {
		for _, customer := range w.Customers {
			r.Record(customer, feature)
			calls++
		}
	}
	r.Flush(t.Context())
	r.Close(t.Context())
	require.EqualValues(t, calls, counts(t, s).Delivered)
	require.EqualValues(t, calls-limit+1, counts(t, s).Overflowed)
}

// A recorder that can't send tells all that it did not deliver.
func TestDropsAreTold(t *testing.T) {
	for _, tt := range []struct {
		name  string
		calls int
	}{
		{"channel", 20_000}, // twice what it holds
		{"entitlements", 1000},
		{"entitlements, on disk", 1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, s := small(), newServer(t, time.Hour)
			r, err := peerNamed(t, tt.name).New(s, w)
			require.NoError(t, err)
			for i := range tt.calls {
				r.Record(w.Ask(i))
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			r.Flush(ctx)
			require.EqualValues(t, tt.calls, r.Close(ctx))
			require.Zero(t, counts(t, s).Delivered)
		})
	}
}

func TestRun(t *testing.T) {
	// Those that drop when they are full and count it nowhere.
	silent := map[string]bool{"LaunchDarkly events": true, "OTel span": true}
	w := small()
	for _, peer := range Peers() {
		t.Run(peer.Name, func(t *testing.T) {
			o, err := Run(t.Context(), peer, w, Setup{For: 20 * time.Millisecond})
			require.NoError(t, err)
			require.Positive(t, o.Calls)
			require.Positive(t, o.Delivered)
			require.Equal(t, o.Calls, o.Delivered+o.Told+o.Lost)
			require.GreaterOrEqual(t, o.Lost, int64(0))
			if silent[peer.Name] {
				require.Zero(t, o.Told)
			} else {
				require.Zero(t, o.Lost)
			}
			require.Zero(t, o.Duplicates)
			require.Positive(t, o.Requests)
			require.Positive(t, o.Bytes)
			require.Positive(t, o.NS)
			require.Positive(t, o.Longest)
			require.Positive(t, o.Ending)
			require.Less(t, o.Longest, time.Minute)
			require.GreaterOrEqual(t, o.AllocsToEnd, o.Allocs)
		})
	}
}

// A call's time is wall time over all calls, however many goroutines made them.
func TestRunTimesCalls(t *testing.T) {
	const lasts = 20 * time.Millisecond
	for _, goroutines := range []int{1, 4} {
		begin := time.Now()
		o, err := Run(t.Context(), peerNamed(t, "channel"), small(), Setup{Goroutines: goroutines, For: lasts})
		require.NoError(t, err)
		total := math.Round(o.NS * float64(o.Calls))
		require.GreaterOrEqual(t, total, float64(lasts))
		require.Less(t, total, float64(time.Since(begin)))
	}
}

func TestRunRefusesNonsense(t *testing.T) {
	for _, tt := range []struct {
		setup Setup
		want  string
	}{
		{Setup{Goroutines: -1}, "Setup.Goroutines must be at least 1, got -1"},
		{Setup{For: -time.Second}, "Setup.For must be above 0, got -1s"},
		{Setup{Latency: -time.Second}, "Setup.Latency must be at least 0, got -1s"},
	} {
		_, err := Run(t.Context(), peerNamed(t, "channel"), small(), tt.setup)
		require.ErrorContains(t, err, tt.want)
	}
}

func TestRunStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Run(ctx, peerNamed(t, "channel"), small(), Setup{For: time.Hour})
	require.ErrorIs(t, err, context.Canceled)
}
