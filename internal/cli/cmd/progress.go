package cmd

import (
	"fmt"
	"io"
	"time"
)

// Progress shows how long work goes: on a terminal as one line that changes, elsewhere as a
// line for each new phase.
type Progress struct {
	w       io.Writer
	live    bool
	silent  bool
	title   string
	start   time.Time
	phase   string
	printed time.Time
	frame   int
	now     func() time.Time
}

// NewProgress begins to show progress on standard error, which keeps it out of results.
func (e *Env) NewProgress(title string) *Progress {
	return &Progress{w: e.Err, live: e.ErrTTY, silent: e.OnlyErrors, title: title, start: time.Now(), now: time.Now}
}

var frames = []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")

const quiet = 10 * time.Second // the longest silence in a log

// Update is an armclient.Progress.
func (p *Progress) Update(status, waitingFor string) {
	phase := status
	if waitingFor != "" {
		phase = "waiting for " + waitingFor
	}
	if p.silent || phase == "" {
		return
	}
	elapsed := p.now().Sub(p.start)
	if p.live {
		p.frame++
		fmt.Fprintf(p.w, "\r\x1b[K%c %s: %s (%.1fs)", frames[p.frame%len(frames)], p.title, phase, elapsed.Seconds())
		return
	}
	if phase == p.phase && p.now().Sub(p.printed) < quiet {
		return
	}
	p.phase, p.printed = phase, p.now()
	fmt.Fprintf(p.w, "%s: %s (%.1fs)\n", p.title, phase, elapsed.Seconds())
}

// Done ends it.
func (p *Progress) Done(err error) {
	if p.silent {
		return
	}
	if p.live {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
	if err == nil {
		fmt.Fprintf(p.w, "%s: done in %.1fs\n", p.title, p.now().Sub(p.start).Seconds())
	}
}
