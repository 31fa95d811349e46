package entitlementstest_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

func batchOf(ids ...string) (batch entitlements.Batch) {
	for _, id := range ids {
		batch.Usage = append(batch.Usage, entitlements.Usage{ID: id, Customer: "c", Feature: "f", Quantity: 10, Count: 2})
	}
	return batch
}

func TestSinkAcceptsOnce(t *testing.T) {
	s := entitlementstest.NewSink()
	require.NoError(t, s.Deliver(t.Context(), batchOf("1", "2", "2")))
	require.NoError(t, s.Deliver(t.Context(), batchOf("2", "3")))
	other := batchOf("3")
	other.Usage[0].Quantity = 11
	require.NoError(t, s.Deliver(t.Context(), other))
	require.EqualValues(t, 30, s.Total("c", "f"))
	require.EqualValues(t, 6, s.Calls("c", "f"))
	require.EqualValues(t, 6, s.TotalCalls())
	require.Zero(t, s.Total("c", "g"))
	require.Equal(t, 3, s.Duplicates())
	require.Equal(t, 1, s.Conflicts())
	require.Len(t, s.Accepted(), 3)
	require.Equal(t, 3, s.Deliveries())
	other.Usage[0].ID = "changed"
	require.Equal(t, "3", s.Batches()[2].Usage[0].ID, "the batch is the caller's")
}

func TestSinkScript(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := entitlementstest.NewSink()
		s.Next(
			entitlementstest.DeliverStep{Refuse: entitlements.Unsent(errFailed)},
			entitlementstest.DeliverStep{Panic: "no"},
			entitlementstest.DeliverStep{Hang: true},
			entitlementstest.DeliverStep{Latency: time.Hour},
			entitlementstest.DeliverStep{Lost: errFailed},
			entitlementstest.DeliverStep{Late: time.Hour},
		)
		deliver := func(id string) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			return s.Deliver(ctx, batchOf(id))
		}
		_, transient := entitlements.RetryDelay(deliver("1"))
		require.True(t, transient)
		require.Panics(t, func() { _ = deliver("1") })
		require.ErrorIs(t, deliver("1"), context.DeadlineExceeded)
		require.ErrorIs(t, deliver("1"), context.DeadlineExceeded)
		require.Zero(t, s.Total("c", "f"))
		require.Equal(t, errFailed, deliver("1"))
		require.EqualValues(t, 10, s.Total("c", "f"))
		require.ErrorIs(t, deliver("2"), context.DeadlineExceeded)
		require.EqualValues(t, 20, s.Total("c", "f"), "accepted before it became late")
		require.NoError(t, deliver("3"))
		require.Zero(t, s.InFlight())
		require.Equal(t, 1, s.MaxInFlight())
	})
}

func TestSinkFateByIndex(t *testing.T) {
	for _, lost := range []error{nil, errFailed} {
		s := entitlementstest.NewSink()
		s.Next(entitlementstest.DeliverStep{Lost: lost, Fate: func(entitlements.Batch) *entitlements.DeliveryError {
			return &entitlements.DeliveryError{Rejected: []entitlements.Rejection{{Index: 0, Err: errFailed}}, Retry: []int{1}, Unknown: []int{2}}
		}})
		var fate *entitlements.DeliveryError
		require.ErrorAs(t, s.Deliver(t.Context(), batchOf("1", "2", "3", "4")), &fate)
		want := int64(10)
		if lost != nil {
			want = 20 // the unknown one had arrived
		}
		require.Equal(t, want, s.Total("c", "f"))
	}
}

func TestSinkBadRecord(t *testing.T) {
	s := entitlementstest.NewSink()
	s.SetBad(func(u entitlements.Usage) error {
		if u.ID == "bad" {
			return entitlementstest.ErrBad
		}
		return nil
	})
	err := s.Deliver(t.Context(), batchOf("1", "bad"))
	require.True(t, entitlements.IsPermanent(err))
	require.ErrorIs(t, err, entitlementstest.ErrBad)
	require.Empty(t, s.Accepted())
	require.NoError(t, s.Deliver(t.Context(), batchOf("1")))
}

func TestSinkFeedsSource(t *testing.T) {
	source := entitlementstest.NewSource(map[string]map[string]entitlements.Grant{"c": {"f": metered(100)}})
	sink := entitlementstest.NewSink()
	sink.Feed(source)
	require.NoError(t, sink.Deliver(t.Context(), batchOf("1", "2", "1")))
	e, err := source.Fetch(t.Context(), "c")
	require.NoError(t, err)
	require.EqualValues(t, 20, e.Features["f"].Used)
}

func TestSinkLimits(t *testing.T) {
	s := entitlementstest.NewSink()
	_, limited := any(s).(entitlements.Limiter)
	require.False(t, limited)
	limits := entitlements.SinkLimits{MaxBatch: 3, Atomic: true, DedupWindow: time.Hour}
	require.Equal(t, limits, s.Limited(limits).Limits())
}
