// Report turns the raw results of bench/results into the tables of README.md and
// docs/numbers.md, and the charts of docs/img.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

func main() {
	check := flag.Bool("check", false, "write nothing; fail when README.md or a chart is not what the results give")
	root := flag.String("root", ".", "the directory of the repository")
	flag.Parse()
	if err := run(*root, *check, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

// file is one that the results give.
type file struct {
	path    string // below the root
	content []byte
}

// run writes the files, or with check compares them. Nothing is written before
// all of them are made.
func run(root string, check bool, out io.Writer) error {
	r, err := readResults(filepath.Join(root, "bench", "results"))
	if err != nil {
		return err
	}
	files, err := charts(r.rows)
	if err != nil {
		return err
	}
	readme := filepath.Join(root, "README.md")
	content, err := os.ReadFile(readme)
	if err != nil {
		return err
	}
	page, err := speedBlock.splice(string(content), speedText(r))
	if err == nil {
		page, err = barsBlock.splice(page, barsText(r))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", readme, err)
	}
	files = append(files, file{numbersPath, []byte(numbersText(r))}, file{"README.md", []byte(page)})
	if check {
		return compare(root, files)
	}
	for _, f := range files {
		changed, err := write(filepath.Join(root, f.path), f.content)
		if err != nil {
			return err
		}
		if changed {
			fmt.Fprintln(out, f.path)
		}
	}
	return nil
}

// compare says which files are not what the results give.
func compare(root string, files []file) error {
	var errs []error
	for _, f := range files {
		got, err := os.ReadFile(filepath.Join(root, f.path))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			errs = append(errs, fmt.Errorf("%s is missing", f.path))
		case err != nil:
			errs = append(errs, err)
		case !bytes.Equal(got, f.content):
			errs = append(errs, fmt.Errorf("%s is not what bench/results gives", f.path))
		}
	}
	return errors.Join(errs...)
}

// write replaces a file as a whole, so that a reader sees the old one or the new
// one. It reports whether there was anything to change.
func write(path string, content []byte) (changed bool, err error) {
	mode := fs.FileMode(0o644)
	if old, err := os.ReadFile(path); err == nil {
		if slices.Equal(old, content) {
			return false, nil
		}
		info, err := os.Stat(path)
		if err != nil {
			return false, err
		}
		mode = info.Mode().Perm()
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".report-*")
	if err != nil {
		return false, err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return false, errors.Join(err, os.Remove(f.Name()))
	}
	return true, nil
}
