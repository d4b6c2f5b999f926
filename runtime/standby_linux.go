package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// errNoStandby says that there is no standby, or that it ended before it was of
// use. Nothing has been executed: the exec goes the long way, which also finds
// out what is wrong.
var errNoStandby = errors.New("no standby")

// standby is for callers that execute one command after another in a container:
// a process that has done all of an exec that does not depend on the command,
// and waits for one. Entering the cgroup and the namespaces and installing the
// seccomp filter, more than half of an exec, are done while nobody waits.
//
// It is outside the container's pid namespace, where nothing can see it, with
// the credentials and the filter that its command is to have. Its link to the
// host is its only descriptor beside three null devices.
type standby struct {
	mu     sync.Mutex
	last   stance        // of the last exec
	when   time.Time     // of that exec
	due    bool          // one is going to be made
	making chan struct{} // closed when the one being made is there, or is not; nil: none is
	stance stance        // of the one being made, or ready
	ready  *middle
	unfit  bool // one was of no use: what it needs, the container forbids
	ended  bool // the container is being deleted
}

// A stance is all that shapes an exec before its command is known: JSON, so
// that two compare, and nothing in it is shared with the caller's process.
type stance string

type stanceFields struct {
	Process  specs.Process
	UID, GID uint32
	Groups   []uint32
}

func stanceOf(p *specs.Process, who *credential) stance {
	shape := *p
	shape.Args, shape.Env, shape.Terminal, shape.ConsoleSize = nil, nil, false, nil
	text, _ := json.Marshal(stanceFields{shape, who.uid, who.gid, who.groups}) // nothing in it that JSON lacks
	return stance(text)
}

func (t stance) process() (*specs.Process, *credential, error) {
	var f stanceFields
	err := json.Unmarshal([]byte(t), &f)
	return &f.Process, &credential{uid: f.UID, gid: f.GID, groups: f.Groups}, err
}

// take returns the one that waits with a stance, for the caller to own, or nil.
// One that is being made is on its way sooner than any that starts now: the
// first who asks waits for it.
func (s *standby) take(ctx context.Context, t stance) *middle {
	s.mu.Lock()
	defer s.mu.Unlock()
	if making := s.making; making != nil && s.stance == t {
		s.making = nil
		s.mu.Unlock()
		select {
		case <-making:
		case <-ctx.Done():
		}
		s.mu.Lock()
	}
	if s.ready == nil || s.stance != t {
		return nil
	}
	m := s.ready
	s.ready = nil
	return m
}

// want tells after an exec whether to make one: after the second exec with the
// same stance within entryIdle, and after each that follows.
func (s *standby) want(t stance) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	again := s.last == t && now.Sub(s.when) < entryIdle
	s.last, s.when = t, now
	if !again || s.due || s.unfit || s.ended || s.ready != nil && s.stance == t {
		return false
	}
	s.due = true
	return true
}

// fill makes the one that want has decided on.
func (s *standby) fill(t stance, start func(stance) (*middle, error)) {
	made := make(chan struct{})
	s.mu.Lock()
	old := s.ready
	s.ready, s.stance, s.making = nil, t, made
	s.mu.Unlock()
	if old != nil {
		old.dismissStandby()
	}
	m, err := start(t)
	s.mu.Lock()
	if err == nil && !s.ended {
		s.ready, m = m, nil
	}
	s.due, s.making = false, nil
	s.mu.Unlock()
	close(made)
	if m != nil && err == nil {
		m.dismissStandby()
	}
}

// drop lets go of the one that waits. After end there will be no other.
func (s *standby) drop(end bool) {
	s.mu.Lock()
	m := s.ready
	s.ready = nil
	s.ended = s.ended || end
	s.mu.Unlock()
	if m != nil {
		m.dismissStandby()
	}
}

func (s *standby) giveUp() {
	s.mu.Lock()
	s.unfit = true
	s.mu.Unlock()
}

// standbyDelay is how long the making of a standby waits for the end of the
// process executed last, so as not to compete with it.
const standbyDelay = 10 * time.Millisecond

