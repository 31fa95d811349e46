package entitlements_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

// go test -run 'TestRule1[89]' -seeds 500 looks further.
var (
	seeds = flag.Int("seeds", 10, "random runs of the accounting tests")
	from  = flag.Uint64("from", 0, "the first of their seeds")
)

// eachSeed runs a random test with some seeds.
func eachSeed(t *testing.T, n int, run func(t *testing.T, seed uint64)) {
	for i := range uint64(n) {
		seed := *from + i
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { run(t, seed) })
	}
}

// TestRule18_NothingIsLostSilently runs random usage against a sink that fails in
// every way there is, and checks the account at every quiet moment.
func TestRule18_NothingIsLostSilently(t *testing.T) {
	eachSeed(t, 2**seeds, func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) { faultSchedule(t, seed) })
	})
}

func faultSchedule(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 18))
	var mu sync.Mutex // guards roll: the sink's goroutines share it
	faults := rand.New(rand.NewPCG(seed, 81))
	roll := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return faults.IntN(n)
	}
	lossy := seed%2 == 0 // answers get lost: then accepted is not delivered
	sink := entitlementstest.NewSink()
	healthy := false
	script := func() entitlementstest.DeliverStep {
		step := entitlementstest.DeliverStep{Latency: time.Duration(roll(300)) * time.Millisecond}
		kinds := 8
		if lossy {
			kinds = 11
		}
		switch roll(kinds) {
		case 0:
			step.Refuse = Unsent(errSinkDown)
		case 1:
			step.Refuse = RetryAfter(time.Duration(roll(5000))*time.Millisecond, errSinkDown)
		case 2:
			step.Hang = true
		case 3:
			step.Panic = "sink panics"
		case 4, 5:
			step.Fate = func(b Batch) *DeliveryError {
				e := &DeliveryError{Err: errSinkDown, After: time.Duration(roll(2000)) * time.Millisecond}
				for i := range b.Usage {
					switch roll(6) {
					case 0:
						e.Rejected = append(e.Rejected, Rejection{i, entitlementstest.ErrBad})
					case 1:
						e.Retry = append(e.Retry, i)
					case 2:
						e.Unknown = append(e.Unknown, i)
					}
				}
				return e
			}
		case 6:
			step.Refuse = Permanent(entitlementstest.ErrBad)
		case 8:
			step.Lost = errSinkDown
		case 9:
			step.Late = time.Duration(roll(20)) * time.Second
		case 10:
			step.Lost = context.DeadlineExceeded
		}
		return step
	}
	door := SinkFunc(func(ctx context.Context, b Batch) error {
		mu.Lock()
		well := healthy
		mu.Unlock()
		if !well {
			sink.Next(script()) // one step each; which of two calls takes which matters to nobody
		}
		return sink.Deliver(ctx, b)
	})
	limits := SinkLimits{DedupWindow: []time.Duration{0, 0, -1, 20 * time.Second}[rng.IntN(4)], MaxBatch: []int{0, 1, 3, 10}[rng.IntN(4)]}
	var dead sync.Map
	spool := ""
	if seed%3 == 0 {
		SmallSegments(t)
		spool = t.TempDir()
	}
	c := usageClient(t, Config{
		Sink: limitedDoor{door, limits}, SpoolDir: spool, SpoolSync: time.Minute,
		MaxPending: []int{5, 50, 1000}[rng.IntN(3)], Overflow: Overflow(rng.IntN(2)),
		FlushConcurrency: 1 + rng.IntN(4), FlushSize: []int{0, 2, 7}[rng.IntN(3)],
		RetryFor:     []time.Duration{0, 30 * time.Second}[rng.IntN(2)],
		FlushTimeout: 5 * time.Second,
		Aggregations: map[string]Aggregation{"f1": AggregateMax, "f2": AggregateLast, "f3": AggregateUnique},
		DeadLetter:   func(u Usage, err error) { dead.Store(u.ID, err) },
	})
	least := -2
	if rng.IntN(2) == 0 {
		catalog(c, "f0", "f1", "f2", "f3", "f4")
		least = rng.IntN(2) - 1 // where nothing is taken back it stays in cells
	}
	calls := uint64(0)
	for range 100 {
		for range rng.IntN(20) {
			customer, feature := fmt.Sprint("c", rng.IntN(6)), fmt.Sprint("f", rng.IntN(5))
			calls++
			switch rng.IntN(8) {
			case 0:
				c.Record(Usage{ID: fmt.Sprint("event-", calls), Customer: customer, Feature: feature, Quantity: 1})
			case 1:
				c.Track(customer, "", 1)
			case 2:
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(500))*time.Millisecond)
				_ = c.Report(ctx, Usage{Customer: customer, Feature: feature, Quantity: 1})
				cancel()
			default:
				c.Track(customer, feature, int64(rng.IntN(10)+least))
			}
		}
		if rng.IntN(30) == 0 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(3000))*time.Millisecond)
			_ = c.Flush(ctx)
			cancel()
		}
		time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
		synctest.Wait()
		require.Equal(t, calls, requireBalancedUsage(t, c, "seed", seed).Recorded)
	}
	if rng.IntN(2) == 0 {
		mu.Lock()
		healthy = true
		mu.Unlock()
		require.NoError(t, c.Flush(usageWithin(t, time.Hour)), "seed %d", seed)
		require.Zero(t, requireBalancedUsage(t, c, "seed", seed).Pending)
	}
	before := c.Stats().Usage
	err := c.Close(usageWithin(t, time.Duration(rng.IntN(5000))*time.Millisecond))
	s := requireBalancedUsage(t, c, "seed", seed, "after Close")
	var left *UndeliveredError
	if errors.As(err, &left) {
		require.Equal(t, s.Pending, left.Spooled, "seed %d: pending after Close", seed)
		lost := s.InDoubt + s.Dropped - before.InDoubt - before.Dropped
		require.LessOrEqual(t, left.Lost, lost, "seed %d: what Close says it lost", seed)
		if limits.DedupWindow == 0 { // else some may have been parked while Close drained
			require.Equal(t, lost, left.Lost, "seed %d: what Close says it lost", seed)
		}
		require.Equal(t, s.Delivered-before.Delivered, left.Delivered, "seed %d", seed)
	} else {
		require.NoError(t, err, "seed %d", seed)
		require.Zero(t, s.Pending, "seed %d: pending after Close", seed)
	}
	if spool != "" {
		// The next run goes on with what this one left.
		mu.Lock()
		healthy = true
		mu.Unlock()
		again := usageClient(t, Config{Sink: limitedDoor{door, limits}, SpoolDir: spool})
		require.NoError(t, again.Flush(usageWithin(t, time.Hour)), "seed %d", seed)
		next := requireBalancedUsage(t, again, "seed", seed, "the next run")
		require.Equal(t, s.Pending+s.InDoubt+s.DeadLettered, next.Restored, "seed %d: what is left on disk", seed)
		s.Delivered, s.Pending = s.Delivered+next.Delivered, 0
		s.InDoubt, s.DeadLettered = next.InDoubt, next.DeadLettered
	}
	accepted := uint64(sink.TotalCalls())
	require.LessOrEqual(t, s.Delivered, accepted, "seed %d: counted as delivered and not accepted", seed)
	require.LessOrEqual(t, accepted, s.Delivered+s.InDoubt+s.DeadLettered, "seed %d: accepted and counted as something else", seed)
	if !lossy {
		// What is in doubt was not accepted here, whatever the client can know.
		require.Equal(t, s.Delivered, accepted, "seed %d", seed)
	}
	require.Zero(t, sink.Conflicts(), "seed %d: one ID, two contents", seed)
	if limits.DedupWindow < 0 {
		require.Zero(t, sink.Duplicates(), "seed %d: resent to a sink that never dedupes", seed)
	}
}

