// Package recorders is what a service could record usage with: this library, a
// channel, and the SDKs of analytics and telemetry, each behind the same small
// interface and sending to a server on loopback that counts what arrives.
package recorders

import (
	"context"
)

// A Recorder records that a customer used a feature. It is safe for concurrent use.
type Recorder interface {
	Record(customer, feature string)
	// Flush sends what is waiting and returns when it has arrived or was given up,
	// or when ctx is done. What the recorder itself says that it dropped is told.
	Flush(ctx context.Context) (told int64)
	Close()
}

// A Peer makes a Recorder that sends to a Server.
type Peer struct {
	Name   string
	Module string // its import path; "" is the standard library
	New    func(s *Server) (Recorder, error)
}

// Peers are all of them, ours first, in the order in which tables list them.
func Peers() []Peer { return []Peer{} }
