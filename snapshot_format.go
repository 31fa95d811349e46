package entitlements

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
)

// The snapshot file, version 1. Integers are varints, strings have their length
// before them.
//
//	magic, saved (unix ns), clock offset (ns)
//	'P' name, grants: each code, kind, flags, limit, text      a plan, numbered from 0
//	'C' key, plan, age (ns when saved), version, asOf, serverTime, a figure for each dated grant
//	'E' number of customers
//	HMAC-SHA-256 of all that, 32 bytes
//
// A plan comes before the first customer who has it. Without a key the HMAC has
// an empty one: then it tells damage, and nothing else.

const snapshotMagic = "entitlements snapshot 1\n"

const (
	tagPlan     = 'P'
	tagCustomer = 'C'
	tagEnd      = 'E'

	flagEnabled = 1 << 0
	flagSoft    = 1 << 1
	flagDated   = 1 << 2

	// maxText bounds a name or a text in a file: what is longer is damage.
	maxText = 1 << 20
)

var (
	errSignature = errors.New("the signature does not match: damaged, or written with another Config.SnapshotKey")
	errFormat    = errors.New("not a snapshot of a version that this program knows")
)

// savedHeader is what a file says before its customers.
type savedHeader struct {
	saved  int64 // unix ns
	offset int64 // the backend's clock minus the local one
}

// savedCustomer is one customer in a file. Its times are relative, so that no
// clock of the process that wrote it enters.
type savedCustomer struct {
	key              string
	plan             int
	age              int64 // ns, when it was saved
	version          string
	asOf, serverTime int64
	figures          []savedFigure
}

// savedFigure is a figure whose precise times are relative to the fetch of its
// customer.
type savedFigure struct {
	used, start, resets, expires, floor int64
	fetched, received, horizon          int64
}

// snapshotWriter writes a file from front to back.
type snapshotWriter struct {
	out       *bufio.Writer
	mac       hash.Hash
	buf       []byte
	customers int64
}

func newSnapshotWriter(w io.Writer, key []byte, h savedHeader) *snapshotWriter {
	s := &snapshotWriter{mac: hmac.New(sha256.New, key)}
	s.out = bufio.NewWriterSize(io.MultiWriter(w, s.mac), 1<<16)
	s.buf = append(s.buf, snapshotMagic...)
	s.ints(h.saved, h.offset)
	return s
}

func (s *snapshotWriter) ints(xs ...int64) {
	for _, x := range xs {
		s.buf = binary.AppendVarint(s.buf, x)
	}
}

func (s *snapshotWriter) text(x string) {
	s.buf = binary.AppendUvarint(s.buf, uint64(len(x)))
	s.buf = append(s.buf, x...)
}

// flush hands over what was gathered. The bufio.Writer keeps the first error.
func (s *snapshotWriter) flush() {
	_, _ = s.out.Write(s.buf)
	s.buf = s.buf[:0]
}

func (s *snapshotWriter) plan(p *plan) {
	s.buf = append(s.buf, tagPlan)
	s.text(p.name)
	s.ints(int64(len(p.grants)))
	for i := range p.grants {
		g := &p.grants[i]
		s.text(g.code)
		flags := int64(0)
		for flag, set := range map[int64]bool{flagEnabled: g.enabled, flagSoft: g.soft, flagDated: g.own >= 0} {
			if set {
				flags |= flag
			}
		}
		s.ints(int64(g.kind), flags, g.limit)
		s.text(g.text)
	}
	s.flush()
}

func (s *snapshotWriter) customer(c *savedCustomer) {
	s.buf = append(s.buf, tagCustomer)
	s.text(c.key)
	s.ints(int64(c.plan), c.age)
	s.text(c.version)
	s.ints(c.asOf, c.serverTime)
	for i := range c.figures {
		f := &c.figures[i]
		s.ints(f.used, f.start, f.resets, f.expires, f.floor, f.fetched, f.received, f.horizon)
	}
	s.customers++
	s.flush()
}

// close signs the file. It returns the first error of all.
func (s *snapshotWriter) close(w io.Writer) error {
	s.buf = append(s.buf, tagEnd)
	s.ints(s.customers)
	s.flush()
	if err := s.out.Flush(); err != nil {
		return err
	}
	_, err := w.Write(s.mac.Sum(nil))
	return err
}

