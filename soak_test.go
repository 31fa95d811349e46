package entitlements_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

var soak = flag.Duration("soak", 0, "run the random tests for this long, with new seeds")

// TestSoak runs the random tests in turn with new seeds until the time is over.
// A run that fails has its seed in the line before: -run TestRule1 -from SEED
// -seeds 1 repeats it, and rapid says how a run of the model is repeated.
func TestSoak(t *testing.T) {
	if *soak == 0 {
		t.Skip("run by `make soak`")
	}
	runs := 0
	for end := time.Now().Add(*soak); time.Now().Before(end); runs++ {
		seed := rand.Uint64()
		fmt.Printf("%s left: seed %d\n", time.Until(end).Round(time.Second), seed)
		synctest.Test(t, func(t *testing.T) { faultSchedule(t, seed) })
		synctest.Test(t, func(t *testing.T) { accountingRun(t, seed) })
		oneStepRun(t, seed)
		refreshedRun(t, seed)
		if runs%10 == 0 {
			crash(t, 10, seed)
		}
		rapid.Check(t, func(rt *rapid.T) { inBubble(t, func(t *testing.T) { newMeterModel(t, rt).run(rt) }) })
	}
	fmt.Printf("%d rounds, each of two simulations, twelve histories and a hundred runs of the model; a process killed ten times in every tenth\n", runs)
}
