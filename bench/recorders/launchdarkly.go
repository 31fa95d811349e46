package recorders

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/launchdarkly/go-sdk-common/v3/ldcontext"
	"github.com/launchdarkly/go-server-sdk/v7"
	"github.com/launchdarkly/go-server-sdk/v7/interfaces"
	"github.com/launchdarkly/go-server-sdk/v7/ldcomponents"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// launchDarkly sends a custom event per call. What does not fit in its buffer of
// 10 000 events it drops and logs once; the count of it is for the vendor only.
type launchDarkly struct{ client *ldclient.LDClient }

func newLaunchDarkly(s *Server, _ *workload.Workload) (Recorder, error) {
	client, err := ldclient.MakeCustomClient("bench", ldclient.Config{
		ServiceEndpoints: interfaces.ServiceEndpoints{Events: s.URL}.WithPartialSpecification(),
		// No flags are asked about, and none are loaded.
		DataSource: ldcomponents.ExternalUpdatesOnly(),
		// Its reports about itself would be counted as requests.
		DiagnosticOptOut: true,
		Logging:          ldcomponents.NoLogging(),
	}, 5*time.Second)
	if err != nil {
		return nil, err
	}
	return &launchDarkly{client}, nil
}

func (r *launchDarkly) Record(customer, feature string) {
	_ = r.client.TrackEvent(feature, ldcontext.New(customer)) // is always nil
}

// Flush waits until ctx is done when nothing was waiting: the client answers only
// when it has sent something.
func (r *launchDarkly) Flush(ctx context.Context) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(time.Minute)
	}
	within(ctx, func() { r.client.FlushAndWait(time.Until(deadline)) })
}

func (r *launchDarkly) Close(ctx context.Context) (told int64) {
	within(ctx, func() { _ = r.client.Close() })
	return 0
}

// countLaunchDarkly counts custom events. Among them are others, which introduce
// customers. Events have no IDs, but a request that is repeated keeps its own.
func countLaunchDarkly(t *tally, r request, body []byte) error {
	var events []struct {
		Kind string `json:"kind"`
	}
	if err := json.Unmarshal(body, &events); err != nil {
		return err
	}
	if r.id == "" {
		return errors.New("X-LaunchDarkly-Payload-ID is required, got none")
	}
	var calls int64
	for _, e := range events {
		if e.Kind == "custom" {
			calls++
		}
	}
	t.add(r.id, calls)
	return nil
}
