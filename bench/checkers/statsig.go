package checkers

import (
	"encoding/json"
	"fmt"

	"github.com/statsig-io/go-sdk"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// statsigClient evaluates gates that were given to it as bootstrap values. In
// local mode it neither fetches others nor sends events.
type statsigClient struct {
	client *statsig.Client
	users  map[string]statsig.User
}

func newStatsig(w *workload.Workload) (Checker, error) {
	gates, err := statsigGates(w)
	if err != nil {
		return nil, err
	}
	users, err := perCustomer(w, func(customer, plan string) (statsig.User, error) {
		return statsig.User{UserID: customer, Custom: map[string]any{planAttribute: plan}}, nil
	})
	if err != nil {
		return nil, err
	}
	// The logger is the process's: until it is set, errors are printed.
	statsig.InitializeGlobalOutputLogger(statsig.OutputLoggerOptions{LogCallback: func(string, error) {}})
	client, details := statsig.NewClientWithDetails("secret-key", &statsig.Options{
		LocalMode:       true,
		BootstrapValues: gates,
		// Its two databases are for rules on addresses and browsers.
		IPCountryOptions: statsig.IPCountryOptions{Disabled: true},
		UAParserOptions:  statsig.UAParserOptions{Disabled: true},
		StatsigLoggerOptions: statsig.StatsigLoggerOptions{
			DisableInitDiagnostics: true, DisableSyncDiagnostics: true, DisableApiDiagnostics: true, DisableAllLogging: true,
		},
	})
	if !details.Success {
		client.Shutdown()
		return nil, fmt.Errorf("checkers: start Statsig: %w", details.Error)
	}
	return &statsigClient{client, users}, nil
}

func (s *statsigClient) Check(customer, feature string) bool {
	return s.client.CheckGateWithExposureLoggingDisabled(s.users[customer], feature)
}

// Close leaves goroutines of its own behind: those that poll end when they next
// wake, after up to a minute, and the one that flushes events never does.
func (s *statsigClient) Close() { s.client.Shutdown() }

// statsigGates is what its API answers with.
func statsigGates(w *workload.Workload) (string, error) {
	type object = map[string]any
	var gates []object
	for f, feature := range w.Features {
		gates = append(gates, object{
			"name": feature, "type": "feature_gate", "entity": "feature_gate", "salt": feature,
			"enabled": true, "defaultValue": false, "idType": "userID",
			"rules": []object{{
				"name": "plans", "id": "plans", "salt": "plans", "idType": "userID",
				"passPercentage": 100, "returnValue": true,
				"conditions": []object{{
					"type": "user_field", "operator": "any", "field": planAttribute,
					"targetValue": plansWith(f), "idType": "userID",
				}},
			}},
		})
	}
	data, err := json.Marshal(object{"has_updates": true, "time": 1, "feature_gates": gates})
	return string(data), err
}
