package entitlementstest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/entitlements-go/entitlements"
)

// checkLimits looks at what New asks a Sink for. It can't know whether the limits
// are the backend's; a full batch shows the most important one.
func checkLimits(h SinkHarness) error {
	limiter, ok := h.Sink.(entitlements.Limiter)
	if !ok {
		return skipped{"not a Limiter"}
	}
	limits := limiter.Limits()
	switch {
	case limits.MaxBatch < 0:
		return fmt.Errorf("SinkLimits.MaxBatch is %d, must be at least 0", limits.MaxBatch)
	case !(limits.Rate >= 0): // NaN is not
		return fmt.Errorf("SinkLimits.Rate is %v, must be at least 0", limits.Rate)
	case limits != limiter.Limits():
		return errors.New("Limits answered twice and differently: it is only asked once")
	}
	return nil
}

// deliverAll delivers good records to a healthy backend.
func (h SinkHarness) deliverAll(usage []entitlements.Usage) error {
	fates, err := h.deliver(h.batch(usage), h.Patience)
	return expectAll(fates, err, accepted)
}

// checkAccepts is the plain case, for one record and for several: nil, and the
// backend has them.
func checkAccepts(h SinkHarness) error {
	if err := h.gained(3, func() error { return h.deliverAll(h.records(3)) }); err != nil {
		return err
	}
	usage := h.records(slices.Repeat([]int64{2}, h.most(10))...)
	return h.gained(2*int64(len(usage)), func() error { return h.deliverAll(usage) })
}

// checkFullBatch delivers as many records as the Sink says it takes.
func checkFullBatch(h SinkHarness) error {
	usage := h.records(slices.Repeat([]int64{1}, h.most(1000))...)
	return h.gained(int64(len(usage)), func() error { return h.deliverAll(usage) })
}

// checkCorrection takes some back: a negative quantity is a record like another.
func checkCorrection(h SinkHarness) error {
	if h.NoCorrections {
		return skipped{"this backend takes no corrections"}
	}
	return h.gained(7, func() error {
		return errors.Join(h.deliverAll(h.records(10)), h.deliverAll(h.records(-3)))
	})
}

// checkAwkwardID uses the room that an ID has: it is the caller's and opaque.
func checkAwkwardID(h SinkHarness) error {
	usage := h.records(1, 1)[:h.most(2)]
	usage[0].ID = `"ü"/\ % <&> ` + h.ids.next()
	if len(usage) > 1 {
		id := h.ids.next()
		usage[1].ID = id + strings.Repeat("x", entitlements.MaxKeyLength-len(id))
	}
	return h.gained(int64(len(usage)), func() error { return h.deliverAll(usage) })
}

// dedupes reports whether the Sink says that its backend recognises IDs.
func (h SinkHarness) dedupes() error {
	if h.limits().DedupWindow < 0 {
		return skipped{"this backend does not dedupe"}
	}
	return nil
}

// checkDuplicate delivers a batch again as it was: the answer to the first may
// have got lost.
func checkDuplicate(h SinkHarness) error {
	if err := h.dedupes(); err != nil {
		return err
	}
	batch := h.batch(h.records(5, 6)[:h.most(2)])
	return h.gained(sum(batch.Usage), func() error {
		for range 3 {
			fates, err := h.deliver(batch, h.Patience)
			if err := expectAll(fates, err, accepted); err != nil {
				return fmt.Errorf("attempt %d: %w", batch.Attempt, err)
			}
			batch.Attempt++
		}
		return nil
	})
}

