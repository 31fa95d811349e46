//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package entitlements

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// mapFile maps a file that has all its blocks, and keeps it in memory: neither a
// full disk nor one that can't be read any more is met by a store.
func mapFile(f *os.File, size int) ([]byte, error) {
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	if err := unix.Mlock(mem); err != nil {
		_ = unix.Munmap(mem)
		return nil, os.NewSyscallError("mlock", err)
	}
	return mem, nil
}

func unmapFile(mem []byte) { _ = unix.Munmap(mem) }

// syncMapped writes a mapping to its file; what reaches the disk is for fsync.
func syncMapped(mem []byte) error { return os.NewSyscallError("msync", unix.Msync(mem, unix.MS_SYNC)) }

// lockFile takes the lock of a file, which its process's death gives back. It
// reports false when another process has it.
func lockFile(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, os.NewSyscallError("flock", err)
}
