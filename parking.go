package entitlements

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
	"unicode/utf8"
)

// parking is where records stay that are tried no more until somebody says so:
// dead letters, and those in doubt. With a spool they are in files of JSON Lines,
// which people read too; without one in memory, the latest of them.
type parking struct {
	mu    sync.Mutex // guards the fields below, and the files
	slot  string     // directory, "" = in memory
	lines []parkedLine
}

// Parked is a kind of records that [Client.Redrive] takes up again.
type Parked uint8

// The kinds of parked records.
const (
	ParkedAny     Parked = iota
	ParkedDead           // refused for good, or tried for longer than [Config.RetryFor]
	ParkedInDoubt        // sent without an answer, for longer than the sink dedupes: it may have arrived
)

var parkedFiles = [...]string{ParkedDead: "dead-letters.jsonl", ParkedInDoubt: "in-doubt.jsonl"}

// maxParked bounds what is parked in memory.
const maxParked = 10_000

// parkedLine is a parked record in its file. Where a string of it is not text, all
// of them are in the field "base64".
type parkedLine struct {
	kind Parked

	ID         string            `json:"id,omitempty"`
	Customer   string            `json:"customer,omitempty"`
	Feature    string            `json:"feature,omitempty"`
	Binary     [][]byte          `json:"base64,omitempty"` // ID, customer, feature, keys and values of the properties
	Quantity   int64             `json:"quantity"`
	Time       time.Time         `json:"time"`
	Properties map[string]string `json:"properties,omitempty"`
	Calls      int64             `json:"calls"`
	Reason     string            `json:"reason"`
	Parked     time.Time         `json:"parked"`
}

func parkedFrom(kind Parked, u *Usage, reason error) parkedLine {
	l := parkedLine{
		kind: kind, ID: u.ID, Customer: u.Customer, Feature: u.Feature, Quantity: u.Quantity, Time: u.Time,
		Properties: u.Properties, Calls: u.Count, Parked: time.Now(),
	}
	if reason != nil {
		l.Reason = reason.Error()
	}
	return l
}

func (l *parkedLine) encode() ([]byte, error) {
	out := *l
	all := [][]byte{[]byte(l.ID), []byte(l.Customer), []byte(l.Feature)}
	for k, v := range l.Properties {
		all = append(all, []byte(k), []byte(v))
	}
	if slices.ContainsFunc(all, func(b []byte) bool { return !utf8.Valid(b) }) {
		out.Binary = all
		out.ID, out.Customer, out.Feature, out.Properties = "", "", "", nil
	}
	b, err := json.Marshal(&out)
	return append(b, '\n'), err
}

func decodeParked(kind Parked, line []byte) (l parkedLine, ok bool) {
	if json.Unmarshal(line, &l) != nil {
		return l, false
	}
	l.kind = kind
	if b := l.Binary; b != nil {
		if len(b) < 3 || len(b)%2 == 0 {
			return l, false
		}
		l.ID, l.Customer, l.Feature, l.Binary = string(b[0]), string(b[1]), string(b[2]), nil
		for pair := range slices.Chunk(b[3:], 2) {
			if l.Properties == nil {
				l.Properties = make(map[string]string)
			}
			l.Properties[string(pair[0])] = string(pair[1])
		}
	}
	return l, l.ID != "" && l.Calls > 0 && validKey(l.Customer) && validKey(l.Feature)
}

// put parks records of one kind.
func (p *parking) put(lines []parkedLine) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slot == "" {
		p.lines = append(p.lines, lines...)
		if over := len(p.lines) - maxParked; over > 0 {
			p.lines = slices.Delete(p.lines, 0, over)
		}
		return nil
	}
	return p.appendLocked(lines)
}

// appendLocked writes records of one kind.
func (p *parking) appendLocked(lines []parkedLine) error {
	f, err := os.OpenFile(filepath.Join(p.slot, parkedFiles[lines[0].kind]), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	var b []byte
	info, err := f.Stat()
	if err == nil && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, info.Size()-1); err == nil && last[0] != '\n' {
			b = append(b, '\n') // a process was killed while it wrote
		}
	}
	for i := range lines {
		line, err := lines[i].encode()
		if err != nil {
			_ = f.Close()
			return err
		}
		b = append(b, line...)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if info == nil || info.Size() == 0 {
		syncDir(p.slot)
	}
	return err
}