type limitedDoor struct {
	Sink
	limits SinkLimits
}

func (d limitedDoor) Limits() SinkLimits { return d.limits }

// usageBackend is a backend with periods and a clock of its own. It attributes
// usage by its Time.
type usageBackend struct {
	skew       time.Duration // its clock is ahead by this
	resolution time.Duration // of the time that it tells
	readLag    time.Duration // reads are this old
	tellsAsOf  bool
	tellsTime  bool
	period     time.Duration

	mu       sync.Mutex
	rng      *rand.Rand
	healthy  bool
	seen     map[string]bool
	accepted []acceptedUsage
}

type acceptedUsage struct {
	at    time.Time // true time
	usage Usage
}

func (b *usageBackend) roll(n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rng.IntN(n)
}

func (b *usageBackend) clock() time.Time { return time.Now().Add(b.skew) }

func (b *usageBackend) periodOf(t time.Time) time.Time { return t.Truncate(b.period) }

// pause waits for up to most, less often for long.
func (b *usageBackend) pause(ctx context.Context, most time.Duration) error {
	d := time.Duration(b.roll(int(most)))
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// used is what was accepted for a period before a moment in true time.
func (b *usageBackend) used(customer string, period, before time.Time) (sum int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.accepted {
		if a.usage.Customer == customer && a.at.Before(before) && b.periodOf(a.usage.Time).Equal(period) {
			sum += a.usage.Quantity
		}
	}
	return sum
}

func (b *usageBackend) Fetch(ctx context.Context, customer string) (*Entitlements, error) {
	if err := b.pause(ctx, 300*time.Millisecond); err != nil {
		return nil, err
	}
	b.mu.Lock()
	well := b.healthy
	b.mu.Unlock()
	if !well && b.roll(8) == 0 {
		return nil, errSinkDown
	}
	asOf := time.Now().Add(-time.Duration(b.roll(int(b.readLag) + 1)))
	period := b.periodOf(b.clock())
	e := &Entitlements{Customer: customer, Features: map[string]Grant{"api": {
		Kind: KindMetered, Enabled: true, Limit: 1_000_000, Used: b.used(customer, period, asOf),
		PeriodStart: period, ResetsAt: period.Add(b.period),
	}}}
	if b.tellsAsOf {
		e.AsOf = asOf.Add(b.skew)
	}
	if err := b.pause(ctx, 200*time.Millisecond); err != nil {
		return nil, err
	}
	if b.tellsTime {
		e.ServerTime = b.clock()
		if b.resolution > 0 {
			e.ServerTime = e.ServerTime.Truncate(b.resolution)
		}
	}
	if err := b.pause(ctx, 300*time.Millisecond); err != nil {
		return nil, err
	}
	return e, nil
}

func (b *usageBackend) accept(usage []Usage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range usage {
		if !b.seen[u.ID] {
			b.seen[u.ID] = true
			b.accepted = append(b.accepted, acceptedUsage{time.Now(), u})
		}
	}
}

func (b *usageBackend) Deliver(ctx context.Context, batch Batch) error {
	if err := b.pause(ctx, 400*time.Millisecond); err != nil {
		return err
	}
	b.mu.Lock()
	well := b.healthy
	b.mu.Unlock()
	kind := 99
	if !well {
		kind = b.roll(14)
	}
	switch kind {
	case 0:
		return Unsent(errSinkDown)
	case 1:
		return errSinkDown
	case 2: // accepted, and the answer gets lost
		b.accept(batch.Usage)
		return errSinkDown
	case 3: // accepted long before the answer
		b.accept(batch.Usage)
		return b.pause(ctx, 12*time.Second)
	case 4: // half of it
		half := len(batch.Usage) / 2
		b.accept(batch.Usage[:half])
		e := &DeliveryError{Err: errSinkDown}
		for i := half; i < len(batch.Usage); i++ {
			e.Retry = append(e.Retry, i)
		}
		return e
	case 5: // a request that arrives after the client gave up
		late := batch.Usage
		go func() {
			time.Sleep(time.Duration(b.roll(10_000)) * time.Millisecond)
			b.accept(late)
		}()
		return errSinkDown
	}
	b.accept(batch.Usage)
	return b.pause(ctx, 300*time.Millisecond)
}

// TestRule19_LocalViewIsNeverBelowTheTruth is the accounting rule of the design
// against a backend that lags, loses answers and tells another time, while
// customers are evicted, invalidated and forgotten and periods roll over.
func TestRule19_LocalViewIsNeverBelowTheTruth(t *testing.T) {
	eachSeed(t, *seeds, func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) { accountingRun(t, seed) })
	})
}

