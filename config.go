package entitlements

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"time"
)

// Config sets up a Client. Its zero value plus a Source works. It is read once,
// by [New].
//
// In every field 0 is the default. Negative switches off what can be switched
// off, where the field says so, and is an error elsewhere. TTL must be at least
// 100 ms, MaxStale at least TTL, every other duration at least 1 ms.
type Config struct {
	// Source is where entitlements come from. Required. A Source that is also a
	// [ConditionalSource], [BatchSource], [Lister] or [Watcher] is used as such.
	Source Source

	// Sink is where usage goes. Defaults to nil: usage is only counted locally,
	// on top of Used, until the period ends.
	Sink Sink

	// MaxCustomers is the most snapshots that are kept. When there are more customers,
	// those leave who are used least often, or least recently: whichever has been
	// the better guess lately. Defaults to 100 000.
	MaxCustomers int

	// TTL is the age at which a snapshot in use is refreshed in the background.
	// Checks go on being answered from it meanwhile. Defaults to 30 s.
	//
	// It also bounds by how much R processes can pass a hard limit that they
	// share, each of which counts what it allows at once, and sees what the
	// others allowed when they have delivered it and its snapshot was fetched
	// after that:
	//
	//	overshoot ≤ (R − 1) × rate × (FlushInterval + delivery + age)
	//
	// rate is what one process allows per second; delivery the time until a Deliver
	// has returned, the wait for one of FlushConcurrency calls included; and age
	// the [Decision.Age] of the last that was allowed: at most TTL +
	// [SourceStats.BehindBy] + the time that a fetch takes for a customer in use
	// while the Source answers, at most MaxStale for one that was idle, or in an
	// outage. A backend whose reads lag adds that lag.
	TTL time.Duration

	// DenyTTL is the age past which a denial also asks for a refresh, so that a
	// customer who has just paid gets in. Defaults to 5 s; negative is off.
	DenyTTL time.Duration

	// MaxStale is the age past which a snapshot no longer answers: how long an
	// outage of the Source goes unnoticed. Defaults to 1 h, or to TTL when that
	// is longer.
	MaxStale time.Duration

	// NegativeTTL is how long "does not exist" and "the load failed" are
	// remembered. Defaults to 10 s; negative is off.
	NegativeTTL time.Duration

	// IdleAfter is the time without a check after which a customer is no longer
	// refreshed. Defaults to 10 min; negative is off: all that is cached is
	// refreshed.
	IdleAfter time.Duration

	// OnUnavailable decides when nothing usable is cached. Defaults to
	// FailClosed.
	OnUnavailable Policy

	// FeaturePolicy overrides OnUnavailable by feature code. Defaults to nil.
	FeaturePolicy map[string]Policy

	// FetchTimeout bounds one load, its retries included. Defaults to 5 s.
	FetchTimeout time.Duration

	// FetchConcurrency is the most calls into the Source at once. Background
	// refreshes use at most half of it, and waiting callers go first. Defaults
	// to 64.
	FetchConcurrency int

	// FetchRate is the most calls into the Source per second. Defaults to 0: no
	// limit.
	FetchRate float64

	// FlushInterval is how long usage gathers before it is delivered. Defaults
	// to 1 s.
	FlushInterval time.Duration

	// FlushTimeout bounds one Deliver. Defaults to 10 s.
	FlushTimeout time.Duration

	// FlushSize is the most records in one Deliver; reaching it triggers
	// nothing. Defaults to 1000, or to the sink's own [SinkLimits.MaxBatch] when
	// that is lower.
	FlushSize int

	// FlushConcurrency is the most calls of Deliver at once. Defaults to 2.
	FlushConcurrency int

	// MaxPending is the most records kept in memory until they are delivered. With
	// SpoolDir more of them are on disk alone, and nothing is dropped for it.
	// When half of it is full a flush starts early. What an allowed Use counts is
	// kept for its view past that, until its period ends. Defaults to 100 000.
	MaxPending int

	// Overflow says what goes when MaxPending is reached, or with SpoolDir when
	// there is no room on disk and MaxPending records are in memory only. Defaults
	// to DropNewest. Drops are counted, never silent.
	Overflow Overflow

	// RetryFor is how long one record is tried before it becomes a dead letter.
	// Defaults to 7 days.
	RetryFor time.Duration

	// Aggregations says by feature code how the backend folds usage, so that the
	// Client folds alike. Defaults to AggregateSum for every feature.
	Aggregations map[string]Aggregation

	// UsageLag is how much later than [Entitlements.AsOf] the backend's reads
	// may really be: accepted usage stays in the local view that much longer.
	// Defaults to 0.
	UsageLag time.Duration

	// ReservationTTL is how long a reservation holds its units when it is neither
	// committed, released nor renewed. Defaults to 15 min.
	ReservationTTL time.Duration

	// OnUsage is called when a customer has used a level of a metered feature's
	// limit, here or elsewhere: once per level, customer, feature and period, in
	// every process. It runs on a goroutine of its own, one call at a time; at most
	// 1024 calls wait for it. What was told is remembered for MaxCustomers
	// features of customers. Defaults to nil.
	OnUsage func(UsageLevel)

	// UsageLevels are the shares of the limit at which OnUsage is called, above 0.
	// Defaults to 0.8 and 1.
	UsageLevels []float64

	// Shadow is the features in shadow mode, "*" for all: what would be denied is
	// let through with [Decision.Shadowed], and counted in
	// [DecisionStats.ShadowedBy]. [Client.SetShadow] changes it at run time.
	// Defaults to nil.
	Shadow []string

	// DeadLetter is called with every record that is given up, and why: on a
	// goroutine of its own, one call at a time. Defaults to nil: such records
	// are only counted and logged.
	DeadLetter func(Usage, error)

	// SpoolDir is a directory in which usage is kept until it has an end: what a
	// call of Track, Record, Use or Commit counted before it returned survives the
	// process, however it ends. Processes share it: each takes a numbered slot in
	// it, and takes over what is left in those that nobody uses. It needs a file
	// system with locks, of this machine. Defaults to "": usage is kept in memory.
	SpoolDir string

	// SpoolMaxBytes bounds what SpoolDir takes of this process, and with it what
	// waits to be delivered; MaxPending does not then. At least 8 MiB. Defaults to
	// 1 GiB.
	SpoolMaxBytes int64

	// SpoolSync is how much a loss of power may take: how often what is in SpoolDir
	// is made to survive the machine. Defaults to 1 s.
	SpoolSync time.Duration

	// SnapshotFile is where what is cached is kept across restarts, so that a
	// program that starts while its Source is down answers all the same, with
	// [OriginRestored] until a customer is loaded again. It is written at most once
	// a minute in the background and by Close, readable by its owner only, and read
	// by New. Ages go on while nobody runs: past MaxStale a snapshot does not
	// answer. It holds customer keys, plans and usage. Each process needs a file of
	// its own. Defaults to "": nothing is kept.
	SnapshotFile string

	// SnapshotKey signs SnapshotFile with HMAC-SHA-256: a file with another
	// signature is not used, and that is logged. Defaults to nil: damage is found,
	// forgery is not.
	SnapshotKey []byte

	// Logger gets at most one line per change of state. Defaults to discarding.
	Logger *slog.Logger
}

