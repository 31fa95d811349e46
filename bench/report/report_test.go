package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements/bench/raw"
)

const (
	begin, end = "<!-- bench:begin -->", "<!-- bench:end -->"
	page       = "# Title\n\n" + begin + "\nold\n" + end + "\n\nMore.\n\n<!-- bars -->\n<!-- /bars -->\n\nThe end.\n"
)

func TestSplice(t *testing.T) {
	const readme = "# Title\n\n" + begin + "\nold\n" + end + "\n\nThe end.\n"
	got, err := speedBlock.splice(readme, "\nnew\n\n")
	require.NoError(t, err)
	require.Equal(t, "# Title\n\n"+begin+"\nnew\n"+end+"\n\nThe end.\n", got)
	again, err := speedBlock.splice(got, "new")
	require.NoError(t, err)
	require.Equal(t, got, again)

	for _, tc := range []struct{ readme, err string }{
		{"no markers", "marker <!-- bench:begin --> must be there once, is there 0 times"},
		{begin, "marker <!-- bench:end --> must be there once, is there 0 times"},
		{readme + end, "marker <!-- bench:end --> must be there once, is there 2 times"},
		{end + begin, "marker <!-- bench:end --> must come after <!-- bench:begin -->"},
	} {
		_, err := speedBlock.splice(tc.readme, "new")
		require.EqualError(t, err, tc.err)
	}
}

func TestRunWritesAndChecks(t *testing.T) {
	root := repository(t, page)
	require.EqualError(t, run(root, true, &bytes.Buffer{}), strings.Join([]string{
		"docs/img/checks.svg is missing", "docs/img/hitratio.svg is missing", "docs/img/latency.svg is missing",
		"docs/numbers.md is missing", "README.md is not what bench/results gives",
	}, "\n"))
	require.Equal(t, page, content(t, root, "README.md"), "a check writes nothing")

	var out bytes.Buffer
	require.NoError(t, run(root, false, &out))
	require.Equal(t, "docs/img/checks.svg\ndocs/img/hitratio.svg\ndocs/img/latency.svg\ndocs/numbers.md\nREADME.md\n", out.String())
	require.NoError(t, run(root, true, &out))
	readme := content(t, root, "README.md")
	speed, work, _ := strings.Cut(readme, end)
	require.Contains(t, work, "\n| Allowed | ≤ 1.60 × floor | 1.09 × | pass |\n")
	require.Contains(t, speed, "\n![A check, by peer](docs/img/checks.svg)\n")
	require.Contains(t, content(t, root, "docs/numbers.md"), "\n![Hits by capacity of the cache, by trace and peer](img/hitratio.svg)\n")
	require.True(t, strings.HasPrefix(readme, "# Title\n") && strings.HasSuffix(readme, "\nThe end.\n"))

	out.Reset()
	require.NoError(t, run(root, false, &out))
	require.Empty(t, out.String(), "nothing has changed")

	svg := filepath.Join(root, "docs", "img", "checks.svg")
	require.NoError(t, os.WriteFile(svg, []byte("drawn over"), 0o644))
	require.EqualError(t, run(root, true, &out), "docs/img/checks.svg is not what bench/results gives")
	require.NoError(t, run(root, false, &out))
	require.NoError(t, run(root, true, &out))

	for _, dir := range []string{root, filepath.Dir(svg)} {
		left, err := filepath.Glob(filepath.Join(dir, ".report-*"))
		require.NoError(t, err)
		require.Empty(t, left, "no temporary files")
	}
	info, err := os.Stat(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode().Perm(), "it keeps its mode")
}

func TestWithoutMarkersNothingIsWritten(t *testing.T) {
	root := repository(t, "no markers\n")
	require.ErrorContains(t, run(root, false, &bytes.Buffer{}),
		filepath.Join(root, "README.md")+": marker <!-- bench:begin --> must be there once")
	require.Equal(t, "no markers\n", content(t, root, "README.md"))
	require.NoDirExists(t, filepath.Join(root, "docs"))
}

