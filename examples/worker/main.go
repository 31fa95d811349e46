// Worker is a batch job: it warms the customers that it will meet, gates each
// item of work at memory speed, and ends only when its usage is acknowledged.
//
//	go run ./examples/worker
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
	billing := entitlementstest.NewBilling(entitlementstest.BillingConfig{})
	defer billing.Close()
	for i := range 40 {
		billing.Put(fmt.Sprintf("customer-%02d", i), map[string]entitlements.Grant{
			"reports":      {Enabled: i%4 != 0},
			"report_pages": {Kind: entitlements.KindMetered, Enabled: true, Limit: 500, Soft: true},
		})
	}
	// The Core family takes usage in batches of up to 1000.
	adapter, err := paylera.New(paylera.Config{Token: billing.CoreToken, Family: paylera.Core, BaseURL: billing.URL})
	if err != nil {
		return err
	}
	client, err := entitlements.New(entitlements.Config{Source: adapter, Sink: adapter})
	if err != nil {
		return err
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if closeErr := client.Close(ending); err == nil {
			err = closeErr
		}
	}()

	// All that the billing API lists, some at a time.
	warmed, err := client.Warm(ctx, nil)
	if err != nil {
		return err
	}
	fmt.Printf("warmed %d customers in %d requests\n", warmed.Loaded, billing.Requests(entitlementstest.RouteAny))

	// Each item is acknowledged under an ID of its own: should the job die and run
	// again, the same items send the same IDs, and none is billed twice.
	skipped := 0
	var usage []entitlements.Usage
	for item := range 200 {
		customer := fmt.Sprintf("customer-%02d", item%40)
		if !client.Allowed(customer, "reports") {
			skipped++
			continue
		}
		usage = append(usage, entitlements.Usage{
			ID: fmt.Sprintf("report-2026-11-%03d", item), Customer: customer, Feature: "report_pages", Quantity: 12,
		})
	}
	if err := client.Report(ctx, usage...); err != nil {
		return fmt.Errorf("not all usage was acknowledged, run again: %w", err)
	}
	billed := int64(0)
	for i := range 40 {
		billed += billing.Total(fmt.Sprintf("customer-%02d", i), "report_pages")
	}
	fmt.Printf("%d reports made and %d skipped; billing acknowledged %d pages\n", len(usage), skipped, billed)
	return nil
}
