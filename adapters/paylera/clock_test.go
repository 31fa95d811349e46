package paylera_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// A Date header is cut to whole seconds, so the backend's clock is known to half
// a second: around a boundary, whatever happens within apart of it may be judged
// either way.
const apart = 600 * time.Millisecond

// skews are how far the billing API's clock is from ours. The odd ones put its
// boundaries elsewhere in the second in which its Date headers are cut.
var skews = []time.Duration{0, time.Hour, -time.Hour, time.Hour + 999*time.Millisecond, -time.Hour + 501*time.Millisecond}

// skewed is a service in a bubble, and a billing API with a clock of its own. Its
// one customer "c" has a meter and a trial that end on that clock.
type skewed struct {
	*entitlements.Client
	t       *testing.T
	billing *entitlementstest.Billing
	paylera paylera.Config
	ends    time.Time // of the meter's period, whose limit is 10
	expires time.Time // of the trial
	turn    int
}

// skewedBilling starts the billing API.
func skewedBilling(t *testing.T, family paylera.Family, skew, ends, expires time.Duration, billing entitlementstest.BillingConfig) *skewed {
	t.Helper()
	billing.InMemory = true
	b := entitlementstest.NewBilling(billing)
	t.Cleanup(b.Close)
	b.SetClockOffset(skew)
	s := &skewed{t: t, billing: b, ends: b.Now().Add(ends).UTC(), expires: b.Now().Add(expires).UTC()}
	b.Put("c", map[string]entitlements.Grant{
		"calls": {Kind: entitlements.KindMetered, Enabled: true, Limit: 10, PeriodStart: s.ends.Add(-24 * time.Hour), ResetsAt: s.ends},
		"trial": {Enabled: true, ExpiresAt: s.expires},
	})
	s.paylera = paylera.Config{Token: tokenOf(b, family), Family: family, BaseURL: b.URL, Transport: b.Client().Transport}
	return s
}

// start runs a Client, as a program does that begins.
func (s *skewed) start(cfg entitlements.Config) {
	s.t.Helper()
	a, err := paylera.New(s.paylera)
	require.NoError(s.t, err)
	cfg.Source, cfg.Sink, cfg.MaxCustomers = a, a, 100
	s.Client, err = entitlements.New(cfg)
	require.NoError(s.t, err)
	s.t.Cleanup(func() {
		_ = s.Close(s.t.Context())
		a.CloseIdleConnections()
	})
}

// sleepUntil sleeps until the backend's clock shows this.
func (s *skewed) sleepUntil(at time.Time) {
	s.t.Helper()
	require.False(s.t, at.Before(s.billing.Now()), "already past")
	time.Sleep(at.Sub(s.billing.Now()))
}

// use takes units one by one, in turn by every way there is, and returns how many
// it got.
func (s *skewed) use(most int) (got int64) {
	for range most {
		s.turn++
		allowed := false
		switch s.turn % 3 {
		case 0:
			allowed = s.Use("c", "calls", 1).Allowed
		case 1:
			r, d := s.Reserve("c", "calls", 1)
			r.Commit(1)
			allowed = d.Allowed
		case 2:
			if allowed = s.Allowed("c", "calls"); allowed {
				s.Track("c", "calls", 1)
			}
		}
		if allowed {
			got++
		}
	}
	return got
}

// billed is what the API bills before and from the end of the period, by the
// times of the events. Each of them must be near the moment at which it came.
func (s *skewed) billed(late time.Duration) (before, from int64) {
	s.t.Helper()
	for _, e := range s.billing.Events("c", "calls") {
		require.WithinRange(s.t, e.Timestamp, e.AcceptedAt.Add(-late), e.AcceptedAt.Add(apart), "accepted %v", e.AcceptedAt)
		var n int64
		_, err := fmt.Sscan(e.Quantity, &n)
		require.NoError(s.t, err)
		if e.Timestamp.Before(s.ends) {
			before += n
		} else {
			from += n
		}
	}
	return before, from
}

func eachSkew(t *testing.T, test func(t *testing.T, family paylera.Family, skew time.Duration)) {
	for _, family := range []paylera.Family{paylera.SDK, paylera.Core} {
		for _, skew := range skews {
			t.Run(fmt.Sprintf("%v, %v", family, skew), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { test(t, family, skew) })
			})
		}
	}
}

