package checkers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/growthbook/growthbook-golang"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// growthBook evaluates features that were given to it as JSON. Asking is done
// with a child client that has the attributes: it sees the parent's features as
// they change, so one per customer can be kept.
type growthBook struct {
	parent   *growthbook.Client
	children map[string]*growthbook.Client
}

func newGrowthBook(w *workload.Workload) (Checker, error) {
	features, err := growthBookFeatures(w)
	if err != nil {
		return nil, err
	}
	parent, err := growthbook.NewClient(context.Background(),
		growthbook.WithLogger(slog.New(slog.DiscardHandler)), growthbook.WithJsonFeatures(features))
	if err != nil {
		return nil, fmt.Errorf("checkers: start GrowthBook: %w", err)
	}
	children, err := perCustomer(w, func(customer, plan string) (*growthbook.Client, error) {
		return parent.WithAttributes(growthbook.Attributes{"id": customer, planAttribute: plan})
	})
	if err != nil {
		return nil, errors.Join(err, parent.Close())
	}
	return &growthBook{parent, children}, nil
}

// growthBookFeatures is what its API answers with.
func growthBookFeatures(w *workload.Workload) (string, error) {
	type object = map[string]any
	features := make(object, len(w.Features))
	for f, feature := range w.Features {
		features[feature] = object{
			"defaultValue": false,
			"rules": []object{{
				"condition": object{planAttribute: object{"$in": plansWith(f)}},
				"force":     true,
			}},
		}
	}
	data, err := json.Marshal(features)
	return string(data), err
}

func (g *growthBook) Check(customer, feature string) bool {
	child := g.children[customer]
	return child != nil && child.EvalFeature(context.Background(), feature).On
}

func (g *growthBook) Close() { _ = g.parent.Close() }
