package entitlementstest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/entitlements-go/entitlements"
)

// SinkHarness is one Sink and the means to put its backend into the states that
// [RunSinkTests] needs. A hook that is nil skips the subtests that need it.
type SinkHarness struct {
	// Sink is what is tested. Required. Limits are tested when it has them.
	Sink entitlements.Sink

	// Customer and Feature are accepted by the backend. Required.
	Customer, Feature string

	// Total is the sum of the quantities that the backend accepted of a customer
	// and feature and would bill: in the feature's smallest unit, duplicates
	// left out, everything included that a Deliver has returned nil for.
	// Required.
	Total func(customer, feature string) int64

	// Bad makes a good record one that the backend refuses for good.
	Bad func(u entitlements.Usage) entitlements.Usage

	// Break makes every request fail in this way until Repair. It returns false
	// for a failure that this backend does not have, which skips the subtest.
	// Where a received 5xx stays with the only key that dedupes a record, the one
	// of FailServer must be one that is not stored: nothing could be delivered
	// after it, and the fate of what it met is unknown for good.
	Break func(Failure) bool

	// Repair ends what Break began, requests that hang included.
	Repair func()

	// Requests is how many requests have reached the backend.
	Requests func() int

	// NoCorrections says that the backend takes no negative quantities.
	NoCorrections bool

	// Secrets must not appear in the text of any error.
	Secrets []string

	// Patience is how long the suite waits for what must come promptly. Defaults
	// to 5 s.
	Patience time.Duration

	ids *ids
}

// RunSinkTests checks that a Sink does what the core relies on: see
// [entitlements.Sink], [entitlements.DeliveryError] and
// [entitlements.SinkLimits]. open is called once per subtest; it cleans up with
// t.Cleanup. The backend need not be empty: IDs are new in every run.
func RunSinkTests(t *testing.T, open func(t testing.TB) SinkHarness) {
	t.Helper()
	for _, check := range sinkChecks() {
		t.Run(check.name, func(t *testing.T) {
			h := open(t)
			if h.Sink == nil || h.Total == nil || h.Customer == "" || h.Feature == "" {
				t.Fatal("SinkHarness.Sink, Total, Customer and Feature are required")
			}
			report(t, check.run(h.withDefaults()))
		})
	}
}

// sinkCheck is one promise. run returns what is wrong, or skipped.
type sinkCheck struct {
	name string
	run  func(h SinkHarness) error
}

func sinkChecks() []sinkCheck {
	checks := []sinkCheck{
		{"limits", checkLimits},
		{"accepts", checkAccepts},
		{"full batch", checkFullBatch},
		{"correction", checkCorrection},
		{"awkward id", checkAwkwardID},
		{"duplicate", checkDuplicate},
		{"duplicate in another batch", checkDuplicateRegrouped},
		{"duplicate in one batch", checkDuplicateWithin},
		{"batch is not changed", checkBatchUntouched},
		{"batch is not kept", checkBatchNotKept},
		{"concurrent", checkConcurrentDelivery},
		{"bad record alone", checkBadAlone},
		{"bad record among good ones", checkBadAmongGood},
		{"ended context", checkEndedDelivery},
		{"hanging backend", checkHangingDelivery},
		{"lost answer", checkLostAnswer},
		{"one attempt", checkOneDelivery},
	}
	for _, failure := range []Failure{FailUnauthorized, FailForbidden, FailRateLimited, FailServer, FailUnreachable} {
		checks = append(checks, sinkCheck{"failure, " + failure.String(), func(h SinkHarness) error {
			return checkDeliveryFailure(h, failure)
		}})
	}
	return checks
}

func (h SinkHarness) withDefaults() SinkHarness {
	if h.Patience == 0 {
		h.Patience = defaultPatience
	}
	h.ids = &ids{run: rand.Text()}
	return h
}

// ids makes record and batch IDs that no run before made.
type ids struct {
	run string
	n   atomic.Int64
}

func (i *ids) next() string { return i.run + "-" + strconv.FormatInt(i.n.Add(1), 10) }

