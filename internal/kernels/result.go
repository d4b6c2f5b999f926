package main

import (
	"regexp"
	"slices"
	"strings"
	"time"
)

// result is what one package's tests came to.
type result struct {
	pkg     string
	ran     bool // the machine reported an exit code
	code    int
	took    time.Duration
	output  string   // as it came; after parse, what a reader of a failure needs
	left    []string // what it left behind in the machine
	passed  int
	failed  []string // names of tests, also of those that never ended
	skipped []skip
}

// skip is a test that did not run and why.
type skip struct{ test, reason string }

// ok tells whether the package passed and left nothing behind.
func (r *result) ok() bool {
	return r.ran && r.code == 0 && len(r.failed) == 0 && len(r.left) == 0
}

// marker is what -test.v=test2json puts before its own lines, so that a test
// that prints "--- FAIL" fools nobody: SYN, as cmd/internal/test2json has it.
const marker = "\x16"

var (
	verdictLine = regexp.MustCompile(`^ *--- (PASS|FAIL|SKIP): (\S+) \([0-9.]+s\)$`)
	currentLine = regexp.MustCompile(`^=== (RUN|CONT|NAME) +(\S*)$`)
	logLine     = regexp.MustCompile(`^ +\S+\.go:[0-9]+: (.*)$`)
)

// parser is the state between two lines of a test binary's output.
type parser struct {
	r       *result
	current string              // the test that the next line belongs to, if any
	running []string            // tests without a verdict
	logs    map[string][]string // of each test, the lines of its last log
	lines   []testLine
}

// testLine is a line of output and the test that wrote it.
type testLine struct{ test, text string }

// parse reads output that was written with -test.v=test2json and counts its
// tests. Of the output it keeps what failed tests wrote, and what no test did.
func (r *result) parse() {
	p := parser{r: r, logs: map[string][]string{}}
	for line := range strings.Lines(r.output) {
		p.line(strings.TrimSuffix(line, "\n"))
	}
	if !r.ok() {
		r.failed = append(r.failed, p.running...)
	}
	var kept strings.Builder
	for _, line := range p.lines {
		if line.test == "" || slices.Contains(r.failed, line.test) {
			kept.WriteString(line.text + "\n")
		}
	}
	r.output = kept.String()
}

// line takes in one line.
func (p *parser) line(line string) {
	// A test that ends its output without a newline has the mark behind it.
	said, ours, _ := strings.Cut(line, marker)
	if said != "" || ours == "" {
		p.lines = append(p.lines, testLine{p.current, said})
		if m := logLine.FindStringSubmatch(said); m != nil {
			p.logs[p.current] = []string{m[1]}
		} else if len(p.logs[p.current]) > 0 {
			p.logs[p.current] = append(p.logs[p.current], strings.TrimSpace(said))
		}
	}
	if m := currentLine.FindStringSubmatch(ours); m != nil {
		p.current = m[2]
		if m[1] == "RUN" {
			p.running = append(p.running, p.current)
			p.lines = append(p.lines, testLine{p.current, ours})
		}
		return
	}
	m := verdictLine.FindStringSubmatch(ours)
	if m == nil {
		return
	}
	verdict, name := m[1], m[2]
	p.lines = append(p.lines, testLine{name, ours})
	p.running = slices.DeleteFunc(p.running, func(n string) bool { return n == name })
	switch verdict {
	case "PASS":
		p.r.passed++
	case "FAIL":
		p.r.failed = append(p.r.failed, name)
	case "SKIP":
		p.r.skipped = append(p.r.skipped, skip{name, strings.Join(p.logs[name], " ")})
	}
}

// lastLines gives the last n lines of text.
func lastLines(text string, n int) []string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[max(0, len(lines)-n):]
}
