package recorders

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/posthog/posthog-go"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// postHog captures an event per call. A call waits while the client's channel of
// 100 events is full.
type postHog struct {
	client    posthog.Client
	transport *http.Transport
	failed    atomic.Int64
	end       func() // once
}

func newPostHog(s *Server, _ *workload.Workload) (Recorder, error) {
	r := &postHog{transport: http.DefaultTransport.(*http.Transport).Clone()}
	client, err := posthog.NewWithConfig("bench", posthog.Config{
		Endpoint: s.URL,
		Callback: r, // without one, what is given up is only logged
		// The default transport, but not shared with the other peers.
		Transport: r.transport,
		Logger:    posthog.StdLogger(log.New(io.Discard, "", 0)),
	})
	if err != nil {
		return nil, err
	}
	r.client = client
	r.end = sync.OnceFunc(func() { _ = client.Close() })
	return r, nil
}

func (r *postHog) Record(customer, feature string) {
	err := r.client.Enqueue(posthog.Capture{
		DistinctId: customer, Event: "feature used", Properties: posthog.NewProperties().Set("feature", feature),
	})
	if err != nil {
		r.failed.Add(1)
	}
}

// Flush closes the client: it has no other way.
func (r *postHog) Flush(ctx context.Context) { within(ctx, r.end) }

func (r *postHog) Close(ctx context.Context) (told int64) {
	within(ctx, r.end)
	r.transport.CloseIdleConnections()
	return r.failed.Load()
}

// Success is called by the client for each event that arrived.
func (r *postHog) Success(posthog.APIMessage) {}

// Failure is called by the client for each event that it gives up.
func (r *postHog) Failure(posthog.APIMessage, error) { r.failed.Add(1) }

// countPostHog counts by uuid, which the client leaves empty unless it is told one:
// as the service sees it, an event that is sent twice is two.
func countPostHog(t *tally, _ request, body []byte) error {
	var batch struct {
		Events []struct {
			ID string `json:"uuid"`
		} `json:"batch"`
	}
	if err := json.Unmarshal(body, &batch); err != nil {
		return err
	}
	for _, e := range batch.Events {
		t.add(e.ID, 1)
	}
	return nil
}
