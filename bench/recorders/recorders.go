// Package recorders is what a service could record usage with: this library, a
// channel, and the SDKs of analytics and telemetry, each behind the same small
// interface and sending to a server on loopback that counts what arrives.
//
// Every peer is set up as its documentation recommends for production. Defaults
// stay, and what is set says why. This library sends as its Paylera adapter does,
// with that API's limit on the rate lifted: a comparison would measure the limit.
package recorders

import (
	"context"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// A Recorder records that a customer used a feature, once per call of Record.
type Recorder interface {
	// Record is safe for concurrent use.
	Record(customer, feature string)

	// Flush sends what is waiting and returns when it has arrived or was given up,
	// or when ctx is done. Some clients have no other way of flushing than to be
	// closed: nothing is recorded after it.
	Flush(ctx context.Context)

	// Close ends the recorder, within ctx as far as the client lets it, and returns
	// how many calls the client itself says were not delivered.
	Close(ctx context.Context) (told int64)
}

// A Peer makes a Recorder that sends to a Server.
type Peer struct {
	Name   string
	Module string // its import path; "" is the standard library
	New    func(s *Server, w *workload.Workload) (Recorder, error)
}

// Peers are all of them, ours first, in the order in which tables list them.
func Peers() []Peer {
	return []Peer{
		{"entitlements", "github.com/entitlements-go/entitlements", newInMemory},
		{"entitlements, on disk", "github.com/entitlements-go/entitlements", newOnDisk},
		{"channel", "", newChannel},
		{"segment", "gopkg.in/segmentio/analytics-go.v3", newSegment},
		{"posthog", "github.com/posthog/posthog-go", newPostHog},
		{"LaunchDarkly events", "github.com/launchdarkly/go-server-sdk/v7", newLaunchDarkly},
		{"OTel span", "go.opentelemetry.io/otel/sdk", newSpans},
		{"OTel counter", "go.opentelemetry.io/otel/sdk/metric", newCounter},
	}
}

// within waits for f until ctx is done, for clients whose Close or Flush takes no
// context. Then f goes on by itself.
func within(ctx context.Context, f func()) {
	done := make(chan struct{})
	go func() { // ends with f
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
