package entitlements_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

const (
	crashCustomers = 8
	crashBlock     = 50 // calls between two lines
	crashWorkers   = 2
)

// A process counts as fast as it can and says what it will have counted and what
// it has. It is killed at a random moment, again and again, on one directory. In
// the end billing has no less than what was counted and no more than what was
// begun, and each record once.
func TestCrash_KilledAtAnyMomentLosesNothing(t *testing.T) {
	runs := 50
	if testing.Short() {
		runs = 5
	}
	begun, counted, billed := crash(t, runs, rand.Uint64())
	t.Logf("%d counted, %d billed, %d begun, in %d runs", counted, billed, begun, runs)
}

func crash(t *testing.T, runs int, seed uint64) (begun, counted, billed int64) {
	t.Helper()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	billing := entitlementstest.NewBilling(entitlementstest.BillingConfig{})
	defer billing.Close()
	for i := range crashCustomers {
		billing.Put(crashCustomer(i), map[string]Grant{"calls": {Kind: KindMetered, Enabled: true, Limit: Unlimited}})
	}
	dir := filepath.Join(t.TempDir(), "spool")
	for range runs {
		b, c := killed(t, billing, dir, time.Duration(rng.Int64N(int64(120*time.Millisecond))))
		begun, counted = begun+b, counted+c
	}
	c := crashClient(t, billing.URL, billing.Token, dir)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, c.Flush(ctx))
	u := c.Stats().Usage
	require.Zero(t, u.InDoubt+u.DeadLettered+u.Dropped+u.Unreadable, "%+v", u)
	require.NoError(t, c.Close(ctx))
	for i := range crashCustomers {
		billed += billing.Total(crashCustomer(i), "calls")
	}
	require.GreaterOrEqual(t, billed, counted, "lost")
	require.LessOrEqual(t, billed, begun, "billed twice")
	return begun, counted, billed
}

func crashCustomer(i int) string { return fmt.Sprintf("customer-%d", i) }

func crashClient(t *testing.T, url, token, dir string) *Client {
	t.Helper()
	adapter, err := paylera.New(paylera.Config{Token: token, BaseURL: url})
	require.NoError(t, err)
	t.Cleanup(adapter.CloseIdleConnections)
	c, err := New(Config{Source: adapter, Sink: adapter, SpoolDir: dir, FlushInterval: 5 * time.Millisecond, MaxCustomers: 100})
	require.NoError(t, err)
	return c
}

// killed runs a process for so long after its first word, and returns what it had
// begun to count, and what it had counted.
func killed(t *testing.T, billing *entitlementstest.Billing, dir string, after time.Duration) (begun, counted int64) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrash_Process$")
	cmd.Env = append(os.Environ(), "CRASH_DIR="+dir, "CRASH_URL="+billing.URL, "CRASH_TOKEN="+billing.Token)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	var will, has [crashWorkers]int64
	kill := sync.OnceFunc(func() { time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) })
	for lines.Scan() {
		var what string
		var worker int
		var n int64
		line := lines.Text()
		if k, err := fmt.Sscanf(line, "%s %d %d .", &what, &worker, &n); k != 3 || err != nil || !strings.HasSuffix(line, ".") {
			continue // cut off, or the test's own output
		}
		kill()
		if what == "will" {
			will[worker] = n
		} else {
			has[worker] = n
		}
	}
	_ = cmd.Wait()
	for i := range will {
		begun, counted = begun+will[i], counted+has[i]
	}
	require.NotZero(t, begun, "the process did not begin")
	return begun, counted
}

// TestCrash_Process is the process that is killed.
func TestCrash_Process(t *testing.T) {
	dir := os.Getenv("CRASH_DIR")
	if dir == "" {
		t.Skip("run by the tests that kill it")
	}
	c := crashClient(t, os.Getenv("CRASH_URL"), os.Getenv("CRASH_TOKEN"), dir)
	for i := range crashCustomers {
		_, err := c.Load(t.Context(), crashCustomer(i))
		require.NoError(t, err)
	}
	var wg sync.WaitGroup
	var ids atomic.Int64
	for worker := range crashWorkers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(rand.Uint64(), 0))
			for total := int64(0); ; {
				fmt.Printf("will %d %d .\n", worker, total+crashBlock)
				for range crashBlock {
					customer := crashCustomer(rng.IntN(crashCustomers))
					switch k := rng.IntN(2000); {
					case k < 1940:
						c.Track(customer, "calls", 1)
					case k < 1942:
						id := fmt.Sprintf("%d-%d", os.Getpid(), ids.Add(1))
						c.Record(Usage{Customer: customer, Feature: "calls", Quantity: 1, ID: id, Properties: map[string]string{"k": id}})
					case k < 1970:
						if !c.Use(customer, "calls", 1).Allowed {
							panic("denied")
						}
					default:
						r, _ := c.Reserve(customer, "calls", 5)
						r.Commit(1)
					}
					total++
				}
				fmt.Printf("has %d %d .\n", worker, total)
			}
		})
	}
	wg.Wait()
}
