//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

func TestMissing(t *testing.T) {
	before := inventory{"a": 1, "b": 2, "gone": 1}
	for _, c := range []struct {
		after inventory
		want  string
	}{
		{inventory{}, "[]"},
		{inventory{"a": 1, "b": 1}, "[]"},
		{inventory{"z": 1, "a": 1, "b": 3, "c": 4}, "[b c (4 times) z]"},
	} {
		if got := fmt.Sprint(before.missing(c.after)); got != c.want {
			t.Errorf("%v: %s, want %s", c.after, got, c.want)
		}
	}
}

func TestInventoryOfThisMachine(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("sh is not installed")
	}
	before := takeInventory()
	for _, thing := range []string{"network link lo", "file /etc"} {
		if before[thing] == 0 {
			t.Errorf("no %s", thing)
		}
	}
	name := "sh -c read x; read an-odd-name"
	cmd := exec.Command("sh", "-c", "read x; read an-odd-name")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	more := before.missing(takeInventory())
	in.Close()
	cmd.Wait()
	if !slices.Contains(more, "process "+name) {
		t.Errorf("a started process is not among what is more: %q", more)
	}
}

func TestProcessesWithoutKernelThreads(t *testing.T) {
	own := false
	for _, p := range processes() {
		own = own || p.pid == os.Getpid()
		if p.pid == 2 && p.name == "(kthreadd) in state S" {
			t.Error("kthreadd is listed")
		}
	}
	if !own {
		t.Error("this process is not listed")
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"vda": "other\n", "vdb": "wanted\n"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "serial"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := find(dir+"/*/serial", "wanted"); err != nil || got != filepath.Join(dir, "vdb") {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := find("[", "x"); err == nil {
		t.Error("a bad pattern is no error")
	}
}

func TestLoadModuleNamesFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.ko")
	if err := loadModule(path); !os.IsNotExist(err) {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("no module"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := loadModule(path); err == nil {
		t.Error("a file that is no module was loaded")
	}
}
