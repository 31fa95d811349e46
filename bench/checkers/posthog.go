package checkers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/posthog/posthog-go"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// postHog evaluates flags locally, from definitions that it fetches. The plan is
// a property of the person. What does not change from one question to the next
// is made once: it would make empty ones for each.
type postHog struct {
	client     posthog.Client
	properties map[string]posthog.Properties
	noGroups   posthog.Groups
	noGroup    map[string]posthog.Properties
	sendEvents bool
}

func newPostHog(w *workload.Workload) (Checker, error) {
	definitions, err := postHogDefinitions(w)
	if err != nil {
		return nil, err
	}
	byPlan := make(map[string]posthog.Properties, workload.Plans)
	for p := range workload.Plans {
		byPlan[planName(p)] = posthog.NewProperties().Set(planAttribute, planName(p))
	}
	properties, err := perCustomer(w, func(_, plan string) (posthog.Properties, error) { return byPlan[plan], nil })
	if err != nil {
		return nil, err
	}
	client, err := posthog.NewWithConfig("project-key", posthog.Config{
		PersonalApiKey:                     "personal-key", // without one it asks its API each time
		Transport:                          definitions,
		Logger:                             noPostHogLog{},
		DefaultFeatureFlagsPollingInterval: 24 * time.Hour,
	})
	if err != nil {
		return nil, fmt.Errorf("checkers: start PostHog: %w", err)
	}
	// It fetches in the background. This waits until it has.
	if _, err := client.GetFeatureFlags(); err != nil {
		return nil, errors.Join(fmt.Errorf("checkers: load PostHog's flags: %w", err), client.Close())
	}
	return &postHog{client: client, properties: properties, noGroups: posthog.NewGroups(), noGroup: map[string]posthog.Properties{}}, nil
}

func (p *postHog) Check(customer, feature string) bool {
	on, _ := p.client.IsFeatureEnabled(posthog.FeatureFlagPayload{
		Key: feature, DistinctId: customer,
		PersonProperties: p.properties[customer], Groups: p.noGroups, GroupProperties: p.noGroup,
		OnlyEvaluateLocally: true, SendFeatureFlagEvents: &p.sendEvents,
	})
	return on == true
}

func (p *postHog) Close() { _ = p.client.Close() }

// postHogDefinitions is what its API answers a client with that evaluates locally.
func postHogDefinitions(w *workload.Workload) (inProcess, error) {
	var flags []posthog.FeatureFlag
	for f, feature := range w.Features {
		everyone := uint8(100)
		flags = append(flags, posthog.FeatureFlag{Key: feature, Active: true, Filters: posthog.Filter{
			Groups: []posthog.FeatureFlagCondition{{
				Properties:        []posthog.FlagProperty{{Key: planAttribute, Operator: "exact", Value: plansWith(f), Type: "person"}},
				RolloutPercentage: &everyone,
			}},
		}})
	}
	return json.Marshal(posthog.FeatureFlagsResponse{Flags: flags})
}

// inProcess answers every request with itself: nothing is sent anywhere.
type inProcess []byte

func (body inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}},
		Body:   io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}, nil
}

// noPostHogLog is silent: a client without a logger writes to standard error.
type noPostHogLog struct{}

func (noPostHogLog) Logf(string, ...any)   {}
func (noPostHogLog) Errorf(string, ...any) {}