func accountingRun(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 19))
	b := &usageBackend{rng: rand.New(rand.NewPCG(seed, 91)), seen: map[string]bool{}, period: time.Duration(2+rng.IntN(3)) * time.Minute}
	b.skew = []time.Duration{0, time.Second, -time.Second, time.Hour, -time.Hour, 7 * time.Second}[rng.IntN(6)]
	b.resolution = []time.Duration{0, time.Millisecond, time.Second}[rng.IntN(3)]
	// A clock that is not told can't be learnt: then it must be ours, nearly.
	b.tellsTime = rng.IntN(4) > 0
	if !b.tellsTime && (b.skew > time.Second || b.skew < -time.Second) {
		b.tellsTime = true
	}
	cfg := Config{
		Source: b, Sink: b, TTL: time.Duration(1+rng.IntN(10)) * time.Second, NegativeTTL: time.Second,
		MaxCustomers: []int{2, 3, 12}[rng.IntN(3)], FlushTimeout: 5 * time.Second, FlushConcurrency: 1 + rng.IntN(3),
		FlushSize: []int{0, 2}[rng.IntN(2)],
	}
	switch rng.IntN(3) {
	case 0:
		b.readLag, b.tellsAsOf = time.Duration(rng.IntN(20))*time.Second, true
		if !b.tellsTime && b.skew != 0 {
			b.tellsTime = true // AsOf alone is taken to be on our clock
		}
	case 1:
		b.readLag = time.Duration(1+rng.IntN(20)) * time.Second
		cfg.UsageLag = b.readLag + 2*time.Millisecond
	}
	if seed%3 == 0 {
		SmallSegments(t)
		cfg.SpoolDir, cfg.SpoolSync, cfg.MaxPending = t.TempDir(), time.Minute, 10
	}
	c := usageClient(t, cfg)
	customers := []string{"c0", "c1", "c2", "c3", "c4"}
	corrects := seed%2 == 0
	// The clock must be known before usage is stamped by it.
	_, err := c.Check(t.Context(), customers[0], "api")
	for err != nil {
		time.Sleep(2 * time.Second)
		_, err = c.Check(t.Context(), customers[0], "api")
	}

	type cell struct {
		customer string
		period   time.Time
	}
	counted := map[cell]int64{}
	// The client's idea of the backend's clock may be off by less than two
	// seconds: near the end of a period it can't be exact.
	nearBoundary := func() bool {
		into := b.clock().Sub(b.periodOf(b.clock()))
		return into < 4*time.Second || b.period-into < 4*time.Second
	}
	check := func() {
		t.Helper()
		for _, customer := range customers {
			if nearBoundary() {
				return
			}
			d := c.Decide(customer, "api")
			if d.Origin == OriginPolicy {
				continue
			}
			truth := counted[cell{customer, b.periodOf(b.clock())}]
			if d.Used < truth {
				t.Fatalf("seed %d: %s at %v: %d used in the local view, %d in truth (%+v)", seed, customer, b.clock(), d.Used, truth, d)
			}
			require.Equal(t, max(0, d.Limit-max(0, d.Used)), d.Remaining)
		}
	}
	for range 500 {
		customer := customers[rng.IntN(len(customers))]
		switch rng.IntN(12) {
		case 0:
			c.Invalidate(customer)
		case 1:
			c.Forget(customer)
		case 2:
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, _ = c.Check(ctx, customer, "api")
			cancel()
		case 3:
			if rng.IntN(20) == 0 {
				time.Sleep(time.Duration(rng.IntN(200)) * time.Second) // long enough for accounts to be let go
			}
		default:
			if nearBoundary() {
				break
			}
			n := int64(1 + rng.IntN(20))
			if corrects && rng.IntN(10) == 0 {
				n = -int64(rng.IntN(5))
			}
			at := cell{customer, b.periodOf(b.clock())}
			before := c.Decide(customer, "api")
			c.Track(customer, "api", n)
			counted[at] += n
			if d := c.Decide(customer, "api"); d.Origin != OriginPolicy && before.Origin != OriginPolicy {
				require.GreaterOrEqual(t, d.Used, counted[at], "seed %d: Track shows at once", seed)
			}
		}
		check()
		time.Sleep(time.Duration(rng.IntN(800)) * time.Millisecond)
		check()
	}

	b.mu.Lock()
	b.healthy = true
	b.mu.Unlock()
	require.NoError(t, c.Flush(usageWithin(t, time.Hour)), "seed %d", seed)
	time.Sleep(b.readLag + 15*time.Second) // late requests, lagging reads
	for nearBoundary() {
		time.Sleep(time.Second)
	}
	for _, customer := range customers {
		c.Invalidate(customer)
		d, err := c.Check(t.Context(), customer, "api")
		require.NoError(t, err)
		for nearBoundary() {
			time.Sleep(5 * time.Second)
			c.Invalidate(customer)
			d, err = c.Check(t.Context(), customer, "api")
			require.NoError(t, err)
		}
		period := b.periodOf(b.clock())
		require.Equal(t, b.used(customer, period, time.Now()), counted[cell{customer, period}], "seed %d: the backend has it all", seed)
		require.Equal(t, counted[cell{customer, period}], d.Used, "seed %d: %s: quiet, and the view is not the truth", seed, customer)
	}
	requireBalancedUsage(t, c, "seed", seed)
}