// Whatever the backend's clock shows: its periods end and its grants expire when
// that clock says so, with nobody asked, and usage is billed to the period that
// allowed it.
func TestClock_EndsAreJudgedOnTheBackendsClock(t *testing.T) {
	eachSkew(t, func(t *testing.T, family paylera.Family, skew time.Duration) {
		s := skewedBilling(t, family, skew, 10*time.Minute, 20*time.Minute, entitlementstest.BillingConfig{})
		s.start(entitlements.Config{TTL: time.Hour, DenyTTL: -1})
		loaded := time.Now()
		_, err := s.Resolve(t.Context(), "c")
		require.NoError(t, err)
		aged := func() {
			d := s.Decide("c", "calls")
			require.Equal(t, entitlements.OriginFresh, d.Origin)
			require.InDelta(t, time.Since(loaded), d.Age, float64(100*time.Millisecond), "ages are on our own clock")
			require.Equal(t, s.ends, d.ResetsAt)
		}
		aged()
		require.EqualValues(t, 4, s.use(4))

		s.sleepUntil(s.ends.Add(-apart))
		aged()
		require.EqualValues(t, 6, s.use(20))
		require.Equal(t, entitlements.ReasonLimitReached, s.Decide("c", "calls").Reason)
		s.sleepUntil(s.ends.Add(apart))
		d := s.Decide("c", "calls")
		require.True(t, d.Allowed)
		require.Zero(t, d.Used)
		require.EqualValues(t, 10, d.Remaining)
		require.EqualValues(t, 10, s.use(20))
		require.Equal(t, entitlements.ReasonLimitReached, s.Decide("c", "calls").Reason)

		s.sleepUntil(s.expires.Add(-apart))
		require.True(t, s.Allowed("c", "trial"))
		s.sleepUntil(s.expires.Add(apart))
		require.Equal(t, entitlements.ReasonExpired, s.Decide("c", "trial").Reason)
		require.Equal(t, 1, s.billing.Requests(entitlementstest.RouteEntitlements), "with no network")

		require.NoError(t, s.Flush(t.Context()))
		before, from := s.billed(2 * time.Second)
		require.EqualValues(t, 10, before)
		require.EqualValues(t, 10, from)
		require.EqualValues(t, 10, s.billing.Used("c", "calls"), "in the API's own period")
		time.Sleep(time.Second)
		s.Invalidate("c")
		d, err = s.Check(t.Context(), "c", "calls")
		require.NoError(t, err)
		require.EqualValues(t, 10, d.Used)
	})
}

// Near the end of a period the two sides disagree about which one it is, by what
// the Date header does not tell. A period's limit holds for what is billed in it.
func TestClock_NoPeriodIsBilledMoreThanItsLimit(t *testing.T) {
	eachSkew(t, func(t *testing.T, family paylera.Family, skew time.Duration) {
		s := skewedBilling(t, family, skew, 10*time.Second, time.Hour, entitlementstest.BillingConfig{})
		s.start(entitlements.Config{TTL: 300 * time.Millisecond, DenyTTL: 50 * time.Millisecond, FlushInterval: 100 * time.Millisecond})
		_, err := s.Resolve(t.Context(), "c")
		require.NoError(t, err)
		s.sleepUntil(s.ends.Add(-4 * time.Second))
		var allowed int64
		for s.billing.Now().Before(s.ends.Add(4 * time.Second)) {
			allowed += s.use(1)
			d := s.Decide("c", "calls")
			require.GreaterOrEqual(t, d.Age, time.Duration(0))
			require.Less(t, d.Age, time.Second)
			time.Sleep(37 * time.Millisecond)
		}
		require.NoError(t, s.Flush(t.Context()))
		require.EqualValues(t, 20, allowed, "all of one period, and all of the next")
		before, from := s.billed(time.Second)
		require.EqualValues(t, 10, before)
		require.EqualValues(t, 10, from)
	})
}

