package entitlements_test

import (
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
)

// savedAt is where the wall clock stands when the first run of a program ends.
// Every bubble's clock begins in 2000, so that the second one can stand before it.
const savedAt = 6 * time.Hour

// runTwice runs a program on a file in two bubbles. In between the wall clock
// moves by moved, which may be backwards.
func runTwice(t *testing.T, moved time.Duration, first, second func(t *testing.T, file string)) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "entitlements")
	begin := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	synctest.Test(t, func(t *testing.T) {
		first(t, file)
		require.Equal(t, savedAt, time.Since(begin))
	})
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(savedAt + moved)
		second(t, file)
	})
}

// Whatever became of the wall clock, what is restored is at least as old as it
// was, grows older by each moment of the new run, and answers until MaxStale.
func TestSnapshot_AgesWhateverTheWallClockDid(t *testing.T) {
	const age, maxStale = time.Minute, 6 * time.Minute
	for _, moved := range []time.Duration{-savedAt, -time.Hour, -time.Nanosecond, 0, time.Nanosecond, 4 * time.Minute, 5*time.Minute - time.Nanosecond} {
		t.Run(moved.String(), func(t *testing.T) {
			runTwice(t, moved, func(t *testing.T, file string) {
				time.Sleep(savedAt - age)
				b := &periodBackend{limit: 10, bounds: []time.Time{time.Now().Add(24 * time.Hour)}}
				kept(t, Config{Source: b, SnapshotFile: file, TTL: maxStale}, func(c *Client) {
					load(t, "c")(c)
					time.Sleep(age)
				})
			}, func(t *testing.T, file string) {
				kept(t, Config{Source: downSource(), SnapshotFile: file, MaxStale: maxStale}, func(c *Client) {
					begin := time.Now()
					old := age + max(0, moved)
					for time.Since(begin) < maxStale-old {
						for _, feature := range []string{"api", "trial"} {
							d := c.Decide("c", feature)
							require.Equal(t, OriginRestored, d.Origin)
							require.True(t, d.Allowed)
							require.InDelta(t, old+time.Since(begin), d.Age, float64(100*time.Millisecond))
						}
						left := maxStale - old - time.Since(begin)
						time.Sleep(max(min(10*time.Second, left-1), 1))
					}
					d := c.Decide("c", "trial")
					require.False(t, d.Allowed)
					require.Equal(t, ReasonTooStale, d.Reason)
					require.Equal(t, maxStale, d.Age.Round(time.Second))
				})
			})
		})
	}
}

// A wall clock that was wrong in the last run is right in this one: what the
// first answer tells counts, and not what the file says of the backend's clock.
func TestSnapshot_TheFirstAnswerTellsTheBackendsClock(t *testing.T) {
	for _, moved := range []time.Duration{-3 * time.Hour, 3 * time.Hour} {
		t.Run(moved.String(), func(t *testing.T) {
			var expires time.Time
			runTwice(t, moved, func(t *testing.T, file string) {
				time.Sleep(savedAt - time.Minute)
				b := &periodBackend{limit: 10, skew: moved} // whose clock is right
				expires = b.now().Add(5 * time.Minute)
				b.bounds = []time.Time{expires}
				kept(t, Config{Source: b, SnapshotFile: file}, func(c *Client) {
					load(t, "c")(c)
					time.Sleep(time.Minute)
				})
			}, func(t *testing.T, file string) {
				b := &periodBackend{limit: 10, bounds: []time.Time{expires}}
				kept(t, Config{Source: b, SnapshotFile: file, MaxStale: 24 * time.Hour, TTL: 24 * time.Hour}, func(c *Client) {
					require.Equal(t, OriginRestored, c.Decide("c", "trial").Origin)
					synctest.Wait() // it asked for a load
					d := c.Decide("c", "trial")
					require.Equal(t, OriginFresh, d.Origin)
					require.True(t, d.Allowed)
					require.Equal(t, time.Duration(0), d.Age)
					b.sleepUntil(expires.Add(-time.Nanosecond))
					require.True(t, c.Allowed("c", "trial"))
					b.sleepUntil(expires)
					require.Equal(t, ReasonExpired, c.Decide("c", "trial").Reason)
					require.Equal(t, 1, b.asked())
				})
			})
		})
	}
}