// verifySnapshot checks the signature of a file of some size, and leaves r at its
// start. Nothing of a file is used before.
func verifySnapshot(r io.ReadSeeker, size int64, key []byte) error {
	if size < int64(len(snapshotMagic)+sha256.Size) {
		return errFormat
	}
	mac := hmac.New(sha256.New, key)
	if _, err := io.CopyN(mac, r, size-sha256.Size); err != nil {
		return err
	}
	told := make([]byte, sha256.Size)
	if _, err := io.ReadFull(r, told); err != nil {
		return err
	}
	if !hmac.Equal(told, mac.Sum(nil)) {
		return errSignature
	}
	_, err := r.Seek(0, io.SeekStart)
	return err
}

// snapshotReader reads what a verified file has, without trusting it further than
// memory goes: somebody may have signed nonsense.
type snapshotReader struct {
	in    *bufio.Reader
	err   error
	dated []int // of each plan: how many figures its customers have
}

// readSnapshot calls plan and customer with all that a file has, in its order.
// customer returns false to stop.
func readSnapshot(r io.Reader, header func(savedHeader), plan func(*Entitlements), customer func(*savedCustomer) bool) error {
	s := &snapshotReader{in: bufio.NewReaderSize(r, 1<<16)}
	magic := make([]byte, len(snapshotMagic))
	if _, err := io.ReadFull(s.in, magic); err != nil || string(magic) != snapshotMagic {
		return errFormat
	}
	header(savedHeader{saved: s.int(), offset: s.int()})
	for n := int64(0); s.err == nil; {
		tag, err := s.in.ReadByte()
		switch {
		case err != nil:
			s.fail(err)
		case tag == tagPlan:
			if e := s.plan(); s.err == nil {
				plan(e)
			}
		case tag == tagCustomer:
			c := s.customer()
			if s.err == nil {
				if n++; !customer(c) {
					return nil
				}
			}
		case tag == tagEnd:
			if told := s.int(); s.err == nil && told != n {
				s.fail(fmt.Errorf("%d customers, and %d were written", n, told))
			}
			return s.err
		default:
			s.fail(fmt.Errorf("unknown tag %q", tag))
		}
	}
	return s.err
}

func (s *snapshotReader) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

func (s *snapshotReader) int() int64 {
	if s.err != nil {
		return 0
	}
	x, err := binary.ReadVarint(s.in)
	if err != nil {
		s.fail(err)
	}
	return x
}

// number is an int from 0 to most.
func (s *snapshotReader) number(what string, most int64) int64 {
	x := s.int()
	if x < 0 || x > most {
		s.fail(fmt.Errorf("%s is %d, more than %d", what, x, most))
		return 0
	}
	return x
}

func (s *snapshotReader) text(most uint64) string {
	if s.err != nil {
		return ""
	}
	n, err := binary.ReadUvarint(s.in)
	if err == nil && n > most {
		err = fmt.Errorf("a text of %d bytes, more than %d", n, most)
	}
	if err != nil {
		s.fail(err)
		return ""
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(s.in, b); err != nil {
		s.fail(err)
		return ""
	}
	return string(b)
}

// plan reads a plan as the answer of a Source that has it.
func (s *snapshotReader) plan() *Entitlements {
	e := &Entitlements{Plan: s.text(maxText), Features: make(map[string]Grant)}
	dated := 0
	for range s.number("the number of grants", math.MaxInt32) {
		code := s.text(maxText)
		kind := Kind(s.number("a kind", int64(len(kindNames)-1)))
		flags := s.int()
		g := Grant{Kind: kind, Enabled: flags&flagEnabled != 0, Soft: flags&flagSoft != 0, Limit: s.int(), Text: s.text(maxText)}
		if flags&flagDated != 0 {
			g.ExpiresAt = fromNanos(1) // some time: the customers have their own
		}
		if s.err != nil {
			return nil
		}
		if isDated(&g) {
			dated++
		}
		e.Features[code] = g
	}
	s.dated = append(s.dated, dated)
	return e
}

func (s *snapshotReader) customer() *savedCustomer {
	c := &savedCustomer{key: s.text(MaxKeyLength)}
	c.plan = int(s.number("a plan", int64(len(s.dated)-1)))
	c.age, c.version = s.int(), s.text(maxText)
	c.asOf, c.serverTime = s.int(), s.int()
	if s.err != nil {
		return nil
	}
	if !validKey(c.key) {
		s.fail(errors.New("a customer without a key"))
		return nil
	}
	c.figures = make([]savedFigure, s.dated[c.plan])
	for i := range c.figures {
		for _, x := range c.figures[i].fields() {
			*x = s.int()
		}
	}
	return c
}

// fields are in the order of the file.
func (f *savedFigure) fields() [8]*int64 {
	return [...]*int64{&f.used, &f.start, &f.resets, &f.expires, &f.floor, &f.fetched, &f.received, &f.horizon}
}