// A clock that is set while the Client runs, here or there, is learnt from the
// answers that follow: their median follows once most of them tell the new one.
func TestClock_ASetClockIsLearntFromTheAnswers(t *testing.T) {
	const learnt = 15 * time.Second // more than half of 15 answers, at a TTL of a second
	for _, skew := range [][3]time.Duration{{0, time.Hour, 59 * time.Minute}, {time.Hour, 0, -time.Minute}} {
		t.Run(fmt.Sprint(skew), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// Without entity tags, so that each answer has a body.
				s := skewedBilling(t, paylera.SDK, skew[0], 12*time.Hour, skew[1]-skew[0]+time.Minute, entitlementstest.BillingConfig{ETag: entitlementstest.ETagNone})
				s.start(entitlements.Config{TTL: time.Second, DenyTTL: time.Second})
				_, err := s.Resolve(t.Context(), "c")
				require.NoError(t, err)
				// run goes on for a while: no view falls below what was used, and no age
				// is negative, or more than refreshes let it become.
				var used int64
				run := func(d time.Duration, units int) {
					used += s.use(units)
					for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
						d := s.Decide("c", "calls")
						require.GreaterOrEqual(t, d.Used, used)
						require.Equal(t, entitlements.OriginFresh, d.Origin)
						require.GreaterOrEqual(t, d.Age, time.Duration(0))
						require.LessOrEqual(t, d.Age, 1100*time.Millisecond)
					}
				}
				trial := func(want entitlements.Reason) {
					require.Equal(t, want, s.Decide("c", "trial").Reason, "backend's clock: %v before the end", s.expires.Sub(s.billing.Now()))
				}
				run(5*time.Second, 2)
				s.billing.SetClockOffset(skew[1])
				run(learnt, 2)
				trial(entitlements.ReasonGranted)
				s.sleepUntil(s.expires.Add(-learnt))
				run(learnt-apart, 2)
				trial(entitlements.ReasonGranted)
				run(2*apart, 0)
				trial(entitlements.ReasonExpired)

				s.billing.SetClockOffset(skew[2])
				run(learnt, 2)
				trial(entitlements.ReasonGranted)
				s.sleepUntil(s.expires.Add(-apart))
				trial(entitlements.ReasonGranted)
				s.sleepUntil(s.expires.Add(apart))
				trial(entitlements.ReasonExpired)

				run(5*time.Second, 20)
				require.EqualValues(t, 10, used)
				require.NoError(t, s.Flush(t.Context()))
				require.EqualValues(t, 10, s.billing.Total("c", "calls"))
				require.EqualValues(t, 10, s.Decide("c", "calls").Used)
			})
		})
	}
}

// In an outage, too, ends are judged on the backend's clock, and MaxStale on our
// own: where the backend's stands, or is set meanwhile, makes nothing older or
// younger.
func TestClock_MaxStaleIsOnOurOwnClock(t *testing.T) {
	eachSkew(t, func(t *testing.T, family paylera.Family, skew time.Duration) {
		s := skewedBilling(t, family, skew, time.Minute, 2*time.Minute, entitlementstest.BillingConfig{})
		const maxStale = 3 * time.Minute
		s.start(entitlements.Config{MaxStale: maxStale})
		loaded := time.Now()
		_, err := s.Resolve(t.Context(), "c")
		require.NoError(t, err)
		s.billing.SetOutage(true)
		require.EqualValues(t, 10, s.use(20))
		s.sleepUntil(s.ends.Add(-apart))
		require.Equal(t, entitlements.ReasonLimitReached, s.Decide("c", "calls").Reason)
		s.sleepUntil(s.ends.Add(apart))
		require.EqualValues(t, 3, s.use(3))
		s.sleepUntil(s.expires.Add(-apart))
		require.True(t, s.Allowed("c", "trial"))
		s.sleepUntil(s.expires.Add(apart))
		require.Equal(t, entitlements.ReasonExpired, s.Decide("c", "trial").Reason)

		s.billing.SetClockOffset(-skew)
		time.Sleep(time.Until(loaded.Add(maxStale - 1)))
		d := s.Decide("c", "calls")
		require.True(t, d.Allowed)
		require.Equal(t, entitlements.OriginStale, d.Origin)
		require.Equal(t, maxStale, d.Age.Round(time.Millisecond))
		time.Sleep(time.Nanosecond)
		d = s.Decide("c", "calls")
		require.False(t, d.Allowed)
		require.Equal(t, entitlements.ReasonTooStale, d.Reason)
		require.Equal(t, entitlements.OriginPolicy, d.Origin)
		require.Equal(t, maxStale, d.Age.Round(time.Millisecond))

		// What was used in the outage is billed to the periods in which it was.
		s.billing.SetOutage(false)
		s.billing.SetClockOffset(skew)
		time.Sleep(2 * time.Minute)
		require.NoError(t, s.Flush(t.Context()))
		before, from := s.billed(time.Hour)
		require.EqualValues(t, 10, before)
		require.EqualValues(t, 3, from)
		require.EqualValues(t, 3, s.billing.Used("c", "calls"))
	})
}

