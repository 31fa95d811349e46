package checkers

import (
	"fmt"
	"time"

	"github.com/launchdarkly/go-sdk-common/v3/ldcontext"
	"github.com/launchdarkly/go-sdk-common/v3/ldvalue"
	ld "github.com/launchdarkly/go-server-sdk/v7"
	"github.com/launchdarkly/go-server-sdk/v7/ldcomponents"
	"github.com/launchdarkly/go-server-sdk/v7/testhelpers/ldtestdata"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// launchDarkly evaluates flags that it holds in memory, as it does after they
// were streamed to it: only where they come from differs. Contexts are immutable
// and valid for as long as their attributes are right.
type launchDarkly struct {
	client   *ld.LDClient
	contexts map[string]ldcontext.Context
}

func newLaunchDarkly(w *workload.Workload) (Checker, error) {
	flags := ldtestdata.DataSource()
	for f, feature := range w.Features {
		var with []ldvalue.Value
		for _, plan := range plansWith(f) {
			with = append(with, ldvalue.String(plan))
		}
		flags.Update(flags.Flag(feature).BooleanFlag().
			IfMatch(planAttribute, with...).ThenReturn(true).FallthroughVariation(false))
	}
	contexts, err := perCustomer(w, func(customer, plan string) (ldcontext.Context, error) {
		return ldcontext.NewBuilder(customer).SetString(planAttribute, plan).TryBuild()
	})
	if err != nil {
		return nil, err
	}
	client, err := ld.MakeCustomClient("sdk-key", ld.Config{
		DataSource:       flags,
		Events:           ldcomponents.NoEvents(),
		Logging:          ldcomponents.NoLogging(),
		DiagnosticOptOut: true,
	}, 10*time.Second)
	if err != nil {
		return nil, fmt.Errorf("checkers: start LaunchDarkly: %w", err)
	}
	return &launchDarkly{client, contexts}, nil
}

func (l *launchDarkly) Check(customer, feature string) bool {
	on, _ := l.client.BoolVariation(feature, l.contexts[customer], false)
	return on
}

func (l *launchDarkly) Close() { _ = l.client.Close() }
