package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// required modules are loaded in every machine: what the machine itself needs,
// then what containers need. A kernel that has one built in is fine, too.
var required = []string{
	"virtio_pci", "virtio_blk", "virtio_console", "ext4",
	"overlay", "erofs", "veth", "bridge", "loop", "tun", "fuse",
	"nf_tables", "nft_ct", "nft_nat", "nft_masq", "nft_chain_nat", "nft_fib_inet", "nft_reject_inet", "br_netfilter",
}

// moduleTree knows the modules of a kernel. Debian's package has no
// modules.dep, depmod makes it at installation; what depmod reads is in the
// modules themselves.
type moduleTree struct {
	files   map[string]string // path by module name
	builtin map[string]bool
	needs   func(path string) ([]need, error) // what to load before; tests put their own here
}

// need is a module that another one wants loaded before it.
type need struct {
	name string
	soft bool // it may be missing
}

// openModules reads the names of all modules below dir.
func openModules(dir string) (*moduleTree, error) {
	t := &moduleTree{files: map[string]string{}, builtin: map[string]bool{}, needs: moduleNeeds}
	list, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(list)) {
		t.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && strings.Contains(e.Name(), ".ko") {
			t.files[moduleName(path)] = path
		}
		return err
	})
	return t, err
}

// moduleName is the kernel's name of the module in a file: without directory
// and endings, and a dash counts as an underscore.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// order gives the files of the named modules and of all that they need, what is
// needed first. What is built in is left out.
func (t *moduleTree) order(names []string) ([]string, error) {
	var files []string
	const visiting, visited = 1, 2
	state := map[string]int{}
	var visit func(n need, by string) error
	visit = func(n need, by string) error {
		name := moduleName(n.name)
		if t.builtin[name] || state[name] == visited {
			return nil
		}
		if state[name] == visiting {
			return fmt.Errorf("module %s needs itself by way of %s", name, by)
		}
		state[name] = visiting
		path, ok := t.files[name]
		if !ok && n.soft {
			state[name] = visited
			return nil
		}
		if !ok {
			return fmt.Errorf("module %s, needed by %s, is not in this kernel", name, by)
		}
		needs, err := t.needs(path)
		if err != nil {
			return err
		}
		for _, n := range needs {
			if err := visit(n, name); err != nil {
				return err
			}
		}
		state[name] = visited
		files = append(files, path)
		return nil
	}
	for _, name := range names {
		if err := visit(need{name: name}, "the tests"); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// moduleNeeds reads from a module's file what must be loaded before it.
func moduleNeeds(path string) ([]need, error) {
	data, err := readModule(path)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("%s: no section .modinfo", path)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return parseModinfo(info), nil
}

// parseModinfo gives the names in depends= and in the part of softdep= before
// "post:". Modules ask for soft dependencies through modprobe, which the
// machine has not: libcrc32c fails without its crc32c.
func parseModinfo(info []byte) []need {
	var needs []need
	for entry := range strings.SplitSeq(string(info), "\x00") {
		key, value, _ := strings.Cut(entry, "=")
		switch key {
		case "depends":
			for name := range strings.SplitSeq(value, ",") {
				if name != "" {
					needs = append(needs, need{name, false})
				}
			}
		case "softdep":
			pre, ok := strings.CutPrefix(value, "pre:")
			if !ok {
				continue
			}
			pre, _, _ = strings.Cut(pre, "post:")
			for name := range strings.FieldsSeq(pre) {
				needs = append(needs, need{name, true})
			}
		}
	}
	return needs
}

// readModule gives the ELF file in a module's file, which newer Debian
// compresses.
func readModule(path string) ([]byte, error) {
	switch filepath.Ext(path) {
	case ".ko":
		return os.ReadFile(path)
	case ".xz":
		out, err := output(exec.Command("xz", "-dc", path))
		return []byte(out), err
	case ".zst":
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		z, err := zstd.NewReader(f)
		if err != nil {
			return nil, err
		}
		defer z.Close()
		return io.ReadAll(z)
	}
	return nil, fmt.Errorf("%s: %w", path, errors.ErrUnsupported)
}