func TestRule19_TrackMovesTheViewAtOnceAndRefreshesLeaveItRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": usageGrant(100, 10)}})
		sink := entitlementstest.NewSink()
		sink.Feed(src)
		c := usageClient(t, Config{Source: src, Sink: sink, TTL: time.Second})
		_, err := c.Resolve(t.Context(), "c")
		require.NoError(t, err)
		used := int64(10)
		for i := range 300 {
			c.Track("c", "api", int64(i%3))
			used += int64(i % 3)
			d := c.Decide("c", "api")
			require.GreaterOrEqual(t, d.Used, used)
			require.LessOrEqual(t, d.Used, used+20, "counted twice: more than what was being delivered")
			require.Equal(t, max(0, 100-d.Used), d.Remaining)
			require.Equal(t, d.Used < 100, d.Allowed)
			time.Sleep(137 * time.Millisecond)
			require.GreaterOrEqual(t, c.Decide("c", "api").Used, used)
		}
		require.Greater(t, src.Calls("c"), 10)
		require.NoError(t, c.Flush(t.Context()))
		time.Sleep(5 * time.Second)
		require.Equal(t, used, c.Decide("c", "api").Used)
	})
}

// Usage from before the first load, of a backend whose very first answer lags.
func TestRule19_TheFirstAnswerLags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		sink := entitlementstest.NewSink()
		c := usageClient(t, Config{Sink: sink, Source: SourceFunc(func(_ context.Context, customer string) (*Entitlements, error) {
			asOf := begin // a replica that stopped
			return &Entitlements{Customer: customer, AsOf: asOf, ServerTime: time.Now(), Features: map[string]Grant{"api": usageGrant(5, 0)}}, nil
		})})
		time.Sleep(time.Second)
		c.Track("c", "api", 5)
		require.NoError(t, c.Flush(t.Context()))
		time.Sleep(5 * time.Minute)
		d, err := c.Check(t.Context(), "c", "api")
		require.NoError(t, err)
		require.EqualValues(t, 5, d.Used, "delivered after AsOf: the answer can't contain it")
		require.False(t, d.Allowed)
	})
}

