package raw

import (
	"bytes"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	none, pass := 0.0, true
	rows := []Row{
		{
			Suite: "checks", Work: "10 000 customers", Who: "entitlements", Version: "v1.2.3", Cores: 2,
			Ratios: []float64{1.1, 1.2, 1.3}, Q1: 1.1, Median: 1.2, Q3: 1.3, NS: 44.4, FloorNS: 37, To: "Allowed",
			Allocs: &none, Bytes: &none, Bar: "≤ 1.40 ×", Pass: &pass,
		},
		{Suite: "recorders", Figures: map[string]float64{"delivered": 1e9, "lost": 0}},
	}
	var file bytes.Buffer
	w, err := NewWriter(&file, "make bench")
	require.NoError(t, err)
	for _, r := range rows {
		require.NoError(t, w.Write(r))
	}
	require.Equal(t, 3, strings.Count(file.String(), "\n"), "a line each, and the header's")
	h, got, err := Read(&file)
	require.NoError(t, err)
	require.Equal(t, rows, got)
	require.Equal(t, "make bench", h.Command)
	require.Equal(t, runtime.Version(), h.Go)
	require.Equal(t, runtime.GOOS+"/"+runtime.GOARCH, h.OS+"/"+h.Arch)
	require.Equal(t, runtime.NumCPU(), h.CPUs)
	require.NotEmpty(t, h.CPU)
	require.WithinDuration(t, time.Now(), h.Time, time.Minute)
}

func TestReadNamesWhatItCannotRead(t *testing.T) {
	for file, want := range map[string]string{
		"":                           "raw: read the header: EOF",
		"| a table |":                "raw: read the header: invalid character",
		"{}\n{}\n{\"median\":\"x\"}": "raw: read row 2: json: cannot unmarshal string",
	} {
		_, _, err := Read(strings.NewReader(file))
		require.ErrorContains(t, err, want)
	}
}

func TestJudge(t *testing.T) {
	var r Row
	require.Nil(t, r.Pass, "nothing is promised")
	r.Judge("≤ 2 ×", false)
	require.Equal(t, "≤ 2 ×", r.Bar)
	require.False(t, *r.Pass)
}
