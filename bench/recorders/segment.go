package recorders

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"sync"
	"sync/atomic"

	"gopkg.in/segmentio/analytics-go.v3"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// segment tracks an event per call. A call waits while the client's channel of
// 100 events is full.
type segment struct {
	client    analytics.Client
	transport *http.Transport
	failed    atomic.Int64
	end       func() // once
}

func newSegment(s *Server, _ *workload.Workload) (Recorder, error) {
	r := &segment{transport: http.DefaultTransport.(*http.Transport).Clone()}
	client, err := analytics.NewWithConfig("bench", analytics.Config{
		Endpoint: s.URL,
		Callback: r, // without one, what is given up is only logged
		// The default transport, but not shared with the other peers.
		Transport: r.transport,
		Logger:    analytics.StdLogger(log.New(io.Discard, "", 0)),
	})
	if err != nil {
		return nil, err
	}
	r.client = client
	r.end = sync.OnceFunc(func() { _ = client.Close() })
	return r, nil
}

func (r *segment) Record(customer, feature string) {
	err := r.client.Enqueue(analytics.Track{
		UserId: customer, Event: "feature used", Properties: analytics.NewProperties().Set("feature", feature),
	})
	if err != nil {
		r.failed.Add(1)
	}
}

// Flush closes the client: it has no other way.
func (r *segment) Flush(ctx context.Context) { within(ctx, r.end) }

func (r *segment) Close(ctx context.Context) (told int64) {
	within(ctx, r.end)
	r.transport.CloseIdleConnections()
	return r.failed.Load()
}

// Success is called by the client for each event that arrived.
func (r *segment) Success(analytics.Message) {}

// Failure is called by the client for each event that it gives up.
func (r *segment) Failure(analytics.Message, error) { r.failed.Add(1) }

func countSegment(t *tally, _ request, body []byte) error {
	var batch struct {
		Events []struct {
			ID string `json:"messageId"`
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
