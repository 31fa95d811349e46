package main

import (
	"fmt"
	"io"
	"os"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows how far the search is: a bar with the time left on a terminal,
// else a line for each run.
type progress struct {
	out  io.Writer
	done int
	bar  *progressbar.ProgressBar // nil: lines
}

func newProgress(out io.Writer) *progress {
	p := &progress{out: out}
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		p.bar = progressbar.NewOptions(1,
			progressbar.OptionSetWriter(out), progressbar.OptionSetPredictTime(true), progressbar.OptionSetWidth(20),
			progressbar.OptionClearOnFinish(), progressbar.OptionShowCount())
	}
	return p
}

// begin says that a run begins, one of so many to come at most.
func (p *progress) begin(what string, left int) {
	if p.bar != nil {
		p.bar.ChangeMax(p.done + left)
		p.bar.Describe(fmt.Sprintf("%-30s", what))
	}
}

func (p *progress) end(what string, m Measured) {
	p.done++
	if p.bar != nil {
		_ = p.bar.Add(1) // a bar that can't be drawn is no reason to stop
		return
	}
	fmt.Fprintf(p.out, "%-30s hits %s, age p99 %s, %s requests/s, %v, at risk %d (%s simulated)\n",
		what, percent(m.HitRatio), short(m.P99), figure(m.Reads), Size(m.Memory), m.AtRisk, short(m.Settled+m.Window))
}

// close takes the bar away: fewer runs than planned may have been needed.
func (p *progress) close() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
