package entitlements

import (
	"context"
	"time"
)

// Sink is the door that usage leaves through.
//
// Deliver makes one attempt to hand over a batch. It must honour ctx, whose
// deadline is [Config.FlushTimeout], and neither keep nor change the batch; only
// the Client retries. It is called by at most [Config.FlushConcurrency]
// goroutines at once.
//
// What it returns decides what happens to the records:
//   - nil: all are accepted. A duplicate counts as accepted.
//   - [*DeliveryError]: record by record.
//   - [Permanent]: nothing was accepted, since at least one record is bad. The
//     batch is halved until the bad ones are alone; those are dead letters.
//   - [RetryAfter], [Unsent]: nothing was accepted; all of it is tried again, after
//     the wait that was asked for or five minutes, whichever is shorter.
//   - any other error, or a panic: unknown. It is tried again with the same IDs
//     while the backend still knows them ([SinkLimits.DedupWindow]); after that
//     the records are parked as in doubt, since resending could bill twice.
type Sink interface {
	Deliver(ctx context.Context, batch Batch) error
}

// SinkFunc is a function as a [Sink].
type SinkFunc func(ctx context.Context, batch Batch) error

// Deliver calls f.
func (f SinkFunc) Deliver(ctx context.Context, batch Batch) error { return f(ctx, batch) }

// Limiter is a [Sink] that tells its limits. It is asked once, by [New].
type Limiter interface {
	Limits() SinkLimits
}

// SinkLimits is what a backend can take. The zero value is a sink without
// limits that dedupes for ever.
type SinkLimits struct {
	// MaxBatch is the most records in one Deliver; 0 is no limit of its own.
	MaxBatch int

	// Atomic says that a batch is accepted as a whole or not at all.
	Atomic bool

	// DedupWindow is how long the backend recognises a record's ID. 0 is for
	// ever; negative is never, so that a record of unknown fate is parked at
	// once.
	DedupWindow time.Duration

	// Rate is the most records per second; 0 is no limit.
	Rate float64
}
