package main

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBudget(t *testing.T) {
	spanOf := func(settle, window time.Duration) span { return span{settle * time.Second, window * time.Second} }
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(100 * time.Second)
		c := defaults()                    // full is 7.5 s and 30 s
		b.ran(2*time.Second, spanOf(5, 5)) // 1 s, and 0.1 s a second
		require.Equal(t, spanOf(7, 30), b.next(c, 39), "all others are compared with the first")
		require.Equal(t, spanOf(7, 30), b.next(c, 11), "a share of 9 s is more than enough")
		// 5 s are for the last run. 95 for 38 others are 2.5 s each, 1.5 s of it for
		// time that passes: four tenths of it.
		require.Equal(t, spanOf(3, 12), b.next(c, 39))
		require.Equal(t, spanOf(3, 12), b.next(c, 42), "runs are as long as the one before where they can be")
		require.Equal(t, spanOf(2, 6), b.next(c, 64), "or shorter")
		require.Equal(t, spanOf(3, 12), b.next(c, 39), "or longer again")
		require.Equal(t, spanOf(7, 30), b.next(c, 1), "the last has all that is left")
		c.TTL = 2 * time.Minute
		require.Equal(t, spanOf(30, 120), b.next(c, 1))
		c.FlushInterval = 18 * time.Second
		require.Equal(t, spanOf(30, 126), b.next(c, 1), "whole flushes")
		c.FlushInterval = time.Second
		time.Sleep(99 * time.Second)
		require.Equal(t, shortest(), b.next(c, 5), "never less than says anything")
		b.ran(13*time.Second, spanOf(30, 30))
		require.Equal(t, 150*time.Millisecond, b.perSecond, "it follows what runs take")
	})
}
