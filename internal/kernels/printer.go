package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// printer writes what a person, or a script that looks at the first word of
// each line, wants to know.
type printer struct {
	w       io.Writer
	verbose bool
}

// leftOut says in one line what was not tried and why.
func (p *printer) leftOut(why error) {
	fmt.Fprintln(p.w, "left out:", strings.ReplaceAll(why.Error(), "\n", "; "))
}

// start says that a package's output follows.
func (p *printer) start(s *system, pkg string) {
	if p.verbose {
		fmt.Fprintf(p.w, "run   %s  %s\n", s, pkg)
	}
}

// output passes on what a test binary writes.
func (p *printer) output(data []byte) {
	if p.verbose {
		io.WriteString(p.w, strings.ReplaceAll(string(data), marker, ""))
	}
}

// result prints a line for a package, a line for each reason to skip, and for
// one that failed its output.
func (p *printer) result(s *system, r *result) {
	word := "ok  "
	if !r.ok() {
		word = "FAIL"
	}
	fmt.Fprintf(p.w, "%s  %s  %s  %.1fs  %d tests", word, s, r.pkg, r.took.Seconds(), r.passed+len(r.failed))
	if len(r.failed) > 0 {
		fmt.Fprintf(p.w, ", %d failed", len(r.failed))
	}
	if len(r.skipped) > 0 {
		fmt.Fprintf(p.w, ", %d skipped", len(r.skipped))
	}
	fmt.Fprintln(p.w)
	var reasons []string
	tests := map[string][]string{}
	for _, sk := range r.skipped {
		if tests[sk.reason] == nil {
			reasons = append(reasons, sk.reason)
		}
		tests[sk.reason] = append(tests[sk.reason], sk.test)
	}
	for _, why := range reasons {
		fmt.Fprintf(p.w, "      skipped: %s: %s\n", abridge(tests[why], 4), why)
	}
	if r.ok() {
		return
	}
	if !p.verbose || !r.ran {
		io.WriteString(p.w, r.output)
	}
	if len(r.failed) > 0 {
		fmt.Fprintf(p.w, "      failed: %s\n", abridge(r.failed, 20))
	}
	if r.ran && r.code != 0 {
		fmt.Fprintf(p.w, "      exit code: %d\n", r.code)
	}
	for _, what := range r.left {
		fmt.Fprintf(p.w, "      left behind: %s\n", what)
	}
}

// abridge names the first n of a list.
func abridge(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
}

// machine says how long a machine took.
func (p *printer) machine(s *system, boot, all time.Duration) {
	fmt.Fprintf(p.w, "done  %s  booted in %.1fs, ran for %.1fs\n", s, max(0, boot.Seconds()), all.Seconds())
}
