package entitlements_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// spooled is a client on a spool. It is closed by the test.
func spooled(t *testing.T, dir string, sink Sink, cfg Config) *Client {
	t.Helper()
	cfg.SpoolDir, cfg.Sink = dir, sink
	if cfg.Source == nil {
		cfg.Source = Static(nil)
	}
	cfg.MaxCustomers = 100
	c, err := New(cfg)
	require.NoError(t, err)
	return c
}

// leave closes a client at once, as in an outage.
func leave(t *testing.T, c *Client) *UndeliveredError {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	var left *UndeliveredError
	if err := c.Close(ctx); err != nil {
		require.ErrorAs(t, err, &left)
	}
	return left
}

// drain delivers all and closes, and checks the account.
func drain(t *testing.T, c *Client) UsageStats {
	t.Helper()
	require.NoError(t, c.Flush(t.Context()))
	u := c.Stats().Usage
	require.Zero(t, u.Pending)
	require.Equal(t, u.Recorded+u.Restored, u.Delivered+u.InDoubt+u.DeadLettered+u.Dropped, "%+v", u)
	require.NoError(t, c.Close(t.Context()))
	return u
}

func downSink() *entitlementstest.Sink {
	sink := entitlementstest.NewSink()
	sink.Always(entitlementstest.DeliverStep{Refuse: Unsent(errSinkDown)})
	return sink
}

// filesIn are the files of a spool, but for locks.
func filesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	require.NoError(t, err)
	for _, name := range all {
		if filepath.Base(name) != "lock" {
			names = append(names, name)
		}
	}
	return names
}

func TestSpool_WhatCloseCanNotDeliverIsDeliveredByTheNextRun(t *testing.T) {
	for name, refuse := range map[string]bool{"mapped": false, "written": true} {
		t.Run(name, func(t *testing.T) {
			if refuse {
				defer RefuseMapping()()
			}
			synctest.Test(t, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "deep", "spool")
				c := spooled(t, dir, downSink(), Config{})
				for range 100 {
					c.Track("a", "api", 3)
					c.Track("b", "api", 1)
				}
				mine := Usage{Customer: "a", Feature: "export", Quantity: 7, ID: "mine", Properties: map[string]string{"k": "v"}, Time: time.Now().Add(-time.Hour).Round(0)}
				c.Record(mine)
				left := leave(t, c)
				require.EqualValues(t, 201, left.Spooled)
				require.Zero(t, left.Lost)
				require.EqualValues(t, 201, c.Stats().Usage.Pending)

				sink := entitlementstest.NewSink()
				u := drain(t, spooled(t, dir, sink, Config{}))
				require.EqualValues(t, 201, u.Restored)
				require.EqualValues(t, 300, sink.Total("a", "api"))
				require.EqualValues(t, 100, sink.Calls("b", "api"))
				for _, got := range sink.Accepted() {
					if got.Feature == "export" {
						require.Equal(t, mine.ID, got.ID)
						require.Equal(t, mine.Properties, got.Properties)
						require.True(t, mine.Time.Equal(got.Time))
					}
				}
				require.Empty(t, filesIn(t, dir))
			})
		})
	}
}

// The answer was lost, and the process too: the next one sends the same records
// with the same IDs, as long as the backend knows them by these.
func TestSpool_WhatWasSentKeepsItsIDs(t *testing.T) {
	for name, test := range map[string]struct {
		down    time.Duration // between the runs
		inDoubt uint64
	}{"soon": {time.Minute, 0}, "later than the sink dedupes": {25 * time.Hour, 10}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				sink := entitlementstest.NewSink()
				sink.Always(entitlementstest.DeliverStep{Lost: errors.New("connection reset")})
				limited := sink.Limited(SinkLimits{DedupWindow: 24 * time.Hour})
				c := spooled(t, dir, limited, Config{})
				for range 10 {
					c.Track("a", "api", 1)
				}
				time.Sleep(2 * time.Second) // delivered, and nobody knows
				require.EqualValues(t, 10, sink.Total("a", "api"))
				require.EqualValues(t, 10, leave(t, c).Spooled)

				time.Sleep(test.down)
				sink.Always(entitlementstest.DeliverStep{})
				c = spooled(t, dir, limited, Config{})
				require.NoError(t, c.Flush(t.Context()))
				u := c.Stats().Usage
				require.Equal(t, test.inDoubt, u.InDoubt, "%+v", u)
				require.EqualValues(t, 10, sink.Total("a", "api"), "billed once")
				require.NoError(t, c.Close(t.Context()))

				c = spooled(t, dir, limited, Config{})
				require.Equal(t, test.inDoubt, c.Stats().Usage.InDoubt, "still known")
				n, err := c.Redrive(t.Context(), RedriveFilter{Kind: ParkedInDoubt})
				require.NoError(t, err)
				require.EqualValues(t, min(test.inDoubt, 1), n)
				drain(t, c)
				require.EqualValues(t, 10, sink.Total("a", "api"), "the sink knew the ID")
			})
		})
	}
}

