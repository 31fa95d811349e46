package trace_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements/trace"
)

func newRecorder(t *testing.T, w io.Writer, cfg Config) *Recorder {
	t.Helper()
	r, err := NewRecorder(w, cfg)
	require.NoError(t, err)
	return r
}

func readAll(t *testing.T, r io.Reader) []Event {
	t.Helper()
	var events []Event
	for e, err := range Read(r) {
		require.NoError(t, err)
		events = append(events, e)
	}
	return events
}

func TestWhatIsRecordedIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var file bytes.Buffer
		r := newRecorder(t, &file, Config{})
		r.SetRecording(true)
		begin := time.Now().UTC()
		r.Record("acme", "export")
		time.Sleep(1234567 * time.Nanosecond)
		r.RecordUsage("bölt \"&<>", "api_calls", -3)
		r.RecordUsage("bolt", "api_calls", 0)
		require.NoError(t, r.Close(t.Context()))
		require.Equal(t, []Event{
			{begin, "acme", "export", 0},
			{begin.Add(time.Millisecond), "bölt \"&<>", "api_calls", -3},
		}, readAll(t, bytes.NewReader(file.Bytes())))
		first, _, _ := strings.Cut(file.String(), "\n")
		require.JSONEq(t, `{"time":"2000-01-01T00:00:00.000Z","customer":"acme","feature":"export"}`, first)
		require.Zero(t, r.Dropped())
	})
}

func TestWhatIsRecordedIsWrittenWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var file lockedBuffer
		r := newRecorder(t, &file, Config{})
		r.SetRecording(true)
		r.Record("acme", "export")
		time.Sleep(1001 * time.Millisecond)
		synctest.Wait()
		require.Len(t, readAll(t, file.reader()), 1)
		require.NoError(t, r.Close(t.Context()))
	})
}

func TestSwitch(t *testing.T) {
	var file bytes.Buffer
	r := newRecorder(t, &file, Config{})
	r.Record("off from the start", "f")
	r.SetRecording(true)
	r.Record("on", "f")
	r.SetRecording(false)
	r.Record("off", "f")
	r.SetRecording(true)
	r.Record("on again", "f")
	require.NoError(t, r.Close(t.Context()))
	r.SetRecording(true)
	r.Record("closed", "f")
	require.NoError(t, r.Close(t.Context()))
	events := readAll(t, &file)
	require.Len(t, events, 2)
	require.Equal(t, "on", events[0].Customer)
	require.Equal(t, "on again", events[1].Customer)
	require.Zero(t, r.Dropped())
}

// What was taken is written and the rest is counted, whoever records while the
// Recorder is closed; a writer that hangs holds nobody up.
func TestNothingIsLostUncounted(t *testing.T) {
	const goroutines, each = 8, 2000
	var file lockedBuffer
	hold := make(chan struct{})
	r := newRecorder(t, writerFunc(func(p []byte) (int, error) { <-hold; return file.Write(p) }), Config{Buffer: 100})
	r.SetRecording(true)
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range each {
				r.Record("acme", "export")
			}
		})
	}
	wg.Wait() // with the writer hanging
	close(hold)
	require.NoError(t, r.Close(t.Context()))
	written := len(readAll(t, file.reader()))
	require.Equal(t, goroutines*each, written+int(r.Dropped()))
	require.GreaterOrEqual(t, written, 100)
}

func TestKeysThatNobodyCanRead(t *testing.T) {
	var file bytes.Buffer
	r := newRecorder(t, &file, Config{})
	r.SetRecording(true)
	r.Record("", "f")
	r.Record("c", "")
	r.Record(strings.Repeat("c", 256), "f")
	r.Record("c", strings.Repeat("f", 256))
	r.Record("c\xff", "f")
	r.Record("c", strings.Repeat("\xff", 255))
	r.Record(strings.Repeat("\x01", 255), strings.Repeat("\x01", 255))
	require.NoError(t, r.Close(t.Context()))
	require.Len(t, readAll(t, &file), 1)
	require.EqualValues(t, 6, r.Dropped())
}

// A pseudonym is text, whatever it stands for.
func TestPseudonymsOfKeysThatAreNoText(t *testing.T) {
	var file bytes.Buffer
	r := newRecorder(t, &file, Config{Key: []byte("0123456789abcdef")})
	r.SetRecording(true)
	r.Record("c\xfe", "f")
	r.Record("c\xff", "f")
	require.NoError(t, r.Close(t.Context()))
	events := readAll(t, &file)
	require.Len(t, events, 2)
	require.NotEqual(t, events[0].Customer, events[1].Customer)
	require.Zero(t, r.Dropped())
}

func TestPseudonyms(t *testing.T) {
	key := []byte("0123456789abcdef")
	var file bytes.Buffer
	r := newRecorder(t, &file, Config{Key: key})
	r.SetRecording(true)
	for _, customer := range []string{"acme", "bolt", "acme"} {
		r.Record(customer, "export")
	}
	require.NoError(t, r.Close(t.Context()))
	require.NotContains(t, file.String(), "acme")
	events := readAll(t, &file)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("acme"))
	require.Equal(t, hex.EncodeToString(mac.Sum(nil)[:16]), events[0].Customer)
	require.Equal(t, events[0].Customer, events[2].Customer)
	require.NotEqual(t, events[0].Customer, events[1].Customer)
	require.Equal(t, "export", events[0].Feature)
}

func TestAFailedWriteIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("no space left")
		r := newRecorder(t, writerFunc(func([]byte) (int, error) { return 0, full }), Config{})
		r.SetRecording(true)
		r.Record("acme", "export")
		time.Sleep(2 * time.Second)
		r.SetRecording(true) // does not come back
		r.Record("acme", "export")
		require.EqualValues(t, 1, r.Dropped())
		require.ErrorIs(t, r.Close(t.Context()), full)
	})
}

func TestCloseEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		r := newRecorder(t, writerFunc(func(p []byte) (int, error) { <-hold; return len(p), nil }), Config{})
		r.SetRecording(true)
		r.Record("acme", "export")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, r.Close(ctx), context.DeadlineExceeded)
		close(hold)
		require.NoError(t, r.Close(t.Context()))
	})
}

func TestConfigErrors(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Buffer: -1}, "trace: Config.Buffer must be at least 1, got -1"},
		{Config{Key: []byte("short")}, "trace: Config.Key must be at least 16 bytes, got 5"},
	} {
		_, err := NewRecorder(io.Discard, c.cfg)
		require.EqualError(t, err, c.want)
	}
}

func TestRecordDoesNotAllocate(t *testing.T) {
	r := newRecorder(t, io.Discard, Config{})
	record := func() { r.Record("acme", "export") }
	require.Zero(t, testing.AllocsPerRun(100, record), "switched off")
	r.SetRecording(true)
	require.Zero(t, testing.AllocsPerRun(100, record), "switched on")
	require.NoError(t, r.Close(t.Context()))
}

func BenchmarkRecord(b *testing.B) {
	for _, on := range []bool{false, true} {
		b.Run(fmt.Sprintf("on=%v", on), func(b *testing.B) {
			r, err := NewRecorder(io.Discard, Config{})
			require.NoError(b, err)
			r.SetRecording(on)
			for b.Loop() {
				r.Record("acme", "export")
			}
			require.NoError(b, r.Close(b.Context()))
		})
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// lockedBuffer can be read while a Recorder writes to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) reader() io.Reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.NewReader(bytes.Clone(l.b.Bytes()))
}
