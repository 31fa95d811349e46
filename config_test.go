package entitlements_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements"
)

// New names the field, the bound and the value got, of everything that is wrong.
func TestConfigErrors(t *testing.T) {
	source := Static(nil)
	for want, cfg := range map[string]Config{
		"Config.Source is required":                                             {},
		"Config.TTL must be at least 100ms, got 5ms":                            {Source: source, TTL: 5 * time.Millisecond},
		"Config.TTL must be at least 100ms, got -1s":                            {Source: source, TTL: -time.Second},
		"Config.DenyTTL must be at least 1ms, got 1µs":                          {Source: source, DenyTTL: time.Microsecond},
		"Config.MaxStale must be at least TTL (30s), got 10s":                   {Source: source, MaxStale: 10 * time.Second},
		"Config.NegativeTTL must be at least 1ms, got 1ns":                      {Source: source, NegativeTTL: 1},
		"Config.IdleAfter must be at least 1ms, got 1ns":                        {Source: source, IdleAfter: 1},
		"Config.FetchTimeout must be at least 1ms, got -1ns":                    {Source: source, FetchTimeout: -1},
		"Config.FlushInterval must be at least 1ms, got -1ns":                   {Source: source, FlushInterval: -1},
		"Config.FlushTimeout must be at least 1ms, got 1ns":                     {Source: source, FlushTimeout: 1},
		"Config.RetryFor must be at least 1ms, got -1ns":                        {Source: source, RetryFor: -1},
		"Config.UsageLag must be at least 1ms, got -1s":                         {Source: source, UsageLag: -time.Second},
		"Config.MaxCustomers must be at least 1, got -1":                        {Source: source, MaxCustomers: -1},
		"Config.FetchConcurrency must be at least 1, got -2":                    {Source: source, FetchConcurrency: -2},
		"Config.FetchRate must be at least 0, got -1":                           {Source: source, FetchRate: -1},
		"Config.FlushSize must be at least 1, got -1":                           {Source: source, FlushSize: -1},
		"Config.FlushConcurrency must be at least 1, got -1":                    {Source: source, FlushConcurrency: -1},
		"Config.MaxPending must be at least 1, got -1":                          {Source: source, MaxPending: -1},
		"Config.OnUnavailable must be FailClosed, FailOpen or LastKnown, got 9": {Source: source, OnUnavailable: 9},
		"Config.Overflow must be DropNewest or DropOldest, got 7":               {Source: source, Overflow: 7},
		`Config.FeaturePolicy["x"] must be FailClosed, FailOpen or LastKnown`:   {Source: source, FeaturePolicy: map[string]Policy{"x": 8}},
		"Config.FeaturePolicy has a feature code of 0 bytes, must be 1 to 255":  {Source: source, FeaturePolicy: map[string]Policy{"": FailOpen}},
		`Config.Aggregations["x"] must be AggregateSum, AggregateMax`:           {Source: source, Aggregations: map[string]Aggregation{"x": 99}},
		"Config.Aggregations has a feature code of 256 bytes, must be 1 to 255": {Source: source, Aggregations: map[string]Aggregation{strings.Repeat("x", 256): 0}},
	} {
		_, err := New(cfg)
		require.ErrorContains(t, err, "entitlements: "+want)
	}
	_, err := New(Config{TTL: 1, MaxPending: -1})
	require.ErrorContains(t, err, "Source")
	require.ErrorContains(t, err, "TTL")
	require.ErrorContains(t, err, "MaxPending")
}

// Negative switches off what can be switched off.
func TestConfigOff(t *testing.T) {
	c, err := New(Config{Source: Static(nil), DenyTTL: -1, NegativeTTL: -1, IdleAfter: -1})
	require.NoError(t, err)
	require.NoError(t, c.Close(t.Context()))
}

// The caller's maps stay the caller's.
func TestConfigIsReadOnce(t *testing.T) {
	policies := map[string]Policy{"x": FailOpen}
	c, err := New(Config{Source: Static(nil), FeaturePolicy: policies})
	require.NoError(t, err)
	defer c.Close(t.Context())
	policies["x"] = FailClosed
	require.True(t, c.Allowed("a", "x"))
}
