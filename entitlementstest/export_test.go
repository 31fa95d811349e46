package entitlementstest

import (
	"errors"
	"math/big"
)

// SourceCheck runs one subtest of RunSourceTests by itself.
func SourceCheck(name string, h SourceHarness) error {
	for _, check := range sourceChecks() {
		if check.name == name {
			return check.run(h.withDefaults())
		}
	}
	return errors.New("no such check: " + name)
}

// SinkCheck runs one subtest of RunSinkTests by itself.
func SinkCheck(name string, h SinkHarness) error {
	for _, check := range sinkChecks() {
		if check.name == name {
			return check.run(h.withDefaults())
		}
	}
	return errors.New("no such check: " + name)
}

func SourceCheckNames() (names []string) {
	for _, check := range sourceChecks() {
		names = append(names, check.name)
	}
	return names
}

func SinkCheckNames() (names []string) {
	for _, check := range sinkChecks() {
		names = append(names, check.name)
	}
	return names
}

// IsSkipped reports whether a check had no means to run.
func IsSkipped(err error) bool {
	var skip skipped
	return errors.As(err, &skip)
}

func ParseDecimal(s string) (*big.Int, bool)   { return parseDecimal(s) }
func FormatDecimal(n *big.Int) string          { return formatDecimal(n) }
func ToUnits(n *big.Int, decimals int) int64   { return toUnits(n, decimals) }
func FromUnits(n int64, decimals int) *big.Int { return fromUnits(n, decimals) }
