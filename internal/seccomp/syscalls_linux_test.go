package seccomp

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The table is stale when golang.org/x/sys knows other system calls.
func TestTableIsCurrent(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the go command")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("needs the go command: ", err)
	}
	if _, err := os.Stat("syscalls_generate.go"); err != nil {
		t.Skip("needs the package's source: ", err)
	}
	var stderr strings.Builder
	cmd := exec.Command("go", "run", "syscalls_generate.go")
	cmd.Stderr = &stderr
	want, err := cmd.Output()
	if err != nil {
		t.Fatalf("go run syscalls_generate.go: %v\n%s", err, stderr.String())
	}
	got, err := os.ReadFile("syscalls_linux.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("syscalls_linux.go is stale: run go generate")
	}
}

func TestTable(t *testing.T) {
	if !slices.IsSortedFunc(syscalls[:], func(a, b numbers) int { return strings.Compare(a.name, b.name) }) {
		t.Error("names are not sorted")
	}
	for a := range abis {
		seen := map[int32]string{}
		for _, s := range syscalls {
			nr := s.nr[a]
			if nr < 0 {
				continue
			}
			if other, ok := seen[nr]; ok && !aliases[s.name+" "+other] {
				t.Errorf("ABI %d: %s and %s are both %d", a, s.name, other, nr)
			}
			seen[nr] = s.name
			if (a == x32) != (nr >= x32Bit) {
				t.Errorf("ABI %d: %s is %#x", a, s.name, nr)
			}
		}
		if len(seen) < 300 {
			t.Errorf("ABI %d has %d system calls", a, len(seen))
		}
	}
}

// aliases are two names of one call.
var aliases = map[string]bool{}

func TestLookup(t *testing.T) {
	// From the kernel's tables: syscall_64.tbl, syscall_32.tbl, asm-generic
	// and arm's syscall.tbl.
	tests := map[string][abis]int32{
		"read":            {0, 3, x32Bit, 63, 3},
		"openat2":         {437, 437, x32Bit + 437, 437, 437},
		"execve":          {59, 11, x32Bit + 520, 221, 11},
		"newfstatat":      {262, -1, x32Bit + 262, 79, -1},
		"fstatat64":       {-1, 300, -1, -1, 327},
		"_llseek":         {-1, 140, -1, -1, 140},
		"socketcall":      {-1, 102, -1, -1, -1},
		"set_thread_area": {205, 243, -1, -1, -1},
		"set_tls":         {-1, -1, -1, -1, 0xf0005},
		"pwritev2":        {328, 379, x32Bit + 547, 287, 393},
	}
	for name, want := range tests {
		n, ok := lookup(name)
		if !ok || n.nr != want {
			t.Errorf("%s: got %v, want %v", name, n, want)
		}
	}
	for _, name := range []string{"", "Read", "no_such_call", "zzz", "syscall_mask"} {
		if n, ok := lookup(name); ok {
			t.Errorf("%q: got %v", name, n)
		}
	}
	here := map[string]int32{"keyctl": unix.SYS_KEYCTL, "clone3": unix.SYS_CLONE3, "personality": unix.SYS_PERSONALITY}
	for name, nr := range here {
		if n, ok := lookup(name); !ok || n.nr[machineHere(t).native] != nr {
			t.Errorf("%s: got %v, want %d", name, n, nr)
		}
	}
}
