package entitlements_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// "var e *url.Error; return e" is an error that panics when it is looked into. It
// must end neither the process nor the usage.
func TestRule06_ANilErrorPointerIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var none *url.Error
		var attempts atomic.Int64
		c, err := New(Config{
			Source: SourceFunc(func(context.Context, string) (*Entitlements, error) { return nil, none }),
			Sink: SinkFunc(func(context.Context, Batch) error {
				if attempts.Add(1) == 1 {
					return none
				}
				return nil
			}),
		})
		require.NoError(t, err)
		_, err = c.Check(t.Context(), "a", "x")
		require.ErrorIs(t, err, ErrUnavailable)
		c.Track("a", "x", 1)
		require.NoError(t, c.Flush(t.Context()))
		require.EqualValues(t, 1, c.Stats().Usage.Delivered)
		require.NoError(t, c.Close(t.Context()))
	})
}

// A confused backend's Retry-After keeps neither the door nor a batch for good.
func TestRule16_ALongRetryAfterStrandsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var delivered, refused atomic.Int64
		c, err := New(Config{
			Source: Static(nil), FlushSize: 1, FlushConcurrency: 4,
			Sink: SinkFunc(func(context.Context, Batch) error {
				if refused.Add(1) <= 4 {
					time.Sleep(time.Second)
					return RetryAfter(1000*time.Hour, errors.New("come back next month"))
				}
				delivered.Add(1)
				return nil
			}),
		})
		require.NoError(t, err)
		for i := range 4 {
			c.Track(fmt.Sprint("customer-", i), "x", 1)
		}
		time.Sleep(12 * time.Minute)
		require.EqualValues(t, 4, delivered.Load())
		require.NoError(t, c.Close(t.Context()))
	})
}

// A handle outlives its customer's place in the cache. What is counted through it
// then counts in what it answers.
func TestRule19_AHandleOfAnEvictedCustomerSeesItsUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		customers := map[string]map[string]Grant{}
		for i := range 100 {
			customers[fmt.Sprint("customer-", i)] = map[string]Grant{"calls": {Kind: KindMetered, Enabled: true, Limit: 5}}
		}
		c, err := New(Config{Source: entitlementstest.NewSource(customers), Sink: entitlementstest.NewSink(), MaxCustomers: 2})
		require.NoError(t, err)
		defer c.Close(context.Background())
		calls := c.Feature("calls")
		first, err := c.Resolve(t.Context(), "customer-0")
		require.NoError(t, err)
		for i := range 100 {
			_, err := c.Resolve(t.Context(), fmt.Sprint("customer-", i))
			require.NoError(t, err)
		}
		require.True(t, first.Allowed(calls))
		first.Track(calls, 10)
		d := first.Decide(calls)
		require.EqualValues(t, 10, d.Used)
		require.False(t, d.Allowed)
		for feature, d := range first.All() {
			require.EqualValues(t, 10, d.Used, feature)
		}
	})
}

// heldSource answers "not modified" when it is let go.
type heldSource struct{ asked, release chan struct{} }

func (s *heldSource) Fetch(_ context.Context, customer string) (*Entitlements, error) {
	return &Entitlements{Customer: customer, Version: "1", Features: map[string]Grant{"x": {Enabled: true}}}, nil
}

func (s *heldSource) FetchChanged(context.Context, string, string) (*Entitlements, error) {
	s.asked <- struct{}{}
	<-s.release
	return nil, ErrNotModified
}

// What is not modified is what was asked about, whatever was forgotten since.
func TestRule07_ForgetDuringAConditionalLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &heldSource{make(chan struct{}, 1), make(chan struct{})}
		c, err := New(Config{Source: source})
		require.NoError(t, err)
		defer c.Close(context.Background())
		_, err = c.Resolve(t.Context(), "a")
		require.NoError(t, err)
		c.Invalidate("a")
		type answer struct {
			decision Decision
			err      error
		}
		answers := make(chan answer, 1)
		go func() {
			d, err := c.Check(t.Context(), "a", "x")
			answers <- answer{d, err}
		}()
		<-source.asked
		synctest.Wait()
		c.Forget("a")
		close(source.release)
		got := <-answers
		require.NoError(t, got.err)
		require.True(t, got.decision.Allowed, "%+v", got.decision)
		synctest.Wait()
		require.Equal(t, OriginPolicy, c.Decide("a", "x").Origin, "and nothing of it is kept")
	})
}

// A log handler may ask the client that logs.
func TestLogHandlerMayAskTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var client atomic.Pointer[Client]
		asked := atomic.Int64{}
		c, err := New(Config{
			Source: SourceFunc(func(context.Context, string) (*Entitlements, error) { return nil, errors.New("down") }),
			Sink:   SinkFunc(func(context.Context, Batch) error { return Permanent(errors.New("bad")) }),
			Logger: askingLogger(func() {
				c := client.Load()
				c.Health()
				c.Stats()
				c.Decide("b", "x")
				asked.Add(1)
			}),
		})
		require.NoError(t, err)
		client.Store(c)
		for i := range 10 {
			_, _ = c.Check(t.Context(), fmt.Sprint("customer-", i), "x")
		}
		c.Track("a", "x", 1)
		require.NoError(t, c.Flush(t.Context()))
		require.EqualValues(t, 2, asked.Load(), "one line for each door's change of state")
		require.NoError(t, c.Close(t.Context()))
	})
}

func askingLogger(ask func()) *slog.Logger { return slog.New(askingHandler{ask}) }

type askingHandler struct{ ask func() }

func (h askingHandler) Enabled(context.Context, slog.Level) bool  { return true }
func (h askingHandler) Handle(context.Context, slog.Record) error { h.ask(); return nil }
func (h askingHandler) WithAttrs([]slog.Attr) slog.Handler        { return h }
func (h askingHandler) WithGroup(string) slog.Handler             { return h }
