package entitlements

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOwnKeepsEveryFigureAsItWas(t *testing.T) {
	monthly := figure{used: 1, start: 10, floor: 10, resets: 20, fetched: 5, received: 6, horizon: 4}
	busy, daily := monthly, monthly
	busy.used = 1 << 60
	daily.resets = 11
	for name, figures := range map[string][]figure{
		"none":         {},
		"one":          {daily},
		"alike":        {monthly, busy, monthly},
		"of two kinds": {monthly, busy, daily},
		"the same two": {daily, daily},
	} {
		t.Run(name, func(t *testing.T) {
			o := packOwn(&plan{dated: len(figures)}, "v", 7, 8, figures, nil)
			require.Equal(t, "v", o.version)
			require.Equal(t, [2]int64{7, 8}, [2]int64{o.reading.asOf, o.reading.serverTime})
			for i, f := range figures {
				require.Equal(t, f, o.figure(&grant{own: int32(i)}))
			}
			require.ElementsMatch(t, figures, o.figures(nil))
			was := slices.Clone(figures)
			for i := range figures {
				figures[i].used = -1 // the caller's to change
			}
			require.ElementsMatch(t, was, o.figures(nil))
		})
	}
}

// Customers of one batch share what is the same for all, and nothing else.
func TestOwnSharesAReadingThatSaysTheSame(t *testing.T) {
	f := figure{used: 3, resets: 20, fetched: 5}
	more, later, mixed := f, f, []figure{f, {resets: 1}}
	more.used = 9
	later.fetched++
	first := packOwn(&plan{dated: 2}, "a", 1, 2, []figure{f, f}, nil)
	second := packOwn(&plan{dated: 1}, "b", 1, 2, []figure{more}, first.reading)
	require.Same(t, first.reading, second.reading)
	require.Equal(t, more, second.figure(&grant{own: 0}))
	for name, o := range map[string]*own{
		"another fetch":       packOwn(&plan{dated: 1}, "", 1, 2, []figure{later}, first.reading),
		"another AsOf":        packOwn(&plan{dated: 1}, "", 0, 2, []figure{f}, first.reading),
		"another ServerTime":  packOwn(&plan{dated: 1}, "", 1, 0, []figure{f}, first.reading),
		"figures that differ": packOwn(&plan{dated: len(mixed)}, "", 1, 2, mixed, first.reading),
	} {
		require.NotSame(t, first.reading, o.reading, name)
	}
	require.Equal(t, mixed, packOwn(&plan{dated: len(mixed)}, "", 1, 2, mixed, packOwn(&plan{dated: len(mixed)}, "", 1, 2, mixed, nil).reading).figures(nil))
}
