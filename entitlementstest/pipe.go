package entitlementstest

import (
	"context"
	"io"
	"log"
	"net"
	"sync"
)

// pipeListener is a network of its own inside the process. Its connections are
// pipes, whose reads and deadlines a testing/synctest bubble understands.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// newPipeListener makes a network with nobody on it.
func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

// dial is for an http.Transport. It waits until the server takes the connection:
// a pipe has no backlog.
func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "dial", Net: "pipe", Addr: pipeAddr{}, Err: net.ErrClosed}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// pipeAddr is the address of everybody on the network.
type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "billing.invalid" }

// discardLog is for a server whose connections break on purpose: what it would
// print about them is noise in a test's output.
func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }
