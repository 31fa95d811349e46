package entitlementstest_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/entitlements-go/entitlements/entitlementstest"
)

// BenchmarkBilling is what a program can ask of one billing API: client and
// server share the machine.
func BenchmarkBilling(b *testing.B) {
	billing := entitlementstest.NewBilling(entitlementstest.BillingConfig{})
	defer billing.Close()
	set := grants{"api": metered(1 << 40)}
	for i := range 50 {
		set[fmt.Sprint("feature_", i)] = metered(int64(i))
	}
	billing.Put("c", set)
	run := func(name, method, path, body string) {
		b.Run(name, func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					request, err := http.NewRequest(method, billing.URL+path, strings.NewReader(body))
					if err != nil {
						b.Error(err)
						return
					}
					request.Header.Set("Authorization", "Bearer "+billing.Token)
					response, err := billing.Client().Do(request)
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, response.Body)
					_ = response.Body.Close()
				}
			})
		})
	}
	run("entitlements of 51 features", "GET", "/v1/subscriptions/c/entitlements", "")
	run("track", "POST", "/v1/track", `{"subscription_id":"c","feature_code":"api","quantity":"1"}`)
}
