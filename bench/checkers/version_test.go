package checkers_test

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"

	. "github.com/entitlements-go/entitlements/bench/checkers"
)

func TestEveryPeerHasAVersion(t *testing.T) {
	for _, p := range Peers() {
		switch p.Kind {
		case Ours:
			require.Equal(t, "devel", Version(p.Module))
		case Map, Cache, SDK:
			if p.Module == "" {
				require.Equal(t, runtime.Version(), Version(p.Module))
			} else {
				require.Regexp(t, `^v\d+\.\d+\.\d+`, Version(p.Module), p.Name)
			}
		}
	}
	require.Empty(t, Version("example.com/not/here"))
}

func TestVersionOfAProgram(t *testing.T) {
	info := &debug.BuildInfo{Deps: []*debug.Module{
		{Path: "example.com/a", Version: "v1.2.3"},
		{Path: "example.com/a/v2", Version: "v2.0.0"},
		{Path: "example.com/directory", Version: "v0.0.0", Replace: &debug.Module{Path: "../"}},
		{Path: "example.com/workspace", Version: "(devel)"},
		{Path: "example.com/fork", Version: "v1.0.0", Replace: &debug.Module{Path: "example.com/b", Version: "v1.0.1"}},
	}}
	for module, want := range map[string]string{
		"example.com/a":         "v1.2.3",
		"example.com/a/v2":      "v2.0.0",
		"example.com/directory": "devel",
		"example.com/workspace": "devel",
		"example.com/fork":      "v1.0.1",
		"example.com":           "",
	} {
		require.Equal(t, want, VersionBuilt(info, module), module)
	}
}

func TestVersionOfATest(t *testing.T) {
	const goMod = `module example.com/bench

go 1.26.0

require example.com/single v0.1.0

require (
	example.com/a v1.2.3
	example.com/a/v2 v2.0.0 // indirect
	example.com/directory v0.0.0
)

replace example.com/directory => ../
`
	for module, want := range map[string]string{
		"example.com/single":    "v0.1.0",
		"example.com/a":         "v1.2.3",
		"example.com/a/v2":      "v2.0.0",
		"example.com/directory": "devel",
		"example.com/other":     "",
		"":                      "",
	} {
		require.Equal(t, want, VersionRequired(goMod, module), module)
	}
}
