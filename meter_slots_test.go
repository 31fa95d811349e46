package entitlements

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a slot has taken moves to its meter while checks look on without a lock:
// they see it in one place or in the other, and never in neither or in both.
func TestRule15_ReadersNeverSeeHalfAMove(t *testing.T) {
	a := newAccount("c", 1, newFeatureIndex())
	a.addMeterLocked("first", AggregateSum)
	m := a.addMeterLocked("api", AggregateSum)
	m.openLocked(&record{meter: m, counts: periodCurrent}, 1)
	m.records = append(m.records, m.open)
	m.shareLocked(1000)

	var least, most atomic.Int64 // what a check may see
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range int64(200_000) {
			a.mu.Lock()
			most.Store(i + 1)
			if !m.slot.Load().takeLocked(1, 0) {
				panic("the slot does not take a call")
			}
			least.Store(i + 1)
			if i%3 == 0 {
				m.absorbLocked()
			}
			a.mu.Unlock()
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		low := least.Load()
		used := m.read(0).used
		require.GreaterOrEqual(t, used, low)
		require.LessOrEqual(t, used, most.Load())
	}
	require.EqualValues(t, 200_000, m.read(0).used)
}

// A table that grows takes along what its slots have taken.
func TestRule15_SlotsThatMoveLoseNothing(t *testing.T) {
	features := newFeatureIndex()
	features.add([]string{"a", "b"})
	a := newAccount("c", 1, features)
	codes := []string{"first", "a", "b", "stranger", "d", "e", "f", "g", "h"}
	for i, code := range codes {
		m := a.addMeterLocked(code, AggregateSum)
		require.Same(t, m, a.meter(code))
		if i == 0 {
			continue
		}
		m.openLocked(&record{meter: m, counts: periodCurrent}, 1)
		m.records = append(m.records, m.open)
		m.shareLocked(1000)
		for _, earlier := range codes[1 : i+1] {
			require.True(t, a.more.Load().find(earlier).takeLocked(1, 0), earlier)
		}
	}
	features.add([]string{"stranger"}) // it gets a number, and is found all the same
	for i, code := range codes[1:] {
		require.EqualValues(t, len(codes)-1-i, a.meter(code).read(0).used, code)
	}
}
