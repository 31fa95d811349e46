package entitlements

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// mapFile is refused: a segment is written instead, which costs a call into the
// system for each that is counted.
func mapFile(*os.File, int) ([]byte, error) { return nil, errors.ErrUnsupported }

func unmapFile([]byte) {}

func syncMapped([]byte) error { return nil }

// lockFile takes the lock of a file, which its process's death gives back. It
// reports false when another process has it.
func lockFile(f *os.File) (bool, error) {
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, new(windows.Overlapped))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, os.NewSyscallError("LockFileEx", err)
}