func TestReadResults(t *testing.T) {
	dir := t.TempDir()
	_, err := readResults(dir)
	require.ErrorIs(t, err, os.ErrNotExist, "no results at all")
	put(t, dir, "checks.jsonl", "{\"cpus\":2}\n{\"suite\":\"checks\"}\n")
	put(t, dir, "b.jsonl", "{\"cpus\":1}\n{\"suite\":\"b\"}\n{\"suite\":\"memory\"}\n")
	r, err := readResults(dir)
	require.NoError(t, err, "bars.txt may be missing")
	require.Equal(t, []raw.Row{{Suite: "checks"}, {Suite: "memory"}, {Suite: "b"}}, r.rows, "in a reader's order, unknown ones last")
	require.Equal(t, []raw.Header{{CPUs: 1}, {CPUs: 2}}, r.headers)
	put(t, dir, "b.jsonl", "{}\n{\"suite\":")
	_, err = readResults(dir)
	require.ErrorContains(t, err, "b.jsonl: raw: read row 1")
	put(t, dir, "b.jsonl", "{}\n")
	put(t, dir, "bars.txt", "| work | bar |\n")
	_, err = readResults(dir)
	require.ErrorContains(t, err, "bars.txt: line 1 has 2 cells, must be 4")
}

func TestParseBars(t *testing.T) {
	machine, bars, err := parseBars(strings.NewReader(`linux/amd64, 2 CPUs
raw Allowed: ratios [1.0 1.1]
| Allowed, 1 core   | ≤ 1.60 × floor | 1.09 ×  | pass |
| Track             | ≤ 8.00 × floor | 9.00 ×  | FAIL |

| Allowed, 1 core   | ≤ 1.60 × floor | 1.09 ×  | pass |
| Track             | ≤ 8.00 × floor | 9.00 ×  | FAIL |
PASS
`))
	require.NoError(t, err)
	require.Equal(t, "linux/amd64, 2 CPUs", machine)
	require.Equal(t, []bar{
		{"Allowed, 1 core", "≤ 1.60 × floor", "1.09 ×", "pass"},
		{"Track", "≤ 8.00 × floor", "9.00 ×", "FAIL"},
	}, bars)
	_, _, err = parseBars(strings.NewReader("\n| a | b | c | maybe |\n"))
	require.EqualError(t, err, `line 2 has the verdict "maybe", must be "pass" or "FAIL"`)
}

func TestSpeedText(t *testing.T) {
	allocs := 1.5
	h := raw.Header{
		Command: "go run ./bench/speed", Time: time.Date(2026, 11, 21, 23, 0, 0, 0, time.UTC),
		Go: "go1.26.8", OS: "linux", Arch: "amd64", CPU: "Xeon", CPUs: 2,
	}
	other := h
	other.Command, other.Time = "go run ./bench/caching", h.Time.AddDate(0, 0, 1)
	ours := raw.Row{Suite: "checks", Work: "10 000 customers, uniform", Who: "entitlements", Cores: 1, Q1: 1.02, Median: 1.09, Q3: 1.15, NS: 73.7, FloorNS: 67.2, Allocs: &allocs}
	ours.Judge("≤ 1.60 × floor", true)
	slow := raw.Row{Suite: "checks", Work: "10 000 customers, uniform", Who: "flags", Version: "v1.2.3", Cores: 1, Q1: 9.996, Median: 24.95, Q3: 1234}
	hot := raw.Row{Suite: "checks", Work: "10 000 customers, one hot", Who: "flags", Version: "v1.2.3", Cores: 1, Q1: 1, Median: 2, Q3: 3}
	alone := raw.Row{Suite: "checks", Work: "1 000 000 customers, uniform", Who: "entitlements", Cores: 2, Q1: 1, Median: 1.3, Q3: 1.4}
	recorded := raw.Row{Suite: "recorders", Work: "500 000 cells", Who: "channel", Version: "go1.26.8", Figures: map[string]float64{
		"calls": 1_000_000, "delivered": 999_999, "told": 0, "lost": 1, "requests": 1970, "ns": 12_376.6, "bytes": 1_250_000,
	}}
	hits := raw.Row{Suite: "caching", Work: "churn, capacity 10 %", Who: "entitlements", Figures: map[string]float64{"hits": 70.88}}
	hits.Judge("≥ best peer − 3 points", false)

	took := raw.Row{Suite: "latency", Work: "a load", Who: "Allowed", Figures: map[string]float64{"p50": 120, "p99": 2400, "p99.9": 1e6, "max": 2e6}}

	r := results{headers: []raw.Header{h, other}, rows: []raw.Row{ours, slow, hot, alone, hits, recorded, took}}
	require.Equal(t, how+`

Xeon, 2 CPUs, linux/amd64, go1.26.8 · 2026-11-21; 2026-11-22 · `+"`go run ./bench/speed`; `go run ./bench/caching`"+` · [raw results](bench/results)

| work | bar | measured |  |
|---|---|---|---|
| Allowed, 10 000 customers, uniform, 1 core | ≤ 1.60 × floor | 1.09 × (73.7 ns, floor 67.2 ns), 1.5 allocs | pass |
| hit ratio, churn, capacity 10 % | ≥ best peer − 3 points | 70.9 % hits | **FAIL** |

![A check, by peer](docs/img/checks.svg)

[docs/numbers.md](docs/numbers.md) has every peer, workload and trace.
`, speedText(r))

	require.Equal(t, `# Numbers

What `+"`make bench` measured besides what [README.md](../README.md) shows"+`, which says where, and what the floor is.

A check, 10 000 customers, in times the floor: the median, and in brackets the quartiles.

|  | uniform, 1 core | one hot, 1 core |
|---|---:|---:|
| entitlements | 1.09 (1.02–1.15) | – |
| flags v1.2.3 | 24.9 (10.0–1 234) | 2.00 (1.00–3.00) |

A check, 1 000 000 customers, in times the floor: the median, and in brackets the quartiles.

|  | uniform, 2 cores |
|---|---:|
| entitlements | 1.30 (1.00–1.40) |

Usage, recorded flat out and counted at the server that it is sent to. `+"`entitlements`"+` sends as its Paylera adapter does, without that API's limit on the rate: else the limit would be measured.

500 000 cells:

|  | ns/call | delivered | told of | silently lost | requests | MB sent |
|---|---:|---:|---:|---:|---:|---:|
| channel go1.26.8 | 12 377 | 99.99 % | 0 | 1 | 1 970 | 1.25 |

Latency: a load.

|  | p50 | p99 | p99.9 | max |
|---|---:|---:|---:|---:|
| Allowed | 120ns | 2.4µs | 1ms | 2ms |

![Hits by capacity of the cache, by trace and peer](img/hitratio.svg)

![Percentiles of the latency of a call](img/latency.svg)
`, numbersText(r))
}

