//go:build !windows && !linux && !darwin && !freebsd && !netbsd && !openbsd && !dragonfly

package entitlements

import (
	"errors"
	"os"
)

// mapFile is refused: a segment is written instead.
func mapFile(*os.File, int) ([]byte, error) { return nil, errors.ErrUnsupported }

func unmapFile([]byte) {}

func syncMapped([]byte) error { return nil }

// lockFile is refused: without a lock that dies with its process two of them
// could use one directory. Usage stays in memory.
func lockFile(*os.File) (bool, error) { return false, errors.ErrUnsupported }
