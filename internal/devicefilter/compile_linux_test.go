package devicefilter

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// rules reads lines like "allow c 1:3 rwm"; a missing part is left out of the
// rule.
func rules(t testing.TB, lines ...string) []specs.LinuxDeviceCgroup {
	t.Helper()
	var list []specs.LinuxDeviceCgroup
	for _, line := range lines {
		parts := strings.Fields(line)
		d := specs.LinuxDeviceCgroup{Allow: parts[0] == "allow"}
		for _, p := range parts[1:] {
			major, minor, numbers := strings.Cut(p, ":")
			switch {
			case numbers:
				d.Major, d.Minor = number(t, major), number(t, minor)
			case strings.Trim(p, "rwm") == "":
				d.Access = p
			default:
				d.Type = p
			}
		}
		list = append(list, d)
	}
	return list
}

func number(t testing.TB, s string) *int64 {
	if s == "*" {
		return nil
	}
	var n int64
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatal(err)
	}
	return &n
}

// dockerRules are Docker's for a container without extra devices.
func dockerRules(t testing.TB) []specs.LinuxDeviceCgroup {
	return rules(t, "deny rwm", "allow c *:* m", "allow b *:* m",
		"allow c 1:5 rwm", "allow c 1:3 rwm", "allow c 1:9 rwm", "allow c 1:8 rwm", "allow c 1:7 rwm",
		"allow c 5:0 rwm", "allow c 5:1 rwm", "allow c 5:2 rwm", "allow c 136:* rwm", "deny c 10:229 rwm")
}

// granted is a plain reading of the rules.
func granted(list []specs.LinuxDeviceCgroup, r request) bool {
	last := func(bits uint32) bool {
		ok := false
		for _, d := range list {
			if !covers(d, r) {
				continue
			}
			if bits == 0 || accessOf(d)&bits != 0 {
				ok = d.Allow
			}
		}
		return ok
	}
	if r.access == 0 {
		return last(0)
	}
	for _, bit := range []uint32{1, 2, 4} {
		if r.access&bit != 0 && !last(bit) {
			return false
		}
	}
	return true
}

func covers(d specs.LinuxDeviceCgroup, r request) bool {
	switch d.Type {
	case "b":
		if r.kind != 1 {
			return false
		}
	case "c", "u":
		if r.kind != 2 {
			return false
		}
	}
	same := func(n *int64, v uint32) bool { return n == nil || *n == -1 || *n == int64(v) }
	return same(d.Major, r.major) && same(d.Minor, r.minor)
}

func accessOf(d specs.LinuxDeviceCgroup) (bits uint32) {
	if d.Access == "" {
		return 7
	}
	for _, c := range d.Access {
		bits |= map[rune]uint32{'m': 1, 'r': 2, 'w': 4}[c]
	}
	return bits
}

// agree compares the program with the plain reading.
func agree(t testing.TB, list []specs.LinuxDeviceCgroup) []Instruction {
	t.Helper()
	code, err := Compile(list)
	if err != nil {
		t.Fatal(err)
	}
	if err := check(code); err != nil {
		t.Fatal(err)
	}
	numbers := []uint32{0, 1, 3, 1<<31 - 1, 1 << 31, 1<<32 - 1}
	for _, d := range list {
		for _, n := range []*int64{d.Major, d.Minor} {
			if n != nil && len(numbers) < 30 {
				numbers = append(numbers, uint32(*n), uint32(*n)+1, uint32(*n)^1<<31)
			}
		}
	}
	for _, kind := range []uint32{1, 2} {
		for access := range uint32(8) {
			for _, major := range numbers {
				for _, minor := range numbers {
					r := request{kind, access, major, minor}
					if got, want := run(code, r), granted(list, r); got != want {
						t.Fatalf("%+v: program says %v, rules %v", r, got, want)
					}
				}
			}
		}
	}
	return code
}

// check applies what the verifier asks of jumps.
func check(code []Instruction) error {
	reached := make([]bool, len(code))
	reached[0] = true
	for i, in := range code {
		if !reached[i] {
			return fmt.Errorf("instruction %d of %d is never reached", i, len(code))
		}
		next := []int{i + 1}
		switch in.Code {
		case opExit:
			next = nil
		case opJump:
			next[0] += int(in.Offset)
		case opJumpEqual, opJumpNotEqual, opJumpAnyBit:
			next = append(next, i+1+int(in.Offset))
		}
		for _, n := range next {
			if n <= i || n >= len(code) {
				return fmt.Errorf("instruction %d leads to %d of %d", i, n, len(code))
			}
			reached[n] = true
		}
	}
	return nil
}

func TestDockerRules(t *testing.T) {
	code := agree(t, dockerRules(t))
	t.Logf("%d instructions", len(code))
	if len(code) > 60 {
		t.Errorf("%d instructions, want at most 60", len(code))
	}
	const block, char = 1, 2
	const m, r, w = 1, 2, 4
	tests := []struct {
		request request
		want    bool
	}{
		{request{char, r | w, 1, 3}, true},
		{request{char, m, 1, 11}, true},
		{request{char, r, 1, 11}, false},
		{request{char, m | r, 1, 11}, false},
		{request{block, m, 8, 0}, true},
		{request{block, r, 8, 0}, false},
		{request{block, r, 1, 3}, false},
		{request{char, r | w, 136, 77}, true},
		{request{char, r, 10, 229}, false},
		{request{char, m, 10, 229}, false},
	}
	for _, tt := range tests {
		if got := run(code, tt.request); got != tt.want {
			t.Errorf("%+v: got %v", tt.request, got)
		}
	}
}