func TestBarsText(t *testing.T) {
	require.Equal(t, "linux/amd64, 2 CPUs · `make bench` · [raw output](bench/results/bars.txt)"+`

| work | bar | measured |  |
|---|---|---|---|
| New | ≤ 1 s | 2 s | **FAIL** |
`, barsText(results{bars: []bar{{"New", "≤ 1 s", "2 s", failed}}, machine: "linux/amd64, 2 CPUs"}))
}

// repository is a directory with results of every suite, and this README.md.
func repository(t *testing.T, readme string) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "bench", "results")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	put(t, dir, "bars.txt", "| Allowed | ≤ 1.60 × floor | 1.09 × | pass |\n")
	var rows bytes.Buffer
	w, err := raw.NewWriter(&rows, "measure")
	require.NoError(t, err)
	for _, r := range everySuite() {
		require.NoError(t, w.Write(r))
	}
	put(t, dir, "rows.jsonl", rows.String())
	put(t, root, "README.md", readme)
	return root
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640))
}

func content(t *testing.T, root, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	require.NoError(t, err)
	return string(data)
}

func TestTitles(t *testing.T) {
	for want, r := range map[string]raw.Row{
		"Allowed, few, 1 core":                   {Suite: "checks", Who: "entitlements", Work: "few", Cores: 1},
		"Customer.Allowed(Feature), few, 1 core": {Suite: "checks", Who: "entitlements, handle", Work: "few", Cores: 1},
		"LaunchDarkly, few, 2 cores":             {Suite: "checks", Who: "LaunchDarkly", Work: "few", Cores: 2},
		"Track, many cells":                      {Suite: "recorders", Who: "entitlements", Work: "many cells"},
		"Track with SpoolDir, many cells":        {Suite: "recorders", Who: "entitlements, on disk", Work: "many cells"},
		"memory, many":                           {Suite: "memory", Who: "entitlements", Work: "many"},
		"hit ratio, churn":                       {Suite: "caching", Who: "entitlements", Work: "churn"},
		"Decide, few":                            {Suite: "reads", Who: "entitlements", Work: "Decide, few"},
	} {
		require.Equal(t, want, titled(r))
	}
}
