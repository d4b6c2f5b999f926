package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/inboard/engine/internal/kernels/job"
)

// Limits on how long a machine may be silent, beside its tests' own.
const (
	bootLimit = 3 * time.Minute
	// grace is what the machine gets to report a test that has used up its time,
	// and to look for what it left behind.
	grace = time.Minute
)

// machine is one emulated computer: it boots, runs its tests and is gone.
type machine struct {
	system  *system
	work    string        // a directory of its own, removed by its owner
	timeout time.Duration // for each package
	processors,
	memory int // number, MiB
}

// args gives qemu's arguments. The console goes to a file, the events to
// standard output, but as a file: qemu takes the end of standard input for a port
// that nobody listens to. The disk is thrown away, so it is never flushed.
func (m *machine) args() []string {
	file := func(name string) string { return filepath.Join(m.work, name) }
	return slices.Concat(m.system.arch.machine, []string{
		"-accel", "tcg,thread=multi", "-smp", fmt.Sprint(m.processors), "-m", fmt.Sprint(m.memory),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-net", "none",
		"-kernel", m.system.image, "-initrd", file("initramfs"),
		"-append", "console=" + m.system.arch.console + " loglevel=4 panic=-1 random.trust_cpu=on",
		"-chardev", "file,id=console,path=" + file("console"), "-serial", "chardev:console",
		"-device", "virtio-serial-pci",
		"-chardev", "file,id=events,path=/dev/stdout", "-device", "virtserialport,chardev=events,name=" + job.Port,
		"-drive", "if=none,id=var,format=raw,cache=unsafe,discard=unmap,file=" + file("disk"),
		"-device", "virtio-blk-pci,drive=var,serial=" + job.Disk,
	})
}

// run boots the machine and hands each event to each. It returns when the
// machine is off; the error says why if it did not come to its end.
func (m *machine) run(ctx context.Context, each func(job.Event)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, m.system.arch.qemu, m.args()...)
	var complaint tailBuffer
	cmd.Stderr = &complaint
	cmd.WaitDelay = 10 * time.Second
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	// The kernel kills qemu with the thread that started it, not with the
	// process: so this one stays until the end.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	watch := time.AfterFunc(bootLimit, func() { cancel(fmt.Errorf("no event for %v", bootLimit)) })
	defer watch.Stop()
	ended, err := m.listen(stdout, func(e job.Event) {
		limit := grace
		if e.Kind == job.Start || e.Kind == job.Output {
			limit += m.timeout
		}
		watch.Reset(limit)
		each(e)
	})
	if err != nil {
		cancel(err)
	}
	waited := cmd.Wait()
	switch {
	case ended:
		return nil
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case waited != nil:
		return fmt.Errorf("qemu: %w: %s", waited, strings.Join(lastLines(complaint.String(), 3), "; "))
	}
	return errors.New("it ended before its tests did")
}

// listen reads events until the machine closes its side, and says whether the
// last was Done.
func (m *machine) listen(from io.Reader, each func(job.Event)) (bool, error) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 16<<20)
	ended := false
	for lines.Scan() {
		var e job.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return false, fmt.Errorf("event %.100q: %w", lines.Text(), err)
		}
		if e.Kind == job.Fault {
			return false, errors.New(e.Text)
		}
		ended = e.Kind == job.Done
		each(e)
	}
	return ended, lines.Err()
}

// console gives the last n lines of what the kernel and init said.
func (m *machine) console(n int) string {
	text, err := os.ReadFile(filepath.Join(m.work, "console"))
	if err != nil {
		return ""
	}
	return strings.Join(lastLines(string(text), n), "\n")
}

// tailBuffer keeps the last bytes written to it.
type tailBuffer struct{ data []byte }

func (b *tailBuffer) Write(p []byte) (int, error) {
	const keep = 8 << 10
	b.data = append(b.data, p...)
	b.data = b.data[max(0, len(b.data)-keep):]
	return len(p), nil
}

func (b *tailBuffer) String() string { return string(b.data) }
