package recorders

import (
	"errors"
	"net/http"
)

// wire is how the requests to a path are answered and counted.
type wire struct {
	status      int
	contentType string
	answer      string
	count       func(t *tally, r request, body []byte) error
}

// wireOf tells the peers apart by the paths that their services have.
func wireOf(path string) wire {
	const json, protobuf = "application/json", "application/x-protobuf"
	switch path {
	case "/v1/usage/batch":
		return wire{http.StatusAccepted, json, `{}`, countUsage}
	case channelPath:
		return wire{http.StatusAccepted, json, `{}`, countChannel}
	case "/v1/batch":
		return wire{http.StatusOK, json, `{"success":true}`, countSegment}
	case "/batch/":
		return wire{http.StatusOK, json, `{"status":1}`, countPostHog}
	case "/bulk":
		return wire{http.StatusAccepted, json, ``, countLaunchDarkly}
	case "/v1/traces":
		return wire{http.StatusOK, protobuf, ``, countSpans}
	case "/v1/metrics":
		return wire{http.StatusOK, protobuf, ``, countPoints}
	}
	return wire{http.StatusNotFound, json, `{}`, func(*tally, request, []byte) error {
		return errors.New("no recorder sends there")
	}}
}

// tally adds up what requests say.
type tally struct {
	delivered, duplicates, overflowed int64

	seen   map[string]struct{} // IDs
	series map[string]int64    // running totals, see total
}

func newTally() tally {
	return tally{seen: make(map[string]struct{}), series: make(map[string]int64)}
}

func (t *tally) read(r request) error {
	body, err := r.plain()
	if err != nil {
		return err
	}
	return wireOf(r.path).count(t, r, body)
}

// add counts a record that stands for so many calls. "" is no ID.
func (t *tally) add(id string, calls int64) {
	if id != "" {
		if _, again := t.seen[id]; again {
			t.duplicates += calls
			return
		}
		t.seen[id] = struct{}{}
	}
	t.delivered += calls
}

// total counts a figure that goes on from what the same series said before, and
// returns by how much. A request that comes again is told by that alone.
func (t *tally) total(series string, calls int64) (more int64) {
	more = max(0, calls-t.series[series])
	t.series[series] += more
	t.delivered += more
	return more
}
