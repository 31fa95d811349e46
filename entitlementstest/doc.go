// Package entitlementstest is the test kit of package entitlements: what a
// program needs to test its own checks and its own usage, and what an author of
// a Source or a Sink needs to know that the core can rely on it.
//
// [NewClient] is a real client for unit tests, warm and without a network.
//
// [Source] and [Sink] are scripted doors in memory: they answer what they are
// told, fail how and when they are told, and count what they were asked. They
// wait with timers that their context bounds, so that they work inside
// testing/synctest bubbles.
//
// [Billing] is a billing API on loopback. It checks what it gets as strictly as
// a real one, dedupes, replays idempotency keys, signs webhooks, and breaks on
// demand: before the work was done, after it, and in the middle of the answer.
//
// [RunSourceTests] and [RunSinkTests] are conformance suites, in the spirit of
// testing/slogtest, for every implementation of the two doors.
//
// Nothing here keeps state in the package, so tests can run in parallel.
package entitlementstest
