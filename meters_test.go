package entitlements

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Features that get a number after their meter was made are found all the same, and
// those that never get one.
func TestMetersAreFoundByNumberAndByName(t *testing.T) {
	features := newFeatureIndex()
	features.add([]string{"a", "b"})
	a := newAccount("c", 1)
	codes := []string{"first", "a", "b", "stranger", "d", "e", "f", "g", "h"}
	for i, code := range codes {
		m := a.addMeterLocked(code, AggregateSum, features)
		for _, earlier := range codes[:i+1] {
			require.Equal(t, earlier, a.meter(earlier).feature)
		}
		require.Same(t, m, a.meter(code))
	}
	features.add([]string{"stranger"})
	for _, code := range codes {
		require.Equal(t, code, a.meter(code).feature)
	}
	require.Nil(t, a.meter("nobody"))
}

// A customer that is counted every second for a day, and never refreshed, waits with
// few records, and what is in one of them was acknowledged within a third of the time
// that has gone by since.
func TestAMeterMergesWhatWaits(t *testing.T) {
	const tick, second, day = int64(time.Millisecond), int64(time.Second), 24 * 3600
	m := newAccount("c", 1).addMeterLocked("api", AggregateSum, newFeatureIndex())
	for n := int64(1); n <= day; n++ { // a unit a second
		now := n * second
		m.addLocked(m.newRecord(piece{quantity: 1, sent: now - tick, acked: now, state: pieceAcked}), tick)
		m.compactLocked(now, tick)
		if n%97 != 0 && n != day {
			continue
		}
		units := int64(0)
		for _, r := range m.records {
			first := (units + 1) * second
			units += r.quantity
			require.Equal(t, units*second, r.acked)
			require.LessOrEqual(t, r.acked-first, (now-r.acked)/3)
		}
		require.Equal(t, n, units)
		require.LessOrEqual(t, len(m.records), 160)
	}
}

// What was lost is in no figure, whenever that was: it waits as one until its period
// ends.
func TestAMeterMergesWhatWasLost(t *testing.T) {
	m := newAccount("c", 1).addMeterLocked("api", AggregateSum, newFeatureIndex())
	units := int64(0)
	for now := int64(1); now < int64(time.Hour); now += int64(time.Second) {
		m.addLocked(m.newRecord(piece{quantity: 1, acked: now, state: pieceLost}), 1)
		m.compactLocked(now, 1)
		require.LessOrEqual(t, len(m.records), maxSettled+2)
		units++
	}
	require.Equal(t, units, m.view.Load().current.Load())
}

// What does not show in the view waits as few records too, and the last of the values
// stays the last.
func TestAMeterMergesByItsAggregation(t *testing.T) {
	const second = int64(time.Second)
	for fold, want := range map[Aggregation]int64{AggregateMax: 3599, AggregateLast: 3599, AggregateUnique: 0} {
		m := newAccount("c", 1).addMeterLocked("api", fold, newFeatureIndex())
		for n := range int64(3600) {
			p := piece{quantity: n, stamp: n * second, sent: n * second, acked: n * second, state: pieceAcked}
			if n%20 == 7 {
				p.state = pieceLost
			}
			m.addLocked(m.newRecord(p), 1)
			m.compactLocked(n*second, 1)
			if fold == AggregateLast {
				require.Equal(t, n, m.view.Load().current.Load())
				continue
			}
			require.LessOrEqual(t, len(m.records), 128)
		}
		require.Equal(t, want, m.view.Load().current.Load())
	}
}

// A policy allowed a part of what was lost: that is known of the whole.
func TestAMeterThatMergesKnowsWhatAPolicyAllowed(t *testing.T) {
	m := newAccount("c", 1).addMeterLocked("api", AggregateSum, newFeatureIndex())
	for n := range int64(40) {
		r := m.newRecord(piece{quantity: 1, acked: n, state: pieceLost})
		r.allowed = n == 5
		m.addLocked(r, 1)
		m.compactLocked(n, 1)
	}
	require.True(t, m.records[0].allowed)
}