// readParked reads a file of parked records. What is not one is returned as it is.
func readParked(dir string, kind Parked) (lines []parkedLine, bad []byte, err error) {
	data, err := os.ReadFile(filepath.Join(dir, parkedFiles[kind]))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	for line := range bytes.Lines(data) {
		l, ok := decodeParked(kind, line)
		switch {
		case ok:
			lines = append(lines, l)
		case len(bytes.TrimSpace(line)) > 0:
			bad = append(append(bad, bytes.TrimRight(line, "\n")...), '\n')
		}
	}
	return lines, bad, err
}

// list returns the records that match.
func (p *parking) list(match func(*parkedLine) bool) (found []parkedLine, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lines := slices.Clone(p.lines)
	for _, kind := range []Parked{ParkedDead, ParkedInDoubt} {
		if p.slot == "" {
			break
		}
		some, _, err := readParked(p.slot, kind)
		if err != nil {
			return nil, err
		}
		lines = append(lines, some...)
	}
	return slices.DeleteFunc(lines, func(l parkedLine) bool { return !match(&l) }), nil
}

// forget removes records.
func (p *parking) forget(keys map[parkedKey]bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	keep := func(lines []parkedLine) []parkedLine {
		return slices.DeleteFunc(lines, func(l parkedLine) bool { return keys[l.key()] })
	}
	p.lines = keep(p.lines)
	for _, kind := range []Parked{ParkedDead, ParkedInDoubt} {
		if p.slot == "" {
			break
		}
		lines, bad, err := readParked(p.slot, kind)
		if err != nil {
			return err
		}
		had := len(lines)
		if lines = keep(lines); len(lines) == had {
			continue
		}
		if err := p.rewriteLocked(kind, lines, bad); err != nil {
			return err
		}
	}
	return nil
}

func (p *parking) rewriteLocked(kind Parked, lines []parkedLine, bad []byte) error {
	name := filepath.Join(p.slot, parkedFiles[kind])
	if len(lines) == 0 && len(bad) == 0 {
		return os.Remove(name)
	}
	return replaceFile(name, func(f *os.File) error {
		w := bufio.NewWriter(f)
		_, _ = w.Write(bad)
		for i := range lines {
			line, err := lines[i].encode()
			if err != nil {
				return err
			}
			_, _ = w.Write(line)
		}
		return w.Flush()
	})
}

// open keeps what is parked in a slot from here on.
func (p *parking) open(slot string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slot = slot
	for _, kind := range []Parked{ParkedDead, ParkedInDoubt} {
		of := func(l parkedLine) bool { return l.kind == kind }
		some := slices.DeleteFunc(slices.Clone(p.lines), func(l parkedLine) bool { return !of(l) })
		if len(some) == 0 {
			continue
		}
		if err := p.appendLocked(some); err != nil {
			p.slot = "" // they stay in memory
			return err
		}
		p.lines = slices.DeleteFunc(p.lines, of)
	}
	return nil
}

// adopt takes over what is parked in a slot, be it the one that will be opened or
// another's, and returns it, and how many bytes of it can't be read.
func (p *parking) adopt(slot string) (lines []parkedLine, unreadable int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, kind := range []Parked{ParkedDead, ParkedInDoubt} {
		found, bad, err := readParked(slot, kind)
		if err != nil {
			return lines, unreadable, err
		}
		unreadable += len(bad)
		if p.slot != "" && slot != p.slot && len(found)+len(bad) > 0 {
			mine, badToo, err := readParked(p.slot, kind)
			if err == nil {
				// A process that was killed before it removed the other file has them already.
				known := make(map[parkedKey]bool, len(mine))
				for i := range mine {
					known[mine[i].key()] = true
				}
				found = slices.DeleteFunc(found, func(l parkedLine) bool { return known[l.key()] })
				err = p.rewriteLocked(kind, append(mine, found...), append(badToo, bad...))
			}
			if err == nil {
				err = os.Remove(filepath.Join(slot, parkedFiles[kind]))
			}
			if err != nil {
				return lines, unreadable, err
			}
		}
		lines = append(lines, found...)
	}
	return lines, unreadable, nil
}
