package main

import (
	"fmt"
	"strings"
)

const (
	beginMarker = "<!-- bench:begin -->"
	endMarker   = "<!-- bench:end -->"
)

// splice puts text between the markers, each on a line of its own.
func splice(readme, text string) (string, error) {
	for _, marker := range []string{beginMarker, endMarker} {
		if n := strings.Count(readme, marker); n != 1 {
			return "", fmt.Errorf("marker %s must be there once, is there %d times", marker, n)
		}
	}
	before, rest, _ := strings.Cut(readme, beginMarker)
	_, after, ok := strings.Cut(rest, endMarker)
	if !ok {
		return "", fmt.Errorf("marker %s must come after %s", endMarker, beginMarker)
	}
	return before + beginMarker + "\n" + strings.TrimSpace(text) + "\n" + endMarker + after, nil
}
