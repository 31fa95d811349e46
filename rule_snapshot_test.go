package entitlements_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

var errSourceDown = errors.New("source is down")

// downSource is a billing API that is down.
func downSource() Source {
	return SourceFunc(func(context.Context, string) (*Entitlements, error) { return nil, errSourceDown })
}

func snapshotGrants() map[string]Grant {
	now := time.Now()
	return map[string]Grant{
		"export":  {Enabled: true},
		"sso":     {Enabled: false},
		"trial":   {Enabled: true, ExpiresAt: now.Add(90 * time.Minute)},
		"seats":   {Kind: KindNumeric, Enabled: true, Limit: 25},
		"region":  {Kind: KindText, Enabled: true, Text: "eu-west"},
		"api":     {Kind: KindMetered, Enabled: true, Limit: 100, Used: 7, PeriodStart: now.Add(-time.Hour), ResetsAt: now.Add(time.Hour)},
		"overage": {Kind: KindMetered, Enabled: true, Limit: 10, Used: 12, Soft: true},
	}
}

// kept runs a Client on a file until it is closed, after use did something to it.
func kept(t *testing.T, cfg Config, use func(c *Client)) {
	t.Helper()
	if cfg.MaxCustomers == 0 {
		cfg.MaxCustomers = 100
	}
	c, err := New(cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close(t.Context())) }()
	use(c)
}

func load(t *testing.T, customers ...string) func(c *Client) {
	return func(c *Client) {
		for _, customer := range customers {
			_, err := c.Resolve(t.Context(), customer)
			require.NoError(t, err)
		}
	}
}

func TestSnapshot_AProgramStartsWhileBillingIsDown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "entitlements")
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"acme": snapshotGrants(), "bolt": {"export": {}}})
		sink := entitlementstest.NewSink()
		var before map[string]Decision
		kept(t, Config{Source: src, Sink: sink, SnapshotFile: file, SnapshotKey: []byte("secret")}, func(c *Client) {
			load(t, "acme", "bolt")(c)
			require.True(t, c.Use("acme", "api", 5).Allowed)
			require.NoError(t, c.Flush(t.Context()))
			before = decisions(c.Customer("acme"))
		})
		info, err := os.Stat(file)
		require.NoError(t, err)
		if runtime.GOOS != "windows" {
			require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		}

		time.Sleep(10 * time.Minute)
		kept(t, Config{Source: downSource(), SnapshotFile: file, SnapshotKey: []byte("secret")}, func(c *Client) {
			d := c.Decide("acme", "api")
			require.Equal(t, OriginRestored, d.Origin)
			require.EqualValues(t, 12, d.Used, "what was delivered and not told of yet is in it")
			require.GreaterOrEqual(t, d.Age, 10*time.Minute)
			for feature, after := range decisions(c.Customer("acme")) {
				require.Equal(t, OriginRestored, after.Origin, feature)
				after.Age, after.Origin = before[feature].Age, before[feature].Origin
				require.Equal(t, before[feature], after, feature)
			}
			require.False(t, c.Allowed("bolt", "export"))
			require.Equal(t, ReasonNotGranted, c.Decide("bolt", "export").Reason)
			require.EqualValues(t, 25, c.Number("acme", "seats", 1))
			require.Equal(t, ReasonLoading, c.Decide("nobody", "export").Reason)
			// Expiry and periods go on.
			time.Sleep(85 * time.Minute)
		})
		kept(t, Config{Source: downSource(), SnapshotFile: file, SnapshotKey: []byte("secret"), MaxStale: 24 * time.Hour}, func(c *Client) {
			require.Equal(t, ReasonExpired, c.Decide("acme", "trial").Reason)
			require.Zero(t, c.Decide("acme", "api").Used, "its period is over")
		})
	})
}

func decisions(cu Customer) map[string]Decision {
	return maps.Collect(cu.All())
}

