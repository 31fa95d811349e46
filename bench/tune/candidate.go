package main

import (
	"time"

	"github.com/entitlements-go/entitlements"
)

// Candidate is the settings that are searched.
type Candidate struct {
	MaxCustomers     int
	TTL              time.Duration
	DenyTTL          time.Duration
	IdleAfter        time.Duration
	FetchConcurrency int
	FetchRate        float64
	FlushInterval    time.Duration
	FlushSize        int
}

// Config is a Candidate as the library takes it.
func (c Candidate) Config() entitlements.Config {
	return entitlements.Config{
		MaxCustomers: c.MaxCustomers, TTL: c.TTL, DenyTTL: c.DenyTTL, IdleAfter: c.IdleAfter,
		FetchConcurrency: c.FetchConcurrency, FetchRate: c.FetchRate,
		FlushInterval: c.FlushInterval, FlushSize: c.FlushSize,
	}
}

// defaults is what a Config that says nothing means.
func defaults() Candidate {
	return Candidate{
		MaxCustomers: 100_000, TTL: 30 * time.Second, DenyTTL: 5 * time.Second, IdleAfter: 10 * time.Minute,
		FetchConcurrency: 64, FlushInterval: time.Second, FlushSize: 1000,
	}
}
