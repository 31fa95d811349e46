package entitlements_test

import (
	"errors"
	"log/slog"
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
				c := spooled(t, dir, downSink(), Config{MaxPending: 100, FlushSize: 10, Overflow: overflow})
				for i := range 1000 {
					c.Record(Usage{Customer: "a", Feature: "api", Quantity: 1, ID: strconv.Itoa(i)})
				}
				require.LessOrEqual(t, c.Stats().Usage.Pending, uint64(165), "and while the loop makes room a little more")
				synctest.Wait()
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

// next run must not take it for new.
func TestSpool_WhatWasSentFromMemoryIsSentOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, heal := brokenSpool(t)
		sink := entitlementstest.NewSink()
		sink.Next(entitlementstest.DeliverStep{Lost: errors.New("connection reset")})
		sink.Always(entitlementstest.DeliverStep{Refuse: RetryAfter(time.Hour, errSinkDown)})
		limited := sink.Limited(SinkLimits{DedupWindow: 24 * time.Hour})
		c := spooled(t, dir, limited, Config{})
		c.Track("a", "api", 1)
		time.Sleep(5 * time.Second)
		require.EqualValues(t, 1, sink.Total("a", "api"))
		heal()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.False(t, c.Stats().Usage.Degraded)
		require.EqualValues(t, 1, leave(t, c).Spooled)

		time.Sleep(25 * time.Hour)
		c = spooled(t, dir, limited, Config{})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.EqualValues(t, 1, c.Stats().Usage.InDoubt, "%+v", c.Stats().Usage)
		require.NoError(t, c.Close(t.Context()))
	})
}

// Close leaves a backlog where it is, however slowly that is being read.
func TestSpool_CloseDoesNotReadABacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := spooled(t, dir, downSink(), Config{})
		pad := map[string]string{"pad": strings.Repeat("x", 100<<10)}
		for i := range 200 {
			c.Record(Usage{Customer: "a", Feature: "api", Quantity: 1, ID: strconv.Itoa(i), Properties: pad})
			synctest.Wait()
		}
		require.EqualValues(t, 200, leave(t, c).Spooled)
		damaged := 0
		for _, name := range filesIn(t, dir) {
			data, err := os.ReadFile(name)
			require.NoError(t, err)
			data[1000]++
			require.NoError(t, os.WriteFile(name, data, 0o600))
			damaged++
		}
		require.Greater(t, damaged, 10)

		slow := slog.New(slog.NewTextHandler(slowLog(time.Second), nil)) // a line for each of them
		c = spooled(t, dir, downSink(), Config{Logger: slow})
		time.Sleep(3 * time.Second)
		began := time.Now()
		leave(t, c)
		require.Less(t, time.Since(began), 3*time.Second)
		u := c.Stats().Usage
		require.Equal(t, u.Restored, u.Pending)
		sink := entitlementstest.NewSink()
		drain(t, spooled(t, dir, sink, Config{}))
		require.EqualValues(t, 200-damaged, sink.Total("a", "api"))
	})
}

type slowLog time.Duration

func (l slowLog) Write(b []byte) (int, error) {
	time.Sleep(time.Duration(l))
	return len(b), nil
}

// A clock that was put back tells nothing of how long a record was tried.
func TestSpool_AClockThatWasPutBackKillsNothing(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour)
		sink := entitlementstest.NewSink()
		sink.Always(entitlementstest.DeliverStep{Lost: errors.New("connection reset")})
		c := spooled(t, dir, sink, Config{})
		c.Track("a", "api", 1)
		time.Sleep(2 * time.Second)
		leave(t, c)
	})
	synctest.Test(t, func(t *testing.T) { // an hour earlier
		sink := entitlementstest.NewSink()
		u := drain(t, spooled(t, dir, sink, Config{}))
		require.Zero(t, u.DeadLettered)
		require.EqualValues(t, 1, sink.Total("a", "api"))
	})
}

