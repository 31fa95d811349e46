package paylera

import (
	"time"

	"github.com/entitlements-go/entitlements"
)

// What the black-box tests look at from inside: the pure parts, whose tables
// would need a request per row otherwise.

func FormatDecimal(q int64, decimals int) string { return formatDecimal(q, decimals) }

func ParseDecimalDown(s string, decimals int) (int64, error) {
	return parseDecimal(s, decimals, roundDown)
}

func ParseDecimalUp(s string, decimals int) (int64, error) {
	return parseDecimal(s, decimals, roundUp)
}

func AddSaturated(a, b int64) int64      { return addSaturated(a, b) }
func SubtractSaturated(a, b int64) int64 { return subtractSaturated(a, b) }

func MergeGrants(a, b entitlements.Grant) entitlements.Grant { return mergeGrants(a, b) }

func DecodeFeatures(body []byte, decimals map[string]int) (map[string]entitlements.Grant, error) {
	a, err := decodeAnswer(body, decimals)
	if err != nil {
		return nil, err
	}
	return a.features, nil
}

// ParseSignature returns the time as it was written and the number of usable
// signatures.
func ParseSignature(header string) (stamp string, v1 int, err error) {
	s, err := parseSignature(header)
	return s.stamp, len(s.v1), err
}

// Remembered counts what the memory of customers holds.
func (a *Adapter) Remembered() (customers, subscriptions int) {
	a.memory.mu.Lock()
	defer a.memory.mu.Unlock()
	return len(a.memory.customers.items), len(a.memory.holders)
}

// VerifySignature checks a header as a webhook's is checked at a moment.
func VerifySignature(header string, secrets []string, body string, now time.Time) error {
	s, err := parseSignature(header)
	if err != nil {
		return err
	}
	return s.verify(secrets, []byte(body), now)
}

// DecodeEvent returns what a webhook is about.
func DecodeEvent(body []byte) (id, kind string, subscriptions []string, changes bool, err error) {
	e, err := decodeEvent(body)
	return e.id, e.typ, e.subscriptions, e.changesEntitlements(), err
}

// DecodePage returns a page of a list, and the cursor of the next.
func DecodePage(body []byte) (subscriptions []string, next string, err error) {
	p, err := decodePage(body)
	return p.subscriptions, p.next, err
}

func ParseMoment(s string) (time.Time, error) { return parseMoment(s) }
