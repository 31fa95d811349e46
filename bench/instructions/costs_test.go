package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const output = `# callgrind format
version: 1
creator: callgrind-3.19.0
positions: line
events: Ir
summary: 1000

ob=(1) /tmp/it
fl=(1) main.go
fn=(1) main.collect
10 5
+1 7
cfn=(2) example.com/pkg.(*table).look
calls=3 40
+1 900
* 2

fl=(2) table.go
fn=(2)
40 30
fi=(3) atomic.go
7 6
fe=(2)
-1 4
cfi=(1)
cfn=(3) runtime.hash
calls=3 1
41 800
fn=(3)
1 800
`

func TestParseCosts(t *testing.T) {
	costs, err := parseCosts(strings.NewReader(output))
	require.NoError(t, err)
	require.Equal(t, []cost{{"runtime.hash", 800}, {"example.com/pkg.(*table).look", 40}, {"main.collect", 14}}, costs)

	_, err = parseCosts(strings.NewReader("fn=(1) f\n10 many\n"))
	require.EqualError(t, err, `read callgrind's output: position "10" has cost "many"`)
}

func TestReport(t *testing.T) {
	var out strings.Builder
	report(&out, "Allowed", []cost{
		{"main.collect", 9 * calls}, {"example.com/pkg.(*table).look", 40 * calls}, {"runtime.hash", 20 * calls}, {"rare", calls},
	})
	require.Equal(t, "Allowed                       61\n       40  pkg.(*table).look\n       20  runtime.hash\n", out.String())
}

// Each work can be done: under valgrind a mistake costs a minute.
func TestWorks(t *testing.T) {
	for _, w := range works {
		require.NoError(t, do(w.name), w.name)
	}
	require.EqualError(t, do("none"), `work must be one of those that are counted, got "none"`)
}
