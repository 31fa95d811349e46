//go:build linux

package entitlements_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// smallDisk mounts a file system of so many bytes, for the test.
func smallDisk(t *testing.T, size int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size))
	if err != nil {
		t.Skipf("a disk can't be filled where this user (%d) can't mount a tmpfs: %v", os.Getuid(), err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

// fill leaves no room on a disk, until free is called.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	require.NoError(t, err)
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, f.Close())
	return func() { require.NoError(t, os.Remove(name)) }
}

// A full disk takes no segments: usage goes on in memory, is told of once, and is
// on disk again when there is room.
func TestSpoolDisk_FullDegradesAndHeals(t *testing.T) {
	for name, refuse := range map[string]bool{"mapped": false, "written": true} {
		t.Run(name, func(t *testing.T) {
			disk := smallDisk(t, 16<<20)
			if refuse {
				defer RefuseMapping()()
			}
			synctest.Test(t, func(t *testing.T) {
				dir := filepath.Join(disk, "spool")
				log := new(logText)
				c := spooled(t, dir, downSink(), Config{Logger: slog.New(slog.NewTextHandler(log, nil))})
				pad := map[string]string{"pad": strings.Repeat("x", 100<<10)}
				n := 0
				count := func(records int) {
					for range records {
						c.Record(Usage{Customer: "a", Feature: "export", Quantity: 2, ID: strconv.Itoa(n), Properties: pad})
						c.Track("a", "api", 1)
						n++
						synctest.Wait()
					}
				}
				count(10)
				require.False(t, c.Stats().Usage.Degraded, log.String())
				free := fill(t, disk)
				count(50) // more than the segments that there are take
				time.Sleep(5 * time.Second)
				synctest.Wait()
				u := c.Stats().Usage
				require.True(t, u.Degraded)
				require.EqualValues(t, 2*n, u.Pending)
				require.Zero(t, u.Dropped)
				require.Equal(t, 1, strings.Count(log.String(), "in memory only"), log.String())

				free()
				time.Sleep(2 * time.Second)
				synctest.Wait()
				require.False(t, c.Stats().Usage.Degraded, log.String())
				require.Equal(t, 1, strings.Count(log.String(), "on disk again"), log.String())
				count(5)
				left := leave(t, c)
				require.EqualValues(t, 2*n, left.Spooled)
				require.Zero(t, left.Lost)

				sink := entitlementstest.NewSink()
				u = drain(t, spooled(t, dir, sink, Config{}))
				require.EqualValues(t, 2*n, u.Restored)
				require.EqualValues(t, n, sink.Total("a", "api"))
				require.EqualValues(t, 2*n, sink.Total("a", "export"))
				require.Empty(t, filesIn(t, dir))
			})
		})
	}
}

// What is on a full disk can be delivered, and what was only in memory too.
func TestSpoolDisk_FullDelivers(t *testing.T) {
	disk := smallDisk(t, 6<<20)
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(disk, "spool")
		sink := downSink()
		c := spooled(t, dir, sink, Config{})
		pad := map[string]string{"pad": strings.Repeat("x", 100<<10)}
		fill(t, disk)
		for i := range 60 {
			c.Record(Usage{Customer: "a", Feature: "export", Quantity: 2, ID: strconv.Itoa(i), Properties: pad})
			synctest.Wait()
		}
		time.Sleep(time.Second)
		require.True(t, c.Stats().Usage.Degraded)
		sink.Always(entitlementstest.DeliverStep{})
		u := drain(t, c)
		require.EqualValues(t, 60, u.Delivered)
		require.EqualValues(t, 120, sink.Total("a", "export"))
		require.Zero(t, sink.Duplicates())
	})
}

// A directory that can't be written to any more: what is there is delivered,
// what comes is in memory, and all of it is on disk when it can be again.
func TestSpoolDisk_ReadOnly(t *testing.T) {
	for name, change := range map[string]func(t *testing.T) (dir string, lock, unlock func()){
		"directory": func(t *testing.T) (string, func(), func()) {
			if os.Getuid() == 0 {
				t.Skip("the mode of a directory does not bind root; the mount below does")
			}
			dir := t.TempDir()
			chmod := func(mode os.FileMode) func() {
				return func() {
					require.NoError(t, os.Chmod(dir, mode))
					require.NoError(t, os.Chmod(filepath.Join(dir, "000"), mode))
				}
			}
			t.Cleanup(chmod(0o700))
			return dir, chmod(0o500), chmod(0o700)
		},
		"mount": func(t *testing.T) (string, func(), func()) {
			dir := smallDisk(t, 32<<20)
			slot := filepath.Join(dir, "000")
			return dir, func() { seal(t, slot) }, func() { require.NoError(t, syscall.Unmount(slot, syscall.MNT_DETACH)) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, lock, unlock := change(t)
			synctest.Test(t, func(t *testing.T) {
				log := new(logText)
				c := spooled(t, dir, downSink(), Config{Logger: slog.New(slog.NewTextHandler(log, nil))})
				c.Track("a", "api", 1)
				synctest.Wait()
				lock()
				pad := map[string]string{"pad": strings.Repeat("x", 100<<10)}
				for i := range 60 {
					c.Record(Usage{Customer: "a", Feature: "export", Quantity: 2, ID: strconv.Itoa(i), Properties: pad})
					synctest.Wait()
				}
				time.Sleep(3 * time.Second)
				synctest.Wait()
				u := c.Stats().Usage
				require.True(t, u.Degraded)
				require.EqualValues(t, 61, u.Pending)
				require.Equal(t, 1, strings.Count(log.String(), "in memory only"), log.String())

				unlock()
				time.Sleep(2 * time.Second)
				synctest.Wait()
				require.False(t, c.Stats().Usage.Degraded, log.String())
				left := leave(t, c)
				require.EqualValues(t, 61, left.Spooled)
				require.Zero(t, left.Lost)
				sink := entitlementstest.NewSink()
				drain(t, spooled(t, dir, sink, Config{}))
				require.EqualValues(t, 1, sink.Total("a", "api"))
				require.EqualValues(t, 120, sink.Total("a", "export"))
			})
		})
	}
}

// seal mounts a directory on itself, read-only. The file system can't become so
// while a file on it is open for writing.
func seal(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, syscall.Mount(dir, dir, "", syscall.MS_BIND, ""))
	require.NoError(t, syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	err := os.WriteFile(filepath.Join(dir, "probe"), nil, 0o600)
	require.ErrorIs(t, err, syscall.EROFS)
}

// A disk that is read-only from the start.
func TestSpoolDisk_ReadOnlyFromTheStart(t *testing.T) {
	dir := smallDisk(t, 32<<20)
	require.NoError(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	synctest.Test(t, func(t *testing.T) {
		c := spooled(t, dir, downSink(), Config{})
		require.True(t, c.Stats().Usage.Degraded)
		c.Track("a", "api", 1)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.NoError(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT, ""))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.False(t, c.Stats().Usage.Degraded)
		require.EqualValues(t, 1, leave(t, c).Spooled)
		sink := entitlementstest.NewSink()
		drain(t, spooled(t, dir, sink, Config{}))
		require.EqualValues(t, 1, sink.Total("a", "api"))
	})
}
