package entitlements_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/entitlements-go/entitlements"
)

// billing is a backend in memory. Yours is an adapter.
func billing() entitlements.Source {
	return entitlements.Static(map[string]*entitlements.Entitlements{
		"acme": {Plan: "pro", Features: map[string]entitlements.Grant{
			"export":    {Enabled: true},
			"seats":     {Kind: entitlements.KindNumeric, Enabled: true, Limit: 25},
			"region":    {Kind: entitlements.KindText, Enabled: true, Text: "eu-west"},
			"api_calls": {Kind: entitlements.KindMetered, Enabled: true, Limit: 1000, Used: 990},
		}},
		"bolt": {Plan: "free", Features: map[string]entitlements.Grant{"export": {Enabled: false}}},
	})
}

// open makes the Client of the examples.
func open() *entitlements.Client {
	client, err := entitlements.New(entitlements.Config{Source: billing(), Sink: printer})
	if err != nil {
		panic(err)
	}
	return client
}

// printer is a Sink that prints what it gets.
var printer = entitlements.SinkFunc(func(_ context.Context, batch entitlements.Batch) error {
	for _, u := range batch.Usage {
		fmt.Printf("delivered %s %s %d (%d calls)\n", u.Customer, u.Feature, u.Quantity, u.Count)
	}
	return nil
})

func ExampleNew() {
	_, err := entitlements.New(entitlements.Config{Source: billing(), TTL: 5 * time.Millisecond})
	fmt.Println(err)
	// Output: entitlements: Config.TTL must be at least 100ms, got 5ms
}

func ExampleClient_Resolve() {
	client, ctx := open(), context.Background()
	defer client.Close(ctx)
	export := client.Feature("export") // once, at start-up

	// At the top of a request.
	customer, err := client.Resolve(ctx, "acme")
	if err != nil {
		fmt.Println("answers by policy:", err)
	}
	// Anywhere below it.
	fmt.Println(customer.Allowed(export))
	// Output: true
}

func ExampleClient_Check() {
	client, ctx := open(), context.Background()
	defer client.Close(ctx)
	for _, customer := range []string{"acme", "bolt", "nobody"} {
		d, err := client.Check(ctx, customer, "export")
		fmt.Println(customer, d.Allowed, d.Reason, err)
	}
	// Output:
	// acme true granted <nil>
	// bolt false not_granted <nil>
	// nobody false unknown_customer <nil>
}

func ExampleClient_Allowed() {
	client, ctx := open(), context.Background()
	defer client.Close(ctx)
	fmt.Println("cold, by policy:", client.Allowed("acme", "export"))
	_, _ = client.Warm(ctx, slices.Values([]string{"acme"}))
	fmt.Println("cached:", client.Allowed("acme", "export"))
	// Output:
	// cold, by policy: false
	// cached: true
}

func ExampleClient_Decide() {
	client, ctx := open(), context.Background()
	defer client.Close(ctx)
	_, _ = client.Resolve(ctx, "acme")
	client.Track("acme", "api_calls", 7)
	d := client.Decide("acme", "api_calls")
	fmt.Printf("%v: %d of %d used, %d remain\n", d.Reason, d.Used, d.Limit, d.Remaining)
	// Output:
	// granted: 997 of 1000 used, 3 remain
	// delivered acme api_calls 7 (1 calls)
}

func ExampleClient_Use() {
	client, ctx := open(), context.Background()
	defer client.Close(ctx)
	_, _ = client.Resolve(ctx, "acme")
	for _, n := range []int64{8, 8, 2} {
		d := client.Use("acme", "api_calls", n)
		fmt.Println(n, d.Allowed, d.Reason, d.Remaining)
	}
	// Output:
	// 8 true granted 2
	// 8 false limit_reached 2
	// 2 true granted 0
	// delivered acme api_calls 10 (2 calls)
}

func ExampleClient_UseEvent() {
	client, ctx := open(), context.Background()
	defer client.Close(ctx)
	_, _ = client.Resolve(ctx, "acme")
	d := client.UseEvent(entitlements.Usage{ID: "request-4711", Customer: "acme", Feature: "api_calls", Quantity: 3})
	fmt.Println(d.Allowed, d.Remaining)
	// Output:
	// true 7
	// delivered acme api_calls 3 (1 calls)
}

func ExampleClient_Reserve() {
	client, ctx := open(), context.Background()
	defer client.Close(ctx)
	_, _ = client.Resolve(ctx, "acme")

	reserved, d := client.Reserve("acme", "api_calls", 8)
	defer reserved.Release() // does nothing once it is committed, and on a denied one
	fmt.Println(d.Allowed, "in the meantime", d.Remaining, "remain")

	reserved.Commit(3) // what it took in the end
	fmt.Println("afterwards", client.Decide("acme", "api_calls").Remaining)
	// Output:
	// true in the meantime 2 remain
	// afterwards 7
	// delivered acme api_calls 3 (1 calls)
}

func ExampleClient_SetShadow() {
	client, ctx := open(), context.Background()
	defer client.Close(ctx)
	_, _ = client.Resolve(ctx, "acme")
	client.SetShadow("sso")
	d := client.Decide("acme", "sso")
	fmt.Println(d.Allowed, d.Shadowed, d.Reason)
	for denial, n := range client.Stats().Decisions.ShadowedBy {
		fmt.Println(denial.Feature, denial.Reason, n)
	}
	// Output:
	// true true not_granted
	// sso not_granted 1
}

