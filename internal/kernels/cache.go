package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// cache keeps unpacked systems from run to run. Several programs may use one at
// the same time: a system appears in it whole, by a rename, and two that fetch
// the same do so twice.
type cache struct {
	dir    string
	mirror string // URL below which "debian" and "debian-security" lie
}

// openCache gives the user's cache.
func openCache(mirror string) (*cache, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	return &cache{filepath.Join(dir, "inboard-kernels"), mirror}, nil
}

// find gives a system that was fetched before, or errdefs.ErrNotFound.
func (c *cache) find(k kernel, a arch) (*system, error) {
	s, err := openSystem(k, a, c.path(k, a))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("kernel %s for %s is not in %s: %w", k.version, a.name, c.dir, errdefs.ErrNotFound)
	}
	return s, err
}

func (c *cache) path(k kernel, a arch) string {
	return filepath.Join(c.dir, k.version+"-"+a.name)
}

// get gives a system, fetched now if need be. Where it cannot be had the error
// is errdefs.ErrUnavailable.
func (c *cache) get(ctx context.Context, k kernel, a arch) (*system, error) {
	s, err := c.find(k, a)
	if !errdefs.IsNotFound(err) {
		return s, err
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(c.dir, ".fetch-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	root := filepath.Join(work, "root")
	if err := fetch(ctx, c.mirror, k, a, work, root); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("kernel %s for %s: %w: %w", k.version, a.name, errdefs.ErrUnavailable, err)
	}
	if _, err := openSystem(k, a, root); err != nil {
		return nil, err
	}
	// Whoever was faster has the same.
	if err := os.Rename(root, c.path(k, a)); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return c.find(k, a)
}

// fetch downloads and unpacks the packages into root. apt gets a configuration
// and a state of its own in work: the machine's own packages, sources and
// architectures stay as they are, and root is not needed.
func fetch(ctx context.Context, mirror string, k kernel, a arch, work, root string) error {
	for _, dir := range []string{"lists/partial", "cache/archives/partial", "debs", "root"} {
		if err := os.MkdirAll(filepath.Join(work, dir), 0o755); err != nil {
			return err
		}
	}
	config := filepath.Join(work, "apt.conf")
	if err := os.WriteFile(config, []byte(aptConfig(k, a, work)), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(work, "sources.list"), []byte(aptSources(mirror, k)), 0o644); err != nil {
		return err
	}
	run := func(name string, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = append(os.Environ(), "APT_CONFIG="+config, "LC_ALL=C")
		cmd.Dir = filepath.Join(work, "debs")
		return output(cmd)
	}
	if _, err := run("apt-get", "-q", "update"); err != nil {
		return err
	}
	// This package depends on the newest kernel and has nothing of its own.
	text, err := run("apt-cache", "depends", "--important", "linux-image-cloud-"+a.name)
	if err != nil {
		return err
	}
	image, err := dependency(text, "linux-image-"+k.version+".")
	if err != nil {
		return err
	}
	if _, err := run("apt-get", "-q", "download", image, "busybox-static"); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(work, "debs", "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if _, err := run("dpkg-deb", "-x", deb, root); err != nil {
			return err
		}
	}
	return nil
}

// aptConfig is apt.conf for the files below work. See apt.conf(5); APT_CONFIG
// is read last, so this wins over /etc/apt while proxies set there still count.
func aptConfig(k kernel, a arch, work string) string {
	return fmt.Sprintf(`APT::Architecture "%[1]s";
#clear APT::Architectures;
APT::Architectures { "%[1]s"; };
APT::Default-Release "%[2]s";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Dir::State "%[3]s";
Dir::State::status "/dev/null";
Dir::Cache "%[3]s/cache";
Dir::Etc::SourceList "%[3]s/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
`, a.name, k.prefer, work)
}

// aptSources is sources.list for a kernel. The keyring is the one that every
// Debian has, and Ubuntu's package debian-archive-keyring too.
func aptSources(mirror string, k kernel) string {
	var b strings.Builder
	for _, source := range k.sources {
		fmt.Fprintf(&b, "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s/%s\n", mirror, source)
	}
	return b.String()
}

// dependency finds the package whose name begins with prefix in the output of
// apt-cache depends.
func dependency(text, prefix string) (string, error) {
	for line := range strings.Lines(text) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
		if ok && strings.HasPrefix(name, prefix) {
			return name, nil
		}
	}
	return "", fmt.Errorf("no package %s* among %q", prefix, text)
}

// output runs cmd and gives what it wrote; its error has the last lines of what
// it complained of.
func output(cmd *exec.Cmd) (string, error) {
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, strings.Join(lastLines(complaint.String(), 3), "; "))
	}
	return string(out), nil
}