func TestSpool_DeadLettersAreKeptUntilTheyAreRedriven(t *testing.T) {
	for name, dir := range map[string]string{"with a spool": t.TempDir(), "without": ""} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := entitlementstest.NewSink()
				sink.SetBad(func(u Usage) error {
					if u.Feature == "bad" {
						return entitlementstest.ErrBad
					}
					return nil
				})
				c := spooled(t, dir, sink, Config{})
				c.Record(Usage{Customer: "\xff", Feature: "bad", Quantity: 2, ID: "1", Properties: map[string]string{"k\xff": "\xfe", "l": ""}})
				c.Track("a", "bad", 3)
				c.Track("a", "bad", 4)
				c.Track("a", "api", 5)
				require.NoError(t, c.Flush(t.Context()))
				require.EqualValues(t, 3, c.Stats().Usage.DeadLettered)
				if dir != "" {
					require.NoError(t, c.Close(t.Context()))
					data, err := os.ReadFile(filepath.Join(dir, "000", "dead-letters.jsonl"))
					require.NoError(t, err)
					require.Equal(t, 2, bytes.Count(data, []byte("\n")))
					require.Contains(t, string(data), entitlementstest.ErrBad.Error())
					c = spooled(t, dir, sink, Config{})
					require.EqualValues(t, 3, c.Stats().Usage.DeadLettered)
					require.EqualValues(t, 3, c.Stats().Usage.Restored)
				}
				n, err := c.Redrive(t.Context(), RedriveFilter{Customer: "a", Feature: "bad", Kind: ParkedDead})
				require.NoError(t, err)
				require.Equal(t, 1, n)
				require.NoError(t, c.Flush(t.Context()))
				require.EqualValues(t, 3, c.Stats().Usage.DeadLettered, "still bad")

				sink.SetBad(nil)
				n, err = c.Redrive(t.Context(), RedriveFilter{Most: 1})
				require.NoError(t, err)
				require.Equal(t, 1, n)
				n, err = c.Redrive(t.Context(), RedriveFilter{})
				require.NoError(t, err)
				require.Equal(t, 1, n)
				u := drain(t, c)
				require.Zero(t, u.DeadLettered)
				require.EqualValues(t, 7, sink.Total("a", "bad"))
				require.EqualValues(t, 2, sink.Total("\xff", "bad"))
				require.True(t, slices.ContainsFunc(sink.Accepted(), func(u Usage) bool {
					return maps.Equal(u.Properties, map[string]string{"k\xff": "\xfe", "l": ""})
				}))
				if dir != "" {
					require.Empty(t, filesIn(t, dir))
				}
				_, err = c.Redrive(t.Context(), RedriveFilter{})
				require.ErrorIs(t, err, ErrClosed)
			})
		})
	}
}

