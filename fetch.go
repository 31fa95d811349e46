package entitlements

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

const (
	// fetchAttempts is how often one load tries. A refresh tries once: it comes
	// back later, and nobody waits for it.
	fetchAttempts = 3

	fetchRetryFirst = 50 * time.Millisecond
	fetchRetryMost  = time.Second
)

var (
	errNothing = errors.New("entitlements: source answered neither entitlements nor an error")
	errLagging = errors.New("entitlements: source answered with figures older than Config.MaxStale")
)

// call serves loads with one call into the Source, tries those that failed again
// where that is worth it, and ends them all.
func (l *loader) call(loads []*load, background, probe bool) {
	ctx, cancel := context.WithTimeoutCause(l.running.context, l.cfg.FetchTimeout, &timeoutError{"Fetch", l.cfg.FetchTimeout})
	defer cancel()
	slot := &callSlot{loader: l, background: background}
	slot.holders.Store(1)
	defer slot.release()
	wait := newBackOff(fetchRetryFirst, fetchRetryMost)
	for n := 1; ; n++ {
		v := l.attempt(ctx, slot, loads, probe)
		failed := loads[:0:0]
		for _, ld := range loads {
			if ld.err != nil && v != verdictWorked {
				failed = append(failed, ld)
			} else {
				close(ld.done)
			}
		}
		loads = failed
		if len(loads) == 0 {
			return
		}
		if v != verdictFailed || background || probe || n == fetchAttempts || ctx.Err() != nil ||
			!l.door.open(l.clock.precise()) || !l.door.spend(v) || !sleep(ctx, wait.NextBackOff()) || !l.pace(ctx) {
			break
		}
	}
	for _, ld := range loads {
		close(ld.done)
	}
}

// callSlot is one of FetchConcurrency. It is free again when the call has ended
// and nothing that it called still runs, even if nobody waits for that any more.
type callSlot struct {
	loader     *loader
	background bool
	holders    atomic.Int32
}

func (s *callSlot) release() {
	if s.holders.Add(-1) > 0 {
		return
	}
	s.loader.mu.Lock()
	defer s.loader.mu.Unlock()
	s.loader.returnLocked(s.background)
	s.loader.dispatchLocked(s.loader.clock.precise())
}

// attempt calls the Source once and hands each load its answer.
func (l *loader) attempt(ctx context.Context, slot *callSlot, loads []*load, probe bool) verdict {
	sequence := l.sequence.Add(1)
	wallSent, sent := time.Now(), l.clock.precise()
	l.stats.fetches.Add(1)
	slot.holders.Add(1)
	sets, err := protect(ctx, l.running, slot.release, func() ([]*Entitlements, error) { return l.ask(ctx, loads) })
	received, wallReceived := l.clock.precise(), time.Now()
	v, told := fetchVerdict(err), err
	good, last := false, new(atomic.Pointer[reading])
	for i, ld := range loads {
		ld.sequence, ld.sent, ld.received, ld.last = sequence, sent, received, last
		ld.set, ld.err = nil, err
		switch {
		case errors.Is(err, ErrNotModified):
			if sets[i] != nil {
				l.clock.observe(sets[i].ServerTime, wallSent, wallReceived)
			}
		case i < len(sets) && sets[i] != nil:
			ld.set, ld.err = sets[i], l.check(ld.customer, sets[i], wallReceived)
			l.clock.observe(sets[i].ServerTime, wallSent, wallReceived)
			if good = good || ld.err == nil; ld.err != nil {
				v, told = verdictFailed, ld.err
			}
		case err == nil:
			ld.err = ErrUnknownCustomer // absent from a batch
			good = true
		}
	}
	if good {
		v, told = verdictWorked, nil // a batch that got through, if only in part
	}
	if v != verdictWorked {
		l.stats.failures.Add(1)
	}
	after, _ := RetryDelay(told)
	l.door.done(received, probe, v, after, told)
	return v
}

// ask is the call itself: for one customer whose version is at hand, for one, or
// for many.
func (l *loader) ask(ctx context.Context, loads []*load) ([]*Entitlements, error) {
	if len(loads) == 1 {
		var set *Entitlements
		var err error
		if version := l.version(loads[0]); l.conditional != nil && version != "" {
			set, err = l.conditional.FetchChanged(ctx, loads[0].customer, version)
		} else {
			set, err = l.cfg.Source.Fetch(ctx, loads[0].customer)
		}
		switch {
		case errors.Is(err, ErrNotModified):
			return []*Entitlements{set}, err
		case err != nil:
			return nil, err
		case set == nil:
			return nil, errNothing
		}
		return []*Entitlements{set}, nil
	}
	customers := make([]string, len(loads))
	for i, ld := range loads {
		customers[i] = ld.customer
	}
	found, err := l.batches.FetchBatch(ctx, customers)
	sets := make([]*Entitlements, len(loads))
	for i, customer := range customers {
		sets[i] = found[customer]
	}
	return sets, err
}

// version is the version that may be asked about, empty for none. While delivered
// usage waits for a figure that contains it, only a body helps: "not modified"
// says nothing of usage, and where the version covers usage too it would be the
// answer for as long as nothing more is used.
func (l *loader) version(ld *load) string {
	if ld.own == nil {
		return ""
	}
	if a := ld.prior.account.Load(); a != nil && a.waits(l.books) {
		return ""
	}
	return ld.own.version
}

// check refuses answers that must not be installed.
func (l *loader) check(customer string, set *Entitlements, received time.Time) error {
	if set.Customer != customer {
		return fmt.Errorf("entitlements: source answered for customer %q when asked for %q", set.Customer, customer)
	}
	if lag := lagOf(set, received); lag > l.cfg.MaxStale {
		return fmt.Errorf("%w: AsOf is %v behind ServerTime, at most %v", errLagging, lag, l.cfg.MaxStale)
	}
	return nil
}

// lagOf is how much older than its answer the backend says its figures are.
func lagOf(set *Entitlements, received time.Time) time.Duration {
	if set.AsOf.IsZero() {
		return 0
	}
	if set.ServerTime.IsZero() {
		return received.Sub(set.AsOf)
	}
	return set.ServerTime.Sub(set.AsOf)
}

// fetchVerdict reads the answer of a Source by the table in [Source].
func fetchVerdict(err error) verdict {
	after, transient := RetryDelay(err)
	switch {
	case err == nil, errors.Is(err, ErrUnknownCustomer), errors.Is(err, ErrNotModified):
		return verdictWorked
	case transient && after > 0:
		return verdictBusy
	case IsPermanent(err):
		return verdictDenied
	case errors.Is(err, context.DeadlineExceeded):
		return verdictTimedOut
	default:
		return verdictFailed
	}
}

// sleep waits, and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
