package entitlements

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// segmentSize is what a segment is made of. Two wait to be used and as many are
// being filled or still change: all that is locked in memory fits in the 8 MiB
// that a process is usually allowed.
var segmentSize = 1 << 20 // smaller in tests

// A segment is one file of the spool. It is mapped while its counts change, and
// locked in memory: counting is a store, which survives the process, and meets
// no I/O. Where the system refuses that, a count is a write.
type segment struct {
	path   string
	prefix string
	file   *os.File
	size   int
	next   int          // where the next frame begins; guarded by spool.mu
	live   atomic.Int64 // records that are not settled
	folds  atomic.Int64 // records that are open, or being put in: what is in memory changes
	dirty  atomic.Bool  // something was stored since the last sync; a count does not say
	broken atomic.Bool  // a write or an fsync failed: nothing more is put in

	mu     sync.Mutex // guards mapped, and the stores that may find it gone
	mapped bool
	mem    []byte // what is mapped, or a copy of what is written; nil when neither
}

// makeSegment makes a file with all its blocks. The directory is not synced.
func makeSegment(dir string, size int) (*segment, error) {
	var id [segmentID]byte
	_, _ = rand.Read(id[:]) // never fails: crypto/rand ends the program instead
	s := &segment{
		path:   filepath.Join(dir, fmt.Sprintf("%016x-%s%s", time.Now().UnixNano(), hex.EncodeToString(id[:]), segmentSuffix)),
		prefix: prefixOf(id), size: size, next: segmentHeader,
	}
	// Under another name until it is whole.
	made := s.path + unfinished
	f, err := os.OpenFile(made, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	// Of words, so that those of a frame are where a word may be.
	s.mem = unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(make([]uint64, size/8)))), size)
	putHeader(s.mem, id)
	if _, err = f.WriteAt(s.mem, 0); err == nil { // zeros are blocks, on every system
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil { // windows renames no open file
		err = os.Rename(made, s.path)
	}
	if err == nil {
		s.file, err = os.OpenFile(s.path, os.O_RDWR, 0)
	}
	if err != nil {
		_ = os.Remove(made)
		return nil, err
	}
	return s, nil
}

// unfinished is what the name of a segment ends in while it is made.
const unfinished = ".new"

// mapSegment is replaced in tests of what happens where it is refused.
var mapSegment = mapFile

// lock maps the segment and locks it in memory.
func (s *segment) lock() error {
	mem, err := mapSegment(s.file, s.size)
	if err != nil {
		return err
	}
	s.mem, s.mapped = mem, true
	return nil
}

// release lets go of the memory. What changes from here on is written.
func (s *segment) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mapped {
		unmapFile(s.mem)
	}
	s.mapped, s.mem = false, nil
}

// content reads the file: by its descriptor, so it is no matter what became of its
// name.
func (s *segment) content() ([]byte, error) {
	info, err := s.file.Stat()
	if err != nil {
		return nil, err
	}
	data := make([]byte, info.Size())
	_, err = s.file.ReadAt(data, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return data, err
}

func (s *segment) remove() {
	s.close()
	_ = os.Remove(s.path)
}

func (s *segment) close() {
	s.release()
	_ = s.file.Close()
}

// commitLocked puts a frame where there is room for it. spool.mu is held. Its
// caller ends with rest, when it knows whether the record folds.
func (s *segment) commitLocked(f *frame) {
	f.at = s.next
	s.next += f.sizeOf()
	s.live.Add(1)
	s.folds.Add(1) // from before it can be seen as filled, until rest
	w := f.put(s.mem)
	s.word(f.at).Store(w)
}

// rest says that one of folds has ended. What it stored is for the next sync.
func (s *segment) rest() {
	s.dirty.Store(true) // first: a sync that finds no folds finds this
	s.folds.Add(-1)
}

// word is for who knows that the memory is there.
func (s *segment) word(at int) *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&s.mem[at])) }

// written makes what was put into a segment that is not mapped reach the system.
func (s *segment) written(at, size int) bool {
	if s.mapped {
		return true
	}
	if _, err := s.file.WriteAt(s.mem[at:at+size], int64(at)); err != nil {
		s.broken.Store(true)
		return false
	}
	return true
}

// count stores what an open record has come to: in the half that the last call
// did not use, and its word last.
func (s *segment) count(at int, quantity int64, calls uint32) {
	half := at + frameCount + 16*int(calls&1)
	*(*int64)(unsafe.Pointer(&s.mem[half])) = quantity
	s.word(half + 8).Store(countWord(quantity, calls, at))
	if !s.mapped {
		s.written(half, 16)
	}
}

// mark stores how far a record has come, and when it was first tried.
func (s *segment) mark(at int, to stage, unknown, first int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty.Store(true)
	w, tried := stageWord(to, unknown, at), stageWord(stageSent, first, at)
	if s.mem != nil {
		s.word(at + frameFirst).Store(tried)
		s.word(at + frameStage).Store(w)
		if s.mapped {
			return
		}
	}
	var b [16]byte
	words.PutUint64(b[:], w)
	words.PutUint64(b[8:], tried)
	if _, err := s.file.WriteAt(b[:], int64(at+frameStage)); err != nil {
		s.broken.Store(true)
	}
}

// sync makes what was stored survive the machine. A descriptor is not synced
// again after that failed: the kernel may have dropped what it could not write.
func (s *segment) sync() error {
	folds := s.folds.Load() > 0 // looked at first: what is folded meanwhile is synced next time
	if s.broken.Load() || !s.dirty.Swap(folds) && !folds {
		return nil // told already, or clean
	}
	s.mu.Lock()
	var err error
	if s.mapped {
		err = syncMapped(s.mem)
	}
	s.mu.Unlock()
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil && !errors.Is(err, os.ErrClosed) {
		s.broken.Store(true)
		return err
	}
	return nil
}
