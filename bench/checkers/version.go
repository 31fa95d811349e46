package checkers

import (
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
)

// Version is which version of a module is measured, as tables show it: "devel"
// for one that is taken from a directory, Go's own for "", and "" for a module
// that is not known.
func Version(module string) string {
	if module == "" {
		return runtime.Version()
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		if v := versionBuilt(info, module); v != "" {
			return v
		}
	}
	// The build info of a test names no dependencies. A test runs in the directory
	// of its package, and so below the go.mod that it was built with.
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for {
		if data, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil {
			return versionRequired(string(data), module)
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
		dir = filepath.Dir(dir)
	}
}

// versionBuilt is the version that a program was built with.
func versionBuilt(info *debug.BuildInfo, module string) string {
	for _, m := range info.Deps {
		if m.Path != module {
			continue
		}
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Version == "" || m.Version == "(devel)" {
			return "devel"
		}
		return m.Version
	}
	return ""
}

// versionRequired is the version that a go.mod requires.
func versionRequired(goMod, module string) string {
	version := ""
	for line := range strings.Lines(goMod) {
		fields := strings.Fields(line)
		if len(fields) > 0 && (fields[0] == "require" || fields[0] == "replace") {
			fields = fields[1:]
		}
		switch {
		case len(fields) < 2 || fields[0] != module:
		case fields[1] == "=>":
			return "devel" // the only replacements here are directories
		default:
			version = fields[1]
		}
	}
	return version
}