// What is damaged is told of and kept aside; the rest is delivered.
func TestSpool_DamageLosesNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 2))
		for range 30 {
			dir := t.TempDir()
			c := spooled(t, dir, downSink(), Config{})
			for i := range 20 {
				c.Track(string(rune('a'+i)), "api", 1)
			}
			leave(t, c)
			segments := filesIn(t, dir)
			require.Len(t, segments, 1)
			data, err := os.ReadFile(segments[0])
			require.NoError(t, err)
			at := 64 + rng.IntN(20*80)
			data[at] ^= 1 << rng.IntN(8)
			require.NoError(t, os.WriteFile(segments[0], data, 0o600))

			log := new(logText)
			sink := entitlementstest.NewSink()
			c = spooled(t, dir, sink, Config{Logger: slog.New(slog.NewTextHandler(log, nil))})
			require.NoError(t, c.Flush(t.Context()))
			if got := len(sink.Accepted()); got < 20 {
				require.Equal(t, 19, got)
				require.NotZero(t, c.Stats().Usage.Unreadable)
			}
			if c.Stats().Usage.Unreadable > 0 {
				require.FileExists(t, segments[0]+".damaged")
				require.Contains(t, log.String(), segments[0])
			}
			drain(t, c)
		}
	})
}

func TestSpool_ForeignFilesAreLeftAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.Mkdir(filepath.Join(dir, "000"), 0o700))
		foreign := filepath.Join(dir, "000", "foreign.segment")
		require.NoError(t, os.WriteFile(foreign, []byte(strings.Repeat("not ours", 100)), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "000", "dead-letters.jsonl"), []byte("{\"id\":\"cut"), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "README"), nil, 0o600))
		sink := entitlementstest.NewSink()
		c := spooled(t, dir, sink, Config{})
		c.Track("a", "api", 1)
		u := drain(t, c)
		require.EqualValues(t, 800+len("{\"id\":\"cut")+1, u.Unreadable)
		require.FileExists(t, foreign+".damaged")
		require.EqualValues(t, 1, sink.Total("a", "api"))
	})
}

// Where nothing can be made in the directory, usage is in memory and says so; when
// it can be again, it is on disk without being asked.
func TestSpool_AnUnusableDiskDegradesAndHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "spool")
		require.NoError(t, os.WriteFile(dir, nil, 0o600)) // in its place
		log := new(logText)
		c := spooled(t, dir, downSink(), Config{Logger: slog.New(slog.NewTextHandler(log, nil)), MaxPending: 10})
		c.Track("a", "api", 1)
		c.Track("a", "api", 2)
		c.Record(Usage{Customer: "b", Feature: "api", Quantity: 5, ID: "big", Properties: map[string]string{"k": strings.Repeat("x", 3<<20)}})
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.True(t, c.Stats().Usage.Degraded)
		require.Equal(t, 1, strings.Count(log.String(), "in memory only"), log.String())

		require.NoError(t, os.Remove(dir))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.False(t, c.Stats().Usage.Degraded, log.String())
		c.Track("a", "api", 4)
		require.EqualValues(t, 4, leave(t, c).Spooled)
		sink := entitlementstest.NewSink()
		drain(t, spooled(t, dir, sink, Config{}))
		require.EqualValues(t, 7, sink.Total("a", "api"))
		require.EqualValues(t, 5, sink.Total("b", "api"))
	})
}

func TestSpool_ProcessesShareADirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		sink := entitlementstest.NewSink()
		one, two := spooled(t, dir, downSink(), Config{}), spooled(t, dir, sink, Config{})
		one.Track("a", "api", 1)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		require.Zero(t, sink.Total("a", "api"), "it is in use")
		leave(t, one)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.EqualValues(t, 1, sink.Total("a", "api"), "it is not any more")
		one = spooled(t, dir, downSink(), Config{})
		one.Track("a", "api", 2)
		leave(t, one)
		three := spooled(t, dir, sink, Config{})
		require.NoError(t, three.Flush(t.Context()))
		require.EqualValues(t, 3, sink.Total("a", "api"), "its slot has a new user")
		drain(t, two)
		drain(t, three)
		require.Empty(t, filesIn(t, dir))
	})
}

func TestSpool_ReportReturnsWhenItIsOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := spooled(t, dir, downSink(), Config{SpoolSync: time.Hour})
		began := time.Now()
		require.NoError(t, c.Report(t.Context(), Usage{Customer: "a", Feature: "api", Quantity: 2, ID: "x"}))
		require.Less(t, time.Since(began), time.Minute, "it does not wait for SpoolSync")
		require.EqualValues(t, 1, leave(t, c).Spooled)
	})
}