func TestRule19_EvictionForgetsNoUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		grants := map[string]map[string]Grant{}
		for i := range 40 {
			grants[fmt.Sprint("c", i)] = map[string]Grant{"api": usageGrant(5, 0)}
		}
		sink := entitlementstest.NewSink()
		sink.Always(entitlementstest.DeliverStep{Refuse: errSinkDown})
		c := usageClient(t, Config{Source: entitlementstest.NewSource(grants), Sink: sink, MaxCustomers: 2, TTL: time.Hour})
		for i := range 40 {
			customer := fmt.Sprint("c", i)
			_, err := c.Check(t.Context(), customer, "api")
			require.NoError(t, err)
			c.Track(customer, "api", 5)
		}
		time.Sleep(30 * time.Minute)
		for i := range 40 {
			d, err := c.Check(t.Context(), fmt.Sprint("c", i), "api")
			require.NoError(t, err)
			require.EqualValues(t, 5, d.Used, "c%d was let back in", i)
		}
	})
}

// Dead letters, drops and what is in doubt were used: they count until the
// period ends, and no longer.
func TestRule19_WhatIsGivenUpCountsUntilThePeriodEnds(t *testing.T) {
	for name, step := range map[string]entitlementstest.DeliverStep{
		"dead":     {Refuse: Permanent(entitlementstest.ErrBad)},
		"in doubt": {Refuse: errSinkDown},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				g := usageGrant(10, 1)
				g.PeriodStart, g.ResetsAt = start.Add(-time.Hour), start.Add(time.Hour)
				src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": g}})
				sink := entitlementstest.NewSink()
				sink.Always(step)
				c := usageClient(t, Config{Source: src, Sink: sink.Limited(SinkLimits{DedupWindow: -1}), TTL: 10 * time.Second})
				_, err := c.Resolve(t.Context(), "c")
				require.NoError(t, err)
				c.Track("c", "api", 4)
				for range 50 {
					time.Sleep(time.Minute)
					require.EqualValues(t, 5, c.Decide("c", "api").Used)
				}
				s := requireBalancedUsage(t, c)
				require.EqualValues(t, 1, s.DeadLettered+s.InDoubt)
				time.Sleep(time.Until(start.Add(time.Hour)))
				require.EqualValues(t, 0, c.Decide("c", "api").Used, "exactly at ResetsAt")
			})
		})
	}
}

