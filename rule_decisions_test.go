package entitlements_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

func TestRule01_AllowedByGrant(t *testing.T) {
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	grants := map[string]Grant{
		"on":        {Enabled: true},
		"off":       {},
		"expired":   {Enabled: true, ExpiresAt: past},
		"ends":      {Enabled: true, ExpiresAt: future},
		"seats":     {Kind: KindNumeric, Enabled: true, Limit: 25},
		"no_seats":  {Kind: KindNumeric, Limit: 25},
		"region":    {Kind: KindText, Enabled: true, Text: "eu"},
		"quota":     {Kind: KindMetered, Enabled: true, Limit: 10, Used: 9},
		"full":      {Kind: KindMetered, Enabled: true, Limit: 10, Used: 10},
		"soft":      {Kind: KindMetered, Enabled: true, Limit: 10, Used: 10, Soft: true},
		"unlimited": {Kind: KindMetered, Enabled: true, Limit: Unlimited, Used: Unlimited},
		"full_off":  {Kind: KindMetered, Limit: 10},
	}
	c := entitlementstest.NewClient(t, map[string]map[string]Grant{"a": grants})
	for feature, want := range map[string]Decision{
		"on":        {Allowed: true, Reason: ReasonGranted},
		"off":       {Reason: ReasonNotGranted},
		"absent":    {Reason: ReasonNotGranted},
		"expired":   {Reason: ReasonExpired},
		"ends":      {Allowed: true, Reason: ReasonGranted},
		"seats":     {Allowed: true, Reason: ReasonGranted, Kind: KindNumeric, Limit: 25},
		"no_seats":  {Reason: ReasonNotGranted, Kind: KindNumeric, Limit: 25},
		"region":    {Allowed: true, Reason: ReasonGranted, Kind: KindText, Text: "eu"},
		"quota":     {Allowed: true, Reason: ReasonGranted, Kind: KindMetered, Limit: 10, Used: 9, Remaining: 1},
		"full":      {Reason: ReasonLimitReached, Kind: KindMetered, Limit: 10, Used: 10},
		"soft":      {Allowed: true, Reason: ReasonOverage, Kind: KindMetered, Limit: 10, Used: 10},
		"unlimited": {Allowed: true, Reason: ReasonGranted, Kind: KindMetered, Limit: Unlimited, Used: Unlimited},
		"full_off":  {Reason: ReasonNotGranted, Kind: KindMetered, Limit: 10, Remaining: 10},
	} {
		t.Run(feature, func(t *testing.T) {
			want.Origin = OriginFresh
			got := c.Decide("a", feature)
			got.Age = 0
			require.Equal(t, want, got)
			require.Equal(t, want.Allowed, c.Allowed("a", feature))
			require.Equal(t, want.Allowed, c.Customer("a").Allowed(c.Feature(feature)))
			checked, err := c.Check(t.Context(), "a", feature)
			checked.Age = 0
			require.NoError(t, err)
			require.Equal(t, want, checked)
		})
	}
	require.EqualValues(t, 25, c.Number("a", "seats", 7))
	require.EqualValues(t, 7, c.Number("a", "no_seats", 7))
	require.EqualValues(t, 7, c.Number("a", "quota", 7), "the limit of a quota is no number to read")
	require.Equal(t, "eu", c.Text("a", "region", "us"))
	require.Equal(t, "us", c.Text("a", "absent", "us"))
	require.Equal(t, "us", c.Text("nobody", "region", "us"))
}

// The policy answers only when no snapshot can, and keeps the cause.
func TestRule01_PolicyAnswersLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := entitlementstest.NewSource(map[string]map[string]Grant{"a": {"x": {Enabled: true}, "y": {}}})
		c, err := New(Config{
			Source: source, TTL: time.Minute, MaxStale: time.Hour,
			FeaturePolicy: map[string]Policy{"open": FailOpen, "x": LastKnown, "y": LastKnown},
		})
		require.NoError(t, err)
		policy := func(customer, feature string, allowed bool, reason Reason) {
			t.Helper()
			d := c.Decide(customer, feature)
			require.Equal(t, allowed, d.Allowed)
			require.Equal(t, reason, d.Reason)
			require.Equal(t, OriginPolicy, d.Origin)
		}
		// One each: the first check begins a load, which may be over at the second.
		policy("cold", "open", true, ReasonLoading)
		policy("icy", "shut", false, ReasonLoading)
		policy("frozen", "x", false, ReasonLoading) // nothing is known
		synctest.Wait()
		policy("cold", "open", false, ReasonUnknownCustomer) // whatever the policy

		_, err = c.Resolve(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, ReasonNotGranted, c.Decide("a", "open").Reason, "a usable snapshot answers, and it has no such feature")

		source.Always(entitlementstest.FetchStep{Err: errors.New("down")})
		policy("b", "open", true, ReasonLoading)
		synctest.Wait()
		time.Sleep(time.Second)
		policy("b", "open", true, ReasonUnavailable)
		policy("b", "shut", false, ReasonUnavailable)
		time.Sleep(2 * time.Hour)
		policy("a", "open", true, ReasonTooStale)
		policy("a", "shut", false, ReasonTooStale)
		policy("a", "x", true, ReasonTooStale)  // as it was
		policy("a", "y", false, ReasonTooStale) // likewise

		require.NoError(t, c.Close(t.Context()))
		policy("a", "open", true, ReasonClosed)
		policy("a", "x", false, ReasonClosed)
	})
}

func TestRule02_EndsAreJudgedAtTheCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := time.Now().Add(time.Minute)
		source := entitlementstest.NewSource(map[string]map[string]Grant{"a": {
			"trial": {Enabled: true, ExpiresAt: end},
			"calls": {Kind: KindMetered, Enabled: true, Limit: 10, Used: 10, ResetsAt: end},
		}})
		c, err := New(Config{Source: source, TTL: time.Hour, DenyTTL: -1})
		require.NoError(t, err)
		defer c.Close(context.Background())
		_, err = c.Resolve(t.Context(), "a")
		require.NoError(t, err)
		time.Sleep(time.Minute - 1)
		require.True(t, c.Allowed("a", "trial"))
		require.False(t, c.Allowed("a", "calls"))
		time.Sleep(time.Nanosecond)
		require.Equal(t, ReasonExpired, c.Decide("a", "trial").Reason)
		require.True(t, c.Allowed("a", "calls"), "a new period")
		require.EqualValues(t, 10, c.Decide("a", "calls").Remaining)
		require.Equal(t, 1, source.TotalCalls(), "with no network")
	})
}

func TestRule04_ZeroValuesDeny(t *testing.T) {
	require.False(t, Decision{}.Allowed)
	require.Equal(t, ReasonUnset, Decision{}.Reason)
	c := entitlementstest.NewClient(t, map[string]map[string]Grant{"a": {"x": {Enabled: true}}})
	var nobody Customer
	var nothing Feature
	x := c.Feature("x")
	require.False(t, nobody.Allowed(x))
	require.Equal(t, Decision{}, nobody.Decide(x))
	require.False(t, c.Customer("a").Allowed(nothing))
	require.False(t, c.Customer("").Allowed(x))
	require.EqualValues(t, 3, nobody.Number(x, 3))
	require.Equal(t, "t", nobody.Text(x, "t"))
	nobody.Track(x, 1)
	for range nobody.All() {
		t.Error("the zero Customer has a feature")
	}
	require.Zero(t, c.Stats().Usage.Recorded)
}

// A Feature works with Customers of any Client.
func TestFeatureOfAnotherClient(t *testing.T) {
	one := entitlementstest.NewClient(t, map[string]map[string]Grant{"a": {"x": {Enabled: true}, "y": {}}})
	two := entitlementstest.NewClient(t, map[string]map[string]Grant{"a": {"y": {Enabled: true}, "z": {}}})
	y := one.Feature("y")
	require.False(t, one.Customer("a").Allowed(y))
	require.True(t, two.Customer("a").Allowed(y))
}

func TestRule21_InvalidKeys(t *testing.T) {
	c := entitlementstest.NewClient(t, map[string]map[string]Grant{"a": {"x": {Enabled: true}}})
	for _, key := range []string{"", strings.Repeat("k", 256)} {
		require.Equal(t, ReasonInvalid, c.Decide(key, "x").Reason)
		require.Equal(t, ReasonInvalid, c.Decide("a", key).Reason)
		_, err := c.Check(t.Context(), key, "x")
		require.ErrorIs(t, err, ErrInvalidKey)
		require.ErrorContains(t, err, "customer")
		_, err = c.Check(t.Context(), "a", key)
		require.ErrorIs(t, err, ErrInvalidKey)
		require.ErrorContains(t, err, "feature")
		_, err = c.Resolve(t.Context(), key)
		require.ErrorIs(t, err, ErrInvalidKey)
		_, err = c.Load(t.Context(), key)
		require.ErrorIs(t, err, ErrInvalidKey)
	}
}

// etagSource is a backend in memory whose version covers usage, as the ETag of a
// whole answer does.
type etagSource struct{ used atomic.Int64 }

func (s *etagSource) Fetch(_ context.Context, customer string) (*Entitlements, error) {
	used := s.used.Load()
	return &Entitlements{Customer: customer, Version: fmt.Sprint(used), Features: map[string]Grant{
		"calls": {Kind: KindMetered, Enabled: true, Limit: 100, Used: used},
	}}, nil
}

func (s *etagSource) FetchChanged(ctx context.Context, customer, version string) (*Entitlements, error) {
	if version == fmt.Sprint(s.used.Load()) {
		return nil, ErrNotModified
	}
	return s.Fetch(ctx, customer)
}

func (s *etagSource) Deliver(_ context.Context, batch Batch) error {
	for _, u := range batch.Usage {
		s.used.Add(u.Quantity)
	}
	return nil
}

// A delivery can be too close to a figure to be told from it. Then only another
// body settles the view, and "not modified" would be the answer for ever.
func TestRule19_NotModifiedDoesNotFreezeTheView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := new(etagSource)
		c, err := New(Config{Source: backend, Sink: backend, TTL: time.Second})
		require.NoError(t, err)
		defer c.Close(context.Background())
		_, err = c.Resolve(t.Context(), "a")
		require.NoError(t, err)
		time.Sleep(time.Second / 2)
		c.Track("a", "calls", 7)
		require.NoError(t, c.Flush(t.Context()))
		// Read in the very moment of the delivery: it contains the 7, and nobody can
		// tell. Counted twice for now, rather than not at all.
		c.Invalidate("a")
		d, err := c.Check(t.Context(), "a", "calls")
		require.NoError(t, err)
		require.EqualValues(t, 14, d.Used)
		time.Sleep(3 * time.Second)
		require.EqualValues(t, 7, c.Decide("a", "calls").Used)
	})
}