func ExampleClient_Number() {
	client, ctx := open(), context.Background()
	defer client.Close(ctx)
	_, _ = client.Resolve(ctx, "acme")
	fmt.Println(client.Number("acme", "seats", 1), client.Number("acme", "unheard_of", 1))
	fmt.Println(client.Text("acme", "region", "us-east"))
	// Output:
	// 25 1
	// eu-west
}

func ExampleClient_Track() {
	client, ctx := open(), context.Background()
	for range 3 {
		client.Track("acme", "api_calls", 2)
	}
	_ = client.Close(ctx)
	// Output: delivered acme api_calls 6 (3 calls)
}

func ExampleClient_Record() {
	client, ctx := open(), context.Background()
	client.Record(entitlements.Usage{
		ID: "invoice-17", Customer: "acme", Feature: "invoices", Quantity: 1,
		Properties: map[string]string{"region": "eu-west"},
	})
	_ = client.Flush(ctx)
	_ = client.Close(ctx)
	// Output: delivered acme invoices 1 (1 calls)
}

func ExampleClient_Report() {
	client, ctx := open(), context.Background()
	defer client.Close(ctx)
	err := client.Report(ctx, entitlements.Usage{ID: "job-4711", Customer: "acme", Feature: "pages", Quantity: 12})
	fmt.Println("cannot be lost any more:", err == nil)
	// Output:
	// delivered acme pages 12 (1 calls)
	// cannot be lost any more: true
}

func ExampleClient_Load() {
	client, ctx := open(), context.Background()
	defer client.Close(ctx)
	acme, err := client.Load(ctx, "acme")
	fmt.Println(acme.Plan, acme.Features["seats"].Limit, err)
	_, err = client.Load(ctx, "nobody")
	fmt.Println(errors.Is(err, entitlements.ErrUnknownCustomer))
	// Output:
	// pro 25 <nil>
	// true
}

func ExampleClient_Warm() {
	client, ctx := open(), context.Background()
	defer client.Close(ctx)
	report, err := client.Warm(ctx, nil) // all that the Source lists
	fmt.Println(report.Loaded, err)
	// Output: 2 <nil>
}

func ExampleClient_Invalidate() {
	client, ctx := open(), context.Background()
	defer client.Close(ctx)
	_, _ = client.Resolve(ctx, "acme")
	client.Invalidate("acme") // from a webhook: acme was upgraded
	d, err := client.Check(ctx, "acme", "export")
	fmt.Println(d.Allowed, err) // of the new snapshot
	// Output: true <nil>
}

func ExampleCustomer_All() {
	client, ctx := open(), context.Background()
	defer client.Close(ctx)
	acme, _ := client.Resolve(ctx, "acme")
	for feature, d := range acme.All() {
		fmt.Println(feature, d.Allowed)
	}
	// Output:
	// api_calls true
	// export true
	// region true
	// seats true
}

func ExampleClient_Subscribe() {
	features := map[string]entitlements.Grant{"sso": {Enabled: false}}
	client, _ := entitlements.New(entitlements.Config{
		Source: entitlements.SourceFunc(func(_ context.Context, customer string) (*entitlements.Entitlements, error) {
			return &entitlements.Entitlements{Customer: customer, Features: features}, nil
		}),
	})
	ctx := context.Background()
	defer client.Close(ctx)
	changed := make(chan entitlements.Change, 1)
	defer client.Subscribe(func(c entitlements.Change) { changed <- c })()

	_, _ = client.Resolve(ctx, "acme")
	features = map[string]entitlements.Grant{"sso": {Enabled: true}} // an upgrade
	client.Invalidate("acme")
	fmt.Println((<-changed).Features)
	// Output: [sso]
}

func ExampleClient_Close() {
	stuck := entitlements.SinkFunc(func(context.Context, entitlements.Batch) error {
		return entitlements.RetryAfter(time.Hour, errors.New("come back later"))
	})
	client, _ := entitlements.New(entitlements.Config{Source: billing(), Sink: stuck})
	client.Track("acme", "api_calls", 1)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err := client.Close(ctx)
	var undelivered *entitlements.UndeliveredError
	fmt.Println(errors.As(err, &undelivered), undelivered.Lost)
	// Output: true 1
}

func ExampleStatic() {
	source := entitlements.Static(map[string]*entitlements.Entitlements{
		"acme": {Features: map[string]entitlements.Grant{"export": {Enabled: true}}},
	})
	e, err := source.Fetch(context.Background(), "acme")
	fmt.Println(e.Customer, e.Features["export"].Enabled, err)
	// Output: acme true <nil>
}

func ExampleDeliveryError() {
	// A Sink whose backend answers record by record.
	err := error(&entitlements.DeliveryError{
		Rejected: []entitlements.Rejection{{Index: 1, Err: errors.New("no such meter")}},
		Retry:    []int{2},
		After:    time.Second,
		Err:      errors.New("207"),
	})
	fmt.Println(err)
	// Output: entitlements: delivery: 1 records rejected, 1 to retry, 0 unknown: 207
}
