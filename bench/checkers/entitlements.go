package checkers

import (
	"context"
	"time"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/bench/workload"
)

// library is this library, asked with strings.
type library struct {
	client   *entitlements.Client
	features []entitlements.Feature
}

func newLibrary(w *workload.Workload) (Checker, error) {
	// Nothing is refreshed while checks are measured, nor after a denial: caches that
	// are filled once do nothing in the background either.
	client, err := w.Warm(context.Background(), entitlements.Config{TTL: time.Hour, MaxStale: 2 * time.Hour, DenyTTL: -1})
	if err != nil {
		return nil, err
	}
	l := &library{client: client}
	for _, code := range w.Features {
		l.features = append(l.features, client.Feature(code))
	}
	return l, nil
}

func (l *library) Check(customer, feature string) bool { return l.client.Allowed(customer, feature) }

// Resolve holds a handle on the customer, which sees refreshes.
func (l *library) Resolve(customer string) func(int) bool {
	c := l.client.Customer(customer)
	return func(feature int) bool { return c.Allowed(l.features[feature]) }
}

func (l *library) Close() {
	// There is no usage that could be lost, which is all that an error says.
	_ = l.client.Close(context.Background())
}
