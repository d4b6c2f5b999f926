package main

import (
	"encoding/json"
	"os"
	"time"

	"github.com/inboard/engine/internal/kernels/job"
)

// writeInitramfs makes the machine's initramfs at path: init, busybox, modules
// and the job. Tests lie on the disk instead, where they are read as needed.
func writeInitramfs(path string, s *system, init string, tests []job.Test) (err error) {
	tree, err := openModules(s.modules)
	if err != nil {
		return err
	}
	files, err := tree.order(required)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	a := newArchive(f)
	for _, program := range []struct{ name, from string }{{"init", init}, {"busybox", s.busybox}} {
		data, err := os.ReadFile(program.from)
		if err != nil {
			return err
		}
		a.file(program.name, 0o755, data)
	}
	a.dir("modules", 0o755)
	j := job.Job{Time: time.Now(), Tests: tests}
	for _, from := range files {
		data, err := readModule(from)
		if err != nil {
			return err
		}
		name := "modules/" + moduleName(from) + ".ko"
		a.file(name, 0o644, data)
		j.Modules = append(j.Modules, "/"+name)
	}
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	a.file(job.File[1:], 0o600, text)
	return a.close()
}
