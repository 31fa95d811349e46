package entitlements

import (
	"math"
	"math/big"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRule19_HorizonOf(t *testing.T) {
	for _, test := range []struct {
		name                                   string
		fetched, asOf, server, resolution, lag int64
		want                                   int64
	}{
		{"nothing told: when the fetch began", 1000, 0, 0, 0, 0, 1000},
		{"the server's clock alone says nothing", 1000, 0, 5_000_000, 1, 0, 1000},
		{"AsOf is when it answered", 1000, 70, 70, 0, 0, 1000},
		{"a read that lags", 1000, 70, 100, 0, 0, 970},
		{"the clock's resolution is taken off", 1000, 100, 100, 9, 0, 991},
		{"UsageLag without AsOf", 1000, 0, 0, 0, 40, 960},
		{"UsageLag on top of AsOf", 1000, 70, 100, 9, 40, 921},
		{"AsOf after the answer is never later than the fetch", 1000, 500, 100, 0, 0, 1000},
		{"skew does not enter", 1000, 7_000_000_070, 7_000_000_100, 0, 0, 970},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, horizonOf(test.fetched, test.asOf, test.server, test.resolution, test.lag))
		})
	}
}

func TestRule19_Missing(t *testing.T) {
	// Fetched from 100 to 200, contains what was acknowledged before 90, period
	// from 1000 to 2000 on the backend's clock.
	f := figure{used: 7, start: 1000, floor: 1000, resets: 2000, fetched: 100, received: 200, horizon: 90}
	const tick = 5
	for _, test := range []struct {
		name string
		p    piece
		want int64
		in   period
	}{
		{"never sent", piece{quantity: 3, stamp: 1500}, 3, periodCurrent},
		{"a correction that was never sent", piece{quantity: -3, stamp: 1500}, -3, periodCurrent},
		{"sent before the fetch, unanswered", piece{quantity: 3, stamp: 1500, sent: 10}, 3, periodCurrent},
		{"a correction that may be in already is not counted twice", piece{quantity: -3, stamp: 1500, sent: 10}, 0, periodCurrent},
		{"sent during the fetch", piece{quantity: 3, stamp: 1500, sent: 150}, 3, periodCurrent},
		{"sent as the answer came: may be in", piece{quantity: -3, stamp: 1500, sent: 200}, 0, periodCurrent},
		{"sent after the answer: is out", piece{quantity: -3, stamp: 1500, sent: 201}, -3, periodCurrent},
		{"acknowledged, and still out as it was sent after the answer", piece{quantity: 3, stamp: 1500, sent: 201, acked: 202, state: pieceAcked}, 3, periodCurrent},

		// The shortcuts of the accounting rule, and the right answer.
		{"leaves the view on acknowledgement", piece{quantity: 3, stamp: 1500, sent: 250, acked: 260, state: pieceAcked}, 3, periodCurrent},
		{"acknowledged before the receipt", piece{quantity: 3, stamp: 1500, sent: 110, acked: 150, state: pieceAcked}, 3, periodCurrent},
		{"before the fetch's start with AsOf ignored", piece{quantity: 3, stamp: 1500, sent: 80, acked: 95, state: pieceAcked}, 3, periodCurrent},
		{"first send before the horizon", piece{quantity: 3, stamp: 1500, sent: 10, acked: 95, state: pieceAcked}, 3, periodCurrent},
		{"send time taken for acceptance", piece{quantity: 3, stamp: 1500, sent: 10}, 3, periodCurrent},
		{"acknowledged within a tick of the horizon", piece{quantity: 3, stamp: 1500, sent: 10, acked: 85, state: pieceAcked}, 3, periodCurrent},
		{"acknowledged a tick before the horizon: in", piece{quantity: 3, stamp: 1500, sent: 10, acked: 84, state: pieceAcked}, 0, periodCurrent},
		{"the same for a correction", piece{quantity: -3, stamp: 1500, sent: 10, acked: 84, state: pieceAcked}, 0, periodCurrent},

		{"an earlier period counts nothing", piece{quantity: 3, stamp: 999}, 0, periodPast},
		{"nor does what was lost in it", piece{quantity: 3, stamp: 999, state: pieceLost}, 0, periodPast},
		{"the first moment of the period", piece{quantity: 3, stamp: 1000}, 3, periodCurrent},
		{"the last", piece{quantity: 3, stamp: 1999}, 3, periodCurrent},
		{"at ResetsAt it is the next one", piece{quantity: 3, stamp: 2000}, 3, periodNext},
		{"what is stamped after ResetsAt is out, acknowledged or not", piece{quantity: 3, stamp: 2000, sent: 10, acked: 20, state: pieceAcked}, 3, periodNext},
		{"a correction of the next period", piece{quantity: -3, stamp: 2000, sent: 10, acked: 20, state: pieceAcked}, -3, periodNext},

		{"lost: counts until the period ends", piece{quantity: 3, stamp: 1500, sent: 10, acked: 20, state: pieceLost}, 3, periodCurrent},
		{"a lost correction mints nothing", piece{quantity: -3, stamp: 1500, state: pieceLost}, 0, periodCurrent},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, in := f.missing(&test.p, tick)
			require.Equal(t, test.want, n)
			require.Equal(t, test.in, in)
		})
	}
	t.Run("no figure yet: all of it", func(t *testing.T) {
		var none figure
		for _, p := range []piece{{quantity: 3, stamp: 1}, {quantity: 3, stamp: 1, sent: 5}, {quantity: 3, stamp: 1, sent: 5, acked: 6, state: pieceAcked}} {
			n, in := none.missing(&p, tick)
			require.EqualValues(t, 3, n)
			require.Equal(t, periodCurrent, in)
		}
	})
}

