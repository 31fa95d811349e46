package paylera_test

import (
	"context"
	"log"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
)

// One Adapter is the Client's Source and Sink, and the webhook endpoint.
func Example() {
	billing, err := paylera.New(paylera.Config{
		Token:          os.Getenv("PAYLERA_TOKEN"),
		WebhookSecrets: []string{os.Getenv("PAYLERA_WEBHOOK_SECRET")},
	})
	if err != nil {
		log.Fatal(err)
	}
	client, err := entitlements.New(entitlements.Config{Source: billing, Sink: billing})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close(context.Background())

	http.Handle("/webhooks/paylera", billing)
	http.HandleFunc("/export", func(w http.ResponseWriter, r *http.Request) {
		customer := r.Header.Get("X-Subscription")
		if d := client.Decide(customer, "exports"); !d.Allowed {
			http.Error(w, d.Reason.String(), http.StatusPaymentRequired)
			return
		}
		client.Track(customer, "exports", 1)
	})
}

// A program whose customers have keys of their own, and sometimes more than one
// subscription.
func ExampleConfig_subscriptions() {
	bySubscription := map[string]string{"sub_1": "acme", "sub_2": "acme"}
	byCustomer := map[string][]string{"acme": {"sub_1", "sub_2"}}

	_, err := paylera.New(paylera.Config{
		Token: os.Getenv("PAYLERA_TOKEN"),
		Subscriptions: func(_ context.Context, customer string) ([]string, error) {
			subscriptions, ok := byCustomer[customer]
			if !ok {
				return nil, entitlements.ErrUnknownCustomer
			}
			return subscriptions, nil
		},
		Customer: func(_ context.Context, subscription string) (string, error) {
			return bySubscription[subscription], nil
		},
		// Gigabytes on the wire, megabytes in the program.
		Decimals: map[string]int{"storage": 3},
	})
	if err != nil {
		log.Print(err)
	}
}

// Every request passes the interceptors, with a name fit for a metric.
func ExampleInterceptor() {
	logging := func(next http.RoundTripper) http.RoundTripper {
		return paylera.RoundTripperFunc(func(r *http.Request) (*http.Response, error) {
			began := time.Now()
			res, err := next.RoundTrip(r)
			slog.Info("billing", "endpoint", paylera.Endpoint(r.Context()), "took", time.Since(began), "failed", err != nil)
			return res, err
		})
	}
	_, err := paylera.New(paylera.Config{
		Token:        os.Getenv("PAYLERA_TOKEN"),
		Interceptors: []paylera.Interceptor{logging},
	})
	if err != nil {
		log.Print(err)
	}
}
