package main

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements/bench/raw"
)

// One small round of everything: whatever is measured still works.
func TestOnce(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	require.NoError(t, run([]string{"-once", "-out", dir}, &out))
	for _, s := range suites() {
		require.Contains(t, out.String(), "s  "+s.name)
	}
	for _, who := range []string{"entitlements, handle,", "entitlements, on disk,", "Statsig,", "optimum,", "OTel counter,", "Track,"} {
		require.Contains(t, out.String(), "  "+who)
	}
	require.NotContains(t, out.String(), "FAIL", "what is so small is not judged")
	require.Empty(t, filesOf(t, dir), "nor is it kept")
}

func TestRunKeepsResults(t *testing.T) {
	dir := t.TempDir()
	r := newRunner(io.Discard)
	r.sizes = tiny()
	require.NoError(t, r.run(suite{"usage", true, (*runner).usage}))
	require.NoError(t, writeResults(dir, "usage", r.of("usage")))
	require.Equal(t, []string{"usage.jsonl"}, filesOf(t, dir), "and nothing that is half written")
	f, err := os.Open(filepath.Join(dir, "usage.jsonl"))
	require.NoError(t, err)
	defer f.Close()
	h, rows, err := raw.Read(f)
	require.NoError(t, err)
	require.Equal(t, "make bench", h.Command)
	require.Equal(t, r.rows, rows)
	require.Positive(t, r.judged)
	for _, row := range rows {
		require.Equal(t, "usage", row.Suite)
		require.NotEmpty(t, row.Bar, row.Work)
	}
}

func TestFlags(t *testing.T) {
	for args, want := range map[string]string{
		"-suite checks,nonsense":         `-suite must be of memory, reads, usage, caching, latency, recorders, checks, got "nonsense"`,
		"-suite caching -check":          "-suite caching has no ratios that -check could compare",
		"-check -once":                   "-check compares what is measured in full: not with -once",
		"-check -out testdata/not-there": "read the baseline: open testdata/not-there/reads.jsonl: no such file or directory",
		"-nonsense":                      "flag provided but not defined: -nonsense",
		"-h":                             flag.ErrHelp.Error(),
	} {
		require.EqualError(t, run(strings.Fields(args), &bytes.Buffer{}), want)
	}
}

func TestChooseKeepsTheOrder(t *testing.T) {
	chosen := func(named string, compared bool) (all []string) {
		suites, err := choose(named, compared)
		require.NoError(t, err)
		for _, s := range suites {
			all = append(all, s.name)
		}
		return all
	}
	require.Equal(t, names(), chosen("", false))
	require.Equal(t, []string{"memory", "checks"}, chosen("checks,memory", false))
	require.Equal(t, []string{"reads", "usage", "checks"}, chosen("", true))
	require.Equal(t, []string{"checks"}, chosen("checks,memory", true))
}

func filesOf(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
