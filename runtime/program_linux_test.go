package runtime

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// walkProgram follows a program's steps in memory as a child would if every
// call succeeded, and gives what each is for.
func walkProgram(t *testing.T, p *program) (list []string) {
	t.Helper()
	what := map[uint64]string{}
	for i := range p.steps {
		what[uint64(p.steps[i].at)] = p.steps[i].what
	}
	word := func(at uint64) uint64 { return binary.LittleEndian.Uint64(p.mem[at:]) }
	for at := word(0) - progBase; ; {
		if at%8 != 0 || at+stepSize > uint64(len(p.mem)) {
			t.Fatalf("step at %d of %d bytes", at, len(p.mem))
		}
		if word(at) == ^uint64(0) {
			next := word(at + 8)
			if next == 0 {
				return list
			}
			at = next - progBase
			continue
		}
		list = append(list, what[at])
		at += stepSize * (1 + word(at+64)>>32&0xff)
	}
}

func TestProgramPieces(t *testing.T) {
	p := newProgram()
	defer p.close()
	p.string("odd")
	p.add("one", 1, 2, 3)
	p.add("two", 4).thenSkip(1).with(flagArg2)
	p.add("left out", 5)
	if err := p.write(1 << 16); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(walkProgram(t, p)); got != "[one two]" {
		t.Error(got)
	}
	p.add("three", 6).into(p.slot())
	before := len(p.mem)
	if err := p.write(0); err != nil || len(p.mem) <= before {
		t.Fatal(err)
	}
	if got := fmt.Sprint(walkProgram(t, p)); got != "[one two three]" {
		t.Error(got)
	}
	file := make([]byte, len(p.mem))
	if _, err := p.file.ReadAt(file, 0); err != nil || string(file) != string(p.mem) {
		t.Error("the memfd differs from the program", err)
	}
	p.bytes(make([]byte, 1<<16))
	if err := p.write(0); err == nil || !strings.Contains(err.Error(), "do not fit") {
		t.Error(err)
	}
	if err := p.file.Truncate(0); err == nil {
		t.Error("the memfd can be cut off")
	}
	if err := p.file.Truncate(1 << 20); err == nil {
		t.Error("the memfd can grow")
	}
}

// Every address that a program stands in memory with lies inside of it, and
// what it points to is aligned as it has to be.
func TestPageSlot(t *testing.T) {
	p := newProgram()
	p.string("x")
	slot, size := p.pageSlot()
	next := p.slot()
	if page := uintptr(os.Getpagesize()); slot%page != 0 || size != page || next < slot+page {
		t.Errorf("slot %#x of %d, next %#x", slot, size, next)
	}
}

// testBuilder compiles without a keeper or privileges.
func testBuilder() *builder { return newBuilder(&Runtime{}, DefaultSpec(), nil) }

// The part of a program that concerns the process prints like strace.
func TestProgramString(t *testing.T) {
	b := testBuilder()
	p := b.spec.Process
	p.Args = []string{"sh", "-c", "true"}
	p.Env = []string{"PATH=/bin:/usr/bin"}
	p.Cwd = "/work/dir"
	p.NoNewPrivileges = true
	p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 10, Hard: 20}}
	b.hostname(unix.CLONE_NEWUTS)
	b.makePrivate()
	c := b.finish(p, &credential{uid: 1000, gid: 1001, groups: []uint32{5}, home: "/home"}, &filter{})
	if b.err != nil {
		t.Fatal(b.err)
	}
	text := b.String()
	at := 0
	for _, want := range []string{ // in this order
		`mount("", "/", "", 0x44000, NULL)`, `$1 = openat2(-100, "/work/dir", {`, "after ENOENT skip 4; after EAGAIN go on; else skip 11", `mkdirat(-100, "/work", 0755)`, `mkdirat(-100, "/work/dir", 0755)`,
		"fchdir($1)", "prlimit64(0, 7, {0xa, 0x14}, NULL)", "set RLIMIT_NOFILE to 10:20", "prctl(38, 1)", "umask(022)",
		"drop CAP_DAC_READ_SEARCH", "prctl(8, 1)", "setgroups(1, @", "setresgid(1001, 1001, 1001)", "setresuid(1000, 1000, 1000)",
		"capset({", "rt_sigprocmask(2, {0x0}, NULL, 8)", "$2 = gettid()", `$3 = execve("/bin/sh", ["sh", "-c", "true"], [`, "after any error go on", `execve("/usr/bin/sh", [`,
	} {
		i := strings.Index(text[at:], want)
		if i < 0 {
			t.Fatalf("no %s after the %d. byte of\n%s", want, at, text)
		}
		at += i
	}
	if strings.Contains(text, "drop CAP_CHOWN") || strings.Contains(text, "syscall_") {
		t.Error(text)
	}
	if len(c.tried) != 1 || b.steps[c.last].what != "execve /usr/bin/sh" || c.path != "sh" {
		t.Errorf("%+v", c)
	}
}