// With a spool SpoolMaxBytes bounds what waits, and MaxPending does not.
func TestSpool_ItsSizeIsTheBound(t *testing.T) {
	for _, overflow := range []Overflow{DropNewest, DropOldest} {
		t.Run(overflow.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				c := spooled(t, dir, downSink(), Config{MaxPending: 10, SpoolMaxBytes: 8 << 20, Overflow: overflow})
				pad := map[string]string{"pad": strings.Repeat("x", 10_000)}
				for i := range 3000 {
					c.Record(Usage{Customer: "a", Feature: "api", Quantity: 1, ID: strconv.Itoa(i), Properties: pad})
					if i%50 == 0 {
						synctest.Wait()
					}
				}
				u := c.Stats().Usage
				require.NotZero(t, u.DroppedBy["overflow"])
				require.Greater(t, u.Pending, uint64(300))
				require.Equal(t, u.Recorded, u.Pending+u.Dropped)
				var bytes int64
				for _, name := range filesIn(t, dir) {
					info, err := os.Stat(name)
					require.NoError(t, err)
					bytes += info.Size()
				}
				require.LessOrEqual(t, bytes, int64(8<<20))
				require.EqualValues(t, u.Pending, leave(t, c).Spooled)
				sink := entitlementstest.NewSink()
				require.Equal(t, u.Pending, drain(t, spooled(t, dir, sink, Config{})).Delivered)
				last := slices.ContainsFunc(sink.Accepted(), func(u Usage) bool { return u.ID == "2999" })
				require.Equal(t, overflow == DropOldest, last)
			})
		})
	}
}

// An outage costs disk and no memory: records go to the disk alone, count in the
// local view all the same, and are all delivered when it is over.
func TestSpool_ALongOutageCostsNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		sink := entitlementstest.NewSink()
		var up atomic.Bool
		// It remembers nothing of what it refuses.
		gate := SinkFunc(func(ctx context.Context, batch Batch) error {
			if !up.Load() {
				return Unsent(errSinkDown)
			}
			return sink.Deliver(ctx, batch)
		})
		const pairs, limit = 100, 1 << 40
		grants := map[string]map[string]Grant{}
		for i := range pairs {
			grants[strconv.Itoa(i)] = map[string]Grant{"api": usageGrant(limit, 0)}
		}
		src := entitlementstest.NewSource(grants)
		c := spooled(t, dir, gate, Config{Source: src, MaxPending: 1000, TTL: time.Hour, MaxStale: 12 * time.Hour, SpoolSync: time.Minute})
		for customer := range grants {
			_, err := c.Load(t.Context(), customer)
			require.NoError(t, err)
		}
		total := int64(0)
		outage := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Second) {
				for i := range pairs {
					if i%2 == 0 {
						require.True(t, c.Use(strconv.Itoa(i), "api", 1).Allowed)
					} else {
						c.Track(strconv.Itoa(i), "api", 1)
					}
				}
				total++
			}
			synctest.Wait()
			for i := range pairs {
				require.Equal(t, total, c.Decide(strconv.Itoa(i), "api").Used)
			}
		}
		outage(40 * time.Minute)
		before := liveHeap()
		outage(2 * time.Hour)
		grown := liveHeap() - before
		require.Less(t, grown, int64(4<<20), "%d records more", 2*60*pairs)
		u := c.Stats().Usage
		require.EqualValues(t, pairs*total, u.Pending)
		require.Zero(t, u.Dropped)

		flushed := make(chan error, 1)
		go func() { flushed <- c.Flush(t.Context()) }()
		time.Sleep(time.Minute)
		require.Empty(t, flushed, "the outage goes on")
		up.Store(true)
		require.NoError(t, <-flushed)
		for i := range pairs {
			require.Equal(t, total, sink.Total(strconv.Itoa(i), "api"))
		}
		require.Zero(t, sink.Duplicates())
		drain(t, c)
		require.Empty(t, filesIn(t, dir))
	})
}
