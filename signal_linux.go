package engine

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Real-time signals as glibc counts them: the first two of the kernel's belong
// to its threads.
const sigRTMin, sigRTMax = 34, 64

// parseSignal understands "SIGTERM", "term", "15", "SIGRTMIN+3" and "RTMAX-1".
func parseSignal(s string) (syscall.Signal, error) {
	invalid := fmt.Errorf("signal %q: unknown: %w", s, ErrInvalidArgument)
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > sigRTMax {
			return 0, fmt.Errorf("signal %d: not 1 to %d: %w", n, sigRTMax, ErrInvalidArgument)
		}
		return syscall.Signal(n), nil
	}
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	base, sign := 0, 1
	rest, ok := strings.CutPrefix(name, "SIGRTMIN")
	if base = sigRTMin; !ok {
		if rest, ok = strings.CutPrefix(name, "SIGRTMAX"); !ok {
			return 0, invalid
		}
		base, sign = sigRTMax, -1
	}
	offset := 0
	if rest != "" {
		if (sign > 0) != (rest[0] == '+') || (rest[0] != '+' && rest[0] != '-') {
			return 0, invalid
		}
		n, err := strconv.ParseUint(rest[1:], 10, 8)
		if err != nil || n > sigRTMax-sigRTMin {
			return 0, invalid
		}
		offset = int(n)
	}
	return syscall.Signal(base + sign*offset), nil
}

func checkSignal(sig syscall.Signal) error {
	if sig < 1 || sig > sigRTMax {
		return fmt.Errorf("signal %d: not 1 to %d: %w", int(sig), sigRTMax, ErrInvalidArgument)
	}
	return nil
}