func TestRule19_RolloverIsSeenAtTheMomentOfTheCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		g := usageGrant(10, 7)
		g.PeriodStart, g.ResetsAt = start.Add(-time.Hour), start.Add(90*time.Second+5*time.Millisecond)
		src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": g}})
		// No refresh comes in between: the source does not know what the sink took.
		c := usageClient(t, Config{Source: src, Sink: entitlementstest.NewSink(), TTL: time.Hour, DenyTTL: -1})
		_, err := c.Resolve(t.Context(), "c")
		require.NoError(t, err)
		c.Track("c", "api", 2)
		time.Sleep(time.Until(g.ResetsAt) - time.Millisecond)
		require.EqualValues(t, 9, c.Decide("c", "api").Used)
		c.Track("c", "api", 1)
		require.EqualValues(t, 10, c.Decide("c", "api").Used)
		require.False(t, c.Allowed("c", "api"))
		time.Sleep(time.Millisecond)
		require.EqualValues(t, 0, c.Decide("c", "api").Used)
		require.True(t, c.Allowed("c", "api"))
		c.Track("c", "api", 3)
		require.EqualValues(t, 3, c.Decide("c", "api").Used)
	})
}

// A backend that rolls over late goes on telling the old period for a while.
func TestRule19_ABackendThatRollsOverLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		g := usageGrant(10, 7)
		g.PeriodStart, g.ResetsAt = start.Add(-time.Hour), start.Add(time.Minute)
		src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": g}})
		c := usageClient(t, Config{Source: src, Sink: entitlementstest.NewSink(), TTL: 5 * time.Second})
		_, err := c.Resolve(t.Context(), "c")
		require.NoError(t, err)
		time.Sleep(time.Minute)
		c.Track("c", "api", 10)
		for range 60 {
			require.EqualValues(t, 10, c.Decide("c", "api").Used, "the new period's usage left the view")
			require.False(t, c.Allowed("c", "api"))
			time.Sleep(time.Second)
		}
		g.Used, g.PeriodStart, g.ResetsAt = 10, g.ResetsAt, start.Add(2*time.Hour)
		src.Put("c", map[string]Grant{"api": g})
		time.Sleep(10 * time.Second)
		require.EqualValues(t, 10, c.Decide("c", "api").Used)
	})
}

// A plan change can move the period: what the backend tells from then on must be
// seen, whichever way it moved.
func TestRule19_APlanChangeMovesThePeriod(t *testing.T) {
	day := 24 * time.Hour
	for _, test := range []struct {
		name          string
		starts        bool // PeriodStart is told
		start, resets time.Duration
	}{
		{"month to year", true, -100 * day, 265 * day},
		{"year to month, without a start", false, 0, 20 * day},
		{"to one that began earlier and ends earlier", true, -60 * day, 10 * day},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				g := usageGrant(1000, 90)
				g.ResetsAt = now.Add(25 * day)
				if test.starts {
					g.PeriodStart = now.Add(-5 * day)
				}
				src := entitlementstest.NewSource(map[string]map[string]Grant{"c": {"api": g}})
				c := usageClient(t, Config{Source: src, Sink: entitlementstest.NewSink(), TTL: time.Second})
				_, err := c.Resolve(t.Context(), "c")
				require.NoError(t, err)
				g.Used, g.Limit, g.ResetsAt = 500, 2000, now.Add(test.resets)
				if test.starts {
					g.PeriodStart = now.Add(test.start)
				}
				src.Put("c", map[string]Grant{"api": g})
				time.Sleep(time.Millisecond) // a figure that replaces another was fetched later
				c.Invalidate("c")
				d, err := c.Check(t.Context(), "c", "api")
				require.NoError(t, err)
				require.EqualValues(t, 2000, d.Limit)
				require.EqualValues(t, 500, d.Used)
				require.Equal(t, g.ResetsAt.UTC(), d.ResetsAt)
			})
		})
	}
}

