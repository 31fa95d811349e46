package trace_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements/trace"
)

const goodLine = `{"time":"2026-11-21T09:30:00.5+01:00","customer":"acme","feature":"export","n":2,"region":"eu"}`

func TestBadLines(t *testing.T) {
	for name, c := range map[string]struct{ line, want string }{
		"not JSON":      {`{"time"`, "unexpected end of JSON input"},
		"no time":       {`{"customer":"a","feature":"f"}`, `time must be RFC 3339, got ""`},
		"odd time":      {`{"time":"noon","customer":"a","feature":"f"}`, `time must be RFC 3339, got "noon"`},
		"time a number": {`{"time":1,"customer":"a","feature":"f"}`, "time must be of type string, got number"},
		"no customer":   {`{"time":"2026-11-21T09:30:00Z","feature":"f"}`, "customer must be 1 to 255 bytes, got 0"},
		"long feature": {
			`{"time":"2026-11-21T09:30:00Z","customer":"a","feature":"` + strings.Repeat("f", 256) + `"}`,
			"feature must be 1 to 255 bytes, got 256",
		},
		"n a text":     {`{"time":"2026-11-21T09:30:00Z","customer":"a","feature":"f","n":"3"}`, "n must be of type int64, got string"},
		"n a fraction": {`{"time":"2026-11-21T09:30:00Z","customer":"a","feature":"f","n":0.5}`, "n must be of type int64, got number 0.5"},
	} {
		t.Run(name, func(t *testing.T) {
			var events []Event
			var errs []error
			for e, err := range Read(strings.NewReader(goodLine + "\n\n" + c.line + "\n" + goodLine + "\n")) {
				if err != nil {
					errs = append(errs, err)
					continue
				}
				events = append(events, e)
			}
			require.Len(t, errs, 1)
			require.EqualError(t, errs[0], "trace: line 3: "+c.want)
			good := Event{time.Date(2026, 11, 21, 8, 30, 0, 5e8, time.UTC), "acme", "export", 2}
			require.Len(t, events, 2, "those before and after it")
			for _, e := range events {
				e.Time = e.Time.UTC()
				require.Equal(t, good, e)
			}
		})
	}
}

func TestReadEnds(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		input io.Reader
		want  string
	}{
		"a line too long": {strings.NewReader(goodLine + "\n" + strings.Repeat("x", MaxLine+1)), "trace: line 2: must be at most 8192 bytes"},
		"a broken reader": {io.MultiReader(strings.NewReader(goodLine+"\n"), iotest.ErrReader(broken)), "trace: read after line 1: broken"},
	} {
		t.Run(name, func(t *testing.T) {
			var errs []error
			for _, err := range Read(c.input) {
				if err != nil {
					errs = append(errs, err)
				}
			}
			require.Len(t, errs, 1)
			require.EqualError(t, errs[0], c.want)
		})
	}
}

func TestReadStopsWithItsLoop(t *testing.T) {
	n := 0
	for range Read(strings.NewReader(goodLine + "\n" + goodLine + "\n")) {
		n++
		break
	}
	require.Equal(t, 1, n)
}

func FuzzRead(f *testing.F) {
	f.Add(goodLine + "\n" + `{"time":1}`)
	f.Fuzz(func(t *testing.T, input string) {
		for e, err := range Read(strings.NewReader(input)) {
			if err == nil && (e.Customer == "" || e.Feature == "" || len(e.Customer) > 255 || len(e.Feature) > 255) {
				t.Errorf("read %+v", e)
			}
		}
	})
}