// records makes good records of the given quantities.
func (h SinkHarness) records(quantities ...int64) []entitlements.Usage {
	usage := make([]entitlements.Usage, len(quantities))
	for i, quantity := range quantities {
		usage[i] = entitlements.Usage{
			ID: h.ids.next(), Customer: h.Customer, Feature: h.Feature,
			Quantity: quantity, Time: time.Now().Add(-time.Second), Count: 1,
		}
	}
	return usage
}

func (h SinkHarness) batch(usage []entitlements.Usage) entitlements.Batch {
	return entitlements.Batch{ID: h.ids.next(), Usage: usage, Attempt: 1}
}

func (h SinkHarness) limits() entitlements.SinkLimits {
	if limiter, ok := h.Sink.(entitlements.Limiter); ok {
		return limiter.Limits()
	}
	return entitlements.SinkLimits{}
}

// most is how many records a batch can have, up to n.
func (h SinkHarness) most(n int) int {
	if limit := h.limits().MaxBatch; limit > 0 {
		return min(n, limit)
	}
	return n
}

// deliver is a Deliver that must return in time, and whose answer must make
// sense: fates tells the fate of every record.
func (h SinkHarness) deliver(batch entitlements.Batch, timeout time.Duration) ([]fate, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return h.deliverUntil(ctx, batch, timeout)
}

func (h SinkHarness) deliverUntil(ctx context.Context, batch entitlements.Batch, timeout time.Duration) ([]fate, error) {
	answer, err := promptly(timeout+h.Patience, "Deliver", func() error { return h.Sink.Deliver(ctx, batch) })
	if err != nil {
		return nil, err
	}
	if err := leaks(answer, h.Secrets); err != nil {
		return nil, err
	}
	return fatesOf(len(batch.Usage), answer)
}

// fate is what a Deliver said about one record.
type fate struct {
	kind  fateKind
	after time.Duration // the wait that it asks for
	err   error         // what Deliver returned
}

type fateKind uint8

const (
	accepted fateKind = iota
	rejected          // refused for good
	bisect            // not accepted, and a record of the batch is bad
	retry             // not accepted
	unknown           // perhaps accepted
)

var fateNames = [...]string{"accepted", "rejected", "refused with Permanent", "to be retried", "unknown"}

func (f fate) String() string { return fmt.Sprintf("%s (%v)", fateNames[f.kind], f.err) }

// fatesOf reads what Deliver returned as the core does.
func fatesOf(n int, err error) ([]fate, error) {
	fates := make([]fate, n)
	fill := func(f fate) []fate {
		for i := range fates {
			fates[i] = f
		}
		return fates
	}
	var byIndex *entitlements.DeliveryError
	after, transient := entitlements.RetryDelay(err)
	switch {
	case err == nil:
		return fates, nil
	case errors.As(err, &byIndex):
		set := func(i int, kind fateKind) error {
			if i < 0 || i >= n {
				return fmt.Errorf("DeliveryError names record %d of %d: %w", i, n, err)
			}
			fates[i] = fate{kind, byIndex.After, err}
			return nil
		}
		var errs []error
		// The lists that count first are set last.
		for _, i := range byIndex.Retry {
			errs = append(errs, set(i, retry))
		}
		for _, i := range byIndex.Unknown {
			errs = append(errs, set(i, unknown))
		}
		for _, r := range byIndex.Rejected {
			errs = append(errs, set(r.Index, rejected))
		}
		return fates, errors.Join(errs...)
	case entitlements.IsPermanent(err):
		return fill(fate{kind: bisect, err: err}), nil
	case transient:
		return fill(fate{retry, after, err}), nil
	}
	return fill(fate{kind: unknown, err: err}), nil
}

// expectAll wants one fate for all records.
func expectAll(fates []fate, err error, want fateKind) error {
	if err != nil {
		return err
	}
	for i, f := range fates {
		if f.kind != want {
			return fmt.Errorf("record %d of %d is %v, want %s", i, len(fates), f, fateNames[want])
		}
	}
	return nil
}

// gained runs f and wants the total to be n higher after it.
func (h SinkHarness) gained(n int64, f func() error) error {
	before := h.Total(h.Customer, h.Feature)
	if err := f(); err != nil {
		return err
	}
	if got := h.Total(h.Customer, h.Feature) - before; got != n {
		return fmt.Errorf("the backend's total went up by %d, want %d", got, n)
	}
	return nil
}