func TestRule03_ArithmeticSaturates(t *testing.T) {
	ends := []int64{math.MinInt64, math.MinInt64 + 1, -1, 0, 1, math.MaxInt64 - 1, math.MaxInt64}
	synctest.Test(t, func(t *testing.T) {
		grants := map[string]Grant{}
		for _, limit := range ends {
			for _, used := range ends {
				grants[fmt.Sprint(limit, " ", used)] = usageGrant(limit, used)
			}
		}
		src := entitlementstest.NewSource(map[string]map[string]Grant{"c": grants})
		c := usageClient(t, Config{Source: src, Sink: entitlementstest.NewSink(), TTL: time.Hour, FlushInterval: time.Hour})
		_, err := c.Resolve(t.Context(), "c")
		require.NoError(t, err)
		for _, n := range append(ends, ends...) {
			for feature, g := range grants {
				was := c.Decide("c", feature)
				c.Track("c", feature, n)
				d := c.Decide("c", feature)
				require.GreaterOrEqual(t, d.Remaining, int64(0), feature)
				require.LessOrEqual(t, d.Remaining, max(0, g.Limit), feature)
				if n > 0 {
					require.GreaterOrEqual(t, d.Used, was.Used, "%s: %d more", feature, n)
					require.False(t, d.Allowed && !was.Allowed, "%s: usage of %d opened the quota", feature, n)
				}
				if n < 0 {
					require.LessOrEqual(t, d.Used, was.Used, "%s: %d", feature, n)
				}
			}
		}
		require.NoError(t, c.Flush(t.Context()))
		requireBalancedUsage(t, c)
	})
}

