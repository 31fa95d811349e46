package paylera

import (
	"errors"
	"net/http"
	"time"

	"github.com/entitlements-go/entitlements"
)

// fate is what became of one usage record. The order is that of the care it
// wants: where several apply, the later one is the honest answer.
type fate uint8

const (
	fateAccepted fate = iota
	fateRejected      // refused for good
	fateDeferred      // not accepted, may be later
	fateUnknown       // sent, and no answer that tells
)

// outcome is the fate of one record, and why.
type outcome struct {
	fate  fate
	after time.Duration // nothing is to be sent before
	err   error
}

const (
	// refusedWait is the slow regime while the token is refused. The records are
	// fine: they wait for the token to be put right.
	refusedWait = 30 * time.Second

	// inProgressWait gives a first request time to end.
	inProgressWait = time.Second
)

// outcomeOf reads the end of one POST. single says that it carried one record.
//
// Source: docs.paylera.com, /sdks/errors, /api/errors, /api/idempotency.
func outcomeOf(err error, single bool) outcome {
	var e *Error
	switch {
	case err == nil:
		return outcome{}
	case !errors.As(err, &e):
		// Nothing in this package returns such an error; if something does one day,
		// the careful reading is the right one.
		return outcome{fateUnknown, 0, err}
	case e.unsent:
		// Whatever else is wrong: no byte of it left this process.
		return outcome{fateDeferred, e.RetryAfter, err}
	}
	switch {
	case e.is(ErrAuthentication, ErrAuthorization):
		return outcome{fateDeferred, max(refusedWait, e.RetryAfter), err}
	case e.is(ErrRateLimited):
		return outcome{fateDeferred, e.RetryAfter, err}
	case e.is(ErrDuplicate):
		if single {
			return outcome{}
		}
		// All or none: one duplicate kept the others out. It is accepted once it
		// stands alone.
		return outcome{fateRejected, 0, err}
	case e.is(ErrIdempotencyInProgress):
		// The first request with this key is ours as well, and only its answer
		// will tell: "nothing was accepted" would be a guess.
		return outcome{fateUnknown, max(inProgressWait, e.RetryAfter), err}
	case e.is(ErrServer):
		// Received, and perhaps carried out before it broke. A stated wait is kept
		// apart from that: RetryAfter as such would claim that nothing was accepted.
		return outcome{fateUnknown, e.RetryAfter, err}
	case e.is(ErrNoAnswer):
		return outcome{fateUnknown, 0, err}
	case e.is(ErrMalformed):
		// Something in between turned the request away, except for a 408: that one
		// may come from the API, having read most of it.
		if e.Status == http.StatusRequestTimeout {
			return outcome{fateUnknown, 0, err}
		}
		return outcome{fateDeferred, max(refusedWait, e.RetryAfter), err}
	}
	return outcome{fateRejected, 0, err}
}

// settle tells the Client the fate of a batch: in the short forms of the
// contract when all records share one, by index otherwise.
func settle(outcomes []outcome) error {
	var (
		details entitlements.DeliveryError
		counts  [fateUnknown + 1]int
	)
	for i, o := range outcomes {
		counts[o.fate]++
		// One wait for all: the longest, since the API counts requests per tenant.
		details.After = max(details.After, o.after)
		if details.Err == nil {
			details.Err = o.err
		}
		switch o.fate {
		case fateRejected:
			details.Rejected = append(details.Rejected, entitlements.Rejection{Index: i, Err: o.err})
		case fateDeferred:
			details.Retry = append(details.Retry, i)
		case fateUnknown:
			details.Unknown = append(details.Unknown, i)
		}
	}
	switch n := len(outcomes); {
	case counts[fateAccepted] == n:
		return nil
	case counts[fateDeferred] == n:
		return entitlements.RetryAfter(details.After, details.Err)
	case counts[fateUnknown] == n && details.After == 0:
		return details.Err
	// Several refused records are not Permanent, which says "at least one is bad":
	// here each is known to be, and nothing is left to find out by halving.
	case counts[fateRejected] == n && n == 1:
		return entitlements.Permanent(details.Err)
	}
	return &details
}
