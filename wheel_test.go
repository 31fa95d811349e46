package entitlements_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
)

// Whatever is put in comes out once: not before it is due, and within a slot
// of when it is, however far ahead it was and however seldom it is looked at.
func TestWheel(t *testing.T) {
	const width = 100 * time.Millisecond
	for _, step := range []time.Duration{time.Millisecond, width, 7 * time.Second, time.Hour} {
		t.Run(step.String(), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, uint64(step)))
			now := 12_345 * time.Millisecond
			w := NewWheel(width, now)
			due, out := map[int]time.Duration{}, 0
			for n := range 2000 {
				at := now + time.Duration(rng.Int64N(int64(4*WheelSlots*width))) - time.Second
				due[n] = at
				w.Put(n, at)
				if n%2 == 0 {
					wait := w.Wait(now)
					require.Positive(t, wait)
					now += min(step, wait)
				}
				before := now - step
				for _, n := range w.Drain(now) {
					at, ok := due[n]
					require.True(t, ok, "twice")
					require.LessOrEqual(t, at, now, "before it was due")
					require.GreaterOrEqual(t, at, before-width-time.Second, "late")
					delete(due, n)
					out++
				}
			}
			for len(due) > 0 {
				now += min(step, w.Wait(now))
				for _, n := range w.Drain(now) {
					require.LessOrEqual(t, due[n], now)
					delete(due, n)
					out++
				}
			}
			require.Equal(t, 2000, out)
			require.Greater(t, w.Wait(now), 365*24*time.Hour, "empty")
			w.Put(1, now+time.Hour) // after it was not looked at for long
			now += 24 * time.Hour
			got := w.Drain(now) // what was beyond its reach comes a slot later
			require.Equal(t, []int{1}, append(got, w.Drain(now+2*width)...))
		})
	}
}

func TestWheelDrainsOldestSlotsFirst(t *testing.T) {
	w := NewWheel(time.Second, 0)
	for n := range 100 {
		w.Put(n, time.Duration(99-n)*time.Second)
	}
	got := w.Drain(1000 * time.Second)
	require.Len(t, got, 100)
	for i, n := range got {
		require.Equal(t, 99-i, n)
	}
}
