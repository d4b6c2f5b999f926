//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// benchMemory measures what a program has for each of many containers that do
// nothing: its own memory and the keeper's, but nothing of the containers', nor
// of the kernel's.
func benchMemory(ctx context.Context, b *bench) (_ []Result, err error) {
	count, few := 200, 20
	if b.short {
		count, few = 20, 2
	}
	var each []float64
	for range b.rounds(5) {
		kib, err := b.hostMemory(ctx, count)
		if err != nil {
			return nil, err
		}
		each = append(each, kib)
	}
	opened, err := b.peers(ctx)
	if err != nil {
		return nil, err
	}
	values := map[string]float64{}
	for _, p := range only[starter](opened) {
		if p.Name() == "crun" || p.Name() == "runc" {
			continue // nothing of them stays
		}
		// The command line of all their processes names their directory.
		dir := filepath.Join(b.dir, p.Name())
		kib, err := added(few, func() (int, error) {
			if err := b.calm(ctx); err != nil {
				return 0, err
			}
			return memoryOf(dir)
		}, func() (func() error, error) {
			_, stop, err := p.Sleeper(ctx)
			return stop, err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name(), err)
		}
		values[p.Name()] = float64(kib) / float64(few)
	}
	slices.Sort(each)
	return []Result{newResult("memory", "KiB", each[len(each)/2], 0, values)}, nil
}

// hostMemory gives the KiB for each container, in a new process. What it takes
// to have containers at all is there with the first ones.
func (b *bench) hostMemory(ctx context.Context, count int) (each float64, err error) {
	h, err := b.host(ctx, "memory")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	var kib [2]int
	for i, steps := range [][]int{{atOnce, 1}, {1 + count}} {
		for _, n := range steps {
			if err := h.run(n); err != nil {
				return 0, err
			}
		}
		if err := b.calm(ctx); err != nil {
			return 0, err
		}
		if _, kib[i], err = h.weigh(); err != nil {
			return 0, err
		}
	}
	return float64(kib[1]-kib[0]) / float64(count), nil
}

// calm is time for what is done in the background after starts.
func (b *bench) calm(ctx context.Context) error {
	if b.short {
		return pause(ctx, 100*time.Millisecond)
	}
	return pause(ctx, 5*time.Second)
}

// memoryOf adds up the memory of the processes whose command line names dir.
func memoryOf(dir string) (kib int, err error) {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, line := range lines {
		text, err := os.ReadFile(line)
		if err != nil || !strings.Contains(string(text), dir) {
			continue // ended, or another's
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(line)))
		if err != nil {
			return 0, err
		}
		own, err := proportional(pid)
		if err != nil {
			return 0, err
		}
		kib += own
	}
	return kib, nil
}

// proportional is a process's memory in KiB, each page divided by the number of
// processes that have it.
func proportional(pid int) (kib int, err error) {
	return field(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
}

func statusField(pid int, name string) (int, error) {
	return field(fmt.Sprintf("/proc/%d/status", pid), name)
}

// field is the first number behind a name that begins a line.
func field(path, name string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("%s: no %q", path, name)
}
