package enginetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// markLimit is the soft RLIMIT_MSGQUEUE of this process: its pid. What descends
// from it has the same, whoever its parent is now and whatever namespaces it is
// in, and can be told from the processes of other programs.
var markLimit uint64

// prepare marks this process, and has what Go's runtime keeps for good, once it
// is first used, there before the first look: its poller, and the goroutine of
// os/signal.
var prepare = sync.OnceFunc(func() {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MSGQUEUE, &l); err == nil {
		markLimit = uint64(os.Getpid())
		marked := unix.Rlimit{Cur: markLimit, Max: max(l.Max, markLimit)}
		if unix.Setrlimit(unix.RLIMIT_MSGQUEUE, &marked) != nil {
			markLimit %= l.Max
			marked = unix.Rlimit{Cur: markLimit, Max: l.Max}
			_ = unix.Setrlimit(unix.RLIMIT_MSGQUEUE, &marked)
		}
	}
	if r, w, err := os.Pipe(); err == nil {
		_ = r.SetReadDeadline(time.Now())
		r.Close()
		w.Close()
	}
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, unix.SIGWINCH)
	signal.Stop(ch)
})

// system takes stock of what the kernel has for this process.
func (s stock) system(cgroups []string) {
	s.descriptors(s.mounts(cgroups))
	s.threads()
	s.processes()
	if links, err := net.Interfaces(); err == nil {
		for _, l := range links {
			s.add("link", l.Name)
		}
	}
	for _, t := range nftables() {
		s.add("nftables table", t)
	}
}

// mounts of this process's mount namespace, and the cgroups below the parents
// that are watched, in each hierarchy that is mounted. It gives where these are.
func (s stock) mounts(cgroups []string) (hierarchies []string) {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		dash := slices.Index(f, "-") // proc_pid_mountinfo(5)
		if dash < 5 || dash+1 >= len(f) {
			continue
		}
		switch root, on, kind := f[3], f[4], f[dash+1]; kind {
		case "nsfs":
			s.add(kindNamespace, root+" mounted on "+on)
		default:
			s.add("mount", kind+" on "+on)
			if kind == "cgroup" || kind == "cgroup2" {
				hierarchies = append(hierarchies, on)
				for _, parent := range cgroups {
					s.cgroups(filepath.Join(on, parent))
				}
			}
		}
	}
	return hierarchies
}

// cgroups are the directories of a cgroup filesystem, as links to it are not.
func (s stock) cgroups(dir string) {
	d, err := os.Open(dir)
	if err != nil {
		return
	}
	defer d.Close()
	s.add(kindCgroup, dir)
	entries, _ := d.ReadDir(-1)
	for _, e := range entries {
		if e.IsDir() {
			s.cgroups(filepath.Join(dir, e.Name()))
		}
	}
}

// descriptors of this process, by what they are of. Those are left out that the
// engine keeps as long as the process lives, however many Engines it opens: the
// roots of the cgroup hierarchies, and the programs that enforce device rules.
func (s stock) descriptors(hierarchies []string) {
	const dir = "/proc/self/fd"
	d, err := os.Open(dir)
	if err != nil {
		return
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	own := strconv.Itoa(int(d.Fd()))
	for _, name := range names {
		target, err := os.Readlink(filepath.Join(dir, name))
		switch {
		case err != nil, name == own, slices.Contains(hierarchies, target), target == "anon_inode:bpf-prog":
		case isNamespace(target):
			s.add(kindNamespace, target)
		default:
			s.add(kindDescriptor, target)
		}
	}
}

// namespaces are the names in /proc/PID/ns.
var namespaces = []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"}

func isNamespace(target string) bool {
	kind, _, ok := strings.Cut(target, ":[")
	return ok && slices.Contains(namespaces, kind)
}

// threads of this process that are in other namespaces than its first one.
func (s stock) threads() {
	tids, _ := os.ReadDir("/proc/self/task")
	first := make(map[string]string)
	for _, name := range namespaces {
		first[name], _ = os.Readlink("/proc/self/ns/" + name)
	}
	for _, tid := range tids {
		for _, name := range namespaces {
			target, err := os.Readlink(filepath.Join("/proc/self/task", tid.Name(), "ns", name))
			if err == nil && target != first[name] {
				s[thing{kindNamespace, target + " that a thread is in"}] = 1
			}
		}
	}
}

// processes are all of the machine; ours tells which are.
func (s stock) processes() {
	d, err := os.Open("/proc")
	if err != nil {
		return
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, name := range names {
		if name[0] >= '1' && name[0] <= '9' {
			s.add(kindProcess, name)
		}
	}
}

// ours leaves out what is other programs': processes that do not descend from
// this one, and cgroups of Engines that they have open.
func ours(list []thing) []thing {
	scan := sync.OnceFunc(findOthers)
	return slices.DeleteFunc(list, func(t thing) bool {
		switch t.kind {
		case kindProcess:
			return !descends(t.name)
		case kindCgroup:
			ids := runtimesOf(t.name)
			if slices.ContainsFunc(ids, ofOthers) {
				return true
			}
			scan()
			return slices.ContainsFunc(ids, ofOthers)
		}
		return false
	})
}

// descends tells whether a process descends from this one; one that is gone does
// not any more.
func descends(pid string) bool {
	limits, _ := os.ReadFile("/proc/" + pid + "/limits")
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, "Max msgqueue size"); ok {
			f := strings.Fields(rest)
			return len(f) > 0 && f[0] == strconv.FormatUint(markLimit, 10)
		}
	}
	return false
}