func TestRule19_After(t *testing.T) {
	old := figure{used: 10, start: 1000, floor: 1000, resets: 2000, expires: 5000, fetched: 100, received: 110, horizon: 90}
	with := func(change func(*figure)) figure {
		f := old
		f.used, f.fetched, f.received, f.horizon, f.expires = 20, 200, 210, 190, 6000
		change(&f)
		return f
	}
	for _, test := range []struct {
		name string
		next figure
		kept bool
	}{
		{"later in all", with(func(*figure) {}), false},
		{"fetched at the same time", with(func(f *figure) { f.fetched = 100 }), true},
		{"fetched earlier", with(func(f *figure) { f.fetched = 99 }), true},
		{"an older horizon", with(func(f *figure) { f.horizon = 89 }), true},
		{"the same horizon", with(func(f *figure) { f.horizon = 90 }), false},
		{"an earlier period", with(func(f *figure) { f.start, f.floor, f.resets = 1, 1, 1000 }), true},
		{"an earlier period without its start", with(func(f *figure) { f.start, f.floor, f.resets = 0, 0, 1000 }), true},
		{"the next period", with(func(f *figure) { f.start, f.floor, f.resets = 2000, 2000, 3000 }), false},
		{"the next period, known to end never", with(func(f *figure) { f.start, f.floor, f.resets = 2000, 2000, 0 }), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := old.after(test.next, 2100)
			require.EqualValues(t, test.next.expires, got.expires, "expiry comes from the latest answer")
			if test.kept {
				require.Equal(t, old.used, got.used)
				require.Equal(t, old.horizon, got.horizon)
				require.Equal(t, old.resets, got.resets)
			} else {
				require.Equal(t, test.next.used, got.used)
				require.Equal(t, test.next.resets, got.resets)
			}
		})
	}
	t.Run("the first one holds", func(t *testing.T) {
		require.Equal(t, old, figure{}.after(old, 2100))
	})
	t.Run("without a start the period begins where the last one ended", func(t *testing.T) {
		next := with(func(f *figure) { f.start, f.floor, f.resets = 0, 0, 3000 })
		got := old.after(next, 2100)
		require.EqualValues(t, 2000, got.floor)
		n, in := got.missing(&piece{quantity: 3, stamp: 1999}, 0)
		require.Zero(t, n)
		require.Equal(t, periodPast, in)
	})
}

