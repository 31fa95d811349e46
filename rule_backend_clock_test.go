package entitlements_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
)

// versioned is a backend whose answers all have one version.
type versioned struct{ *periodBackend }

func (b versioned) Fetch(ctx context.Context, customer string) (*Entitlements, error) {
	e, err := b.periodBackend.Fetch(ctx, customer)
	e.Version = "1"
	return e, err
}

func (b versioned) FetchChanged(context.Context, string, string) (*Entitlements, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &Entitlements{ServerTime: b.now()}, ErrNotModified
}

// A clock that was set, here or there, is learnt from "not modified" too.
func TestRule02_ASetClockIsLearntFromNotModified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &periodBackend{limit: 10}
		expires := b.now().Add(2 * time.Hour)
		b.bounds = []time.Time{expires}
		c := usageClient(t, Config{Source: versioned{b}, Sink: b, TTL: time.Second, DenyTTL: time.Second})
		_, err := c.Resolve(t.Context(), "c")
		require.NoError(t, err)
		time.Sleep(time.Minute)
		b.set(2 * time.Hour) // the trial is over
		for range 600 {
			c.Allowed("c", "trial")
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, ReasonExpired, c.Decide("c", "trial").Reason)
	})
}

// A clock that is set past a period's end mints nothing while that is being learnt.
func TestRule19_AClockThatIsSetPastAPeriodsEndMintsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		offTheSecond()
		b := &periodBackend{limit: 10}
		ends := b.now().Add(30 * time.Minute)
		b.bounds = []time.Time{b.now().Add(-time.Hour), ends, ends.Add(24 * time.Hour)}
		c := usageClient(t, Config{Source: b, Sink: b, TTL: time.Second, DenyTTL: 500 * time.Millisecond, FlushInterval: 100 * time.Millisecond})
		_, err := c.Resolve(t.Context(), "c")
		require.NoError(t, err)
		time.Sleep(20 * time.Second)
		require.EqualValues(t, 10, useUp(c, "api", 100))
		time.Sleep(20 * time.Second)
		b.set(time.Hour)
		var allowed atomic.Int64
		for range 600 {
			allowed.Add(useUp(c, "api", 20))
			time.Sleep(100 * time.Millisecond)
		}
		require.NoError(t, c.Flush(t.Context()))
		require.EqualValues(t, 10, allowed.Load())
	})
}

// A grant that had ended does not come back because the wall clock was set back.
func TestSnapshot_AClockThatMovedBackwardsRevivesNothing(t *testing.T) {
	runTwice(t, -savedAt, func(t *testing.T, file string) {
		time.Sleep(savedAt - 10*time.Minute)
		b := &periodBackend{limit: 10, bounds: []time.Time{time.Now().Add(5 * time.Minute)}}
		kept(t, Config{Source: b, SnapshotFile: file, TTL: time.Hour, DenyTTL: -1}, func(c *Client) {
			load(t, "c")(c)
			require.True(t, c.Allowed("c", "trial"))
			time.Sleep(10 * time.Minute)
			require.Equal(t, ReasonExpired, c.Decide("c", "trial").Reason)
		})
	}, func(t *testing.T, file string) {
		kept(t, Config{Source: downSource(), SnapshotFile: file}, func(c *Client) {
			d := c.Decide("c", "trial")
			require.Equal(t, OriginRestored, d.Origin)
			require.Equal(t, ReasonExpired, d.Reason)
		})
	})
}
