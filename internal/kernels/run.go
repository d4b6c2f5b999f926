package main

import (
	"bytes"
	"fmt"
	"time"

	"github.com/inboard/engine/internal/kernels/job"
)

// run turns a machine's events into results, and prints each as it comes.
type run struct {
	system  *system
	p       *printer
	waiting []string // packages without a result, in order
	current result
	output  bytes.Buffer
	booted  time.Time
	good    bool
}

func newRun(tests []job.Test, p *printer, s *system) *run {
	r := &run{system: s, p: p, good: true}
	for _, t := range tests {
		r.waiting = append(r.waiting, t.Package)
	}
	return r
}

// event takes in one event of the machine.
func (r *run) event(e job.Event) {
	switch e.Kind {
	case job.Boot:
		r.booted = time.Now()
	case job.Start:
		r.current = result{pkg: e.Package}
		r.output.Reset()
		r.p.start(r.system, e.Package)
	case job.Output:
		r.output.Write(e.Data)
		r.p.output(e.Data)
	case job.Left:
		r.current.left = append(r.current.left, e.Text)
	case job.Exit:
		r.current.ran, r.current.code = true, e.Code
		r.current.took = time.Duration(e.Seconds * float64(time.Second))
		r.close()
	}
}

// close prints the result of the current package.
func (r *run) close() {
	r.current.output = r.output.String()
	r.current.parse()
	r.p.result(r.system, &r.current)
	r.good = r.good && r.current.ok()
	r.waiting = r.waiting[1:]
	r.current = result{}
}

// finish accounts for packages that a machine that ended early, for the reason
// err, owes a result, and tells whether all went well.
func (r *run) finish(err error, console string) bool {
	if err == nil && len(r.waiting) > 0 {
		err = fmt.Errorf("%d packages have no result", len(r.waiting))
	}
	if err == nil {
		return r.good
	}
	fmt.Fprintf(&r.output, "machine: %v\nlast lines of its console:\n%s\n", err, console)
	if r.current.pkg != "" {
		r.close()
		r.output.Reset()
		r.output.WriteString("machine: it ended before\n")
	}
	for len(r.waiting) > 0 {
		r.current.pkg = r.waiting[0]
		r.close()
		r.output.Reset()
		r.output.WriteString("machine: it ended before\n")
	}
	return false
}