// runtimeID is what package runtime names its cgroups by, one for each open
// Engine, and with ".lock" the file that it keeps locked as long as it is open.
var runtimeID = regexp.MustCompile(`^[0-9a-f]{12}$`)

// runtimesOf are the IDs that a cgroup's path has, or else its children.
func runtimesOf(dir string) (ids []string) {
	for name := range strings.SplitSeq(dir, "/") {
		if runtimeID.MatchString(name) {
			ids = append(ids, name)
		}
	}
	if len(ids) > 0 {
		return ids
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if runtimeID.MatchString(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids
}

// others are the IDs of Engines that other programs have had open; none comes
// twice.
var others sync.Map

func ofOthers(id string) bool {
	_, ok := others.Load(id)
	return ok
}

// findOthers looks at what other programs have open.
func findOthers() {
	dirs, _ := filepath.Glob("/proc/[1-9]*/fd")
	for _, dir := range dirs {
		fds, err := os.ReadDir(dir)
		if err != nil || descends(filepath.Base(filepath.Dir(dir))) {
			continue
		}
		for _, fd := range fds {
			target, err := os.Readlink(filepath.Join(dir, fd.Name()))
			if id, ok := strings.CutSuffix(filepath.Base(target), ".lock"); err == nil && ok && runtimeID.MatchString(id) {
				others.Store(id, true)
			}
		}
	}
}

// detail says what a thing is.
func detail(t thing) string {
	switch t.kind {
	case kindProcess:
		return kindProcess + " " + aboutProcess(t.name)
	case kindDescriptor, kindNamespace:
		if held := holders(t.name); len(held) > 0 {
			return fmt.Sprintf("%s %s: %s", t.kind, t.name, strings.Join(held, ", "))
		}
	}
	return t.kind + " " + t.name
}

// aboutProcess names a process: its program, arguments, state and namespaces
// that are not ours.
func aboutProcess(pid string) string {
	dir := "/proc/" + pid
	status, _ := os.ReadFile(dir + "/status")
	words := make(map[string]string)
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		words[name] = strings.TrimSpace(value)
	}
	args, _ := os.ReadFile(dir + "/cmdline")
	text := fmt.Sprintf("%s %s (%q), parent %s, state %s", pid, words["Name"],
		strings.Split(strings.TrimRight(string(args), "\x00"), "\x00"), words["PPid"], words["State"])
	for _, name := range namespaces {
		own, _ := os.Readlink("/proc/self/ns/" + name)
		if its, err := os.Readlink(dir + "/ns/" + name); err == nil && its != own {
			text += ", in " + its
		}
	}
	return text
}

// holders are the descriptors of this process that are of a target, and of
// sockets the addresses.
func holders(target string) (list []string) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err != nil || to != target {
			continue
		}
		fd, _ := strconv.Atoi(e.Name())
		text := "number " + e.Name()
		if local, err := unix.Getsockname(fd); err == nil {
			text += " at " + address(local)
			if peer, err := unix.Getpeername(fd); err == nil {
				text += " with " + address(peer)
			}
		}
		list = append(list, text)
	}
	return list
}

func address(a unix.Sockaddr) string {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return net.JoinHostPort(net.IP(a.Addr[:]).String(), strconv.Itoa(a.Port))
	case *unix.SockaddrInet6:
		return net.JoinHostPort(net.IP(a.Addr[:]).String(), strconv.Itoa(a.Port))
	case *unix.SockaddrUnix:
		return strconv.Quote(a.Name)
	}
	return fmt.Sprintf("%T", a)
}

// order is that of netlink messages: the machine's.
var order = binary.NativeEndian

// sizeofNfgenmsg is that of struct nfgenmsg, which follows a message's header
// (linux/netfilter/nfnetlink.h).
const sizeofNfgenmsg = 4

// nftables lists the tables of the network namespace, as "inet NAME". It needs
// CAP_NET_ADMIN; without, and where the kernel has no nftables, there are none.
func nftables() (tables []string) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	const size = unix.SizeofNlMsghdr + sizeofNfgenmsg
	request := make([]byte, size)

	order.PutUint32(request[0:], size)
	order.PutUint16(request[4:], unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE)
	order.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil
	}
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil || n == 0 {
			return tables
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofNlMsghdr; {
			length := int(order.Uint32(rest))
			if length < unix.SizeofNlMsghdr || length > len(rest) {
				return tables
			}
			message := rest[:length]
			rest = rest[min((length+3)&^3, len(rest)):]
			switch order.Uint16(message[4:]) {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				return tables
			case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE:
				if name := tableName(message); name != "" {
					tables = append(tables, name)
				}
			}
		}
	}
}

// tableName reads a message of one table: its family, and attribute
// NFTA_TABLE_NAME.
func tableName(message []byte) string {
	if len(message) < unix.SizeofNlMsghdr+sizeofNfgenmsg {
		return ""
	}
	families := map[byte]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_ARP: "arp", unix.NFPROTO_NETDEV: "netdev", unix.NFPROTO_BRIDGE: "bridge"}
	family := families[message[unix.SizeofNlMsghdr]]
	for rest := message[unix.SizeofNlMsghdr+sizeofNfgenmsg:]; len(rest) >= 4; {
		length := int(order.Uint16(rest))
		if length < 4 || length > len(rest) {
			return ""
		}
		if order.Uint16(rest[2:]) == unix.NFTA_TABLE_NAME {
			name, _, _ := bytes.Cut(rest[4:length], []byte{0})
			return family + " " + string(name)
		}
		rest = rest[min((length+3)&^3, len(rest)):]
	}
	return ""
}