// A figure of the old period, read after ResetsAt (a backend that rolls over
// late, or a clock apart by less than two seconds), does not contain what belongs
// to the next period, however long ago that was acknowledged.
func TestRule19_ALateFigureOfTheOldPeriodKeepsTheNextPeriodsUsage(t *testing.T) {
	a := newAccount("c", 1)
	m := a.addMeterLocked("api", AggregateSum, newFeatureIndex())
	m.installLocked(figure{used: 9, floor: 1000, start: 1000, resets: 2000, fetched: 10, received: 11, horizon: 10}, 1)
	r := &record{account: a, meter: m, calls: 1, piece: piece{quantity: 5, stamp: 2001, sent: 20, acked: 21, state: pieceAcked}}
	m.records = append(m.records, r)
	m.recountLocked(r, 1)
	require.EqualValues(t, 5, usedAt(m, 2002))

	m.installLocked(figure{used: 9, floor: 1000, start: 1000, resets: 2000, fetched: 100, received: 101, horizon: 100}, 1)
	require.EqualValues(t, 5, usedAt(m, 2002), "the next period's usage is forgotten")
	m.installLocked(figure{used: 5, floor: 2000, start: 2000, resets: 3000, fetched: 200, received: 201, horizon: 200}, 1)
	require.EqualValues(t, 5, usedAt(m, 2002))
}

// The two views and the boundary between them are read without a lock, while a
// new period's figure is installed.
func TestRule19_ReadersNeverSeeHalfAFigure(t *testing.T) {
	a := newAccount("c", 1)
	m := a.addMeterLocked("api", AggregateSum, newFeatureIndex())
	r := &record{account: a, meter: m, calls: 1, piece: piece{quantity: 5, stamp: 2500}}
	m.records = append(m.records, r)
	old := figure{used: 5, floor: 1000, start: 1000, resets: 2000, fetched: 10, received: 11, horizon: 10}
	next := figure{used: 0, floor: 2000, start: 2000, resets: 3000, fetched: 20, received: 21, horizon: 20}
	m.installLocked(old, 0)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for until := time.Now().Add(200 * time.Millisecond); time.Now().Before(until); {
			a.mu.Lock()
			m.installLocked(next, 0)
			m.installLocked(old, 0)
			a.mu.Unlock()
		}
		stop.Store(true)
	}()
	low := 0
	for !stop.Load() {
		if usedAt(m, 2600) < 5 {
			low++
		}
	}
	<-done
	require.Zero(t, low, "checks in a rollover saw less than what is used: a moment in which the quota is open")
}

func TestRule03_Saturate(t *testing.T) {
	ends := []int64{math.MinInt64, math.MinInt64 + 1, -1, 0, 1, math.MaxInt64 - 1, math.MaxInt64}
	for _, a := range ends {
		for _, b := range ends {
			sum := new(big.Int).Add(big.NewInt(a), big.NewInt(b))
			require.Equal(t, clampBig(sum), saturate(a, b), "%d + %d", a, b)
		}
	}
}

func clampBig(n *big.Int) int64 {
	switch {
	case n.Cmp(big.NewInt(math.MaxInt64)) > 0:
		return math.MaxInt64
	case n.Cmp(big.NewInt(math.MinInt64)) < 0:
		return math.MinInt64
	}
	return n.Int64()
}

func TestRule03_WideIsExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func() int64 {
		switch rng.IntN(5) {
		case 0:
			return math.MaxInt64
		case 1:
			return math.MinInt64
		case 2:
			return rng.Int64() - rng.Int64()
		default:
			return rng.Int64N(100) - 50
		}
	}
	for range 200 {
		var w wide
		exact := new(big.Int)
		var in []int64
		for range 100 {
			if len(in) > 0 && rng.IntN(2) == 0 {
				i := rng.IntN(len(in))
				w.sub(in[i])
				exact.Sub(exact, big.NewInt(in[i]))
				in = append(in[:i], in[i+1:]...)
			} else {
				n := pick()
				w.add(n)
				exact.Add(exact, big.NewInt(n))
				in = append(in, n)
			}
			used := pick()
			require.Equal(t, clampBig(new(big.Int).Add(exact, big.NewInt(used))), w.plus(used))
		}
		for _, n := range in {
			w.sub(n)
		}
		require.Equal(t, wide{}, w)
	}
}

