package entitlements

import (
	"math"
	"time"
)

// Unlimited is the Limit of a grant without one.
const Unlimited int64 = math.MaxInt64

// MaxKeyLength is the longest customer key, feature code or usage id, in bytes.
// All three are opaque: any bytes are allowed, none is interpreted.
const MaxKeyLength = 255

// Entitlements is everything one customer may do, as a [Source] answers it.
//
// A Source hands it over for good: neither side changes it, its map or its
// grants afterwards. A nil Features is an answer too: the customer exists and
// may do nothing.
type Entitlements struct {
	// Customer is the key that was asked for. Another key is an error.
	Customer string

	// Plan names the plan for people and logs; nothing is decided by it.
	Plan string

	// Features maps a feature code to what is granted. A feature that is absent
	// is denied with [ReasonNotGranted].
	Features map[string]Grant

	// AsOf is a moment on the backend's clock: every Used below includes all
	// usage that the backend accepted before it. Zero means when the fetch
	// began. It is only ever compared with ServerTime of the same answer; a
	// Source that knows AsOf but not ServerTime is taken to share the local
	// clock.
	AsOf time.Time

	// ServerTime is the backend's clock when it answered; zero is unknown. A
	// value of whole seconds is taken to have a resolution of one second, as an
	// HTTP Date header has.
	ServerTime time.Time

	// Version is opaque. An equal Version promises equal content, but for Used,
	// AsOf and ServerTime. Empty promises nothing.
	Version string
}

// Grant is what a customer has of one feature.
type Grant struct {
	Kind    Kind
	Enabled bool

	// Limit is the number of units per period of a metered grant and the value
	// of a numeric one. [Unlimited] is no limit. Limit, Used and
	// [Usage.Quantity] share one unit, the feature's smallest.
	Limit int64

	// Used is the number of units used in the current period of a metered
	// grant, as of [Entitlements.AsOf].
	Used int64

	// Soft lets a metered grant go on past its limit, as overage.
	Soft bool

	// PeriodStart and ResetsAt bound the current period of a metered grant, on
	// the backend's clock. At ResetsAt, Used becomes 0. Zero is unknown for
	// PeriodStart and never for ResetsAt.
	PeriodStart, ResetsAt time.Time

	// ExpiresAt ends the grant, on the backend's clock. Zero is never.
	ExpiresAt time.Time

	// Text is the value of a text grant.
	Text string
}

// Kind says what a grant is. Kinds that a backend adds later decode as the
// nearest one here; none of them is an error.
type Kind uint8

const (
	KindBoolean Kind = iota // on or off
	KindNumeric             // a number that the program reads: seats, retention days
	KindText                // a text that the program reads: a region, a model
	KindMetered             // a quota that usage counts against
)

var kindNames = [...]string{"boolean", "numeric", "text", "metered"}

// String is lower_snake, for logs and metrics.
func (k Kind) String() string { return nameOf(kindNames[:], int(k)) }

// Reason says why a [Decision] came out as it did.
type Reason uint8

const (
	ReasonUnset           Reason = iota // the zero Decision, which denies
	ReasonGranted                       // the customer has the feature
	ReasonOverage                       // past the limit of a soft grant: allowed
	ReasonNotGranted                    // the customer does not have the feature, or it is switched off
	ReasonLimitReached                  // the quota of a hard grant is used up
	ReasonExpired                       // the grant's ExpiresAt has passed
	ReasonUnknownCustomer               // the backend does not know the customer
	ReasonLoading                       // nothing is cached yet and a load is on its way
	ReasonUnavailable                   // nothing is cached and the last load failed, or was shed
	ReasonTooStale                      // what is cached is older than Config.MaxStale
	ReasonInvalid                       // an empty or too long key
	ReasonClosed                        // the Client is closed

	reasonCount
)

var reasonNames = [reasonCount]string{
	"unset", "granted", "overage", "not_granted", "limit_reached", "expired", "unknown_customer",
	"loading", "unavailable", "too_stale", "invalid", "closed",
}

// String is lower_snake, for logs and metrics.
func (r Reason) String() string { return nameOf(reasonNames[:], int(r)) }

// Origin says what a [Decision] was read from.
type Origin uint8

