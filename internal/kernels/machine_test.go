package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/inboard/engine/internal/kernels/job"
)

func TestListen(t *testing.T) {
	for _, c := range []struct {
		lines string
		ended bool
		kinds string
		err   string
	}{
		{"", false, "[]", ""},
		{`{"kind":"boot","text":"6.1"}` + "\n" + `{"kind":"done"}` + "\n", true, "[boot done]", ""},
		{`{"kind":"boot"}` + "\n" + `{"kind":"start"`, false, "[boot]", "event \"{\\\"kind\\\":\\\"start\\\"\": unexpected end of JSON input"},
		{`{"kind":"boot"}` + "\n" + `{"kind":"fault","text":"no disk"}` + "\n", false, "[boot]", "no disk"},
		{strings.Repeat("x", 20<<20), false, "[]", "bufio.Scanner: token too long"},
	} {
		kinds := []job.Kind{}
		ended, err := new(machine).listen(strings.NewReader(c.lines), func(e job.Event) { kinds = append(kinds, e.Kind) })
		if ended != c.ended || fmt.Sprint(kinds) != c.kinds || fmt.Sprint(err) != c.err && (err != nil || c.err != "") {
			t.Errorf("%.60q: %v, %v, %v", c.lines, ended, kinds, err)
		}
	}
}

func TestMachineArgs(t *testing.T) {
	m := &machine{system: &system{arch: arches[0], image: "/k"}, work: "/w", processors: 3, memory: 77}
	a := m.args()
	for _, want := range [][]string{{"-kernel", "/k"}, {"-initrd", "/w/initramfs"}, {"-smp", "3"}, {"-m", "77"}} {
		if i := slices.Index(a, want[0]); i < 0 || a[i+1] != want[1] {
			t.Errorf("no %s in %s", want, a)
		}
	}
	if b := m.args(); !slices.Equal(a, b) {
		t.Errorf("asked again: %s, before: %s", b, a)
	}
}

func TestTailBuffer(t *testing.T) {
	var b tailBuffer
	for i := range 10_000 {
		fmt.Fprintln(&b, i)
	}
	if s := b.String(); len(s) > 8<<10 || !strings.HasSuffix(s, "\n9998\n9999\n") {
		t.Errorf("%d bytes, end %q", len(s), s[len(s)-20:])
	}
}

// twoTests is a run of packages a and b on a machine that is called amd64 6.1.
func twoTests(verbose bool) (*run, *bytes.Buffer) {
	var out bytes.Buffer
	s := &system{arch: arches[0], release: "6.1"}
	return newRun([]job.Test{{Package: "a"}, {Package: "b"}}, &printer{&out, verbose}, s), &out
}

// play sends events to r.
func play(r *run, events ...job.Event) {
	for _, e := range events {
		r.event(e)
	}
}

func TestRunPasses(t *testing.T) {
	r, out := twoTests(false)
	play(r,
		job.Event{Kind: job.Boot},
		job.Event{Kind: job.Start, Package: "a"},
		job.Event{Kind: job.Output, Package: "a", Data: []byte(marker + "--- PASS: TestA (0")},
		job.Event{Kind: job.Output, Package: "a", Data: []byte(".00s)\n")},
		job.Event{Kind: job.Exit, Package: "a", Seconds: 1.5},
		job.Event{Kind: job.Start, Package: "b"},
		job.Event{Kind: job.Exit, Package: "b"},
		job.Event{Kind: job.Done})
	if !r.finish(nil, "") || r.booted.IsZero() {
		t.Error("it failed")
	}
	if want := "ok    amd64 6.1  a  1.5s  1 tests\nok    amd64 6.1  b  0.0s  0 tests\n"; out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out, want)
	}
}

func TestRunFails(t *testing.T) {
	for name, events := range map[string][]job.Event{
		"code": {{Kind: job.Exit, Package: "a", Code: 1}},
		"left": {{Kind: job.Left, Package: "a", Text: "file /tmp/x"}, {Kind: job.Exit, Package: "a"}},
		"test": {{Kind: job.Output, Package: "a", Data: []byte(marker + "--- FAIL: TestA (0.00s)\n")}, {Kind: job.Exit, Package: "a"}},
	} {
		r, out := twoTests(false)
		play(r, job.Event{Kind: job.Start, Package: "a"})
		play(r, events...)
		play(r, job.Event{Kind: job.Start, Package: "b"}, job.Event{Kind: job.Exit, Package: "b"})
		if r.finish(nil, "") {
			t.Errorf("%s: it passed", name)
		}
		if !strings.HasPrefix(out.String(), "FAIL  amd64 6.1  a  ") || !strings.Contains(out.String(), "\nok    amd64 6.1  b") {
			t.Errorf("%s: printed %s", name, out)
		}
	}
}

func TestRunEndsEarly(t *testing.T) {
	r, out := twoTests(true)
	play(r,
		job.Event{Kind: job.Start, Package: "a"},
		job.Event{Kind: job.Output, Package: "a", Data: []byte(marker + "=== RUN   TestA\n")})
	if r.finish(errors.New("it burnt"), "smoke") {
		t.Error("it passed")
	}
	const want = `run   amd64 6.1  a
=== RUN   TestA
FAIL  amd64 6.1  a  0.0s  1 tests, 1 failed
=== RUN   TestA
machine: it burnt
last lines of its console:
smoke
      failed: TestA
FAIL  amd64 6.1  b  0.0s  0 tests
machine: it ended before
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out, want)
	}
	r, _ = twoTests(false)
	if r.finish(nil, "") {
		t.Error("a machine without results passed")
	}
}

func TestPrintSkipped(t *testing.T) {
	var out bytes.Buffer
	r := result{pkg: "p", ran: true, took: 2 * time.Second, passed: 3}
	for _, name := range []string{"A", "B", "C", "D", "E", "F"} {
		r.skipped = append(r.skipped, skip{name, "no go command"})
	}
	r.skipped = append(r.skipped, skip{"G", "no tar"})
	(&printer{w: &out}).result(&system{arch: arches[1], release: "6.1"}, &r)
	const want = `ok    arm64 6.1  p  2.0s  3 tests, 7 skipped
      skipped: A, B, C, D and 2 more: no go command
      skipped: G: no tar
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}
