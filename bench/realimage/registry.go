//go:build linux

package realimage

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
)

// Registry is a running server of Debian's docker-registry, on loopback.
type Registry struct {
	// Addr is its host:port.
	Addr string

	cmd    *exec.Cmd
	output *io.PipeReader
}

var listening = regexp.MustCompile(`listening on ([0-9.]+:[0-9]+)`)

// Serve starts a registry that keeps its blobs and its configuration in dir.
func Serve(dir string) (*Registry, error) {
	config := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf(`version: 0.1
log: {level: info, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: "127.0.0.1:0"}
`, filepath.Join(dir, "registry"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	r := &Registry{cmd: exec.Command("docker-registry", "serve", config)}
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var w *io.PipeWriter
	r.output, w = io.Pipe()
	r.cmd.Stdout, r.cmd.Stderr = w, w
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- r.cmd.Wait()
		w.Close()
	}()
	lines := bufio.NewScanner(r.output)
	last := ""
	for lines.Scan() {
		last = lines.Text()
		if m := listening.FindStringSubmatch(last); m != nil {
			r.Addr = m[1]
			go io.Copy(io.Discard, r.output)
			return r, nil
		}
	}
	return nil, fmt.Errorf("start registry: %w: %s", <-ended, last)
}

// Close ends the server.
func (r *Registry) Close() error {
	err := r.cmd.Process.Kill()
	io.Copy(io.Discard, r.output) // to its end: until the server is reaped
	return err
}

// Push copies an OCI layout's image Tag to the registry with skopeo and gives
// the reference to pull it by.
func (r *Registry) Push(ctx context.Context, dir, repository string) (string, error) {
	ref := r.Addr + "/" + repository + ":" + Tag
	cmd := exec.CommandContext(ctx, "skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", "oci:"+dir+":"+Tag, "docker://"+ref)
	if err := run(cmd, io.Discard); err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	return ref, nil
}