func TestFailureRecord(t *testing.T) {
	p := newProgram()
	defer p.close()
	p.add("first", 1)
	p.add("second", 2)
	if err := p.write(0); err != nil {
		t.Fatal(err)
	}
	record := func(v uint64) error {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], v)
		if _, err := p.file.WriteAt(b[:], 8); err != nil {
			t.Fatal(err)
		}
		if e := p.failure(); e != nil {
			return e
		}
		return nil
	}
	if err := record(0); err != nil {
		t.Error(err)
	}
	at := func(i int) uint64 { return uint64(p.steps[i].at) << 32 }
	if err := record(at(1) | uint64(unix.EPERM)); !errors.Is(err, unix.EPERM) || err.Error() != "second: operation not permitted" {
		t.Error(err)
	}
	if err := record(at(0)); !errors.Is(err, errHostGone) || !strings.HasPrefix(err.Error(), "first: ") {
		t.Error(err)
	}
	for _, v := range []uint64{1, ^uint64(0), 0xfffffff0_00000001, at(1) + 8<<32 | 1, 1 << 63, 4096} {
		var step *StepError
		if err := record(v); !errors.As(err, &step) || step.Step != "unknown step" {
			t.Errorf("%#x: %v", v, err)
		}
	}
	if w := p.word(progBase + 1<<30); w != 0 {
		t.Error("a word outside of the program:", w)
	}
}

// FuzzOutcome reads back what a stranger has written into a program's memory.
func FuzzOutcome(f *testing.F) {
	f.Add(uint64(0), uint64(0), uint64(0))
	f.Add(uint64(1), ^uint64(1), ^uint64(0))
	f.Add(^uint64(0), uint64(1)<<63, uint64(2))
	b := testBuilder()
	b.spec.Process.Args = []string{"x"}
	c := b.execute(b.spec.Process, "")
	if err := b.write(0); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(b.close)
	f.Fuzz(func(t *testing.T, record, reached, tried uint64) {
		for slot, v := range map[uintptr]uint64{progBase + 8: record, c.reached: reached, c.tried[0]: tried} {
			var word [8]byte
			binary.LittleEndian.PutUint64(word[:], v)
			if _, err := b.file.WriteAt(word[:], int64(slot-progBase)); err != nil {
				t.Fatal(err)
			}
		}
		err := c.outcome(b.program)
		if record == 0 && reached != 0 != (err == nil) {
			t.Errorf("no failure, reached %d: %v", reached, err)
		}
		var e *CommandError
		if record != 0 && err == nil || errors.As(err, &e) && e.Code != 126 && e.Code != 127 {
			t.Errorf("%#x: %v", record, err)
		}
		_ = fmt.Sprint(err)
	})
}

func TestCommandOutcome(t *testing.T) {
	for _, c := range []struct {
		tried []syscall.Errno
		last  syscall.Errno
		code  int
		err   syscall.Errno
	}{
		{[]syscall.Errno{unix.ENOENT, unix.ENOENT}, unix.ENOENT, 127, unix.ENOENT},
		{[]syscall.Errno{unix.ENOENT, unix.EACCES}, unix.ENOENT, 126, unix.EACCES},
		{[]syscall.Errno{unix.ENOTDIR, unix.ENOENT}, unix.EACCES, 126, unix.EACCES},
		{[]syscall.Errno{unix.EACCES, unix.ENOEXEC}, unix.ENOENT, 126, unix.EACCES},
		{[]syscall.Errno{0, 0}, unix.ENOTDIR, 127, unix.ENOTDIR},
	} {
		b := testBuilder()
		p := b.spec.Process
		p.Args, p.Env = []string{"x"}, []string{"PATH=/a:/b:/c"}
		cmd := b.execute(p, "")
		if err := b.write(0); err != nil {
			t.Fatal(err)
		}
		put := func(slot uintptr, v int64) {
			b.file.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(v)), int64(slot-progBase))
		}
		if err := cmd.outcome(b.program); err != errNotReached {
			t.Error(err)
		}
		put(cmd.reached, 1)
		if err := cmd.outcome(b.program); err != nil {
			t.Error(err)
		}
		for i, e := range c.tried {
			put(cmd.tried[i], -int64(e))
		}
		put(progBase+8, int64(b.steps[cmd.last].at)<<32|int64(c.last))
		var e *CommandError
		if err := cmd.outcome(b.program); !errors.As(err, &e) || e.Code != c.code || e.Err != c.err {
			t.Errorf("%v then %v: %v", c.tried, c.last, err)
		}
		b.close()
	}
}

// The program has room for what is added to it late.
func TestRoom(t *testing.T) {
	b := testBuilder()
	defer b.close()
	p := b.spec.Process
	p.Args = []string{"x", strings.Repeat("y", 100000)}
	p.Env = []string{"A=" + strings.Repeat("b", 300000), "PATH=" + strings.Repeat("/some/directory:", 2000)}
	p.Cwd = strings.Repeat("/d", 2000)
	groups := make([]uint32, 65536)
	f := &filter{code: make([]unix.SockFilter, 4096)}
	if err := b.write(b.room(p, f)); err != nil {
		t.Fatal(err)
	}
	b.finish(p, &credential{groups: groups, uid: 1}, f)
	if b.err != nil {
		t.Fatal(b.err)
	}
	if err := b.write(0); err != nil {
		t.Error(err)
	}
}
