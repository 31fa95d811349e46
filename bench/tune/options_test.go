package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements/trace"
)

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

func TestDefaultsAreTheUsualWorkload(t *testing.T) {
	o, err := parse(nil, io.Discard)
	require.NoError(t, err)
	require.Equal(t, usual(), o.Workload)
	require.Equal(t, 150*time.Second, o.Time)
	o, err = parse([]string{"-quick"}, io.Discard)
	require.NoError(t, err)
	require.Less(t, o.Time, 20*time.Second)
	o, err = parse([]string{"-quick", "-time", "1m"}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, time.Minute, o.Time)
}

func TestTheExampleIsAWorkload(t *testing.T) {
	o, err := parse([]string{"-workload", "testdata/example.yaml"}, io.Discard)
	require.NoError(t, err)
	want := usual()
	want.Customers = 2000
	require.Equal(t, want, o.Workload)

	o, err = parse([]string{"-workload", write(t, example())}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, usual(), o.Workload, "what -h shows")
}

func TestFlagsWinOverTheFile(t *testing.T) {
	file := write(t, "customers: 300\nlatency: 100ms\nmemory: 8MiB\n")
	o, err := parse([]string{"-customers", "200", "-workload", file}, io.Discard)
	require.NoError(t, err)
	want := usual()
	want.Customers, want.Latency, want.Memory = 200, 100*time.Millisecond, 8<<20
	require.Equal(t, want, o.Workload)
	// A flag wins when it says the default, too.
	o, err = parse([]string{"-customers", "10000", "-workload", file}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, 10_000, o.Workload.Customers)
}

