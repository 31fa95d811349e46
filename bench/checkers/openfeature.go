package checkers

import (
	"context"
	"fmt"

	"github.com/open-feature/go-sdk/openfeature"
	"github.com/open-feature/go-sdk/openfeature/isolated"
	"github.com/open-feature/go-sdk/openfeature/memprovider"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// openFeature is the vendor-neutral API over the provider that comes with it,
// which looks the plan up in a set per flag: what is measured is the API itself.
type openFeature struct {
	api      *openfeature.EvaluationAPI
	client   *openfeature.Client
	contexts map[string]openfeature.EvaluationContext
}

func newOpenFeature(w *workload.Workload) (Checker, error) {
	flags := make(map[string]memprovider.InMemoryFlag, len(w.Features))
	for f, feature := range w.Features {
		flags[feature] = openFeatureFlag(feature, plansWith(f))
	}
	contexts, err := perCustomer(w, func(customer, plan string) (openfeature.EvaluationContext, error) {
		return openfeature.NewEvaluationContext(customer, map[string]any{planAttribute: plan}), nil
	})
	if err != nil {
		return nil, err
	}
	api := isolated.NewAPI() // the other one is the process's
	if err := api.SetProviderAndWait(context.Background(), memprovider.NewInMemoryProvider(flags)); err != nil {
		return nil, fmt.Errorf("checkers: set the OpenFeature provider: %w", err)
	}
	return &openFeature{api, api.NewClient(), contexts}, nil
}

// openFeatureFlag is on for some plans.
func openFeatureFlag(key string, plans []string) memprovider.InMemoryFlag {
	granted := make(map[string]bool, len(plans))
	for _, plan := range plans {
		granted[plan] = true
	}
	evaluate := func(_ memprovider.InMemoryFlag, asked openfeature.FlattenedContext) (any, openfeature.ProviderResolutionDetail) {
		plan, _ := asked[planAttribute].(string)
		return granted[plan], openfeature.ProviderResolutionDetail{Reason: openfeature.TargetingMatchReason}
	}
	return memprovider.InMemoryFlag{Key: key, State: memprovider.Enabled, ContextEvaluator: &evaluate}
}

func (o *openFeature) Check(customer, feature string) bool {
	return o.client.Boolean(context.Background(), feature, false, o.contexts[customer])
}

func (o *openFeature) Close() {
	// The provider has nothing to shut down that could fail.
	_ = o.api.Shutdown(context.Background())
}
