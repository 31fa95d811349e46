package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/entitlements-go/entitlements/bench/raw"
)

// writeResults replaces the file of a suite as a whole: who stops a run keeps the
// results of the one before.
func writeResults(dir, suite string, rows []raw.Row) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".speed-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	w, err := raw.NewWriter(f, "make bench")
	for i := 0; err == nil && i < len(rows); i++ {
		err = w.Write(rows[i])
	}
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, suite+".jsonl"))
}
