package entitlements_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/entitlementstest"
	"github.com/stretchr/testify/require"
)

func spooled(t *testing.T, dir string, sink Sink, cfg Config) *Client {
	t.Helper()
	cfg.SpoolDir, cfg.Sink, cfg.Source = dir, sink, Static(nil)
	c, err := New(cfg)
	require.NoError(t, err)
	return c
}

func delivered(sink *entitlementstest.Sink) map[string]int64 {
	total := map[string]int64{}
	for _, u := range sink.Accepted() {
		total[u.Customer+"/"+u.Feature] += u.Quantity
	}
	return total
}

func TestSpool_WhatCloseCanNotDeliverIsDeliveredByTheNextRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	sink := entitlementstest.NewSink()
	sink.Always(entitlementstest.DeliverStep{Refuse: errSinkDown})
	c := spooled(t, dir, sink, Config{})
	for range 100 {
		c.Track("a", "api", 3)
		c.Track("b", "api", 1)
	}
	c.Record(Usage{Customer: "a", Feature: "export", Quantity: 7, ID: "mine", Properties: map[string]string{"k": "v"}})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := c.Close(ctx)
	var left *UndeliveredError
	require.ErrorAs(t, err, &left)
	require.EqualValues(t, 201, left.Spooled)
	require.Zero(t, left.Lost)
	require.EqualValues(t, 201, c.Stats().Usage.Pending)

	sink = entitlementstest.NewSink()
	c = spooled(t, dir, sink, Config{})
	require.NoError(t, c.Flush(t.Context()))
	require.Equal(t, map[string]int64{"a/api": 300, "b/api": 100, "a/export": 7}, delivered(sink))
	u := c.Stats().Usage
	require.EqualValues(t, 201, u.Restored)
	require.EqualValues(t, 201, u.Delivered)
	require.NoError(t, c.Close(t.Context()))
	left2, _ := filepath.Glob(filepath.Join(dir, "*", "*"))
	require.Equal(t, []string{filepath.Join(dir, "000", "lock")}, left2)
	_ = os.Remove
}
