package entitlements_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

var (
	_ = errors.New
	_ = strconv.Itoa
	_ = strings.Repeat
)

// brokenSpool is a place where no directory can be made, until heal is called.
func brokenSpool(t *testing.T) (dir string, heal func()) {
	dir = filepath.Join(t.TempDir(), "spool")
	require.NoError(t, os.WriteFile(dir, nil, 0o600))
	return dir, func() { require.NoError(t, os.Remove(dir)) }
}

// Nothing is left to be written, so a disk that takes nothing holds up nobody.
func TestSpool_CloseDoesNotWaitForADiskThatNobodyNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, _ := brokenSpool(t)
		c := spooled(t, dir, entitlementstest.NewSink(), Config{})
		c.Track("a", "api", 1)
		require.NoError(t, c.Flush(t.Context()))
		began := time.Now()
		require.NoError(t, c.Close(t.Context()))
		require.Less(t, time.Since(began), time.Second)
	})
}

// MaxPending bounds what waits in memory, whatever goes over board.
func TestSpool_MemoryIsBoundedWithoutADisk(t *testing.T) {
	for _, overflow := range []Overflow{DropNewest, DropOldest} {
		t.Run(overflow.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir, heal := brokenSpool(t)
				c := spooled(t, dir, downSink(), Config{MaxPending: 100, Overflow: overflow})
				for i := range 1000 {
					c.Record(Usage{Customer: "a", Feature: "api", Quantity: 1, ID: strconv.Itoa(i)})
				}
				u := c.Stats().Usage
				require.LessOrEqual(t, u.Pending, uint64(102))
				require.Equal(t, u.Recorded, u.Pending+u.Dropped)
				heal()
				time.Sleep(2 * time.Second)
				synctest.Wait()
				require.False(t, c.Stats().Usage.Degraded)
				require.EqualValues(t, u.Pending, leave(t, c).Spooled)
			})
		})
	}
}
