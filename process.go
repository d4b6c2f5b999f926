package engine

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// defaultPath is Docker's PATH for a container whose image sets none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Process is what a container runs: its Config combined with its image's.
type Process struct {
	// Args is the whole command line: entrypoint and arguments.
	Args []string `json:"args"`
	// Env is the whole environment, but for HOME.
	Env []string `json:"env"`
	// User is as in Config; empty is root.
	User string `json:"user,omitempty"`
	// WorkingDir is absolute.
	WorkingDir string `json:"working_dir"`
	Hostname   string `json:"hostname"`
	// StopSignal is as it was given; empty is SIGTERM.
	StopSignal string `json:"stop_signal,omitempty"`
	// Labels are the image's, overridden by the Config's.
	Labels map[string]string `json:"labels,omitempty"`
	// ExposedPorts are the image's, as "80/tcp", and published nowhere.
	ExposedPorts []string `json:"exposed_ports,omitempty"`
	// Volumes are the image's paths for volumes.
	Volumes []string `json:"volumes,omitempty"`
}

// merge combines an image's configuration with a caller's as Docker does
// (moby's daemon/commit.go, merge). Only fields that the image specification
// defines are looked at; its labels are kept and not read.
func merge(image ocispec.ImageConfig, c *Config, hostname string) (Process, error) {
	p := Process{
		Args:         commandLine(image, c),
		User:         first(c.User, image.User),
		WorkingDir:   path.Clean(first(c.WorkingDir, image.WorkingDir, "/")),
		Hostname:     first(c.Hostname, hostname),
		StopSignal:   first(c.StopSignal, image.StopSignal),
		Labels:       mergeLabels(image.Labels, c.Labels),
		ExposedPorts: slices.Sorted(maps.Keys(image.ExposedPorts)),
		Volumes:      slices.Sorted(maps.Keys(image.Volumes)),
	}
	p.Env = mergeEnv([]string{defaultPath, "HOSTNAME=" + p.Hostname}, terminalEnv(c.TTY), image.Env, c.Env)
	return p, p.check()
}

// terminalEnv is what a process with a terminal has in its environment.
func terminalEnv(tty bool) []string {
	if tty {
		return []string{"TERM=xterm"}
	}
	return nil
}

func commandLine(image ocispec.ImageConfig, c *Config) []string {
	entrypoint, args := c.Entrypoint, c.Args
	if len(entrypoint) == 0 {
		if len(args) == 0 {
			args = image.Cmd
		}
		if entrypoint == nil {
			entrypoint = image.Entrypoint
		}
	}
	return slices.Concat(entrypoint, args)
}

func (p *Process) check() error {
	if len(p.Args) == 0 {
		return fmt.Errorf("no command: neither the configuration nor the image has one: %w", ErrInvalidArgument)
	}
	if !path.IsAbs(p.WorkingDir) {
		return fmt.Errorf("working directory %q: not an absolute path: %w", p.WorkingDir, ErrInvalidArgument)
	}
	if _, err := parseSignal(p.StopSignal); p.StopSignal != "" && err != nil {
		return fmt.Errorf("stop signal: %w", err)
	}
	for _, arg := range p.Args {
		if err := checkText("argument", arg); err != nil {
			return err
		}
	}
	for _, v := range p.Env {
		if err := checkText("environment variable", v); err != nil {
			return err
		}
	}
	if err := checkText("user", p.User); err != nil {
		return err
	}
	return checkText("working directory", p.WorkingDir)
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func mergeLabels(image, config map[string]string) map[string]string {
	if len(image)+len(config) == 0 {
		return nil
	}
	labels := make(map[string]string, len(image)+len(config))
	maps.Copy(labels, image)
	maps.Copy(labels, config)
	return labels
}

// mergeEnv lets each environment override those before it. A variable keeps
// the place where it was first set; one that has no "=" removes what was set.
func mergeEnv(envs ...[]string) []string {
	var merged []string
	place := make(map[string]int)
	for _, v := range slices.Concat(envs...) {
		name, _, sets := strings.Cut(v, "=")
		i, seen := place[name]
		switch {
		case sets && seen:
			merged[i] = v
		case sets:
			place[name] = len(merged)
			merged = append(merged, v)
		case seen:
			merged[i] = ""
			delete(place, name)
		}
	}
	return slices.DeleteFunc(merged, func(v string) bool { return v == "" })
}
