package seccomp

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A rule is what a profile says about one system call: if all conditions hold,
// the filter returns action.
type rule struct {
	action     uint32
	conditions []condition
}

// A call is a system call that a profile names, with what one place of the
// profile says about it: a rule, or several that stand side by side, or none
// if that is what the profile says by default.
type call struct {
	nr    uint32
	place uint32 // in the profile
	rules []rule
}

// A profile is a specs.LinuxSeccomp, checked and taken apart.
type profile struct {
	enabled  [abis]bool
	fallback uint32       // the default action
	calls    [abis][]call // by number, then in the profile's order
}

func parse(p *specs.LinuxSeccomp, m machine) (*profile, error) {
	enabled, err := m.enabled(p.Architectures)
	if err != nil {
		return nil, err
	}
	fallback, err := action(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("default action of the seccomp profile: %w", err)
	}
	out := &profile{enabled: enabled, fallback: fallback}
	names := 0
	for i := range p.Syscalls {
		names += len(p.Syscalls[i].Names)
	}
	for a := range out.calls {
		if enabled[a] {
			out.calls[a] = make([]call, 0, names)
		}
	}
	for i := range p.Syscalls {
		if err := out.add(&p.Syscalls[i]); err != nil {
			return nil, fmt.Errorf("rule %d of the seccomp profile: %w", i, err)
		}
	}
	for _, calls := range out.calls {
		slices.SortFunc(calls, func(a, b call) int {
			return cmp.Compare(uint64(a.nr)<<32|uint64(a.place), uint64(b.nr)<<32|uint64(b.place))
		})
	}
	return out, nil
}

func (p *profile) add(s *specs.LinuxSyscall) error {
	act, err := action(s.Action, s.ErrnoRet)
	if err != nil {
		return err
	}
	wide, err := rulesOf(s.Args, act, true)
	if err != nil {
		return err
	}
	narrow, err := rulesOf(s.Args, act, false)
	if err != nil {
		return err
	}
	if act == p.fallback {
		wide, narrow = nil, nil
	}
	for _, name := range s.Names {
		if name == "" {
			return fmt.Errorf("empty system call name: %w", errdefs.ErrInvalidArgument)
		}
		if n, ok := lookup(name); ok {
			for a, nr := range n.nr {
				if nr < 0 || !p.enabled[a] {
					continue
				}
				rules := narrow
				if abi(a).wide() {
					rules = wide
				}
				p.call(abi(a), uint32(nr), rules)
			}
		}
		if p.enabled[i386] {
			p.multiplex(name, narrow)
		}
	}
	return nil
}

func (p *profile) call(a abi, nr uint32, rules []rule) {
	p.calls[a] = append(p.calls[a], call{nr, uint32(len(p.calls[a])), rules})
}

// rulesOf turns a rule's conditions into one rule, or, where two conditions
// look at the same argument, into one for each condition: the first versions
// of runc did that with all, and it still does with those.
func rulesOf(args []specs.LinuxSeccompArg, act uint32, wide bool) ([]rule, error) {
	var all, each []rule
	var seen [6]bool
	repeated, possible := false, true
	var conditions []condition
	for _, arg := range args {
		c, err := conditionOf(arg, wide)
		if err != nil {
			return nil, err
		}
		repeated = repeated || seen[arg.Index]
		seen[arg.Index] = true
		if c.kind == always {
			each = append(each, rule{action: act})
			continue
		}
		if c.kind == never {
			possible = false
			continue
		}
		conditions = append(conditions, c)
		each = append(each, rule{act, []condition{c}})
	}
	if repeated {
		return each, nil
	}
	if possible {
		all = append(all, rule{act, conditions})
	}
	return all, nil
}

// action gives the value that a filter returns for an action of a profile.
// SCMP_ACT_KILL kills the thread, as in libseccomp.
func action(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	var value uint32
	switch a {
	case specs.ActErrno, specs.ActTrace:
		return numbered(a, errno)
	case specs.ActKill, specs.ActKillThread:
		value = unix.SECCOMP_RET_KILL_THREAD
	case specs.ActKillProcess:
		value = unix.SECCOMP_RET_KILL_PROCESS
	case specs.ActTrap:
		value = unix.SECCOMP_RET_TRAP
	case specs.ActLog:
		value = unix.SECCOMP_RET_LOG
	case specs.ActAllow:
		value = unix.SECCOMP_RET_ALLOW
	case specs.ActNotify:
		return 0, fmt.Errorf("seccomp action %s, which needs an agent: %w", a, errdefs.ErrNotImplemented)
	default:
		return 0, fmt.Errorf("seccomp action %q: %w", a, errdefs.ErrInvalidArgument)
	}
	// The runtime specification (config-linux.md, seccomp) wants a failure
	// where an action cannot have an errno.
	if errno != nil {
		return 0, fmt.Errorf("errnoRet %d with seccomp action %s: %w", *errno, a, errdefs.ErrInvalidArgument)
	}
	return value, nil
}

// numbered gives the value of the actions that carry a number; it is EPERM
// where the profile has none.
func numbered(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	const maxErrno = 4095 // MAX_ERRNO in the kernel, which would cut it down
	value, limit := uint32(unix.SECCOMP_RET_ERRNO), uint(maxErrno)
	if a == specs.ActTrace {
		value, limit = unix.SECCOMP_RET_TRACE, unix.SECCOMP_RET_DATA
	}
	if errno == nil {
		return value | uint32(unix.EPERM), nil
	}
	if *errno > limit {
		return 0, fmt.Errorf("errnoRet %d with seccomp action %s, at most %d: %w", *errno, a, limit, errdefs.ErrInvalidArgument)
	}
	return value | uint32(*errno), nil
}

// refuses says whether an action keeps a call from being made. A tracer is
// trusted to treat new calls well.
func refuses(action uint32) bool {
	switch action & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
		return false
	}
	return true
}