func TestRule03_Judge(t *testing.T) {
	const now, later, earlier = 1000, 1001, 1000
	for _, test := range []struct {
		name      string
		g         grant
		f         figure
		used, n   int64
		allowed   bool
		reason    Reason
		remaining int64
	}{
		{"room", grant{limit: 10, enabled: true}, figure{}, 9, 1, true, ReasonGranted, 1},
		{"full", grant{limit: 10, enabled: true}, figure{}, 10, 1, false, ReasonLimitReached, 0},
		{"over", grant{limit: 10, enabled: true}, figure{}, 11, 1, false, ReasonLimitReached, 0},
		{"no room for n", grant{limit: 10, enabled: true}, figure{}, 8, 3, false, ReasonLimitReached, 2},
		{"soft", grant{limit: 10, enabled: true, soft: true}, figure{}, 10, 1, true, ReasonOverage, 0},
		{"unlimited", grant{limit: Unlimited, enabled: true}, figure{}, math.MaxInt64, 1, true, ReasonGranted, 0},
		{"off", grant{limit: 10}, figure{}, 0, 1, false, ReasonNotGranted, 10},
		{"expired now", grant{limit: 10, enabled: true}, figure{expires: earlier}, 0, 1, false, ReasonExpired, 10},
		{"expires later", grant{limit: 10, enabled: true}, figure{expires: later}, 0, 1, true, ReasonGranted, 10},
		{"expired and soft", grant{limit: 10, enabled: true, soft: true}, figure{expires: earlier}, 0, 1, false, ReasonExpired, 10},
		{"corrections mint nothing", grant{limit: 10, enabled: true}, figure{}, math.MinInt64, 11, false, ReasonLimitReached, 10},
		{"no quota at all", grant{limit: 0, enabled: true}, figure{}, 0, 1, false, ReasonLimitReached, 0},
		{"a negative limit", grant{limit: -5, enabled: true}, figure{}, -10, 1, false, ReasonLimitReached, 0},
		{"the lowest limit", grant{limit: math.MinInt64, enabled: true}, figure{}, math.MinInt64, 1, false, ReasonLimitReached, 0},
		{"the last unit", grant{limit: math.MaxInt64 - 1, enabled: true}, figure{}, math.MaxInt64 - 2, 1, true, ReasonGranted, 1},
		{"n is huge", grant{limit: 10, enabled: true}, figure{}, 5, math.MaxInt64, false, ReasonLimitReached, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.g.kind = KindMetered
			var d Decision
			d.judge(&test.g, meterRead{used: test.used, expires: test.f.expires}, now, test.n)
			require.Equal(t, test.allowed, d.Allowed)
			require.Equal(t, test.reason, d.Reason)
			require.Equal(t, test.remaining, d.Remaining)
		})
	}
}

func FuzzRule03_RemainingIsBetweenZeroAndLimit(f *testing.F) {
	ends := []int64{math.MinInt64, -1, 0, 1, 10, math.MaxInt64}
	for _, limit := range ends {
		for _, used := range ends {
			f.Add(limit, used, int64(1), true, false)
		}
	}
	f.Fuzz(func(t *testing.T, limit, used, n int64, enabled, soft bool) {
		g := grant{kind: KindMetered, limit: limit, enabled: enabled, soft: soft}
		var d Decision
		d.judge(&g, meterRead{used: used}, 0, n)
		if d.Remaining < 0 || d.Remaining > max(0, limit) {
			t.Fatalf("limit %d, used %d: %d remain", limit, used, d.Remaining)
		}
		if d.Allowed && !soft && limit != Unlimited && n > 0 {
			sum := new(big.Int).Add(big.NewInt(used), big.NewInt(n))
			if sum.Cmp(big.NewInt(limit)) > 0 {
				t.Fatalf("limit %d, used %d: allowed %d more", limit, used, n)
			}
		}
		if d.Allowed && !enabled {
			t.Fatal("allowed what is switched off")
		}
	})
}

func usedAt(m *meter, now int64) int64 {
	return m.view.Load().read(now).used
}