func TestOrder(t *testing.T) {
	const char, r, w = 2, 2, 4
	tests := []struct {
		rules   []specs.LinuxDeviceCgroup
		request request
		want    bool
	}{
		{nil, request{char, r, 1, 3}, false},
		{rules(t, "allow rwm"), request{char, r, 1, 3}, true},
		{rules(t, "allow"), request{char, r, 1, 3}, true},
		{rules(t, "allow a *:* rwm", "deny a *:* rwm"), request{char, r, 1, 3}, false},
		{rules(t, "allow a rwm", "deny c 1:3 w"), request{char, r, 1, 3}, true},
		{rules(t, "allow a rwm", "deny c 1:3 w"), request{char, r | w, 1, 3}, false},
		{rules(t, "allow c 1:* rwm", "deny c 1:3 rwm"), request{char, r, 1, 3}, false},
		{rules(t, "allow c 1:* rwm", "deny c 1:3 rwm"), request{char, r, 1, 5}, true},
		{rules(t, "deny c 1:3 rwm", "allow c *:* rwm"), request{char, r, 1, 3}, true},
		{rules(t, "allow c 1:3 r", "allow c 1:3 w"), request{char, r | w, 1, 3}, true},
		{rules(t, "allow a 1:3 rwm"), request{char, r, 1, 5}, false},
		{rules(t, "allow u 1:3 rwm"), request{char, r, 1, 3}, true},
		{rules(t, "allow c 4294967295:2147483648 rwm"), request{char, r, 4294967295, 2147483648}, true},
		{rules(t, "allow c 1:-1 rwm"), request{char, r, 1, 77}, true},
	}
	for _, tt := range tests {
		if got := run(agree(t, tt.rules), tt.request); got != tt.want {
			t.Errorf("%+v with %+v: got %v", tt.request, tt.rules, got)
		}
	}
}

func randomRules(rnd *rand.Rand) []specs.LinuxDeviceCgroup {
	var list []specs.LinuxDeviceCgroup
	some := func() *int64 {
		n := []int64{-1, 0, 1, 2, 1 << 31, 1<<32 - 1}[rnd.IntN(6)]
		if rnd.IntN(3) == 0 {
			return nil
		}
		return &n
	}
	for range rnd.IntN(12) {
		list = append(list, specs.LinuxDeviceCgroup{
			Allow:  rnd.IntN(2) == 0,
			Type:   []string{"", "a", "b", "c", "u"}[rnd.IntN(5)],
			Major:  some(),
			Minor:  some(),
			Access: []string{"", "r", "w", "m", "rw", "rm", "wm", "rwm", "mm"}[rnd.IntN(9)],
		})
	}
	return list
}

func TestRandomRules(t *testing.T) {
	for seed := range uint64(80) {
		agree(t, randomRules(rand.New(rand.NewPCG(seed, 0))))
	}
}

func FuzzCompile(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed, uint8(seed), "c", "rwm", int64(1), int64(3))
	}
	f.Fuzz(func(t *testing.T, seed uint64, at uint8, kind, access string, major, minor int64) {
		list := randomRules(rand.New(rand.NewPCG(seed, 1)))
		d := specs.LinuxDeviceCgroup{Allow: at&1 == 0, Type: kind, Access: access, Major: &major, Minor: &minor}
		i := int(at) % (len(list) + 1)
		list = append(list[:i:i], append([]specs.LinuxDeviceCgroup{d}, list[i:]...)...)
		if _, err := Compile(list); err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Fatal(err)
			}
			return
		}
		agree(t, list)
	})
}

func TestErrors(t *testing.T) {
	many := make([]specs.LinuxDeviceCgroup, 9000)
	for i := range many {
		n := int64(i)
		many[i] = specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &n, Minor: &n}
	}
	tests := map[string][]specs.LinuxDeviceCgroup{
		"type":   rules(t, "allow rwm", "allow p 1:3 rwm"),
		"access": {{Allow: true}, {Access: "rx"}},
		"major":  rules(t, "allow rwm", "allow c -2:3 rwm"),
		"minor":  rules(t, "allow rwm", "allow c 1:4294967296 rwm"),
		"9000":   many,
	}
	for text, list := range tests {
		code, err := Compile(list)
		if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), text) || code != nil {
			t.Errorf("%s: got %v, %v", text, len(code), err)
		}
	}
}

func TestDeterministic(t *testing.T) {
	first, err := Compile(dockerRules(t))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Compile(dockerRules(t))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(first, again) {
		t.Error("two programs for the same rules")
	}
}

func BenchmarkCompile(b *testing.B) {
	list := dockerRules(b)
	for b.Loop() {
		if _, err := Compile(list); err != nil {
			b.Fatal(err)
		}
	}
}
