package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/inboard/engine/runtime"
)

// The host's ids that containers get: what systemd sets aside for them ("Users,
// Groups, UIDs and GIDs on systemd Systems", "Special systemd UID ranges"), in
// pieces of 65,536.
const (
	firstID    = 524288
	rangeSize  = 65536
	rangeCount = (1879048192 - firstID) / rangeSize

	// maxFreeRanges is how many an engine keeps that no container has.
	maxFreeRanges = 16
)

// An idRange is one piece of ids. It counts who has it: a run of a container,
// and a root filesystem that is mounted with it.
type idRange struct {
	number int64
	users  int // guarded by idRanges.mu
}

func (r *idRange) mappings() []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(firstID + r.number*rangeSize), Size: rangeSize}}
}

// apply puts the container of a spec into a user namespace. nil leaves it in the
// host's.
func (r *idRange) apply(s *specs.Spec) {
	if r == nil {
		return
	}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings, s.Linux.GIDMappings = r.mappings(), r.mappings()
}

// idRanges are the ranges of an engine. Byte N of a file in the run directory
// stands for range N: whose open file description has it locked has the range,
// as long as his process lives. The file itself stays empty.
type idRanges struct {
	path    string
	etc     string // where others' ids are listed; empty: /etc
	runtime func() (*runtime.Runtime, error)

	mu   sync.Mutex
	file *os.File
	held map[int64]bool
	free []*idRange // no user has them; the last one given back is the first to be taken
	next int64
}

// take gives a range to its first user.
func (p *idRanges) take() (*idRange, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		r := p.free[n-1]
		p.free = p.free[:n-1]
		r.users = 1
		return r, nil
	}
	n, err := p.claim()
	if err != nil {
		return nil, fmt.Errorf("ids for a user namespace: %w", err)
	}
	p.held[n] = true
	p.next = n + 1
	return &idRange{number: n, users: 1}, nil
}

// share adds a user.
func (p *idRanges) share(r *idRange) *idRange {
	if r != nil {
		p.mu.Lock()
		r.users++
		p.mu.Unlock()
	}
	return r
}

// release takes a user away. nil is nobody's.
func (p *idRanges) release(r *idRange) {
	if r == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.users--; r.users > 0 {
		return
	}
	if len(p.free) < maxFreeRanges {
		p.free = append(p.free, r)
		return
	}
	delete(p.held, r.number)
	_ = unlockByte(p.file, r.number) // a lock that stays does no harm
}

// claim locks a range that nobody has; p.mu is held. It goes on from the one
// that it locked last, past what others hold as a whole.
func (p *idRanges) claim() (int64, error) {
	if p.file == nil {
		f, err := os.OpenFile(p.path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return 0, err
		}
		p.file, p.held = f, make(map[int64]bool)
	}
	taken, err := takenRanges(first(p.etc, "/etc"))
	if err != nil {
		return 0, err
	}
	for tried := int64(0); tried < rangeCount; {
		n := (p.next + tried) % rangeCount
		if p.held[n] || taken[n] {
			tried++
			continue
		}
		behind, err := tryLockByte(p.file, n)
		if err != nil {
			return 0, fmt.Errorf("lock %s: %w", p.path, err)
		}
		if behind == 0 {
			return n, nil
		}
		tried += behind - n
	}
	return 0, fmt.Errorf("all %d ranges are in use: %w", rangeCount, ErrResourceExhausted)
}

// namespace makes a user namespace of a range.
func (p *idRanges) namespace(r *idRange) (*runtime.UserNamespace, error) {
	rt, err := p.runtime()
	if err != nil {
		return nil, err
	}
	return rt.NewUserNamespace(context.Background(), r.mappings(), r.mappings())
}

// close lets go of all.
func (p *idRanges) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file == nil {
		return nil
	}
	err := p.file.Close()
	p.file, p.held, p.free = nil, nil, nil
	return err
}

// takenRanges are the numbers of the ranges that have ids of the host's users,
// or ones that are set aside for a user's own namespaces. There are few.
func takenRanges(etc string) (map[int64]bool, error) {
	taken := make(map[int64]bool)
	for _, list := range []struct {
		file  string
		first int // field of the first id; the next one is how many, or there is one
		count bool
	}{{"passwd", 2, false}, {"group", 2, false}, {"subuid", 1, true}, {"subgid", 1, true}} {
		f, err := os.Open(filepath.Join(etc, list.file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 16<<20) // a group can have many members
		for lines.Scan() {
			fields := append(strings.Split(lines.Text(), ":"), "", "", "")
			id, err := strconv.ParseUint(fields[list.first], 10, 32)
			size := uint64(1)
			if err == nil && list.count {
				size, err = strconv.ParseUint(fields[list.first+1], 10, 32)
			}
			if err != nil { // a comment, or nothing that a lookup would find
				continue
			}
			from, end := max(id, firstID), min(id+size, firstID+rangeCount*rangeSize)
			for n := (from - firstID) / rangeSize; firstID+n*rangeSize < end; n++ {
				taken[int64(n)] = true
			}
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
	}
	return taken, nil
}
