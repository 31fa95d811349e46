package entitlements_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
)

func TestRule23_Tick(t *testing.T) {
	for ttl, tick := range map[time.Duration]time.Duration{
		100 * time.Millisecond: 25 * time.Millisecond,
		200 * time.Millisecond: 50 * time.Millisecond,
		400 * time.Millisecond: 100 * time.Millisecond,
		time.Second:            100 * time.Millisecond,
		24 * time.Hour:         100 * time.Millisecond,
	} {
		require.Equal(t, tick, Tick(ttl), "%v", ttl)
	}
}

func TestRule02_BackendOffsetIsTheMedianOfRecentAnswers(t *testing.T) {
	precise := time.Date(2026, 1, 2, 3, 4, 5, 123_456_789, time.UTC)
	for _, test := range []struct {
		name    string
		offsets []time.Duration
		want    time.Duration
	}{
		{"none", nil, 0},
		{"below the floor", []time.Duration{1900 * time.Millisecond}, 0},
		{"at the floor", []time.Duration{2 * time.Second}, 0},
		{"above it", []time.Duration{2*time.Second + 1}, 2*time.Second + 1},
		{"behind", []time.Duration{-time.Hour}, -time.Hour},
		{"one liar", []time.Duration{0, 0, 24 * time.Hour}, 0},
		{"of two the earlier", []time.Duration{time.Hour, time.Minute}, time.Minute},
		{"old answers are forgotten", append(slices.Repeat([]time.Duration{time.Hour}, 100), slices.Repeat([]time.Duration{0}, 15)...), 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var server, sent, received []time.Time
			for _, offset := range test.offsets {
				server = append(server, precise.Add(offset))
				sent = append(sent, precise.Add(-time.Second)) // 2 s on the way
				received = append(received, precise.Add(time.Second))
			}
			require.Equal(t, test.want, Offset(server, sent, received))
		})
	}
}

func TestNanosKeepTimes(t *testing.T) {
	require.Zero(t, Nanos(time.Time{}))
	require.Equal(t, time.Time{}, FromNanos(0))
	for _, at := range []time.Time{
		time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), time.Date(1970, 1, 1, 0, 0, 0, 1, time.UTC), time.Date(1678, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		require.Equal(t, at, FromNanos(Nanos(at)))
	}
	require.NotZero(t, Nanos(time.Unix(0, 0)), "the epoch is a time, not never")
	require.Greater(t, Nanos(time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)), Nanos(time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)))
	require.Less(t, Nanos(time.Date(1, 2, 3, 0, 0, 0, 0, time.UTC)), Nanos(time.Date(1700, 1, 1, 0, 0, 0, 0, time.UTC)))
}
