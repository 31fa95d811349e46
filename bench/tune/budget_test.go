package main

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(100 * time.Second)
		c := defaults()
		b.ran(2*time.Second, span{5 * time.Second, 5 * time.Second}) // 1 s, and 0.1 s a second
		require.Equal(t, span{30 * time.Second, 30 * time.Second}, b.next(c, 10), "a share of 10 s is more than enough")
		require.Equal(t, span{5 * time.Second, 5 * time.Second}, b.next(c, 50), "one of 2 s is a sixth of it")
		c.TTL = time.Minute
		require.Equal(t, span{time.Minute, time.Minute}, b.next(c, 5))
		c.FlushInterval = 18 * time.Second
		require.Equal(t, 72*time.Second, b.next(c, 5).window, "whole flushes")
		c.FlushInterval = time.Second
		time.Sleep(99 * time.Second)
		require.Equal(t, shortest(), b.next(c, 5), "never less than says anything")
		b.ran(13*time.Second, span{30 * time.Second, 30 * time.Second})
		require.Equal(t, 150*time.Millisecond, b.perSecond, "it follows what runs take")
	})
}