// RetryFor goes on across runs, whatever the last answer was.
func TestSpool_RetryForGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := spooled(t, dir, downSink(), Config{RetryFor: 150 * time.Minute})
		c.Track("a", "api", 1)
		for range 2 {
			time.Sleep(time.Hour)
			require.Zero(t, c.Stats().Usage.DeadLettered)
			leave(t, c)
			c = spooled(t, dir, downSink(), Config{RetryFor: 150 * time.Minute})
		}
		time.Sleep(time.Hour)
		require.EqualValues(t, 1, c.Stats().Usage.DeadLettered)
		require.NoError(t, c.Close(t.Context()))
	})
}

// A call that is interrupted between its place on disk and the count there finds
// the memory of its segment, and what it counts is synced.
func TestSpool_AFoldThatIsInterrupted(t *testing.T) {
	synced, err := FoldLate(t.TempDir())
	require.NoError(t, err)
	require.True(t, synced)
}

// A record that no spool has room for does not keep others out of it.
func TestSpool_ARecordThatIsTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := spooled(t, t.TempDir(), downSink(), Config{SpoolMaxBytes: 8 << 20})
		c.Record(Usage{Customer: "a", Feature: "api", Quantity: 1, ID: "huge", Properties: map[string]string{"k": strings.Repeat("x", 9<<20)}})
		pad := map[string]string{"pad": strings.Repeat("x", 100<<10)}
		for i := range 50 {
			c.Record(Usage{Customer: "a", Feature: "api", Quantity: 1, ID: strconv.Itoa(i), Properties: pad})
			synctest.Wait()
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.False(t, c.Stats().Usage.Degraded)
		require.EqualValues(t, 1, c.Stats().Usage.DroppedBy["overflow"])
		require.EqualValues(t, 50, leave(t, c).Spooled)
	})
}

// Killed between parking a record and noting that on disk: it is parked, once.
func TestSpool_ParkedOnceWhereverItIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		sink := entitlementstest.NewSink()
		sink.Always(entitlementstest.DeliverStep{Lost: errors.New("connection reset"), Latency: 100 * time.Millisecond})
		never := sink.Limited(SinkLimits{DedupWindow: -1})
		c := spooled(t, dir, never, Config{})
		c.Track("a", "api", 1)
		time.Sleep(1050 * time.Millisecond) // on its way
		segments, err := filepath.Glob(filepath.Join(dir, "000", "*.segment"))
		require.NoError(t, err)
		saved := map[string][]byte{}
		for _, name := range segments {
			saved[name], err = os.ReadFile(name)
			require.NoError(t, err)
		}
		time.Sleep(2 * time.Second)
		require.EqualValues(t, 1, c.Stats().Usage.InDoubt)
		_ = c.Close(t.Context())
		for name, data := range saved {
			require.NoError(t, os.WriteFile(name, data, 0o600))
		}
		c = spooled(t, dir, never, Config{})
		time.Sleep(3 * time.Second)
		u := c.Stats().Usage
		require.EqualValues(t, 1, u.InDoubt, "%+v", u)
		require.EqualValues(t, 1, u.Restored, "%+v", u)
		data, err := os.ReadFile(filepath.Join(dir, "000", "in-doubt.jsonl"))
		require.NoError(t, err)
		require.Equal(t, 1, strings.Count(string(data), "\n"))
		require.NoError(t, c.Close(t.Context()))
	})
}