// A program that starts again while billing is down knows the backend's clock
// from its last run.
func TestClock_IsKeptAcrossRestarts(t *testing.T) {
	for _, family := range []paylera.Family{paylera.SDK, paylera.Core} {
		for _, skew := range skews {
			file := filepath.Join(t.TempDir(), "entitlements")
			t.Run(fmt.Sprintf("%v, %v", family, skew), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := skewedBilling(t, family, skew, 20*time.Minute, 30*time.Minute, entitlementstest.BillingConfig{})
					s.start(entitlements.Config{SnapshotFile: file})
					_, err := s.Resolve(t.Context(), "c")
					require.NoError(t, err)
					loaded := time.Now()
					require.EqualValues(t, 7, s.use(7))
					require.NoError(t, s.Close(t.Context()))

					s.billing.SetOutage(true)
					s.sleepUntil(s.ends.Add(-5 * time.Minute))
					s.start(entitlements.Config{SnapshotFile: file})
					restored := func() {
						d := s.Decide("c", "calls")
						require.Equal(t, entitlements.OriginRestored, d.Origin)
						require.InDelta(t, time.Since(loaded), d.Age, float64(100*time.Millisecond))
					}
					restored()
					require.EqualValues(t, 3, s.use(20))
					s.sleepUntil(s.ends.Add(-apart))
					restored()
					require.Zero(t, s.use(1))
					s.sleepUntil(s.ends.Add(apart))
					restored()
					require.EqualValues(t, 2, s.use(2))
					s.sleepUntil(s.expires.Add(-apart))
					require.True(t, s.Allowed("c", "trial"))
					s.sleepUntil(s.expires.Add(apart))
					require.Equal(t, entitlements.ReasonExpired, s.Decide("c", "trial").Reason)

					s.billing.SetOutage(false)
					time.Sleep(2 * time.Minute)
					require.NoError(t, s.Flush(t.Context()))
					before, from := s.billed(time.Hour)
					require.EqualValues(t, 10, before)
					require.EqualValues(t, 2, from)
					s.Invalidate("c")
					d, err := s.Check(t.Context(), "c", "calls")
					require.NoError(t, err)
					require.Equal(t, entitlements.OriginFresh, d.Origin)
					require.EqualValues(t, 2, d.Used)
				})
			})
		}
	}
}

// X-RateLimit-Reset is a moment on the backend's clock. What is held back waits
// as long as that clock says, not an hour longer, nor not at all.
func TestClock_RateLimitsAreOnTheBackendsClock(t *testing.T) {
	eachSkew(t, func(t *testing.T, family paylera.Family, skew time.Duration) {
		s := skewedBilling(t, family, skew, time.Hour, time.Hour, entitlementstest.BillingConfig{RateLimits: entitlementstest.RateLimits{Reads: 2}})
		a, err := paylera.New(s.paylera)
		require.NoError(t, err)
		defer a.CloseIdleConnections()
		s.sleepUntil(s.billing.Now().Truncate(time.Second).Add(time.Second))
		for range 2 {
			_, err = a.Fetch(t.Context(), "c")
			require.NoError(t, err)
		}
		_, err = a.Fetch(t.Context(), "c")
		require.ErrorIs(t, err, paylera.ErrRateLimited)
		after, ok := entitlements.RetryDelay(err)
		require.True(t, ok)
		require.Equal(t, time.Second, after)
		require.Equal(t, 2, s.billing.Requests(entitlementstest.RouteEntitlements), "the third was not sent")
		time.Sleep(after)
		_, err = a.Fetch(t.Context(), "c")
		require.NoError(t, err)
	})
}