func TestSnapshot_RestoredCustomersAreLoadedWhenTheyAreUsed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "entitlements")
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"acme": {"export": {}}, "bolt": {"export": {}}})
		kept(t, Config{Source: src, SnapshotFile: file}, load(t, "acme", "bolt"))
		src.Put("acme", map[string]Grant{"export": {Enabled: true}})
		kept(t, Config{Source: src, SnapshotFile: file}, func(c *Client) {
			require.Equal(t, OriginRestored, c.Decide("acme", "export").Origin)
			time.Sleep(time.Second)
			d := c.Decide("acme", "export")
			require.Equal(t, OriginFresh, d.Origin)
			require.True(t, d.Allowed, "the customer has paid meanwhile")
			require.Equal(t, 1, src.Calls("bolt"), "nobody asked for it")
		})
	})
}

func TestSnapshot_PastMaxStaleItDoesNotAnswer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "entitlements")
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"acme": {"export": {Enabled: true}}})
		kept(t, Config{Source: src, SnapshotFile: file}, load(t, "acme"))
		time.Sleep(time.Hour)
		kept(t, Config{Source: downSource(), SnapshotFile: file, OnUnavailable: LastKnown}, func(c *Client) {
			d := c.Decide("acme", "export")
			require.True(t, d.Allowed)
			require.Equal(t, ReasonTooStale, d.Reason)
			require.GreaterOrEqual(t, d.Age, time.Hour)
		})
		kept(t, Config{Source: downSource(), SnapshotFile: file}, func(c *Client) {
			require.False(t, c.Allowed("acme", "export"))
			require.Zero(t, c.Stats().Cache.Customers)
		})
	})
}

// A bubble's clock begins in 2000, so the second one is behind the first.
func TestSnapshot_AClockThatMovedBackwardsMakesNothingYounger(t *testing.T) {
	file := filepath.Join(t.TempDir(), "entitlements")
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"acme": {"export": {Enabled: true}}})
		time.Sleep(5 * time.Hour)
		kept(t, Config{Source: src, SnapshotFile: file, TTL: time.Hour}, func(c *Client) {
			load(t, "acme")(c)
			time.Sleep(10 * time.Minute)
		})
	})
	synctest.Test(t, func(t *testing.T) {
		kept(t, Config{Source: downSource(), SnapshotFile: file, TTL: time.Hour}, func(c *Client) {
			require.Equal(t, 10*time.Minute, c.Decide("acme", "export").Age.Round(time.Second))
		})
	})
}

func TestSnapshot_ADamagedOrForgedFileIsNotUsed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "entitlements")
	key := []byte("secret")
	src := entitlementstest.NewSource(map[string]map[string]Grant{"acme": snapshotGrants()})
	kept(t, Config{Source: src, SnapshotFile: file, SnapshotKey: key}, load(t, "acme"))
	good, err := os.ReadFile(file)
	require.NoError(t, err)

	restored := func(content, key []byte) (int, string) {
		t.Helper()
		var log bytes.Buffer
		other := filepath.Join(dir, "other")
		require.NoError(t, os.WriteFile(other, content, 0o600))
		cfg := Config{
			Source: downSource(), MaxCustomers: 1, SnapshotFile: other, SnapshotKey: key,
			Logger: slog.New(slog.NewTextHandler(&log, nil)),
		}
		c, err := New(cfg)
		require.NoError(t, err)
		n := c.Stats().Cache.Customers
		require.NoError(t, c.Close(t.Context()))
		return n, log.String()
	}
	n, log := restored(good, key)
	require.Equal(t, 1, n)
	require.NotContains(t, log, "secret")
	for name, wrong := range map[string][]byte{"another": []byte("other"), "none": nil} {
		n, log := restored(good, wrong)
		require.Zero(t, n, "%s key", name)
		require.Contains(t, log, "signature")
	}
	step := max(1, len(good)/100)
	for i := 0; i < len(good); i += step {
		flipped := bytes.Clone(good)
		flipped[i] ^= 1 << (i % 8)
		n, log := restored(flipped, key)
		require.Zero(t, n, "bit flipped in byte %d", i)
		require.Contains(t, log, "not used")
		n, log = restored(good[:i], key)
		require.Zero(t, n, "cut after %d bytes", i)
		require.Contains(t, log, "not used")
	}
}

