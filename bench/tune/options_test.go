package main

import (
	"bytes"
	"context"
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
	o, err := parse(nil)
	require.NoError(t, err)
	require.Equal(t, usual(), o.Workload)
	require.Equal(t, 150*time.Second, o.Time)
	o, err = parse([]string{"-quick"})
	require.NoError(t, err)
	require.Less(t, o.Time, 20*time.Second)
	o, err = parse([]string{"-quick", "-time", "1m"})
	require.NoError(t, err)
	require.Equal(t, time.Minute, o.Time)
}

func TestTheExampleIsAWorkload(t *testing.T) {
	o, err := parse([]string{"-workload", "testdata/example.yaml"})
	require.NoError(t, err)
	want := usual()
	want.Customers, want.Checks, want.Usage, want.Cells = 400, 4000, 1000, 400
	want.Memory, want.Freshness, want.AtRisk = 16<<20, 15*time.Second, 1000
	require.Equal(t, want, o.Workload)

	o, err = parse([]string{"-workload", write(t, example())})
	require.NoError(t, err)
	require.Equal(t, usual(), o.Workload, "what -h shows")
}

func TestFlagsWinOverTheFile(t *testing.T) {
	file := write(t, "customers: 300\nlatency: 100ms\nmemory: 8MiB\n")
	o, err := parse([]string{"-customers", "200", "-workload", file})
	require.NoError(t, err)
	want := usual()
	want.Customers, want.Latency, want.Memory = 200, 100*time.Millisecond, 8<<20
	require.Equal(t, want, o.Workload)
	// A flag wins when it says the default, too.
	o, err = parse([]string{"-customers", "2000", "-workload", file})
	require.NoError(t, err)
	require.Equal(t, 2000, o.Workload.Customers)
}

func TestBadWorkloads(t *testing.T) {
	for name, c := range map[string]struct {
		yaml string
		args []string
		want string
	}{
		"unknown field":  {yaml: "custmers: 1", want: "line 1: field custmers not found"},
		"not a number":   {yaml: "customers: many", want: "cannot unmarshal !!str `many` into int"},
		"not a size":     {yaml: "memory: much", want: `line 1: must be a size like 64MiB, got "much"`},
		"no customers":   {yaml: "customers: 0", want: "tune: customers must be 1 to 1000000, got 0"},
		"features":       {args: []string{"-features", "1001"}, want: "tune: features must be 1 to 1000, got 1001"},
		"checks":         {args: []string{"-checks", "NaN"}, want: "tune: checks must be 0.001 to 1000000, got NaN"},
		"usage":          {args: []string{"-usage", "-1"}, want: "tune: usage must be 0 to 100000, got -1"},
		"cells":          {args: []string{"-cells", "0"}, want: "tune: cells must be 1 to 1000000, got 0"},
		"zipf":           {args: []string{"-zipf", "0.9"}, want: "tune: zipf must be 0 or above 1 and at most 10, got 0.9"},
		"latency":        {args: []string{"-latency", "-1ms"}, want: "tune: latency must be 0s to 4s, got -1ms"},
		"no unit":        {yaml: "latency: 40", want: "line 1: cannot unmarshal !!int `40` into time.Duration"},
		"flag":           {args: []string{"-nope"}, want: "tune: flag provided but not defined: -nope; -h lists the flags"},
		"flag's value":   {args: []string{"-latency", "40"}, want: `tune: invalid value "40" for flag -latency: parse error; -h lists the flags`},
		"flag's size":    {args: []string{"-memory", "much"}, want: `tune: invalid value "much" for flag -memory: must be a size like 64MiB, got "much"`},
		"many meters":    {args: []string{"-customers", "3", "-cells", "3001"}, want: "tune: cells must be at most 1000 for each of 3 customers, got 3001"},
		"rate limit":     {args: []string{"-rate-limit", "0"}, want: "tune: rate-limit must be 1 to 1000000, got 0"},
		"family":         {args: []string{"-family", "rest"}, want: `tune: family must be core or sdk, got "rest"`},
		"memory":         {args: []string{"-memory", "5kB"}, want: "tune: memory must be 1.0 MiB to 1.0 TiB, got 4.9 KiB"},
		"freshness":      {args: []string{"-freshness", "5ms"}, want: "tune: freshness must be 1s to 24h0m0s, got 5ms"},
		"at risk":        {args: []string{"-at-risk", "0"}, want: "tune: at-risk must be 1 to 1000000000, got 0"},
		"too large":      {args: []string{"-customers", "1000000"}, want: "tune: customers × features + cells must be at most 5000000, got 30002000"},
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
			_, err := parse(c.args)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestHelpShowsOurFlagsAndTheFile(t *testing.T) {
	var out bytes.Buffer
	require.Zero(t, run(t.Context(), t, []string{"-h"}, &out, io.Discard))
	require.Contains(t, out.String(), "rate-limit: 100\n")
	require.NotContains(t, out.String(), "test.")
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
	o, err := parse([]string{"-trace", write(t, file.String()), "-freshness", "20s"})
	require.NoError(t, err)
	want := usual()
	want.Customers, want.Features, want.Zipf, want.Cells, want.Freshness = 2, 3, 0, 1, 20*time.Second
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

// Goroutines write a little out of order, and traces of two processes are put
// together by putting one file behind the other.
func TestATraceIsPlayedInOrderOfTime(t *testing.T) {
	o, err := parse([]string{"-trace", write(t, `{"time":"2026-11-21T09:00:02Z","customer":"last","feature":"f"}
{"time":"2026-11-21T10:00:00+01:00","customer":"first","feature":"f"}
{"time":"2026-11-21T09:00:01Z","customer":"second","feature":"f"}
`)})
	require.NoError(t, err)
	var order []string
	o.load.player().play(3*time.Second, func(customer, _ int32) { order = append(order, o.load.customers[customer]) }, nil)
	require.Equal(t, []string{"first", "second", "last"}, order)
	require.InDelta(t, 1, o.Workload.Checks, 1e-9)
}

func TestBadTraces(t *testing.T) {
	for text, want := range map[string]string{
		"": "must have events at two moments or more, got 0 events",
		`{"time":"2026-11-21T09:00:00Z","customer":"a","feature":"f"}`: "must have events at two moments or more, got 1 events",
		`{"time":"2026-11-21T09:00:00Z","customer":"a","feature":"f","n":1}` + "\n" +
			`{"time":"2026-11-21T09:00:01Z","customer":"a","feature":"f","n":1}`: "must have a question, got 2 uses",
		`{"time":"2026-11-21T09:00:00Z","customer":"a","feature":"f"}` + "\n" + `{"time":""}`: "trace: line 2: time must be RFC 3339",
	} {
		_, err := parse([]string{"-trace", write(t, text)})
		require.ErrorContains(t, err, want)
	}
}

// Where the report can't be written is said before minutes of search.
func TestAReportThatCannotBeWritten(t *testing.T) {
	var out, errs bytes.Buffer
	name := filepath.Join(t.TempDir(), "nowhere", "tune.html")
	require.Equal(t, exitUsage, run(t.Context(), t, []string{"-html", name}, &out, &errs))
	require.Contains(t, errs.String(), "tune: html must be a file that can be written: open "+name)
	require.Empty(t, out.String())
}

func TestInterruptedBeforeAnythingIsKnown(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	page := filepath.Join(t.TempDir(), "tune.html")
	require.Equal(t, exitInterrupted, run(ctx, t, []string{"-customers", "10", "-html", page}, &out, io.Discard))
	require.Contains(t, out.String(), "Interrupted before anything was compared.")
	require.NoFileExists(t, page)
}
