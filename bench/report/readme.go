package main

import (
	"fmt"
	"strings"
)

// block is a part of README.md that is generated: what lies between two markers,
// each on a line of its own.
type block struct{ begin, end string }

var (
	speedBlock = block{"<!-- bench:begin -->", "<!-- bench:end -->"}
	barsBlock  = block{"<!-- bars -->", "<!-- /bars -->"}
)

// splice puts text between the block's markers.
func (b block) splice(readme, text string) (string, error) {
	for _, marker := range []string{b.begin, b.end} {
		if n := strings.Count(readme, marker); n != 1 {
			return "", fmt.Errorf("marker %s must be there once, is there %d times", marker, n)
		}
	}
	before, rest, _ := strings.Cut(readme, b.begin)
	_, after, ok := strings.Cut(rest, b.end)
	if !ok {
		return "", fmt.Errorf("marker %s must come after %s", b.end, b.begin)
	}
	return before + b.begin + "\n" + strings.TrimSpace(text) + "\n" + b.end + after, nil
}
