package engine

import (
	"errors"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// hostDevice is one that containers do not have, and that opens without a
// capability.
func hostDevice(t *testing.T) string {
	t.Helper()
	all := []string{"/dev/fuse", "/dev/loop-control", "/dev/hpet", "/dev/rtc0", "/dev/hwrng"}
	for _, path := range all {
		if f, err := os.Open(path); err == nil {
			f.Close()
			return path
		}
	}
	t.Skip("needs one of", all)
	return ""
}

func TestSecurity(t *testing.T) {
	needRoot(t)
	anyDevice := hostDevice(t)
	noMkdir := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}}}
	const read = "read"
	status := []string{read, "/proc/self/status"}
	for _, test := range []struct {
		what     string
		security Security
		args     []string
		want     string
	}{
		{"no capabilities", Security{CapDrop: []string{"ALL"}}, status, "CapBnd:\t0000000000000000"},
		{"one capability", Security{CapDrop: []string{"ALL"}, CapAdd: []string{"KILL"}}, status, "CapEff:\t0000000000000020"},
		{"a filter", Security{}, status, "Seccomp:\t2"},
		{"no filter", Security{SeccompUnconfined: true}, status, "Seccomp:\t0"},
		{"a filter of one's own", Security{Seccomp: noMkdir}, []string{"mkdir", "/x"}, "mkdir /x: operation not permitted"},
		{"mkdir", Security{}, []string{"mkdir", "/x"}, ""},
		{"sysctl", Security{Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "7"}}, []string{read, "/proc/sys/net/ipv4/ip_unprivileged_port_start"}, "7\n"},
		{"device", Security{Devices: []Device{{Path: anyDevice}}}, []string{"open", anyDevice}, ""},
		{"device elsewhere", Security{Devices: []Device{{Path: anyDevice, Target: "/dev/deep/one"}}}, []string{"open", "/dev/deep/one"}, ""},
		{"device not to be read", Security{Devices: []Device{{Path: anyDevice, Access: "m"}}}, []string{"open", anyDevice}, "operation not permitted"},
		{"no device", Security{}, []string{"open", anyDevice}, "no such file"},
		{"directory of devices", Security{Devices: []Device{{Path: "/dev", Target: "/dev/all"}}}, []string{"open", strings.Replace(anyDevice, "/dev", "/dev/all", 1)}, ""},
		{"privileged: device", Security{Privileged: true}, []string{"open", anyDevice}, ""},
		{"privileged: filter", Security{Privileged: true}, status, "Seccomp:\t0"},
		{"privileged: sys", Security{Privileged: true}, []string{read, "/proc/self/mountinfo"}, " /sys rw,"},
		{"privileged: masks", Security{Privileged: true}, []string{read, "/proc/interrupts"}, "CPU0"},
		{"masks", Security{}, []string{read, "/proc/interrupts"}, ""},
	} {
		t.Run(test.what, func(t *testing.T) {
			got, _ := runs(t, Config{Security: test.security}, test.args...)
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// An exec'd process has what the container's first one has.
func TestSecurityOfExec(t *testing.T) {
	e, img := plainImage(t)
	c := started(t, e, img, Config{Args: []string{"wait"}, Security: Security{CapDrop: []string{"ALL"}, CapAdd: []string{"KILL"}}})
	var out strings.Builder
	x, err := c.Exec(t.Context(), ExecConfig{Args: []string{"/prog", programFlag, "read", "/proc/self/status"}, Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Wait(t.Context()); err != nil || !strings.Contains(out.String(), "CapBnd:\t0000000000000020") {
		t.Errorf("%v, %s", err, &out)
	}
}

func TestMissingDevice(t *testing.T) {
	e, img := plainImage(t)
	for _, path := range []string{"/dev/nothing", "/etc/passwd"} {
		c := create(t, e, img, Config{Args: []string{"exit", "0"}, Security: Security{Devices: []Device{{Path: path, Target: "/dev/x"}}}})
		if err := c.Start(t.Context()); !errors.Is(err, ErrInvalidArgument) || !strings.Contains(err.Error(), path) {
			t.Error(err)
		}
	}
}
