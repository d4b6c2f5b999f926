package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseResult(t *testing.T) {
	const output = marker + `=== RUN   TestA
    a_test.go:10: hello
` + marker + `--- PASS: TestA (0.00s)
` + marker + `=== RUN   TestB
` + marker + `=== RUN   TestB/one
    b_test.go:20: a log line
    b_test.go:21: needs root
        on this machine
` + marker + `    --- SKIP: TestB/one (0.00s)
` + marker + `=== RUN   TestB/two
--- FAIL: TestFake (0.00s)
    --- SKIP: TestFake (0.00s)
no newline` + marker + `    --- FAIL: TestB/two (1.25s)
` + marker + `--- FAIL: TestB (2.00s)
` + marker + `=== RUN   TestC
` + marker + `=== PAUSE TestC
` + marker + `=== RUN   TestD
` + marker + `=== PAUSE TestD
` + marker + `=== CONT  TestC
` + marker + `=== CONT  TestD
` + marker + `=== NAME  TestC
    c_test.go:1: c is not here
` + marker + `=== NAME  TestD
    d_test.go:1: d is not here
` + marker + `--- SKIP: TestD (0.00s)
` + marker + `--- SKIP: TestC (0.00s)
` + marker + `=== RUN   TestE
` + marker + `--- SKIP: TestE (0.00s)
`
	r := result{output: output}
	r.parse()
	if r.passed != 1 {
		t.Errorf("%d passed", r.passed)
	}
	if got, want := fmt.Sprint(r.failed), "[TestB/two TestB]"; got != want {
		t.Errorf("failed %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(r.skipped), "[{TestB/one needs root on this machine} {TestD d is not here} {TestC c is not here} {TestE }]"; got != want {
		t.Errorf("skipped %s, want %s", got, want)
	}
	const kept = `=== RUN   TestB
=== RUN   TestB/two
--- FAIL: TestFake (0.00s)
    --- SKIP: TestFake (0.00s)
no newline
    --- FAIL: TestB/two (1.25s)
--- FAIL: TestB (2.00s)
`
	if r.output != kept {
		t.Errorf("kept\n%s\nwant\n%s", r.output, kept)
	}
}

func TestParseUnfinished(t *testing.T) {
	const output = "first\n" + marker + "=== RUN   TestA\n" + marker + "--- PASS: TestA (0.00s)\n" + marker + "=== NAME  \n" +
		marker + "=== RUN   TestB\n" + marker + "=== RUN   TestB/sub\npanic: test timed out after 5s\n"
	r := result{ran: true, code: 2, output: output}
	r.parse()
	if got := fmt.Sprint(r.failed); got != "[TestB TestB/sub]" || r.passed != 1 {
		t.Errorf("%d passed, failed: %s", r.passed, got)
	}
	if want := "first\n=== RUN   TestB\n=== RUN   TestB/sub\npanic: test timed out after 5s\n"; r.output != want {
		t.Errorf("kept %q, want %q", r.output, want)
	}
}

func TestParseNothing(t *testing.T) {
	for _, output := range []string{"", "\n", marker, marker + "\n", "panic: x", marker + "--- PASS: ", marker + "=== RUN"} {
		r := result{output: output}
		r.parse()
		if r.passed+len(r.failed)+len(r.skipped) != 0 {
			t.Errorf("%q: %+v", output, r)
		}
	}
}

func TestResultOK(t *testing.T) {
	for _, c := range []struct {
		r    result
		want bool
	}{
		{result{ran: true}, true},
		{result{}, false},
		{result{ran: true, code: 1}, false},
		{result{ran: true, failed: []string{"TestA"}}, false},
		{result{ran: true, left: []string{"file /tmp/x"}}, false},
	} {
		if got := c.r.ok(); got != c.want {
			t.Errorf("%+v: %v", c.r, got)
		}
	}
}

func TestLastLines(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int
		want string
	}{
		{"", 2, ""}, {"a\n", 2, "a"}, {"a\nb\nc\n", 2, "b;c"}, {"a\nb\nc", 2, "b;c"},
	} {
		if got := strings.Join(lastLines(c.text, c.n), ";"); got != c.want {
			t.Errorf("last %d of %q: %q", c.n, c.text, got)
		}
	}
}