// checkDuplicateRegrouped delivers accepted records again in other company, as
// happens when a batch is halved or the process was restarted.
func checkDuplicateRegrouped(h SinkHarness) error {
	if err := h.dedupes(); err != nil {
		return err
	}
	if h.most(4) < 4 {
		return skipped{"batches of this Sink are too small"}
	}
	usage := h.records(1, 10, 100, 1000)
	return h.gained(1111, func() error {
		for _, part := range [][]entitlements.Usage{usage[:3], usage[:1], usage[1:], {usage[3], usage[0]}} {
			if err := h.deliverAll(part); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkDuplicateWithin has one ID twice in a batch: a caller who says the same
// thing twice.
func checkDuplicateWithin(h SinkHarness) error {
	if err := h.dedupes(); err != nil {
		return err
	}
	if h.most(3) < 3 {
		return skipped{"batches of this Sink are too small"}
	}
	usage := h.records(4, 4, 4)
	usage[2] = usage[0]
	return h.gained(8, func() error { return h.deliverAll(usage) })
}

// sum is what records come to.
func sum(usage []entitlements.Usage) (total int64) {
	for _, u := range usage {
		total += u.Quantity
	}
	return total
}

// checkBatchUntouched compares the batch before and after. The core sends the
// same slice again.
func checkBatchUntouched(h SinkHarness) error {
	usage := h.records(1, 2, 3)[:h.most(3)]
	usage[0].Properties = map[string]string{"region": "eu"}
	batch := h.batch(usage)
	before := slices.Clone(usage)
	properties := maps.Clone(usage[0].Properties)
	// What becomes of properties is the backend's business; the answer is not
	// looked at.
	if _, err := h.deliver(batch, h.Patience); err != nil {
		return err
	}
	for i, u := range batch.Usage {
		was := before[i]
		if u.ID != was.ID || u.Customer != was.Customer || u.Feature != was.Feature ||
			u.Quantity != was.Quantity || u.Time != was.Time || u.Count != was.Count {
			return fmt.Errorf("Deliver changed record %d of its batch from %+v to %+v", i, was, u)
		}
	}
	if !maps.Equal(properties, usage[0].Properties) {
		return errors.New("Deliver changed the properties of a record")
	}
	return nil
}

// checkBatchNotKept scribbles over a batch when Deliver has returned. A Sink
// that still reads it delivers what was scribbled, or meets the race detector.
func checkBatchNotKept(h SinkHarness) error {
	usage := h.records(slices.Repeat([]int64{1}, h.most(50))...)
	n := int64(len(usage))
	return h.gained(n, func() error {
		if err := h.deliverAll(usage); err != nil {
			return err
		}
		for i := range usage {
			usage[i] = entitlements.Usage{ID: h.ids.next(), Customer: h.Customer, Feature: h.Feature, Quantity: 1 << 30}
		}
		return nil
	})
}

// checkConcurrentDelivery calls the Sink as the core does, by several goroutines.
// Under the race detector it finds what is shared.
func checkConcurrentDelivery(h SinkHarness) error {
	const workers, rounds = 8, 5
	size := h.most(20)
	return h.gained(int64(workers*rounds*size), func() error {
		errs := make([]error, workers)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				for range rounds {
					if errs[i] = h.deliverAll(h.records(slices.Repeat([]int64{1}, size)...)); errs[i] != nil {
						return
					}
				}
			})
		}
		wg.Wait()
		return errors.Join(errs...)
	})
}

// checkBadAlone ends a bisection: alone, a bad record must be refused for good,
// or it is tried for a week.
func checkBadAlone(h SinkHarness) error {
	if h.Bad == nil {
		return needs("SinkHarness.Bad")
	}
	return h.gained(0, func() error {
		fates, err := h.deliver(h.batch([]entitlements.Usage{h.Bad(h.records(1)[0])}), h.Patience)
		if err != nil {
			return err
		}
		if kind := fates[0].kind; kind != rejected && kind != bisect {
			return fmt.Errorf("a bad record is %v, want rejected or refused with Permanent", fates[0])
		}
		return nil
	})
}

// checkBadAmongGood does what the core does with a batch in which some records
// are bad, and wants all good ones accepted once and just the bad ones refused.
func checkBadAmongGood(h SinkHarness) error {
	if h.Bad == nil {
		return needs("SinkHarness.Bad")
	}
	if h.most(9) < 2 {
		return skipped{"batches of this Sink are too small"}
	}
	usage := h.records(1, 2, 3, 4, 5, 6, 7, 8, 9)[:h.most(9)]
	want := sum(usage)
	bad := make(map[string]bool)
	for _, i := range []int{1, len(usage) - 1} {
		if !bad[usage[i].ID] {
			want -= usage[i].Quantity
			id := usage[i].ID
			if usage[i] = h.Bad(usage[i]); usage[i].ID != id {
				return errors.New("SinkHarness.Bad must leave the ID as it is")
			}
			bad[id] = true
		}
	}
	return h.gained(want, func() error {
		refused, err := h.isolate(usage)
		if err != nil {
			return err
		}
		for id := range refused {
			if !bad[id] {
				return fmt.Errorf("the good record %q was refused for good", id)
			}
		}
		if len(refused) != len(bad) {
			return fmt.Errorf("%d bad records were refused, want %d", len(refused), len(bad))
		}
		return nil
	})
}

// isolate delivers, and halves what is refused as a whole, until the bad records
// are alone. It returns the IDs of those.
func (h SinkHarness) isolate(usage []entitlements.Usage) (refused map[string]bool, err error) {
	var fates []fate
	// A refusal as a whole promises that nothing was accepted: otherwise halving
	// it would rely on dedupe for what is plain wrong.
	before := h.Total(h.Customer, h.Feature)
	if fates, err = h.deliver(h.batch(usage), h.Patience); err != nil {
		return nil, err
	}
	refused = make(map[string]bool)
	if fates[0].kind == bisect {
		if gain := h.Total(h.Customer, h.Feature) - before; gain != 0 {
			return nil, fmt.Errorf("a batch was refused with Permanent, and %d of it accepted", gain)
		}
		if len(usage) == 1 {
			refused[usage[0].ID] = true
			return refused, nil
		}
		for _, half := range [][]entitlements.Usage{usage[:len(usage)/2], usage[len(usage)/2:]} {
			part, err := h.isolate(half)
			if err != nil {
				return nil, err
			}
			maps.Copy(refused, part)
		}
		return refused, nil
	}
	var again []entitlements.Usage
	for i, f := range fates {
		switch f.kind {
		case rejected:
			refused[usage[i].ID] = true
		case retry:
			again = append(again, usage[i])
		case unknown:
			return nil, fmt.Errorf("record %d of a healthy backend is %v", i, f)
		}
	}
	if len(again) == len(usage) {
		return nil, fmt.Errorf("a batch with a bad record is %v: it would be retried as it is, and block the others", fates[0])
	}
	if len(again) > 0 {
		part, err := h.isolate(again)
		maps.Copy(refused, part)
		return refused, err
	}
	return refused, nil
}
