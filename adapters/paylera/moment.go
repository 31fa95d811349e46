package paylera

import (
	"errors"
	"strings"
	"time"
)

const (
	// A number from here on is milliseconds: as seconds it would be the year
	// 5138, and below it, as milliseconds, the spring of 1973.
	firstMilliseconds = 100_000_000_000

	// The last millisecond of the year 9999, the end of what RFC 3339 and JSON
	// can write. Backends use dates past it for "never".
	lastMillisecond = 253_402_300_799_999

	// The first one after Go's zero time, which means something else.
	firstMillisecond = -62_135_596_799_999
)

// parseMoment reads a point in time as RFC 3339, unix seconds or unix
// milliseconds; the vendor's pages show more than one. "", 0 and anything past
// the year 9999 are the zero time: not set, never.
func parseMoment(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if strings.ContainsAny(s, ":Tt") {
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return time.Time{}, errors.New("not an RFC 3339 time")
		}
		// With an offset, the first and the last year reach into the next.
		switch ms := t.UnixMilli(); {
		case t.IsZero(), ms > lastMillisecond:
			return time.Time{}, nil
		case ms < firstMillisecond:
			return time.UnixMilli(firstMillisecond).UTC(), nil
		}
		return t.UTC(), nil
	}
	ms, err := parseDecimal(s, 3, roundDown)
	if err != nil {
		return time.Time{}, errors.New("neither an RFC 3339 nor a unix time")
	}
	if ms/1000 >= firstMilliseconds || ms/1000 <= -firstMilliseconds {
		ms, _ = parseDecimal(s, 0, roundDown)
	}
	if ms == 0 || ms > lastMillisecond {
		return time.Time{}, nil
	}
	return time.UnixMilli(max(ms, firstMillisecond)).UTC(), nil
}
