package entitlements

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRule16_ReadOutcome(t *testing.T) {
	cause := errors.New("cause")
	const A, R, U, X = fateAccepted, fateRetry, fateUnknown, fateRejected
	for _, test := range []struct {
		name    string
		err     error
		fates   []fate
		bisect  bool
		verdict verdict
		after   time.Duration
	}{
		{"nil", nil, []fate{A, A, A}, false, verdictWorked, 0},
		{"any other", cause, []fate{U, U, U}, false, verdictFailed, 0},
		{"a timeout", fmt.Errorf("x: %w", context.DeadlineExceeded), []fate{U, U, U}, false, verdictTimedOut, 0},
		{"unsent", Unsent(cause), []fate{R, R, R}, false, verdictFailed, 0},
		{"retry after", RetryAfter(time.Second, cause), []fate{R, R, R}, false, verdictBusy, time.Second},
		{"retry after, wrapped", fmt.Errorf("x: %w", RetryAfter(time.Second, cause)), []fate{R, R, R}, false, verdictBusy, time.Second},
		{"retry after, negative", RetryAfter(-time.Second, cause), []fate{R, R, R}, false, verdictFailed, 0},
		{"permanent", Permanent(cause), []fate{X, X, X}, true, verdictWorked, 0},
		{"empty lists", &DeliveryError{Err: cause}, []fate{A, A, A}, false, verdictWorked, 0},
		{"some of each", &DeliveryError{Rejected: []Rejection{{0, cause}}, Retry: []int{1}}, []fate{X, R, A}, false, verdictWorked, 0},
		{"wrapped", fmt.Errorf("x: %w", &DeliveryError{Unknown: []int{2}}), []fate{A, A, U}, false, verdictWorked, 0},
		{"all to retry", &DeliveryError{Retry: []int{0, 1, 2}, After: time.Minute}, []fate{R, R, R}, false, verdictFailed, time.Minute},
		{"all refused", &DeliveryError{Rejected: []Rejection{{0, cause}, {1, cause}, {2, nil}}}, []fate{X, X, X}, false, verdictWorked, 0},
		{"in several lists", &DeliveryError{Rejected: []Rejection{{0, cause}}, Unknown: []int{0, 1}, Retry: []int{0, 1, 2}}, []fate{X, U, R}, false, verdictFailed, 0},
		{"the same index twice", &DeliveryError{Retry: []int{0, 0, 0}}, []fate{R, A, A}, false, verdictWorked, 0},
		{"out of range", &DeliveryError{Retry: []int{3}}, []fate{U, U, U}, false, verdictFailed, 0},
		{"negative", &DeliveryError{Unknown: []int{-1}}, []fate{U, U, U}, false, verdictFailed, 0},
		{"refused out of range", &DeliveryError{Rejected: []Rejection{{0, cause}, {99, cause}}}, []fate{U, U, U}, false, verdictFailed, 0},
		{"After is negative", &DeliveryError{Retry: []int{0}, After: -time.Hour}, []fate{R, A, A}, false, verdictWorked, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := readOutcome(test.err, 3)
			require.Equal(t, test.fates, o.fates)
			require.Equal(t, test.bisect, o.bisect)
			require.Equal(t, test.verdict, o.verdict)
			require.Equal(t, test.after, o.after)
		})
	}
	t.Run("one bad record alone", func(t *testing.T) {
		o := readOutcome(Permanent(cause), 1)
		require.False(t, o.bisect)
		require.Equal(t, []fate{fateRejected}, o.fates)
		require.ErrorIs(t, o.err, cause)
	})
	// A classic slip in a Sink: "var e *DeliveryError; ...; return e". It must not
	// take the process down.
	t.Run("a nil *DeliveryError", func(t *testing.T) {
		var none *DeliveryError
		require.NotPanics(t, func() { readOutcome(none, 3) })
	})
}
