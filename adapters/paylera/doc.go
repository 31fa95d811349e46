// Package paylera connects an entitlements Client to the Paylera billing API:
// one [Adapter] is its Source, its Sink and the receiver of Paylera's webhooks.
//
// When the API is down, nothing here waits or retries: Fetch and Deliver make
// one attempt each and say how it ended, and the Client keeps answering from
// what it has. What was refused, what was never sent and what may have arrived
// are told apart, since only the first two may be sent again for ever.
//
// Paylera publishes two families of its contract, which differ in hosts, token
// prefixes, error bodies and the usage endpoints. [SDK] is the default, [Core]
// the other. Answers of both are read alike, tolerantly. Where no page of the
// vendor says how the wire looks, the doc comment says "assumption", and the
// choice can be changed in [Config] where it matters.
//
// Source: docs.paylera.com, the /sdks pages for SDK and the /api and /guides
// pages for Core.
package paylera
