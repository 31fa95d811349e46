package recorders

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// ours is this library. Its adapter posts records into which calls were folded.
type ours struct {
	client  *entitlements.Client
	adapter *paylera.Adapter
	dir     string // to be removed; "" without a spool
}

func newInMemory(s *Server, w *workload.Workload) (Recorder, error) { return newOurs(s, w, "") }

func newOnDisk(s *Server, w *workload.Workload) (Recorder, error) {
	dir, err := os.MkdirTemp("", "recorders")
	if err != nil {
		return nil, fmt.Errorf("recorders: make a spool: %w", err)
	}
	r, err := newOurs(s, w, dir)
	if err != nil {
		_ = os.RemoveAll(dir)
	}
	return r, err
}

func newOurs(s *Server, w *workload.Workload, dir string) (Recorder, error) {
	adapter, err := paylera.New(paylera.Config{Token: "sk_live_bench", Family: paylera.Core, BaseURL: s.URL})
	if err != nil {
		return nil, err
	}
	// Usage is recorded of customers who were checked before: they are cached.
	client, err := w.Warm(context.Background(), entitlements.Config{
		Sink:     unlimited{adapter},
		SpoolDir: dir,
		// Every customer uses every feature, and each pair is a record per flush: more
		// than the default has room for.
		MaxPending: 4_000_000,
	})
	if err != nil {
		return nil, err
	}
	return &ours{client, adapter, dir}, nil
}

func (o *ours) Record(customer, feature string) { o.client.Track(customer, feature, 1) }

func (o *ours) Flush(ctx context.Context) { _ = o.client.Flush(ctx) } // what it left, Close tells

// Close also tells what would wait on disk for the next run: here there is none.
func (o *ours) Close(ctx context.Context) (told int64) {
	_ = o.client.Close(ctx)
	o.adapter.CloseIdleConnections()
	if o.dir != "" {
		_ = os.RemoveAll(o.dir)
	}
	u := o.client.Stats().Usage
	return int64(u.Dropped + u.Pending + u.InDoubt + u.DeadLettered)
}

// unlimited is the adapter without the API's rate limit of 5000 records a second,
// which the Server does not have.
type unlimited struct{ *paylera.Adapter }

func (u unlimited) Limits() entitlements.SinkLimits {
	limits := u.Adapter.Limits()
	limits.Rate = 0
	return limits
}

func countUsage(t *tally, _ request, body []byte) error {
	var batch struct {
		Events []struct {
			Subscription string `json:"subscription_id"`
			Meter        string `json:"meter"`
			Quantity     string `json:"quantity"`
			ID           string `json:"external_id"`
		} `json:"events"`
	}
	if err := json.Unmarshal(body, &batch); err != nil {
		return err
	}
	for _, e := range batch.Events {
		calls, err := strconv.ParseInt(e.Quantity, 10, 64)
		if err != nil {
			return fmt.Errorf("quantity of %s: %w", e.ID, err)
		}
		t.add(e.Subscription+"\x00"+e.Meter+"\x00"+e.ID, calls)
	}
	return nil
}
