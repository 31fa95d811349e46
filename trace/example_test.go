package trace_test

import (
	"bytes"
	"context"
	"fmt"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/trace"
)

// A service records what it asks beside asking it. Who reads the trace learns
// nobody's name.
func Example() {
	ctx := context.Background()
	client, err := entitlements.New(entitlements.Config{Source: entitlements.Static(nil)})
	if err != nil {
		panic(err)
	}
	defer client.Close(ctx)
	var file bytes.Buffer // a file, in your service
	recorder, err := trace.NewRecorder(&file, trace.Config{Key: []byte("from the vault, 16 bytes or more")})
	if err != nil {
		panic(err)
	}
	recorder.SetRecording(true) // for an hour, when somebody asks for it

	allowed := func(customer, feature string) bool {
		recorder.Record(customer, feature)
		return client.Allowed(customer, feature)
	}
	track := func(customer, feature string, n int64) {
		recorder.RecordUsage(customer, feature, n)
		client.Track(customer, feature, n)
	}
	allowed("acme", "export")
	track("acme", "api_calls", 3)

	if err := recorder.Close(ctx); err != nil {
		panic(err)
	}
	for e, err := range trace.Read(&file) {
		if err != nil {
			panic(err)
		}
		fmt.Println(e.Customer, e.Feature, e.N)
	}
	// Output:
	// 932d81f10c23594a8850dd127b755bca export 0
	// 932d81f10c23594a8850dd127b755bca api_calls 3
}
