package recorders

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Server is where every recorder sends to: an HTTP server on loopback that knows
// the wire format of each. It keeps bodies as they come and reads them when it is
// asked for the counts, so that it takes little from those who are measured beside
// it, and the same from all.
type Server struct {
	URL string

	latency time.Duration
	server  *http.Server
	served  sync.WaitGroup
	closing chan struct{}
	once    sync.Once

	mu       sync.Mutex // guards the fields below
	arrived  []request  // not read yet
	requests int64
	bytes    int64
	tally    tally
}

// Counts is what a Server got.
type Counts struct {
	Requests   int64
	Bytes      int64 // of bodies, as sent
	Delivered  int64 // calls of Record, each once where the wire has IDs
	Duplicates int64 // calls that arrived again
	Overflowed int64 // of Delivered, those of which the customer and the feature are gone
}

// request is one that was answered.
type request struct {
	path    string
	id      string // of the request, where the wire has one
	gzipped bool
	body    []byte
}

// NewServer starts a Server that answers each request after latency.
func NewServer(latency time.Duration) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("recorders: start the server: %w", err)
	}
	s := &Server{
		URL:     "http://" + listener.Addr().String(),
		latency: latency,
		closing: make(chan struct{}),
		tally:   newTally(),
	}
	s.server = &http.Server{Handler: http.HandlerFunc(s.handle)}
	// Owned by the Server, ends when it is closed.
	s.served.Go(func() { _ = s.server.Serve(listener) })
	return s, nil
}

// Close ends the server. Requests that were not answered yet never are.
func (s *Server) Close() {
	s.once.Do(func() {
		close(s.closing)
		_ = s.server.Close()
	})
	s.served.Wait()
}

// Counts returns what was answered so far, or what is wrong with it.
func (s *Server) Counts() (Counts, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, r := range s.arrived {
		if err := s.tally.read(r); err != nil {
			errs = append(errs, fmt.Errorf("recorders: read POST %s: %w", r.path, err))
		}
	}
	s.arrived = nil
	return Counts{
		Requests: s.requests, Bytes: s.bytes,
		Delivered: s.tally.delivered, Duplicates: s.tally.duplicates, Overflowed: s.tally.overflowed,
	}, errors.Join(errs...)
}

func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	body, err := readAll(r)
	if err != nil || !s.wait(r) {
		panic(http.ErrAbortHandler)
	}
	// What nobody waits for any more is not kept: its sender has given it up.
	s.mu.Lock()
	s.requests++
	s.bytes += int64(len(body))
	s.arrived = append(s.arrived, request{
		path: r.URL.Path, body: body,
		id:      r.Header.Get("X-LaunchDarkly-Payload-ID"),
		gzipped: r.Header.Get("Content-Encoding") == "gzip",
	})
	s.mu.Unlock()
	a := wireOf(r.URL.Path)
	w.Header().Set("Content-Type", a.contentType)
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.answer)
}

// wait lets the latency pass and reports whether the other side has stayed.
func (s *Server) wait(r *http.Request) bool {
	if s.latency == 0 {
		return r.Context().Err() == nil
	}
	timer := time.NewTimer(s.latency)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
	case <-s.closing:
	}
	return false
}

// readAll reads a body in one allocation where its length is known.
func readAll(r *http.Request) ([]byte, error) {
	if r.ContentLength < 0 {
		return io.ReadAll(r.Body)
	}
	body := make([]byte, r.ContentLength)
	_, err := io.ReadFull(r.Body, body)
	return body, err
}

// plain is the body without its compression.
func (r request) plain() ([]byte, error) {
	if !r.gzipped {
		return r.body, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}