// A period that becomes known while records are on disk only, and begins among
// them, leaves nothing behind in the view.
func TestSpool_APeriodThatBeginsAmongWhatIsOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(10 * time.Hour)
		sink := downSink()
		g := usageGrant(1<<40, 0)
		src := entitlementstest.NewSource(nil)
		c := spooled(t, t.TempDir(), sink, Config{Source: src, MaxPending: 10})
		pad := map[string]string{"pad": strings.Repeat("x", 100<<10)}
		for i := range 120 {
			if i == 60 {
				g.PeriodStart, g.ResetsAt = time.Now(), time.Now().Add(30*24*time.Hour)
			}
			c.Record(Usage{Customer: "a", Feature: "api", Quantity: 1, ID: strconv.Itoa(i), Properties: pad})
			time.Sleep(10 * time.Second)
		}
		time.Sleep(2 * time.Minute)
		src.Put("a", map[string]Grant{"api": g})
		time.Sleep(time.Minute)
		_, err := c.Load(t.Context(), "a")
		require.NoError(t, err)
		require.GreaterOrEqual(t, c.Decide("a", "api").Used, int64(60))
		sink.Always(entitlementstest.DeliverStep{})
		require.NoError(t, c.Flush(t.Context()))
		time.Sleep(10 * time.Second)
		c.Invalidate("a")
		_, err = c.Load(t.Context(), "a")
		require.NoError(t, err)
		require.Zero(t, c.Decide("a", "api").Used, "the backend says so")
		drain(t, c)
	})
}

// What can't be written any more has its records written elsewhere.
func TestSpool_ABrokenFileLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := spooled(t, dir, downSink(), Config{})
		c.Track("a", "api", 1)
		c.Record(Usage{Customer: "b", Feature: "api", Quantity: 5, ID: "5", Properties: map[string]string{"k": "v"}})
		time.Sleep(3 * time.Second) // both were tried
		c.Track("a", "api", 2)
		var inUse []string
		for _, name := range filesIn(t, dir) {
			if data, err := os.ReadFile(name); err == nil && strings.Contains(string(data), "api") {
				inUse = append(inUse, name)
			}
		}
		require.NotEmpty(t, inUse)
		BreakSegments(c)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.False(t, c.Stats().Usage.Degraded)
		for _, name := range inUse {
			require.NoFileExists(t, name)
		}
		c.Track("a", "api", 4)
		left := leave(t, c)
		require.EqualValues(t, 4, left.Spooled)
		require.Zero(t, left.Lost)
		sink := entitlementstest.NewSink()
		drain(t, spooled(t, dir, sink, Config{}))
		require.EqualValues(t, 7, sink.Total("a", "api"))
		require.EqualValues(t, 5, sink.Total("b", "api"))
		require.Zero(t, sink.Duplicates())
	})
}

// A file that can't be read now is read when it can be.
func TestSpool_AFileThatCanNotBeReadIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := spooled(t, dir, downSink(), Config{})
		c.Track("a", "api", 1)
		leave(t, c)
		segment := filesIn(t, dir)[0]
		require.NoError(t, os.Rename(segment, dir+".away"))
		require.NoError(t, os.Mkdir(segment, 0o700))
		log := new(logText)
		sink := entitlementstest.NewSink()
		c = spooled(t, dir, sink, Config{Logger: slog.New(slog.NewTextHandler(log, nil))})
		time.Sleep(5 * time.Second)
		require.Contains(t, log.String(), segment)
		require.NoError(t, os.Remove(segment))
		require.NoError(t, os.Rename(dir+".away", segment))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.EqualValues(t, 1, sink.Total("a", "api"))
		drain(t, c)
		require.Empty(t, filesIn(t, dir))
	})
}

// The damaged file itself stays where no copy of it can be made.
func TestSpool_DamageThatCanNotBeCopiedStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := spooled(t, dir, downSink(), Config{})
		c.Track("a", "api", 1)
		c.Track("b", "api", 1)
		leave(t, c)
		segment := filesIn(t, dir)[0]
		data, err := os.ReadFile(segment)
		require.NoError(t, err)
		data[64+8]++ // the time of the first record
		require.NoError(t, os.WriteFile(segment, data, 0o600))
		require.NoError(t, os.Mkdir(segment+".damaged", 0o700))
		sink := entitlementstest.NewSink()
		drain(t, spooled(t, dir, sink, Config{}))
		require.Len(t, sink.Accepted(), 1)
		require.FileExists(t, segment)

		require.NoError(t, os.Remove(segment+".damaged"))
		drain(t, spooled(t, dir, sink, Config{}))
		require.Len(t, sink.Accepted(), 1)
		require.FileExists(t, segment+".damaged")
		require.NoFileExists(t, segment)
	})
}

// Killed while it took over what another process had parked.
func TestSpool_ParkedTwiceCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		sink := entitlementstest.NewSink()
		sink.SetBad(func(Usage) error { return entitlementstest.ErrBad })
		c := spooled(t, dir, sink, Config{})
		c.Track("a", "api", 3)
		require.NoError(t, c.Flush(t.Context()))
		require.NoError(t, c.Close(t.Context()))
		lines, err := os.ReadFile(filepath.Join(dir, "000", "dead-letters.jsonl"))
		require.NoError(t, err)
		require.NoError(t, os.Mkdir(filepath.Join(dir, "001"), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "001", "dead-letters.jsonl"), lines, 0o600))
		sink.SetBad(nil)
		c = spooled(t, dir, sink, Config{})
		require.EqualValues(t, 1, c.Stats().Usage.DeadLettered)
		n, err := c.Redrive(t.Context(), RedriveFilter{})
		require.NoError(t, err)
		require.Equal(t, 1, n)
		drain(t, c)
		require.EqualValues(t, 3, sink.Total("a", "api"))
		require.NoFileExists(t, filepath.Join(dir, "001", "dead-letters.jsonl"))
	})
}

// What is parked while there is no disk is on disk when there is.
func TestSpool_ParkedWithoutADisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, heal := brokenSpool(t)
		sink := entitlementstest.NewSink()
		sink.SetBad(func(Usage) error { return entitlementstest.ErrBad })
		c := spooled(t, dir, sink, Config{})
		c.Track("a", "api", 3)
		require.NoError(t, c.Flush(t.Context()))
		heal()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.EqualValues(t, 1, c.Stats().Usage.DeadLettered)
		require.NoError(t, c.Close(t.Context()))
		sink.SetBad(nil)
		c = spooled(t, dir, sink, Config{})
		_, err := c.Redrive(t.Context(), RedriveFilter{})
		require.NoError(t, err)
		drain(t, c)
		require.EqualValues(t, 3, sink.Total("a", "api"))
	})
}

// What may have arrived and is not tried again is on disk: it is not lost.
func TestSpool_InDoubtIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := entitlementstest.NewSink()
		sink.Always(entitlementstest.DeliverStep{Lost: errors.New("connection reset")})
		c := spooled(t, t.TempDir(), sink.Limited(SinkLimits{DedupWindow: -1}), Config{})
		c.Track("a", "api", 1)
		left := leave(t, c)
		require.True(t, left == nil || left.Lost == 0, "%+v", left)
		require.EqualValues(t, 1, c.Stats().Usage.InDoubt)
	})
}

// A record gets its place on disk late, when the disk heals, while calls fold into
// it: they are on disk too from then on, whichever of the customer's features it is.
func TestSpool_CallsAfterADiskHealedAreOnIt(t *testing.T) {
	for _, code := range []string{"first", "second"} {
		t.Run(code, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir, heal := brokenSpool(t)
				grants := map[string]Grant{"first": usageGrant(1000, 0), "second": usageGrant(1000, 0)}
				source := Static(map[string]*Entitlements{"a": {Customer: "a", Features: grants}})
				c := spooled(t, dir, downSink(), Config{Source: source, FlushInterval: 30 * time.Second})
				loaded(t, c, "a")
				c.Track("a", "first", 1)
				c.Track("a", code, 1)
				heal()
				time.Sleep(2 * time.Second)
				require.False(t, c.Stats().Usage.Degraded)
				for range 100 {
					c.Track("a", code, 1)
				}
				leave(t, c)
				c = spooled(t, dir, entitlementstest.NewSink(), Config{Source: source})
				time.Sleep(time.Second)
				require.EqualValues(t, 102, drain(t, c).Delivered)
			})
		})
	}
}