// standBy makes a standby in the background if the exec that succeeded just now
// was one of a row. An error there is no matter: the next exec meets it.
func (c *Container) standBy(t stance, after *Process) {
	// A limited number of processes is the container's own; and a pid namespace
	// that it shares would show the standby to others.
	if c.pidsLimited.Load() || c.process.keeper.outside || !c.standby.want(t) {
		return
	}
	go func() {
		select {
		case <-after.child.ended:
		case <-time.After(standbyDelay):
		}
		c.standby.fill(t, c.newStandby)
	}()
}

// standbyRoom is what a command's arguments and environment may take in a
// standby's program; those that are larger go the long way.
const standbyRoom = 256 << 10

// newStandby starts one.
func (c *Container) newStandby(t stance) (_ *middle, err error) {
	entered, err := c.entering()
	if err != nil {
		return nil, err
	}
	defer entered()
	m := c.newMiddle()
	defer func() {
		if err != nil {
			m.release()
		}
	}()
	if err := m.compileStandby(t); err != nil {
		return nil, err
	}
	if err := m.write(len(m.mem) + standbyRoom); err != nil {
		return nil, err
	}
	if err := m.start(); err != nil {
		if m.child != nil { // there is one, and the host cannot use it
			m.dismiss()
			<-m.child.ended
		}
		return nil, err
	}
	// Delete waits for it.
	c.entered.Add(1)
	go func() {
		<-m.child.ended
		c.entered.Done()
	}()
	return m, nil
}

// compileStandby makes the program up to where the command is needed.
func (m *middle) compileStandby(t stance) error {
	p, who, err := t.process()
	if err != nil {
		return err
	}
	ours, theirs, err := newLink(true)
	if err != nil {
		return err
	}
	m.link = ours
	// The keeper's null device in place of its socket.
	m.add("set up standard streams", unix.SYS_DUP3, 1, 0, 0)
	m.add("set up the link to the host", unix.SYS_DUP3, m.sendOwned(theirs), linkFD, unix.O_CLOEXEC)
	if err := m.enter(linkFD + 1); err != nil {
		return err
	}
	m.become(p, who, m.container.filter)
	const controlSize = 64
	control := m.bytes(make([]byte, controlSize))
	vector := m.words(uint64(m.slot()), 1)                                       // struct iovec
	message := m.words(0, 0, uint64(vector), 1, uint64(control), controlSize, 0) // struct msghdr
	m.add("wait for a command", unix.SYS_RECVMSG, linkFD, message, 0).with(flagEOF)
	return m.err
}

// execStandby has the standby execute a command, if there is one that fits.
func (c *Container) execStandby(ctx context.Context, t stance, p *specs.Process, who *credential, s *streams, o *ProcessOptions) (*Process, error) {
	m := c.standby.take(ctx, t)
	if m == nil {
		return nil, errNoStandby
	}
	// What it received has the lowest numbers that were free.
	for i := range uintptr(3) {
		m.add("set up standard streams", unix.SYS_DUP3, linkFD+1+i, i, 0)
	}
	m.add("close descriptors", unix.SYS_CLOSE_RANGE, linkFD, 0xffffffff, 0)
	command := m.fork(p, who)
	if m.err != nil || m.write(0) != nil { // it does not fit
		m.dismissStandby()
		return nil, errNoStandby
	}
	process, err := m.run(ctx, command, s, o, func() error { return m.command(s.child) })
	if process == nil && ctx.Err() == nil && !m.forked {
		c.standby.giveUp()
		return nil, errNoStandby
	}
	return process, err
}

// command wakes a standby whose program is complete, and gives it its streams.
func (m *middle) command(streams [3]int) error {
	conn, err := m.link.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = conn.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), []byte{1}, unix.UnixRights(streams[:]...), nil, unix.MSG_NOSIGNAL)
		return sent != unix.EINTR && sent != unix.EAGAIN
	})
	return errors.Join(err, os.NewSyscallError("sendmsg", sent))
}

// dismissStandby is dismiss and release of one that nobody waits for.
func (m *middle) dismissStandby() {
	m.dismiss()
	m.release()
}