func TestBadWorkloads(t *testing.T) {
	for name, c := range map[string]struct {
		yaml string
		args []string
		want string
	}{
		"unknown field":  {yaml: "custmers: 1", want: "line 1: field custmers not found"},
		"not a number":   {yaml: "customers: many", want: "cannot unmarshal !!str `many` into int"},
		"not a size":     {yaml: "memory: much", want: `must be a size like 64MiB, got "much"`},
		"no customers":   {yaml: "customers: 0", want: "tune: customers must be 1 to 1000000, got 0"},
		"features":       {args: []string{"-features", "1001"}, want: "tune: features must be 1 to 1000, got 1001"},
		"checks":         {args: []string{"-checks", "NaN"}, want: "tune: checks must be 0.001 to 1000000, got NaN"},
		"usage":          {args: []string{"-usage", "-1"}, want: "tune: usage must be 0 to 100000, got -1"},
		"cells":          {args: []string{"-cells", "0"}, want: "tune: cells must be 1 to 1000000, got 0"},
		"zipf":           {args: []string{"-zipf", "0.9"}, want: "tune: zipf must be 0 or above 1 and at most 10, got 0.9"},
		"latency":        {args: []string{"-latency", "-1ms"}, want: "tune: latency must be 0s to 4s, got -1ms"},
		"rate limit":     {args: []string{"-rate-limit", "0"}, want: "tune: rate-limit must be 1 to 1000000, got 0"},
		"family":         {args: []string{"-family", "rest"}, want: `tune: family must be core or sdk, got "rest"`},
		"memory":         {args: []string{"-memory", "5kB"}, want: "tune: memory must be 1.0 MiB to 1.0 TiB, got 4.9 KiB"},
		"freshness":      {args: []string{"-freshness", "5ms"}, want: "tune: freshness must be 1s to 24h0m0s, got 5ms"},
		"at risk":        {args: []string{"-at-risk", "0"}, want: "tune: at-risk must be 1 to 1000000000, got 0"},
		"too large":      {args: []string{"-customers", "1000000"}, want: "tune: customers × features must be at most 5000000, got 50000000"},
		"all that is":    {args: []string{"-customers", "0", "-at-risk", "0"}, want: "customers must be 1 to 1000000, got 0\ntune: at-risk must"},
		"no file":        {args: []string{"-workload", "nowhere.yaml"}, want: "tune: read the workload: open nowhere.yaml"},
		"arguments":      {args: []string{"quick"}, want: `tune: there are only flags, got "quick"`},
		"time":           {args: []string{"-time", "1ms"}, want: "tune: time must be at least 1s, got 1ms"},
		"beside a trace": {args: []string{"-trace", "t.jsonl", "-customers", "5"}, want: "tune: customers must not be set beside trace, which says it"},
		"no trace":       {args: []string{"-trace", "nowhere.jsonl"}, want: "tune: read the trace: open nowhere.jsonl"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.yaml != "" {
				c.args = append(c.args, "-workload", write(t, c.yaml))
			}
			_, err := parse(c.args, io.Discard)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestHelpShowsOurFlagsAndTheFile(t *testing.T) {
	var out bytes.Buffer
	_, err := parse([]string{"-h"}, &out)
	require.ErrorIs(t, err, flag.ErrHelp)
	require.Contains(t, out.String(), "rate-limit: 100\n")
	require.NotContains(t, out.String(), "test.")
	require.Zero(t, run(t.Context(), t, []string{"-h"}, io.Discard, io.Discard))
	require.Equal(t, exitUsage, run(t.Context(), t, []string{"-checks", "0"}, io.Discard, io.Discard))
}

// What a service recorded is what is played, in the same order and distances,
// again and again.
func TestTraceRoundTrip(t *testing.T) {
	var file bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		recorder, err := trace.NewRecorder(&file, trace.Config{})
		require.NoError(t, err)
		recorder.SetRecording(true)
		recorder.Record("acme", "export")
		time.Sleep(time.Second)
		recorder.Record("bolt", "export")
		time.Sleep(time.Second)
		recorder.Record("bolt", "sso")
		time.Sleep(time.Second)
		recorder.RecordUsage("bolt", "calls", 7)
		require.NoError(t, recorder.Close(t.Context()))
	})
	o, err := parse([]string{"-trace", write(t, file.String()), "-freshness", "30s"}, io.Discard)
	require.NoError(t, err)
	want := usual()
	want.Customers, want.Features, want.Zipf, want.Cells, want.Freshness = 2, 3, 0, 1, 30*time.Second
	want.Checks, want.Usage = 0.75, 0.25 // of 4 s: the next lap begins a second after the last event
	require.Equal(t, want, o.Workload)
	require.Equal(t, "bolt", o.load.customers[o.load.popular[0]])

	type played struct {
		customer, feature string
		n                 int64
	}
	lap := []played{{"acme", "export", 0}, {"bolt", "export", 0}, {"bolt", "sso", 0}, {"bolt", "calls", 7}}
	p := o.load.player()
	var got []played
	upTo := func(to time.Duration) []played {
		got = nil
		use := func(c, f int32, n int64) { got = append(got, played{o.load.customers[c], o.load.features[f], n}) }
		p.play(to, func(c, f int32) { use(c, f, 0) }, use)
		return got
	}
	require.Equal(t, lap[:2], upTo(1500*time.Millisecond))
	require.Equal(t, lap[2:], upTo(4*time.Second))
	require.Equal(t, append(lap, lap...), upTo(12*time.Second))
	require.Equal(t, lap[:1], upTo(12*time.Second+time.Millisecond))
}

func TestBadTraces(t *testing.T) {
	for text, want := range map[string]string{
		"": "must span some time, got 0 events at one moment",
		`{"time":"2026-11-21T09:00:00Z","customer":"a","feature":"f"}`:                        "must span some time, got 1 events at one moment",
		`{"time":"2026-11-21T09:00:00Z","customer":"a","feature":"f"}` + "\n" + `{"time":""}`: "trace: line 2: time must be RFC 3339",
	} {
		_, err := parse([]string{"-trace", write(t, text)}, io.Discard)
		require.ErrorContains(t, err, want)
	}
}

func TestInterruptedBeforeAnythingIsKnown(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	require.Equal(t, exitInterrupted, run(ctx, t, []string{"-customers", "10", "-html", ""}, &out, io.Discard))
	require.Contains(t, out.String(), "Interrupted before anything was compared.")
}
