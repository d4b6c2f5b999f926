//go:build linux

package realimage

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// debianLayer gives the path of a compressed layer with a minimal Debian
// system. It goes where apt of this machine goes.
func debianLayer(ctx context.Context, work string, log io.Writer) (string, error) {
	root := filepath.Join(work, "debian")
	args := []string{"--variant=minbase", suite, root}
	if mirror := mirror(ctx); mirror != "" {
		args = append(args, mirror)
	}
	if err := run(contained(exec.CommandContext(ctx, "debootstrap", args...)), log); err != nil {
		return "", err
	}
	// As in the published images: no packages that are already installed.
	debs, err := filepath.Glob(filepath.Join(root, "var/cache/apt/archives/*.deb"))
	if err != nil {
		return "", err
	}
	for _, deb := range debs {
		if err := os.Remove(deb); err != nil {
			return "", err
		}
	}
	archive := filepath.Join(work, "debian.tar")
	if err := runTar(ctx, log, "-cf", archive, "-C", root, "."); err != nil {
		return "", err
	}
	return compress(archive)
}

// mirror is where apt gets the suite from, or empty.
func mirror(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Codename: "+suite, "Component: main").Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// extraLayer gives the path of a compressed layer with a Go toolchain and the
// extra files.
func extraLayer(ctx context.Context, work, goroot string, log io.Writer) (string, error) {
	root := filepath.Join(work, "extra")
	if err := writeExtra(root); err != nil {
		return "", fmt.Errorf("write extra files: %w", err)
	}
	archive := filepath.Join(work, "extra.tar")
	if err := runTar(ctx, log, "--sparse", "-cf", archive, "-C", root, "."); err != nil {
		return "", err
	}
	// The flags keep the names of links as they are.
	if err := runTar(ctx, log, "-rf", archive, `--transform=flags=rSH;s,^\.,./usr/local/go,`, "--exclude=./pkg/obj", "-C", goroot, "."); err != nil {
		return "", err
	}
	return compress(archive)
}

// runTar writes archives with everything that PAX can hold: nanoseconds,
// extended attributes with file capabilities, and any length of a name.
func runTar(ctx context.Context, log io.Writer, args ...string) error {
	args = append([]string{"--format=posix", "--pax-option=delete=atime,delete=ctime", "--numeric-owner", "--sort=name", "--xattrs", "--xattrs-include=*"}, args...)
	return run(exec.CommandContext(ctx, "tar", args...), log)
}

// compress replaces a file by its gzip, made as Docker makes it.
func compress(path string) (string, error) {
	in, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.Create(path + ".gz")
	if err != nil {
		return "", err
	}
	defer out.Close()
	z := gzip.NewWriter(out)
	if _, err := io.Copy(z, in); err != nil {
		return "", fmt.Errorf("compress %s: %w", path, err)
	}
	if err := z.Close(); err != nil {
		return "", fmt.Errorf("compress %s: %w", path, err)
	}
	if err := out.Close(); err != nil {
		return "", err
	}
	return path + ".gz", os.Remove(path)
}
