package runtime

import (
	"bytes"
	"debug/elf"
	_ "embed"
	"fmt"
	"os"
	"regexp"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

//go:embed keeper_linux_amd64.s
var assemblyAMD64 string

//go:embed keeper_linux_arm64.s
var assemblyARM64 string

var assembly = map[string]string{"amd64": assemblyAMD64, "arm64": assemblyARM64}

// numbers gives the first group of all matches of a pattern, as numbers, sorted
// and without repetitions.
func numbers(t *testing.T, text, pattern string) []int {
	t.Helper()
	var list []int
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		n, err := strconv.ParseInt(m[1], 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, int(n))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// The assembly has the layout of the data page, of a program and of a step in
// numbers of its own. They are the ones that Go uses.
func TestAssemblyLayout(t *testing.T) {
	const controlLength, revents = 0x28, 6 // in struct msghdr; in struct pollfd
	page := []int{
		pageRequestHdr + controlLength, pageReplyHdr, pageReplyHdr + controlLength, pagePollfds, pagePollfds + revents, pagePollfds + 8 + revents,
		pageRequest, pageRequest + cloneArgsSize, pageReply, pageReply + 8, pageReply + 12, pageReplyPidfd,
		pageChildren, pageSignals, pageRequestCtl,
	}
	const signalBuffer = 0x340 // for struct signalfd_siginfo, of 128 bytes
	if signalBuffer < pageReplyPidfd+4 || signalBuffer+128 > pageChildren || pageSignals+8 > pageRequestCtl || pageRequest+requestSize > pageReply || pageRequestCtl+controlSize > pageSize {
		t.Error("parts of the data page overlap")
	}
	page = append(page, signalBuffer)
	slices.Sort(page)
	steps := []int{0, 8, 16, 24, 32, 40, 48, 56, 64}
	if len(steps)*8 != stepSize {
		t.Error("step of", stepSize)
	}
	for arch, r := range map[string]struct{ page, step, flag string }{
		"amd64": {`(0x[0-9A-F]+)\(R13\)`, `\b(\d+)\(R12\)`, `TESTQ \$(\d+), R14`},
		"arm64": {`(?:ADD +\$)?(0x[0-9A-F]{2,3})(?:\(R19\)|, R19)`, `\b(\d+)\(R23\)`, `TBN?Z +\$(\d+), R9`},
	} {
		text := assembly[arch]
		if got := numbers(t, text, r.page); !slices.Equal(got, page) {
			t.Errorf("%s: offsets in the data page %#x, want %#x", arch, got, page)
		}
		if got := numbers(t, text, r.step); !slices.Equal(got, steps) {
			t.Errorf("%s: offsets in a step %v, want %v", arch, got, steps)
		}
		flags := []int{flagFork, flagEOF, flagKeeper, flagArg0, flagArg2, flagInit}
		if arch == "arm64" {
			flags = []int{0, 1, 2, 3, 4, 5} // as bit numbers
		}
		if got := numbers(t, text, r.flag); !slices.Equal(got, flags) {
			t.Errorf("%s: flags %v, want %v", arch, got, flags)
		}
		for _, n := range []string{fmt.Sprintf("%#x", dataBase), fmt.Sprintf("%#x", progBase), fmt.Sprintf("%#x", controlSize), fmt.Sprint(stepSize), fmt.Sprint(cloneArgsSize), "0xffff", fmt.Sprint(int(unix.ENOSYS)), fmt.Sprint(childrenFD - 1)} {
			if !regexp.MustCompile(`\$-?` + n + `\b`).MatchString(text) {
				t.Errorf("%s: no constant %s", arch, n)
			}
		}
	}
}

// The system calls have this architecture's numbers; comments say which they are.
func TestAssemblyCalls(t *testing.T) {
	want := map[string]int{
		"munmap": unix.SYS_MUNMAP, "ppoll": unix.SYS_PPOLL, "read": unix.SYS_READ, "wait4": unix.SYS_WAIT4, "write": unix.SYS_WRITE,
		"recvmsg": unix.SYS_RECVMSG, "clone3": unix.SYS_CLONE3, "clone": unix.SYS_CLONE, "sendmsg": unix.SYS_SENDMSG,
		"close_range": unix.SYS_CLOSE_RANGE, "pread64": unix.SYS_PREAD64, "kill": unix.SYS_KILL, "rt_sigtimedwait": unix.SYS_RT_SIGTIMEDWAIT, "exit_group": unix.SYS_EXIT_GROUP, "mmap": unix.SYS_MMAP,
	}
	text := assembly[goruntime.GOARCH]
	seen := map[string]bool{}
	for _, m := range regexp.MustCompile(`\$(\d+), (?:AX|R8) +// (\w+)`).FindAllStringSubmatch(text, -1) {
		if n, ok := want[m[2]]; ok {
			seen[m[2]] = true
			if strconv.Itoa(n) != m[1] {
				t.Errorf("%s is %d, not %s", m[2], n, m[1])
			}
		}
	}
	if a, b := strings.Count(assemblyAMD64, "\tSYSCALL\n"), strings.Count(assemblyARM64, "\tSVC\n"); a != b {
		t.Errorf("%d calls on amd64, %d on arm64", a, b)
	}
	for name := range want {
		if !seen[name] && name != "read" && name != "exit_group" {
			t.Errorf("no call of %s", name)
		}
	}
}

// The executable has two pages and nothing that can be both written and run,
// and ends where the code does.
func TestKeeperELF(t *testing.T) {
	const size = 12345 << 8
	data, err := keeperELF(size)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[goruntime.GOARCH]
	if f.Type != elf.ET_EXEC || f.Machine != machine || f.Entry != textBase || len(f.Progs) != 3 {
		t.Errorf("%+v", f.FileHeader)
	}
	text, page, stack := f.Progs[0], f.Progs[1], f.Progs[2]
	if text.Type != elf.PT_LOAD || text.Flags != elf.PF_R|elf.PF_X || text.Vaddr != textBase || text.Filesz > pageSize || text.Filesz != text.Memsz {
		t.Errorf("%+v", text.ProgHeader)
	}
	if page.Type != elf.PT_LOAD || page.Flags != elf.PF_R|elf.PF_W || page.Vaddr != dataBase || page.Filesz != pageSize || page.Memsz != pageSize {
		t.Errorf("%+v", page.ProgHeader)
	}
	if stack.Type != elf.PT_GNU_STACK || stack.Flags != elf.PF_R|elf.PF_W {
		t.Errorf("%+v", stack.ProgHeader)
	}
	mark := []byte{0xCC, 0xE2, 0x9D, 0x87, 0x5A, 0x11, 0x3C, 0xCC}
	if bytes.Contains(data, mark) {
		t.Error("the end mark is in the executable")
	}
	after := data[text.Off+text.Filesz : page.Off]
	if len(bytes.Trim(after, "\x00")) > 0 {
		t.Error("something follows the code")
	}
	if got := data[page.Off:]; !bytes.Equal(got, keeperData(size)) || got[pageRequest+cloneArgsSize] != 0 || got[pageRequest+cloneArgsSize+1] != 12345&0xff {
		t.Error("data page")
	}
	// Calls and jumps stay inside: the code has no relocation, so what it had
	// to reach outside would be an absolute address or a far offset.
	if goruntime.GOARCH == "amd64" && text.Filesz > 1280 || text.Filesz < 200 {
		t.Errorf("%d bytes of code", text.Filesz)
	}
}

func TestRequest(t *testing.T) {
	b := request(unix.CLONE_NEWPID, 4096, 3)
	le := func(at int) uint64 {
		return uint64(b[at]) | uint64(b[at+1])<<8 | uint64(b[at+2])<<16 | uint64(b[at+3])<<24 | uint64(b[at+4])<<32
	}
	if len(b) != requestSize || le(0) != unix.CLONE_NEWPID|unix.CLONE_PIDFD|unix.CLONE_INTO_CGROUP || le(8) != dataBase+pageReplyPidfd ||
		le(32) != uint64(unix.SIGCHLD) || le(80) != firstFD+3 || le(88) != 4096 {
		t.Errorf("%x", b)
	}
	if b = request(0, 4096, -1); le(0) != unix.CLONE_PIDFD || le(80) != 0 {
		t.Errorf("%x", b)
	}
	// The kernel sends at most SCM_MAX_FD descriptors; they all fit.
	if room := maxRequestFDs*4 + unix.SizeofCmsghdr; room > controlSize || maxRequestFDs < 200 {
		t.Errorf("room for %d descriptors", maxRequestFDs)
	}
}

// The keeper has its two pages and its name mapped, and nothing else that each
// child would get a copy of.
func TestKeeperMemory(t *testing.T) {
	r := openTest(t)
	idle(t, r, nil)
	k, err := r.nestedKeeper()
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", k.pid))
	if err != nil {
		t.Fatal(err)
	}
	var mapped []string
	for line := range strings.Lines(string(maps)) {
		if f := strings.Fields(line); f[len(f)-1] != "[vsyscall]" { // not memory of the process
			from, _, _ := strings.Cut(f[0], "-")
			mapped = append(mapped, strings.TrimLeft(from, "0")+" "+f[1])
		}
	}
	want := []string{
		fmt.Sprintf("%x rw-p", textBase-64<<10),
		fmt.Sprintf("%x r-xp", textBase),
		fmt.Sprintf("%x rw-p", dataBase),
	}
	if !slices.Equal(mapped, want) {
		t.Errorf("mapped %q, want %q", mapped, want)
	}
	if _, err := os.Stat("/proc/self/timers"); err != nil {
		t.Skip("a kernel without CONFIG_CHECKPOINT_RESTORE: a process cannot say where its command line is")
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", k.pid))
	if string(name) != keeperName+"\x00" {
		t.Errorf("command line %q, %v", name, err)
	}
}
