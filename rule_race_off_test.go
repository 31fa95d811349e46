//go:build !race

package entitlements_test

// underRace says that the race detector makes everything slower and larger.
const underRace = false
