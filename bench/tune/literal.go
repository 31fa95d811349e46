package main

import (
	"fmt"
	"go/format"
	"strings"
	"time"
)

// literal is the best settings in Go: the fields that are not their default, and
// what each of them buys.
func literal(w Workload, r Result) string {
	var lines []string
	for _, t := range r.Tables {
		if t.Setting.isDefault(r.Best) {
			continue
		}
		line := fmt.Sprintf("\t%s: %s,", t.Setting.name, t.Setting.source(r.Best))
		if gain := t.gain(w); gain != "" {
			line += " // " + gain
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		return "entitlements.Config{} // the defaults: nothing that was tried is better"
	}
	text := "entitlements.Config{\n" + strings.Join(lines, "\n") + "\n}"
	formatted, err := format.Source([]byte(text))
	if err != nil {
		panic(err) // of fields and numbers
	}
	return string(formatted)
}

// goDuration writes a duration as people do in Go.
func goDuration(d time.Duration) string {
	for _, unit := range []struct {
		d    time.Duration
		name string
	}{{time.Hour, "Hour"}, {time.Minute, "Minute"}, {time.Second, "Second"}, {time.Millisecond, "Millisecond"}, {time.Microsecond, "Microsecond"}} {
		switch {
		case d == unit.d:
			return "time." + unit.name
		case d%unit.d == 0:
			return fmt.Sprintf("%d * time.%s", d/unit.d, unit.name)
		}
	}
	return fmt.Sprintf("time.Duration(%d)", d)
}
