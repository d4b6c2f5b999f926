package seccomp

// Before Linux 4.3 and 5.1 these calls existed on 386 only behind socketcall(2)
// and ipc(2), and C libraries still use those. A rule that meets only the
// direct call would be passed by, so it is repeated for the other way.
var (
	// include/uapi/linux/net.h, from SYS_SOCKET, 1.
	socketcalls = [...]string{
		"socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername",
		"socketpair", "send", "recv", "sendto", "recvfrom", "shutdown", "setsockopt",
		"getsockopt", "sendmsg", "recvmsg", "accept4", "recvmmsg", "sendmmsg",
	}
	// include/uapi/linux/ipc.h.
	ipccalls = [...]struct {
		name   string
		number uint64
	}{
		{"semop", 1}, {"semget", 2}, {"semctl", 3}, {"semtimedop", 4},
		{"msgsnd", 11}, {"msgrcv", 12}, {"msgget", 13}, {"msgctl", 14},
		{"shmat", 21}, {"shmdt", 22}, {"shmget", 23}, {"shmctl", 24},
	}
)

const (
	socketcall = 102
	ipc        = 117
)

// multiplex notes rules for the call of this name behind socketcall or ipc, if
// it is there.
func (p *profile) multiplex(name string, rules []rule) {
	for i, s := range socketcalls {
		if s == name {
			p.call(i386, socketcall, muxed(rules, uint64(i+1)))
		}
	}
	for _, s := range ipccalls {
		if s.name == name {
			p.call(i386, ipc, muxed(rules, s.number))
		}
	}
}

// muxed turns rules for a direct call into rules for the call that carries it:
// argument 0 selects it. What a rule says about the direct call's own argument
// 0 is lost, as in libseccomp: it lies in memory, where a filter cannot look.
func muxed(rules []rule, number uint64) []rule {
	var out []rule
	for _, r := range rules {
		m := rule{r.action, []condition{narrowEqual(0, number)}}
		for _, c := range r.conditions {
			if c.arg != 0 {
				m.conditions = append(m.conditions, c)
			}
		}
		out = append(out, m)
	}
	return out
}
