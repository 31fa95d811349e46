package entitlements_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// lives runs whole lives of a Client one after the other, and requires that all
// of them together leave no goroutine and no file open. Each gets a customer of
// its own: what a snapshot file has restored is of others.
func lives(t *testing.T, life func(customer string)) {
	t.Helper()
	// A file that nobody closed would be closed by the collector.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	before := runtime.NumGoroutine()
	for i := range 3 {
		life(fmt.Sprint("first-", i)) // what the runtime keeps for good is there from here on
	}
	ended(t, before)
	files := openFiles(t)
	for i := range 100 {
		life(fmt.Sprint("customer-", i))
	}
	ended(t, before)
	require.LessOrEqual(t, openFiles(t), files, "files and sockets")
}

// ended waits until there are no more goroutines than before: those of net/http
// end a moment after what they served was closed.
func ended(t *testing.T, before int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			var stacks bytes.Buffer
			_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
			require.Failf(t, "goroutines are left", "%d, and there were %d\n%s", runtime.NumGoroutine(), before, stacks.String())
		}
	}
}

// openFiles is how many files and sockets this process has open, where the system
// tells.
func openFiles(t *testing.T) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	open, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(open)
}

// pushing is a Source whose Watch tells what is sent to it.
type pushing struct {
	*entitlementstest.Source
	push chan string
}

func (p pushing) Watch(ctx context.Context, changed Invalidator) error {
	for {
		select {
		case customer := <-p.push:
			changed.Invalidate(customer)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// told waits for a callback.
func told[V any](t *testing.T, from chan V) V {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(10 * time.Second):
		require.FailNow(t, "was not called")
		panic("not reached")
	}
}

// A hundred programs' lives, with all that a Client can start.
func TestRule22_AHundredLivesLeaveNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "entitlements")
	lives(t, func(customer string) {
		grants := func(limit int64) map[string]Grant {
			return map[string]Grant{"calls": usageGrant(limit, 0), "export": {Enabled: true}}
		}
		src := pushing{entitlementstest.NewSource(map[string]map[string]Grant{customer: grants(10)}), make(chan string)}
		levels, changes := make(chan UsageLevel, 10), make(chan Change, 10)
		c, err := New(Config{
			Source: src, Sink: entitlementstest.NewSink(), MaxCustomers: 100, SnapshotFile: file, SpoolDir: filepath.Join(filepath.Dir(file), "spool"),
			OnUsage: func(l UsageLevel) { levels <- l },
		})
		require.NoError(t, err)
		c.Subscribe(func(change Change) { changes <- change })
		ctx := usageWithin(t, 10*time.Second)
		c.Decide("nobody", "calls")
		handle, err := c.Resolve(ctx, customer)
		require.NoError(t, err)
		require.True(t, handle.Allowed(c.Feature("export")))
		require.True(t, c.Use(customer, "calls", 8).Allowed)
		require.InDelta(t, 0.8, told(t, levels).Level, 0)
		src.Put(customer, grants(20))
		src.push <- customer
		require.Equal(t, customer, told(t, changes).Customer)
		held, d := c.Reserve(customer, "calls", 2)
		require.True(t, d.Allowed)
		c.Track(customer, "calls", 1)
		require.NoError(t, c.Report(ctx, Usage{Customer: customer, Feature: "calls", Quantity: 1}))
		require.NoError(t, c.Close(ctx))
		held.Commit(1) // too late, and harmless
	})
}

// The same over sockets, with webhooks. Every other Client has to give up what it
// could not deliver.
func TestRule22_AHundredLivesOverHTTPLeaveNothing(t *testing.T) {
	const secret = "whsec_test"
	file := filepath.Join(t.TempDir(), "entitlements")
	hangs := false
	lives(t, func(customer string) {
		billing := entitlementstest.NewBilling(entitlementstest.BillingConfig{})
		defer billing.Close()
		billing.Put(customer, map[string]Grant{"calls": usageGrant(10, 0)})
		adapter, err := paylera.New(paylera.Config{Token: billing.Token, BaseURL: billing.URL, WebhookSecrets: []string{secret}})
		require.NoError(t, err)
		defer adapter.CloseIdleConnections()
		// The webhooks' client is of this life, so that its connections are too.
		hooks := httptest.NewServer(adapter)
		defer hooks.Close()
		sender := &http.Client{Transport: new(http.Transport)}
		defer sender.CloseIdleConnections()
		billing.SetWebhookClient(sender)
		billing.RegisterWebhook(hooks.URL, secret)

		c, err := New(Config{Source: adapter, Sink: adapter, MaxCustomers: 100, SnapshotFile: file, SpoolDir: filepath.Join(filepath.Dir(file), "spool")})
		require.NoError(t, err)
		ctx := usageWithin(t, 10*time.Second)
		_, err = c.Resolve(ctx, customer)
		require.NoError(t, err)
		require.True(t, c.Use(customer, "calls", 10).Allowed)
		require.False(t, c.Use(customer, "calls", 1).Allowed)
		require.NoError(t, c.Flush(ctx))
		changes := make(chan Change, 10)
		c.Subscribe(func(change Change) { changes <- change })
		_ = billing.Change(ctx, customer, map[string]Grant{"calls": usageGrant(100, 0)})
		for billing.PendingWebhooks() > 0 { // until Watch runs
			require.NoError(t, ctx.Err())
			_, _ = billing.RetryWebhooks(ctx)
		}
		require.Equal(t, customer, told(t, changes).Customer)
		require.True(t, c.Use(customer, "calls", 1).Allowed)

		if hangs = !hangs; !hangs {
			require.NoError(t, c.Close(ctx))
			require.EqualValues(t, 11, billing.Total(customer, "calls"))
			return
		}
		in := make(chan struct{}, 10)
		billing.Always(entitlementstest.RouteAny, entitlementstest.Fault{Strike: func(*http.Request) { in <- struct{}{} }, Hang: true})
		ctx, cancel := context.WithCancel(ctx)
		go func() {
			<-in // delivering
			cancel()
		}()
		var left *UndeliveredError
		require.ErrorAs(t, c.Close(ctx), &left)
		require.EqualValues(t, 1, left.Spooled) // for the next life
		require.Zero(t, left.Running)
	})
}
