// Package trace records what a service asks and uses, and reads it back: the
// workload of a day as a file, to size settings by or to replay.
//
// A trace is JSON Lines, one question or use each:
//
//	{"time":"2026-11-21T09:30:00.123Z","customer":"acme","feature":"export"}
//	{"time":"2026-11-21T09:30:00.125Z","customer":"acme","feature":"api_calls","n":3}
//
// With [Config.Key] customers are pseudonyms in it: it says how often somebody
// came, and not who.
package trace

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	// timeFormat is RFC 3339 with milliseconds.
	timeFormat = "2006-01-02T15:04:05.000Z07:00"

	// maxKey is the longest customer key or feature code, as in the library.
	maxKey = 255

	// flushEvery is how long what was recorded waits at most for its writing.
	flushEvery = time.Second

	minSecret = 16
	pseudonym = 16 // bytes of the HMAC that are kept
)

// Config sets up a Recorder. Its zero value works.
type Config struct {
	// Key makes customer keys pseudonyms: the first 128 bits of HMAC-SHA-256, in
	// hex. The same key makes the same pseudonyms, so that traces of several
	// processes fit together; who has it can tell whether a customer is in the
	// trace. At least 16 bytes. Defaults to nil: customer keys are written as
	// they are.
	Key []byte

	// Buffer is the most events that wait for the writer. Two buffers of 48 bytes
	// an event are made when recording is first switched on. Defaults to 65 536.
	Buffer int
}

// event is an Event before anything is done to it.
type event struct {
	at                int64 // unix nanoseconds
	customer, feature string
	n                 int64
}

// line is an Event as it is written.
type line struct {
	Time     string `json:"time"`
	Customer string `json:"customer"`
	Feature  string `json:"feature"`
	N        int64  `json:"n,omitempty"`
}

// Recorder writes a trace. It begins switched off. All methods are safe for
// concurrent use.
type Recorder struct {
	on      atomic.Bool
	dropped atomic.Uint64
	buffer  int
	wake    chan struct{}
	done    chan struct{} // closed when the writer has ended
	out     *bufio.Writer // of the writer, as are the two below
	enc     *json.Encoder
	mac     hash.Hash // nil: customers are written as they are

	mu     sync.Mutex // guards the fields below
	events []event    // at most buffer
	spare  []event    // what the writer is done with
	closed bool
	err    error
}

// NewRecorder records to w, which it neither closes nor reads and which only one
// goroutine writes to. Its error names the field that is wrong.
func NewRecorder(w io.Writer, cfg Config) (*Recorder, error) {
	if cfg.Buffer == 0 {
		cfg.Buffer = 1 << 16
	}
	switch {
	case cfg.Buffer < 0:
		return nil, fmt.Errorf("trace: Config.Buffer must be at least 1, got %d", cfg.Buffer)
	case len(cfg.Key) > 0 && len(cfg.Key) < minSecret:
		return nil, fmt.Errorf("trace: Config.Key must be at least %d bytes, got %d", minSecret, len(cfg.Key))
	}
	r := &Recorder{buffer: cfg.Buffer, wake: make(chan struct{}, 1), done: make(chan struct{}), out: bufio.NewWriter(w)}
	r.enc = json.NewEncoder(r.out)
	r.enc.SetEscapeHTML(false)
	if len(cfg.Key) > 0 {
		r.mac = hmac.New(sha256.New, cfg.Key)
	}
	go r.run() // owned by r, ends with Close
	return r, nil
}

// SetRecording switches recording on or off. After Close it stays off.
func (r *Recorder) SetRecording(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if on && r.events == nil {
		r.events, r.spare = make([]event, 0, r.buffer), make([]event, 0, r.buffer)
	}
	r.on.Store(on && !r.closed && r.err == nil)
}

// Record notes that customer was asked about for feature. It neither blocks on
// I/O nor allocates; switched off it costs one atomic load. What does not fit in
// Config.Buffer, or has a key that is empty, too long or not UTF-8, is counted as
// dropped.
func (r *Recorder) Record(customer, feature string) {
	if r.on.Load() {
		r.add(customer, feature, 0)
	}
}

// RecordUsage notes that customer used n units of feature, with the cost of
// Record. An n of 0 would read as a question, and is not recorded.
func (r *Recorder) RecordUsage(customer, feature string, n int64) {
	if n != 0 && r.on.Load() {
		r.add(customer, feature, n)
	}
}

func (r *Recorder) add(customer, feature string, n int64) {
	if !r.writable(customer, feature) {
		r.dropped.Add(1)
		return
	}
	e := event{time.Now().UnixNano(), customer, feature, n}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.on.Load():
		return // switched off since Record looked
	case len(r.events) == r.buffer:
		r.dropped.Add(1)
		return
	}
	r.events = append(r.events, e)
	if len(r.events) == (r.buffer+1)/2 {
		select {
		case r.wake <- struct{}{}:
		default: // the writer is awake already
		}
	}
}

// writable reports whether a line can say these keys. JSON has no text that is not
// UTF-8: keys that differ would be one in the trace.
func (r *Recorder) writable(customer, feature string) bool {
	return customer != "" && len(customer) <= maxKey && (r.mac != nil || utf8.ValidString(customer)) &&
		feature != "" && len(feature) <= maxKey && utf8.ValidString(feature)
}

// Dropped is how many events are missing from the trace: a replay of it asks
// for that many fewer.
func (r *Recorder) Dropped() uint64 { return r.dropped.Load() }

// Close stops recording and waits until what was recorded is written, or ctx
// ends. Its error is the writer's first, after which nothing was recorded any
// more, or ctx's. It may be called twice.
func (r *Recorder) Close(ctx context.Context) error {
	r.mu.Lock()
	first := !r.closed
	r.closed = true
	r.on.Store(false)
	r.mu.Unlock()
	if first {
		close(r.wake)
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		return fmt.Errorf("trace: close: %w", context.Cause(ctx))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// run writes what was recorded, until Close.
func (r *Recorder) run() {
	defer close(r.done)
	ticker := time.NewTicker(flushEvery)
	defer ticker.Stop()
	for open := true; open; {
		select {
		case _, open = <-r.wake:
		case <-ticker.C:
		}
		r.flush()
	}
}

// flush takes the buffer over and writes it, while the other one fills.
func (r *Recorder) flush() {
	r.mu.Lock()
	events := r.events
	if len(events) == 0 { // the buffers may not have been made
		r.mu.Unlock()
		return
	}
	r.events, r.spare = r.spare, nil
	r.mu.Unlock()
	err := r.write(events)
	n := len(events)
	clear(events) // the keys are not ours to keep alive
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spare = events[:0]
	if err == nil {
		return
	}
	r.dropped.Add(uint64(n)) // some may be in the trace all the same
	r.on.Store(false)
	if r.err == nil {
		r.err = fmt.Errorf("trace: write: %w", err)
	}
}

func (r *Recorder) write(events []event) error {
	for i := range events {
		e := &events[i]
		l := line{time.Unix(0, e.at).UTC().Format(timeFormat), e.customer, e.feature, e.n}
		if r.mac != nil {
			r.mac.Reset()
			_, _ = io.WriteString(r.mac, e.customer) // a hash takes everything
			l.Customer = hex.EncodeToString(r.mac.Sum(nil)[:pseudonym])
		}
		if err := r.enc.Encode(l); err != nil {
			return err
		}
	}
	return r.out.Flush()
}
