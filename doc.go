// Package entitlements decides, inside a running service, what a paying customer
// may do, and records what they used.
//
// When the billing API is down, checks go on: they are answered from memory, for
// up to [Config.MaxStale] (1 h) after a customer was last loaded, and usage waits
// and is delivered later. A program starts while it is down. Only a customer who
// was never loaded, or not for that long, is answered by policy: denied, unless
// [Config.OnUnavailable] or [Config.FeaturePolicy] says otherwise. With
// [Config.SnapshotFile] what was loaded before a restart counts.
//
// With [Config.SpoolDir] usage is on disk too until it has an end: it survives a
// process that is killed at any moment, and an outage of any length. Without one
// it is in memory, and [Client.Close] says what it could not deliver.
//
// # The two surfaces
//
// Calls without a context never block, do no I/O and return no error:
// [Client.Allowed], [Client.Decide], [Client.Track] and their like. They read an
// in-process cache that is refreshed in the background, and count in memory.
//
// Calls with a context may wait: [Client.Resolve] at the top of a request until
// the customer is answerable, [Client.Check] for one question, [Client.Report]
// and [Client.Flush] until usage is delivered, [Client.Close] at the end.
//
// # The two doors
//
// A [Source] loads what a customer may do; a [Sink] takes what they used. Each
// is one method that makes one attempt; caching, singleflight, retries, rate
// limits and breakers are the Client's. Package adapters/paylera is both for the
// Paylera API, and package entitlementstest has what an adapter of your own is
// tested with.
//
// # Metered features
//
// Decide shows the local view of a quota: what the backend told, and what this
// process counted that the backend may not have included yet. Within one process
// it is never below the truth.
//
// [Client.Use] checks and counts in one step, so that a hard limit holds whoever
// asks at once; [Client.Reserve] does so for work whose cost is known when it is
// done; [Client.Track] counts what has happened anyway. Other processes' usage is
// seen at the next refresh: [Config.TTL] says by how much a limit that they share
// can be passed.
//
// [Config.OnUsage] tells when a limit is nearly reached. [Config.Shadow] lets
// features through and counts what would have been denied: to switch gates on
// safely, and off in an emergency.
package entitlements
