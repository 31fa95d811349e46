package entitlementstest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

var sso = grants{"sso": {Enabled: true}}

// errFailed is any error.
var errFailed = errors.New("failed")

func TestSourceHasOnlyWhatIsAskedFor(t *testing.T) {
	s := entitlementstest.NewSource(nil)
	for name, test := range map[string]struct {
		source                            entitlements.Source
		conditional, batch, list, watches bool
	}{
		"plain":       {source: s},
		"conditional": {source: s.Conditional(), conditional: true},
		"batch":       {source: s.Batch(), batch: true},
		"listing":     {source: s.Listing(), list: true},
		"watching":    {source: s.Watching(), watches: true},
	} {
		_, conditional := test.source.(entitlements.ConditionalSource)
		_, batch := test.source.(entitlements.BatchSource)
		_, list := test.source.(entitlements.Lister)
		_, watches := test.source.(entitlements.Watcher)
		require.Equal(t, []bool{test.conditional, test.batch, test.list, test.watches}, []bool{conditional, batch, list, watches}, name)
	}
}

func TestSourceScript(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := entitlementstest.NewSource(map[string]map[string]entitlements.Grant{"a": sso, "b": nil})
		s.Next(entitlementstest.FetchStep{Err: errFailed}, entitlementstest.FetchStep{Nil: true})
		s.NextFor("b", entitlementstest.FetchStep{Err: entitlements.Permanent(errFailed)})
		_, err := s.Fetch(t.Context(), "b")
		require.True(t, entitlements.IsPermanent(err), "a customer's own steps come first")
		_, err = s.Fetch(t.Context(), "a")
		require.Equal(t, errFailed, err)
		e, err := s.Fetch(t.Context(), "b")
		require.Nil(t, e)
		require.NoError(t, err)
		e, err = s.Fetch(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, sso, e.Features)
		require.Equal(t, 2, s.Calls("a"))
		require.Equal(t, 4, s.TotalCalls())

		s.Always(entitlementstest.FetchStep{Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		go func() { _, _ = s.Fetch(ctx, "b") }()
		_, err = s.Fetch(ctx, "a")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(began))
		require.Equal(t, 2, s.MaxInFlight())
		synctest.Wait()
		require.Zero(t, s.InFlight())

		s.Always(entitlementstest.FetchStep{Panic: "no"})
		require.PanicsWithValue(t, "no", func() { _, _ = s.Fetch(t.Context(), "a") })
		require.Zero(t, s.InFlight())
	})
}

// TestSourceLate has an answer overtaken by a change: it is old when it arrives.
func TestSourceLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := entitlementstest.NewSource(map[string]map[string]entitlements.Grant{"a": {"api": metered(5)}})
		s.Next(entitlementstest.FetchStep{Late: time.Second}, entitlementstest.FetchStep{Latency: time.Second})
		for _, want := range []int64{0, 5} {
			used := make(chan int64)
			go func() {
				e, err := s.Fetch(t.Context(), "a")
				if err != nil {
					t.Error(err)
				}
				used <- e.Features["api"].Used
			}()
			synctest.Wait()
			s.AddUsed("a", "api", 2+want/5)
			require.Equal(t, want, <-used)
		}
		s.AddUsed("nobody", "api", 1)
		s.AddUsed("a", "none", 1)
	})
}

func TestSourceVersions(t *testing.T) {
	s := entitlementstest.NewSource(map[string]map[string]entitlements.Grant{"a": sso}).Conditional()
	first, err := s.Fetch(t.Context(), "a")
	require.NoError(t, err)
	s.AddUsed("a", "sso", 1)
	_, err = s.FetchChanged(t.Context(), "a", first.Version)
	require.ErrorIs(t, err, entitlements.ErrNotModified)
	s.Put("a", nil)
	second, err := s.FetchChanged(t.Context(), "a", first.Version)
	require.NoError(t, err)
	require.NotEqual(t, first.Version, second.Version)
	require.Zero(t, first.Features["sso"].Used, "what was handed out never changes")
	s.PutEntitlements(&entitlements.Entitlements{Customer: "a", Version: "own"})
	third, err := s.Fetch(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, "own", third.Version)
}

func TestSourceBatchTakesOneStep(t *testing.T) {
	s := entitlementstest.NewSource(map[string]map[string]entitlements.Grant{"a": nil, "b": nil}).Batch()
	s.Next(entitlementstest.FetchStep{Err: errFailed})
	_, err := s.FetchBatch(t.Context(), []string{"a", "b"})
	require.Equal(t, errFailed, err)
	found, err := s.FetchBatch(t.Context(), []string{"a", "b", "c"})
	require.NoError(t, err)
	require.Len(t, found, 2)
	require.Equal(t, [][]string{{"a", "b"}, {"a", "b", "c"}}, s.Batches())
	require.Equal(t, 2, s.TotalCalls())
}