func TestRule18_WithoutASink(t *testing.T) {
	period := func(g Grant, start time.Time, d time.Duration) Grant {
		g.PeriodStart, g.ResetsAt = start, start.Add(d)
		return g
	}
	run := func(name string, cfg Config, f func(t *testing.T, c *Client, src *entitlementstest.Source)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := entitlementstest.NewSource(nil)
				cfg.Source = src
				f(t, usageClient(t, cfg), src)
			})
		})
	}
	load := func(t *testing.T, c *Client, customer string) {
		t.Helper()
		_, err := c.Resolve(t.Context(), customer)
		require.NoError(t, err)
	}
	run("counts on top of Used until ResetsAt", Config{TTL: time.Second}, func(t *testing.T, c *Client, src *entitlementstest.Source) {
		src.Put("c", map[string]Grant{"api": period(usageGrant(10, 3), time.Now(), time.Hour)})
		load(t, c, "c")
		for range 4 {
			c.Track("c", "api", 1)
			time.Sleep(10 * time.Minute)
		}
		d := c.Decide("c", "api")
		require.EqualValues(t, 7, d.Used)
		require.EqualValues(t, 3, d.Remaining)
		require.EqualValues(t, 4, requireBalancedUsage(t, c).Pending)
		require.NoError(t, c.Flush(t.Context()))
		require.NoError(t, c.Report(t.Context(), Usage{Customer: "c", Feature: "api", Quantity: 2}))
		require.EqualValues(t, 9, c.Decide("c", "api").Used)
		time.Sleep(25 * time.Minute)
		require.EqualValues(t, 0, c.Decide("c", "api").Used)
		c.Track("c", "api", 1)
		require.EqualValues(t, 1, c.Decide("c", "api").Used)
		time.Sleep(5 * time.Minute)
		require.EqualValues(t, 5, requireBalancedUsage(t, c).DroppedBy["no_sink"], "counts whose period is over")
	})
	run("tracked before the customer was loaded", Config{TTL: time.Second}, func(t *testing.T, c *Client, src *entitlementstest.Source) {
		c.Track("c", "api", 2)
		src.Put("c", map[string]Grant{"api": period(usageGrant(10, 3), time.Now().Add(-time.Minute), time.Hour)})
		load(t, c, "c")
		require.EqualValues(t, 5, c.Decide("c", "api").Used)
		require.EqualValues(t, 1, requireBalancedUsage(t, c).Pending)
		c.Track("c", "api", 2)
		require.EqualValues(t, 7, c.Decide("c", "api").Used)
		require.EqualValues(t, 2, requireBalancedUsage(t, c).Pending)
		time.Sleep(3 * time.Hour)
		require.Zero(t, requireBalancedUsage(t, c).Pending)
	})
	run("a refresh brings the next period", Config{TTL: time.Second}, func(t *testing.T, c *Client, src *entitlementstest.Source) {
		start := time.Now()
		src.Put("c", map[string]Grant{"api": period(usageGrant(10, 3), start, time.Hour)})
		load(t, c, "c")
		c.Track("c", "api", 2)
		time.Sleep(59 * time.Minute)
		c.Allowed("c", "api")
		time.Sleep(time.Minute)
		src.Put("c", map[string]Grant{"api": period(usageGrant(10, 0), start.Add(time.Hour), time.Hour)})
		c.Invalidate("c")
		load(t, c, "c")
		require.EqualValues(t, 0, c.Decide("c", "api").Used)
		requireBalancedUsage(t, c)
	})
	run("survives eviction", Config{TTL: time.Hour, MaxCustomers: 1}, func(t *testing.T, c *Client, src *entitlementstest.Source) {
		for i := range 10 {
			customer := fmt.Sprint("c", i)
			src.Put(customer, map[string]Grant{"api": usageGrant(10, 3)})
			load(t, c, customer)
			c.Track(customer, "api", 7)
		}
		time.Sleep(30 * time.Minute)
		for i := range 10 {
			customer := fmt.Sprint("c", i)
			load(t, c, customer)
			require.EqualValues(t, 10, c.Decide(customer, "api").Used)
			require.False(t, c.Allowed(customer, "api"))
		}
		requireBalancedUsage(t, c)
	})
	run("bounded by MaxPending", Config{TTL: time.Hour, MaxPending: 10}, func(t *testing.T, c *Client, _ *entitlementstest.Source) {
		for range 3 {
			for i := range 20 {
				c.Track(fmt.Sprint("c", i), "api", 1)
			}
		}
		s := requireBalancedUsage(t, c)
		require.EqualValues(t, 30, s.Pending)
		require.EqualValues(t, 30, s.DroppedBy["overflow"])
	})
	run("a full client counts the next period", Config{TTL: time.Hour, MaxPending: 1}, func(t *testing.T, c *Client, src *entitlementstest.Source) {
		src.Put("c", map[string]Grant{"api": period(usageGrant(10, 0), time.Now(), time.Minute)})
		load(t, c, "c")
		c.Track("c", "api", 4)
		time.Sleep(time.Minute)
		c.Track("c", "api", 5)
		require.EqualValues(t, 5, c.Decide("c", "api").Used, "its own count of the last period was in the way")
		requireBalancedUsage(t, c)
	})
	run("an overflowing sum", Config{TTL: time.Hour}, func(t *testing.T, c *Client, src *entitlementstest.Source) {
		src.Put("c", map[string]Grant{"api": period(usageGrant(10, 0), time.Now(), time.Hour)})
		load(t, c, "c")
		for range 3 {
			c.Track("c", "api", math.MaxInt64)
		}
		require.EqualValues(t, int64(math.MaxInt64), c.Decide("c", "api").Used)
		s := requireBalancedUsage(t, c)
		require.Zero(t, s.Dropped, "its period is not over")
		for range 3 {
			c.Track("c", "api", -math.MaxInt64)
		}
		require.EqualValues(t, 0, c.Decide("c", "api").Used)
	})
	run("an event from the future holds nothing up", Config{TTL: time.Hour}, func(t *testing.T, c *Client, src *entitlementstest.Source) {
		src.Put("c", map[string]Grant{"api": period(usageGrant(10, 0), time.Now(), time.Hour)})
		load(t, c, "c")
		c.Record(Usage{Customer: "c", Feature: "api", Quantity: 1, Time: time.Now().Add(2 * time.Hour)})
		c.Track("c", "api", 4)
		require.EqualValues(t, 4, c.Decide("c", "api").Used, "usage of now counts in a later period")
	})
	run("Close says what was only counted", Config{TTL: time.Hour}, func(t *testing.T, c *Client, _ *entitlementstest.Source) {
		c.Track("c", "api", 4)
		require.NoError(t, c.Close(t.Context()))
		s := requireBalancedUsage(t, c)
		require.EqualValues(t, 1, s.DroppedBy["no_sink"])
	})
}