const (
	OriginPolicy   Origin = iota // no usable snapshot: a Policy answered, or the question was invalid
	OriginFresh                  // a snapshot younger than Config.TTL
	OriginStale                  // a snapshot past its TTL or invalidated, still younger than Config.MaxStale
	OriginRestored               // a snapshot kept from an earlier run of the program
)

var originNames = [...]string{"policy", "fresh", "stale", "restored"}

// String is lower_snake, for logs and metrics.
func (o Origin) String() string { return nameOf(originNames[:], int(o)) }

// Policy decides when nothing usable is cached.
type Policy uint8

const (
	FailClosed Policy = iota // deny
	FailOpen                 // allow
	LastKnown                // answer from a snapshot past Config.MaxStale where there is one, else deny
)

var policyNames = [...]string{"fail_closed", "fail_open", "last_known"}

// String is lower_snake, for logs and metrics.
func (p Policy) String() string { return nameOf(policyNames[:], int(p)) }

// Decision is the answer to "may this customer use this feature?" with its
// reason. The zero Decision denies.
type Decision struct {
	Allowed  bool
	Shadowed bool // would have been denied, but its feature is in shadow mode
	Reason   Reason
	Origin   Origin
	Kind     Kind

	// Limit is set for metered and numeric grants. Used and Remaining are the
	// local view of a metered grant: what the backend has told, and what this
	// process counted that the backend may not have included yet. Remaining is
	// between 0 and Limit.
	Limit, Used, Remaining int64

	// ResetsAt is when the period of a metered grant ends, on the backend's
	// clock; zero is never.
	ResetsAt time.Time

	// Text is the value of a text grant.
	Text string

	// Age is how long ago the fetch began that brought the snapshot which
	// answered; 0 without one. Its resolution is the client's clock tick, at
	// most 100 ms.
	Age time.Duration
}

// Usage is one thing that a customer used.
type Usage struct {
	// ID is the idempotency key. An empty ID is stamped once, before the first
	// attempt, and survives every retry. A caller's ID is sent as it is, and
	// such a record never folds with others.
	ID string

	Customer, Feature string

	// Quantity is in the feature's smallest unit; negative is a correction.
	Quantity int64

	// Time is when it happened; zero is now. In a folded record it is the time
	// of the first call. Stamped times are on the backend's clock as far as the
	// client knows it.
	Time time.Time

	// Properties travel with the record, which then never folds with others.
	// The map must not be changed after the call.
	Properties map[string]string

	// Count is how many calls are folded into this record. It is set by the
	// batcher; what a caller writes there is ignored.
	Count int64
}

// Batch is what one [Sink.Deliver] delivers.
type Batch struct {
	// ID is the same on every attempt of the same content.
	ID string

	// Usage has between 1 and [Config.FlushSize] records, or fewer where the
	// sink's own [SinkLimits.MaxBatch] is lower. No two have the same ID unless
	// a caller gave the same one twice.
	Usage []Usage

	// Attempt is 1 on the first attempt.
	Attempt int
}

// Aggregation is how a backend folds the usage of a feature within a period.
type Aggregation uint8

const (
	AggregateSum    Aggregation = iota // the total of all quantities
	AggregateMax                       // the largest quantity
	AggregateLast                      // the latest quantity
	AggregateUnique                    // the number of distinct values, which only the backend can count
)

var aggregationNames = [...]string{"sum", "max", "last", "unique"}

// String is lower_snake, for logs and metrics.
func (a Aggregation) String() string { return nameOf(aggregationNames[:], int(a)) }

// Overflow is what happens to usage that no longer fits in Config.MaxPending.
type Overflow uint8

const (
	DropNewest Overflow = iota // the call that does not fit is dropped
	DropOldest                 // the oldest pending record makes room
)

var overflowNames = [...]string{"drop_newest", "drop_oldest"}

// String is lower_snake, for logs and metrics.
func (o Overflow) String() string { return nameOf(overflowNames[:], int(o)) }

func nameOf(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return "unknown"
}

// validKey reports whether s can be a customer key, a feature code or an id.
func validKey(s string) bool { return s != "" && len(s) <= MaxKeyLength }