// logText is a log that a test reads while others write it.
type logText struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestSnapshot_WhatCannotBeWrittenIsLoggedAndHeals(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	file := filepath.Join(dir, "entitlements")
	synctest.Test(t, func(t *testing.T) {
		var log logText
		src := entitlementstest.NewSource(map[string]map[string]Grant{"acme": {"export": {Enabled: true}}})
		cfg := Config{Source: src, SnapshotFile: file, Logger: slog.New(slog.NewTextHandler(&log, nil))}
		kept(t, cfg, func(c *Client) {
			load(t, "acme")(c)
			time.Sleep(5*time.Minute + time.Second)
			synctest.Wait()
			require.Equal(t, 1, strings.Count(log.String(), "can't be written"), "one line per change of state")
			require.NoError(t, os.Mkdir(dir, 0o700))
			// Left by a process that was killed while it wrote, long ago in a bubble.
			require.NoError(t, os.WriteFile(file+".tmp123", []byte("half"), 0o600))
			long := time.Now().Add(-2 * time.Hour)
			require.NoError(t, os.Chtimes(file+".tmp123", long, long))
			time.Sleep(time.Minute)
			synctest.Wait()
			require.Contains(t, log.String(), "is written again")
		})
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, left, 1, "only the file itself")
	})
}

func TestSnapshot_TheFileForgetsWithinAMinute(t *testing.T) {
	file := filepath.Join(t.TempDir(), "entitlements")
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"acme": {"export": {Enabled: true}}, "bolt": {"export": {}}})
		kept(t, Config{Source: src, SnapshotFile: file, IdleAfter: time.Millisecond}, func(c *Client) {
			load(t, "acme", "bolt")(c)
			time.Sleep(time.Minute + time.Second)
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Contains(t, string(content), "acme")
			c.Forget("acme")
			time.Sleep(time.Minute)
			content, err = os.ReadFile(file)
			require.NoError(t, err)
			require.NotContains(t, string(content), "acme")
			require.Contains(t, string(content), "bolt")
		})
	})
}

func TestSnapshot_ASmallerCacheTakesWhatFits(t *testing.T) {
	file := filepath.Join(t.TempDir(), "entitlements")
	customers := map[string]map[string]Grant{}
	var keys []string
	for i := range 50 {
		keys = append(keys, fmt.Sprint("c", i))
		customers[keys[i]] = map[string]Grant{"export": {Enabled: true}}
	}
	kept(t, Config{Source: entitlementstest.NewSource(customers), SnapshotFile: file}, load(t, keys...))
	kept(t, Config{Source: downSource(), SnapshotFile: file, MaxCustomers: 10}, func(c *Client) {
		require.Equal(t, 10, c.Stats().Cache.Customers)
	})
}

// The reader takes whatever is signed: it must not fall over.
func FuzzSnapshotReader(f *testing.F) {
	file := filepath.Join(f.TempDir(), "entitlements")
	src := entitlementstest.NewSource(map[string]map[string]Grant{"acme": snapshotGrants(), "bolt": {"export": {}}})
	c, err := New(Config{Source: src, MaxCustomers: 10, SnapshotFile: file})
	require.NoError(f, err)
	for _, customer := range []string{"acme", "bolt"} {
		_, err = c.Resolve(context.Background(), customer)
		require.NoError(f, err)
	}
	require.NoError(f, c.Close(context.Background()))
	good, err := os.ReadFile(file)
	require.NoError(f, err)
	content := good[:len(good)-sha256.Size]
	mac := hmac.New(sha256.New, nil)
	mac.Write(content)
	require.Equal(f, mac.Sum(nil), good[len(content):], "the format that is documented")
	n, err := RestoreSnapshot(content, 10)
	require.NoError(f, err)
	require.Equal(f, 2, n)
	f.Add(content)
	f.Add(content[:len(content)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, content []byte) {
		n, err := RestoreSnapshot(content, 10)
		if n > 10 {
			t.Fatalf("%d customers restored into a cache of 10 (%v)", n, err)
		}
	})
}
