package entitlements

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// open takes a slot, what is left in it, and a first segment.
func (s *spool) open() error {
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return err
	}
	syncDir(filepath.Dir(s.root))
	for n := range slots {
		dir := filepath.Join(s.root, fmt.Sprintf("%03d", n))
		lock, err := lockSlot(dir)
		if err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
		if lock == nil {
			continue // another process's, or another user's
		}
		syncDir(s.root)
		left, err := segmentsIn(dir)
		if err != nil {
			_ = lock.Close()
			return err
		}
		lines := s.parkedIn(dir)
		if err := s.parking.open(dir); err != nil {
			_ = lock.Close()
			return err
		}
		s.dir, s.slot = dir, lock
		s.parked(lines) // first: what is parked is not taken up from a segment
		for _, path := range left {
			s.addBacklog(path)
		}
		s.adopt()
		return nil
	}
	return fmt.Errorf("all %d slots of %s are in use", slots, s.root)
}

// lockSlot makes and locks a slot. It returns nil when another process has it.
func lockSlot(dir string) (*os.File, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	ok, err := lockFile(f)
	if !ok {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// segmentsIn are the segments in a slot, oldest first.
func segmentsIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case strings.HasSuffix(path, segmentSuffix):
			paths = append(paths, path)
		case strings.HasSuffix(path, segmentSuffix+unfinished):
			_ = os.Remove(path) // nothing is in it
		}
	}
	slices.Sort(paths) // their names begin with when they were made
	return paths, nil
}

func (s *spool) addBacklog(path string) {
	size := int64(0)
	if info, err := os.Stat(path); err == nil { // not under the lock, which callers take
		size = info.Size()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes += size
	s.backlog = append(s.backlog, leftover{path: path})
}

// adopt takes over what is in slots that nobody has locked.
func (s *spool) adopt() {
	s.adoptedAt = time.Now()
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return
	}
	for _, e := range entries {
		dir := filepath.Join(s.root, e.Name())
		if n, err := strconv.Atoi(e.Name()); err != nil || n < 0 || n >= slots || dir == s.dir || !e.IsDir() {
			continue
		}
		lock, err := lockSlot(dir)
		if lock == nil || err != nil {
			continue
		}
		s.parked(s.parkedIn(dir))
		left, _ := segmentsIn(dir) // now that nobody else moves them
		for _, path := range left {
			to := filepath.Join(s.dir, filepath.Base(path))
			if err := os.Rename(path, to); err != nil {
				s.log.Error("entitlements: usage in Config.SpoolDir can't be taken over", "file", path, "error", err)
				continue
			}
			s.addBacklog(to)
		}
		syncDir(s.dir)
		_ = lock.Close()
	}
}

// parkedIn takes over what is parked in a slot.
func (s *spool) parkedIn(slot string) []parkedLine {
	lines, unreadable, err := s.parking.adopt(slot)
	if unreadable > 0 {
		s.damaged.Add(uint64(unreadable))
		s.log.Error("entitlements: parked usage in Config.SpoolDir can't be read, its lines stay", "slot", slot, "bytes", unreadable)
	}
	if err != nil {
		s.log.Error("entitlements: parked usage in Config.SpoolDir can't be taken over", "slot", slot, "error", err)
	}
	return lines
}

// syncDir makes what was created in or moved to a directory survive the machine.
// Where a directory can't be synced (windows) it is as durable as it gets.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}
