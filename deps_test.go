package entitlements_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A program that embeds the library gets what the README says, and nothing that
// belongs in tests.
func TestUsersGetNoTestLibrary(t *testing.T) {
	allowed := []string{
		"github.com/entitlements-go/entitlements", "github.com/dgraph-io/ristretto/v2", "golang.org/x/sync/",
		"github.com/cenkalti/backoff/v4", "github.com/cespare/xxhash/v2", "github.com/dustin/go-humanize", "golang.org/x/sys/",
	}
	for _, pkg := range []string{".", "./adapters/paylera"} {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", pkg).Output()
		require.NoError(t, err)
		for dep := range strings.FieldsSeq(string(out)) {
			require.NotEqual(t, "testing", dep, "of %s", pkg)
			if first, _, _ := strings.Cut(dep, "/"); !strings.Contains(first, ".") {
				continue // the standard library
			}
			known := false
			for _, prefix := range allowed {
				known = known || strings.HasPrefix(dep, prefix)
			}
			require.True(t, known, "%s imports %s", pkg, dep)
		}
	}
}
