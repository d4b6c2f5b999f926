package cgroup

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// access is a set of what may be done to a device, one bit for each of "rwm".
type access uint8

const allAccess access = 7

func parseAccess(s string) (access, error) {
	if s == "" {
		return allAccess, nil
	}
	var a access
	for _, r := range s {
		i := strings.IndexRune("rwm", r)
		if i < 0 {
			return 0, kindf(errdefs.ErrInvalidArgument, "access %q: not made of r, w and m", s)
		}
		a |= 1 << i
	}
	return a, nil
}

func (a access) String() string {
	var b []byte
	for i := range 3 {
		if a&(1<<i) != 0 {
			b = append(b, "rwm"[i])
		}
	}
	return string(b)
}

// A device is what a v1 rule is about: one, or all of a major or minor number.
type device struct {
	kind         byte  // 'b' or 'c'
	major, minor int64 // -1: all
}

func (d device) String() string {
	number := func(n int64) string {
		if n < 0 {
			return "*"
		}
		return strconv.FormatInt(n, 10)
	}
	return fmt.Sprintf("%c %s:%s", d.kind, number(d.major), number(d.minor))
}

// covers tells whether o is d or a part of it.
func (d device) covers(o device) bool {
	return d.kind == o.kind && (d.major < 0 || d.major == o.major) && (d.minor < 0 || d.minor == o.minor)
}

// meets tells whether some device is in both d and o.
func (d device) meets(o device) bool {
	same := func(a, b int64) bool { return a < 0 || b < 0 || a == b }
	return d.kind == o.kind && same(d.major, o.major) && same(d.minor, o.minor)
}

// rules are the state of a v1 device cgroup: all devices are allowed or
// denied, but for exceptions. The zero value says that nothing is known.
type rules struct {
	known      bool
	allow      bool
	exceptions map[device]access
}

// compileRules applies the rules of the runtime-spec in their order to a
// cgroup that denies everything. What v1 cannot hold is an error: the kernel
// would take a rule that takes back a part of an earlier one, and ignore it
// (dev_exception_rm, security/device_cgroup.c).
func compileRules(list []specs.LinuxDeviceCgroup) (rules, error) {
	r := rules{known: true, exceptions: map[device]access{}}
	for i, d := range list {
		if err := r.add(d); err != nil {
			return rules{}, fmt.Errorf("device rule %d: %w", i, err)
		}
	}
	return r, nil
}

func (r *rules) add(d specs.LinuxDeviceCgroup) error {
	a, err := parseAccess(d.Access)
	if err != nil {
		return err
	}
	target := device{major: -1, minor: -1}
	for _, n := range []struct {
		to   *int64
		from *int64
	}{{&target.major, d.Major}, {&target.minor, d.Minor}} {
		if n.from == nil {
			continue
		}
		if *n.from < -1 || *n.from > 1<<32-1 {
			return kindf(errdefs.ErrInvalidArgument, "device number %d: not between -1 and %d", *n.from, uint32(1<<32-1))
		}
		*n.to = *n.from
	}
	var kinds []byte
	switch d.Type {
	case "", "a":
		if target.major < 0 && target.minor < 0 && a == allAccess {
			r.allow = d.Allow
			clear(r.exceptions)
			return nil
		}
		kinds = []byte("bc")
	case "b", "c":
		kinds = []byte(d.Type)
	case "u": // a character device, mknod(1)
		kinds = []byte("c")
	default:
		return kindf(errdefs.ErrInvalidArgument, "type %q: not a, b or c", d.Type)
	}
	for _, target.kind = range kinds {
		if d.Allow != r.allow {
			r.exceptions[target] |= a
			continue
		}
		if err := r.takeBack(target, a); err != nil {
			return err
		}
	}
	return nil
}

// takeBack removes exceptions.
func (r *rules) takeBack(target device, a access) error {
	for e, has := range r.exceptions {
		switch {
		case has&a == 0 || !target.meets(e):
		case !target.covers(e):
			return kindf(errdefs.ErrNotImplemented, "%v %v: cgroups v1 cannot take back a part of the earlier rule %v %v", target, a, e, has)
		case has&^a == 0:
			delete(r.exceptions, e)
		default:
			r.exceptions[e] = has &^ a
		}
	}
	return nil
}

// A ruleWrite is one line for devices.allow or devices.deny.
type ruleWrite struct {
	allow bool
	line  string
}

// from returns the writes that turn the state old into r. Where old is close
// to it these are few; a cgroup that was made ready with the usual rules needs
// one for each device more.
func (r rules) from(old rules) []ruleWrite {
	var list []ruleWrite
	if !old.known || old.allow != r.allow {
		list = append(list, ruleWrite{r.allow, "a"})
		old.exceptions = nil
	}
	add := func(a, b map[device]access, allow bool) {
		for _, d := range slices.SortedFunc(maps.Keys(a), compareDevices) {
			if extra := a[d] &^ b[d]; extra != 0 {
				list = append(list, ruleWrite{allow, d.String() + " " + extra.String()})
			}
		}
	}
	// What both have stays in force meanwhile.
	add(r.exceptions, old.exceptions, !r.allow)
	add(old.exceptions, r.exceptions, r.allow)
	return list
}

func compareDevices(a, b device) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.major, b.major), cmp.Compare(a.minor, b.minor))
}

// A ruleKey is a rule of the runtime-spec by value.
type ruleKey struct {
	allow        bool
	kind, access string
	major, minor int64
}

func ruleKeys(list []specs.LinuxDeviceCgroup) []ruleKey {
	keys := make([]ruleKey, len(list))
	for i, d := range list {
		keys[i] = ruleKey{d.Allow, d.Type, d.Access, -1, -1}
		if d.Major != nil {
			keys[i].major = *d.Major
		}
		if d.Minor != nil {
			keys[i].minor = *d.Minor
		}
	}
	return keys
}

// planDevices checks device rules and returns what sets them.
func (c *Cgroup) planDevices(list []specs.LinuxDeviceCgroup) (func() error, error) {
	host := c.parent.host
	v1, ok := host.where["devices"]
	if !ok {
		return c.planProgram(list)
	}
	r, err := compileRules(list)
	if err != nil {
		return nil, err
	}
	return func() error {
		writes := r.from(c.devices)
		c.devices, c.given = rules{}, nil // not known, should one fail
		if err := c.writeRules(v1, writes); err != nil {
			return err
		}
		c.devices, c.given = r, ruleKeys(list)
		return nil
	}, nil
}

func (c *Cgroup) writeRules(hierarchy int, writes []ruleWrite) error {
	dir, err := c.parent.dir(hierarchy)
	if err != nil {
		return err
	}
	var fds [2]int
	for i, file := range []string{"/devices.deny", "/devices.allow"} {
		fds[i], err = openAt(dir, c.name+file, unix.O_WRONLY)
		if err != nil {
			return classify(err)
		}
		defer unix.Close(fds[i])
	}
	for _, w := range writes {
		fd, file := fds[0], "devices.deny"
		if w.allow {
			fd, file = fds[1], "devices.allow"
		}
		if err := writeFD(fd, w.line); err != nil {
			return fmt.Errorf("write %q to %s: %w", w.line, file, classify(err))
		}
	}
	return nil
}
