package trace

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"
)

// MaxLine is the longest line that Read takes, in bytes.
const MaxLine = 8 << 10

// Event is one line of a trace.
type Event struct {
	Time              time.Time
	Customer, Feature string
	N                 int64 // units that were used; 0 is a question
}

// Read yields the events of a trace in the order of its lines; a Recorder's are
// in order of time up to what passes between two goroutines. Empty lines and
// unknown fields are passed over.
//
// A bad line is an error that names the line and the field, and the loop may go
// on after it. A line over MaxLine, or a failure of r, is the last.
func Read(r io.Reader) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		lines := bufio.NewScanner(r)
		lines.Buffer(make([]byte, 0, MaxLine), MaxLine)
		number := 0
		for lines.Scan() {
			number++
			if len(lines.Bytes()) == 0 {
				continue
			}
			e, err := parse(lines.Bytes())
			if err != nil {
				err = fmt.Errorf("trace: line %d: %w", number, err)
			}
			if !yield(e, err) {
				return
			}
		}
		switch err := lines.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			yield(Event{}, fmt.Errorf("trace: line %d: must be at most %d bytes", number+1, MaxLine))
		case err != nil:
			yield(Event{}, fmt.Errorf("trace: read after line %d: %w", number, err))
		}
	}
}

func parse(data []byte) (Event, error) {
	var l line
	if err := json.Unmarshal(data, &l); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) && wrong.Field != "" {
			return Event{}, fmt.Errorf("%s must be of type %s, got %s", wrong.Field, wrong.Type, wrong.Value)
		}
		return Event{}, err
	}
	at, err := time.Parse(time.RFC3339, l.Time)
	if err != nil {
		return Event{}, fmt.Errorf("time must be RFC 3339, got %q", l.Time)
	}
	for _, key := range []struct{ field, value string }{{"customer", l.Customer}, {"feature", l.Feature}} {
		if key.value == "" || len(key.value) > maxKey {
			return Event{}, fmt.Errorf("%s must be 1 to %d bytes, got %d", key.field, maxKey, len(key.value))
		}
	}
	return Event{at, l.Customer, l.Feature, l.N}, nil
}