// forever stands for a duration that was switched off, far enough from the end
// of int64 that adding an age to it does not overflow.
const forever = time.Duration(1 << 61)

// withDefaults validates c and fills in what is left at 0. It reports everything
// that is wrong, not only the first.
func (c Config) withDefaults() (Config, error) {
	var v validator
	if c.Source == nil {
		v.fail("Source is required")
	}
	v.duration("TTL", &c.TTL, 30*time.Second, 100*time.Millisecond, 0)
	v.duration("DenyTTL", &c.DenyTTL, min(5*time.Second, c.TTL), time.Millisecond, forever)
	v.duration("MaxStale", &c.MaxStale, max(time.Hour, c.TTL), time.Millisecond, 0)
	if c.MaxStale < c.TTL && c.MaxStale >= time.Millisecond {
		v.fail("MaxStale must be at least TTL (%v), got %v", c.TTL, c.MaxStale)
	}
	v.duration("NegativeTTL", &c.NegativeTTL, 10*time.Second, time.Millisecond, -1)
	v.duration("IdleAfter", &c.IdleAfter, 10*time.Minute, time.Millisecond, forever)
	v.duration("FetchTimeout", &c.FetchTimeout, 5*time.Second, time.Millisecond, 0)
	v.duration("FlushInterval", &c.FlushInterval, time.Second, time.Millisecond, 0)
	v.duration("FlushTimeout", &c.FlushTimeout, 10*time.Second, time.Millisecond, 0)
	v.duration("RetryFor", &c.RetryFor, 7*24*time.Hour, time.Millisecond, 0)
	v.duration("ReservationTTL", &c.ReservationTTL, 15*time.Minute, time.Millisecond, 0)
	if c.UsageLag != 0 {
		v.duration("UsageLag", &c.UsageLag, 0, time.Millisecond, 0)
	}
	v.count("MaxCustomers", &c.MaxCustomers, 100_000)
	v.count("FetchConcurrency", &c.FetchConcurrency, 64)
	v.count("FlushSize", &c.FlushSize, 1000)
	v.count("FlushConcurrency", &c.FlushConcurrency, 2)
	v.count("MaxPending", &c.MaxPending, 100_000)
	v.duration("SpoolSync", &c.SpoolSync, time.Second, time.Millisecond, 0)
	if c.SpoolMaxBytes == 0 {
		c.SpoolMaxBytes = 1 << 30
	}
	if c.SpoolMaxBytes < 8<<20 {
		v.fail("SpoolMaxBytes must be at least 8388608, got %d", c.SpoolMaxBytes)
	}
	if c.SpoolDir != "" && c.Sink == nil {
		v.fail("SpoolDir needs Sink, got none")
	}
	if !(c.FetchRate >= 0) {
		v.fail("FetchRate must be at least 0, got %v", c.FetchRate)
	}
	if int(c.OnUnavailable) >= len(policyNames) {
		v.fail("OnUnavailable must be FailClosed, FailOpen or LastKnown, got %d", c.OnUnavailable)
	}
	if int(c.Overflow) >= len(overflowNames) {
		v.fail("Overflow must be DropNewest or DropOldest, got %d", c.Overflow)
	}
	for feature, policy := range c.FeaturePolicy {
		v.feature("FeaturePolicy", feature)
		if int(policy) >= len(policyNames) {
			v.fail("FeaturePolicy[%q] must be FailClosed, FailOpen or LastKnown, got %d", feature, policy)
		}
	}
	for feature, aggregation := range c.Aggregations {
		v.feature("Aggregations", feature)
		if int(aggregation) >= len(aggregationNames) {
			v.fail("Aggregations[%q] must be AggregateSum, AggregateMax, AggregateLast or AggregateUnique, got %d", feature, aggregation)
		}
	}
	for _, feature := range c.Shadow {
		v.feature("Shadow", feature)
	}
	for _, level := range c.UsageLevels {
		if !(level > 0 && level <= math.MaxFloat32) {
			v.fail("UsageLevels must be above 0, got %v", level)
		}
	}
	if len(c.SnapshotKey) > 0 && c.SnapshotFile == "" {
		v.fail("SnapshotKey needs SnapshotFile, got none")
	}
	// The caller's maps and slices stay the caller's.
	c.SnapshotKey = slices.Clone(c.SnapshotKey)
	c.UsageLevels = slices.Compact(slices.Sorted(slices.Values(c.UsageLevels)))
	if len(c.UsageLevels) == 0 {
		c.UsageLevels = []float64{0.8, 1}
	}
	c.FeaturePolicy = maps.Clone(c.FeaturePolicy)
	c.Aggregations = maps.Clone(c.Aggregations)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(v.errs...)
}

// validator gathers everything that is wrong with a Config.
type validator struct{ errs []error }

func (v *validator) fail(format string, args ...any) {
	v.errs = append(v.errs, fmt.Errorf("entitlements: Config."+format, args...))
}

// duration fills in a default and checks the bound. off is what a negative value
// becomes; 0 says that it can't be negative.
func (v *validator) duration(name string, d *time.Duration, def, least, off time.Duration) {
	switch {
	case *d == 0:
		*d = def
	case *d < 0 && off != 0:
		*d = off
	case *d < least:
		v.fail("%s must be at least %v, got %v", name, least, *d)
	case *d > forever:
		*d = forever
	}
}

func (v *validator) count(name string, n *int, def int) {
	switch {
	case *n == 0:
		*n = def
	case *n < 0:
		v.fail("%s must be at least 1, got %d", name, *n)
	}
}

func (v *validator) feature(field, code string) {
	if !validKey(code) {
		v.fail("%s has a feature code of %d bytes, must be 1 to %d", field, len(code), MaxKeyLength)
	}
}
