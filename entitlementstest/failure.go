package entitlementstest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Failure is a way for a backend to fail that a conformance suite asks a harness
// for.
type Failure uint8

const (
	FailUnauthorized Failure = iota // the credentials are not known: HTTP 401
	FailForbidden                   // the credentials do not suffice: HTTP 403
	FailRateLimited                 // too many requests, with a wait of RateLimitWait: HTTP 429 with Retry-After
	FailServer                      // the backend answers that it is broken: HTTP 500
	FailUnreachable                 // connections are refused or break before anything is done
	FailHang                        // the request is taken and never answered
	FailGarbage                     // the answer says success and is not what it should be
	FailLostAnswer                  // the work is done and the connection breaks before the answer

	failureCount
)

var failureNames = [failureCount]string{
	"unauthorized", "forbidden", "rate limited", "server error", "unreachable", "hang", "garbage", "lost answer",
}

// String is for the names of subtests.
func (f Failure) String() string {
	if int(f) < len(failureNames) {
		return failureNames[f]
	}
	return "unknown"
}

// RateLimitWait is the wait that a backend must ask for under [FailRateLimited]:
// the shortest that whole seconds can tell. The suites wait it out before they
// expect anything to work again.
const RateLimitWait = time.Second

// defaultPatience is how long a suite waits for what must come promptly.
const defaultPatience = 5 * time.Second

// skipped is the outcome of a check that the harness gives no means for.
type skipped struct{ reason string }

func (s skipped) Error() string { return s.reason }

func needs(hook string) error { return skipped{"needs " + hook} }

// report turns the outcome of a check into that of a test. The checks return
// errors, so that they can be run on implementations that must fail them.
func report(t testing.TB, err error) {
	t.Helper()
	var skip skipped
	switch {
	case err == nil:
	case errors.As(err, &skip):
		t.Skip(skip.reason)
	default:
		t.Error(err)
	}
}

// promptly calls f and returns its result, or an error when that takes longer
// than patience. f then goes on by itself: nothing can stop it.
func promptly[T any](patience time.Duration, what string, f func() T) (result T, err error) {
	type outcome struct {
		result   T
		panicked any
	}
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			o.panicked = recover()
			done <- o
		}()
		o.result = f()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case o := <-done:
		if o.panicked != nil {
			return result, fmt.Errorf("%s panicked: %v", what, o.panicked)
		}
		return o.result, nil
	case <-timer.C:
		return result, fmt.Errorf("%s did not return within %v", what, patience)
	}
}

// waitOut waits for what a failure asked clients to wait. A client may keep to
// that by itself, and refuse without asking the backend meanwhile.
func waitOut(failure Failure) {
	if failure == FailRateLimited {
		_ = sleep(context.Background(), RateLimitWait)
	}
}

// leaks reports an error text that tells a secret.
func leaks(err error, secrets []string) error {
	for _, secret := range secrets {
		if err != nil && secret != "" && strings.Contains(err.Error(), secret) {
			return errors.New("the error's text contains a secret")
		}
	}
	return nil
}
