package engine

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestCommandLine(t *testing.T) {
	image := ocispec.ImageConfig{Entrypoint: []string{"/entry", "-a"}, Cmd: []string{"one", "two"}}
	tests := []struct {
		name             string
		image            ocispec.ImageConfig
		entrypoint, args []string
		want             string
	}{
		{"image alone", image, nil, nil, "/entry -a one two"},
		{"args replace cmd", image, nil, []string{"x"}, "/entry -a x"},
		{"empty args are none", image, nil, []string{}, "/entry -a one two"},
		{"entrypoint resets cmd", image, []string{"/other"}, nil, "/other"},
		{"both", image, []string{"/other"}, []string{"x"}, "/other x"},
		{"empty entrypoint clears", image, []string{}, nil, "one two"},
		{"empty entrypoint and args", image, []string{}, []string{"x"}, "x"},
		{"no image entrypoint", ocispec.ImageConfig{Cmd: []string{"sh"}}, nil, nil, "sh"},
	}
	for _, test := range tests {
		c := Config{Entrypoint: test.entrypoint, Args: test.args}
		if got := strings.Join(commandLine(test.image, &c), " "); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestMerge(t *testing.T) {
	image := ocispec.ImageConfig{
		Cmd:          []string{"run"},
		Env:          []string{"PATH=/opt", "LANG=C", "DROP=1"},
		User:         "daemon",
		WorkingDir:   "/srv/",
		StopSignal:   "SIGINT",
		Labels:       map[string]string{"a": "image", "b": "image"},
		Volumes:      map[string]struct{}{"/v2": {}, "/v1": {}},
		ExposedPorts: map[string]struct{}{"80/tcp": {}},
	}
	p, err := merge(image, &Config{
		Env:    []string{"LANG=en", "NEW=x=y", "DROP", "EMPTY="},
		Labels: map[string]string{"b": "mine"},
	}, "box")
	if err != nil {
		t.Fatal(err)
	}
	want := Process{
		Args:         []string{"run"},
		Env:          []string{"PATH=/opt", "HOSTNAME=box", "LANG=en", "NEW=x=y", "EMPTY="},
		User:         "daemon",
		WorkingDir:   "/srv",
		Hostname:     "box",
		StopSignal:   "SIGINT",
		Labels:       map[string]string{"a": "image", "b": "mine"},
		Volumes:      []string{"/v1", "/v2"},
		ExposedPorts: []string{"80/tcp"},
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("merged:\n%+v\nwant:\n%+v", p, want)
	}
	p, err = merge(image, &Config{User: "7", WorkingDir: "/w", StopSignal: "9", Hostname: "h"}, "box")
	if err != nil {
		t.Fatal(err)
	}
	if p.User != "7" || p.WorkingDir != "/w" || p.StopSignal != "9" || p.Hostname != "h" {
		t.Errorf("the configuration does not override the image: %+v", p)
	}
	p, err = merge(ocispec.ImageConfig{Cmd: []string{"x"}}, &Config{}, "box")
	if err != nil {
		t.Fatal(err)
	}
	if p.WorkingDir != "/" || p.Env[0] != defaultPath {
		t.Errorf("defaults: %+v", p)
	}
}

func TestMergeRefuses(t *testing.T) {
	cmd := []string{"x"}
	tests := []struct {
		image ocispec.ImageConfig
		c     Config
		text  string
	}{
		{ocispec.ImageConfig{}, Config{}, "no command"},
		{ocispec.ImageConfig{Entrypoint: cmd}, Config{Entrypoint: []string{}}, "no command"},
		{ocispec.ImageConfig{Cmd: cmd, WorkingDir: "rel"}, Config{}, `"rel": not an absolute path`},
		{ocispec.ImageConfig{Cmd: cmd}, Config{WorkingDir: "rel"}, `"rel": not an absolute path`},
		{ocispec.ImageConfig{Cmd: cmd, StopSignal: "SIGFOO"}, Config{}, `"SIGFOO"`},
		{ocispec.ImageConfig{Cmd: []string{"a\x00b"}}, Config{}, "NUL"},
		{ocispec.ImageConfig{Cmd: cmd, Env: []string{"A=\x00"}}, Config{}, "NUL"},
		{ocispec.ImageConfig{Cmd: cmd, User: "a\x00"}, Config{}, "NUL"},
		{ocispec.ImageConfig{Cmd: cmd, WorkingDir: "/a\x00"}, Config{}, "NUL"},
	}
	for _, test := range tests {
		_, err := merge(test.image, &test.c, "box")
		if !errors.Is(err, ErrInvalidArgument) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("image %+v: %v, want %q", test.image, err, test.text)
		}
	}
}

func TestConfigCheck(t *testing.T) {
	good := Config{Network: NetworkNone}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		change func(*Config)
		is     error
		text   string
	}{
		{func(c *Config) { c.Network = "" }, ErrNotImplemented, `say "none" or "host"`},
		{func(c *Config) { c.Network = "bridge" }, ErrInvalidArgument, `"bridge"`},
		{func(c *Config) { c.Name = "x" }, ErrInvalidArgument, `name "x"`},
		{func(c *Config) { c.Name = "a/b" }, ErrInvalidArgument, `name "a/b"`},
		{func(c *Config) { c.Name = ".." }, ErrInvalidArgument, `name ".."`},
		{func(c *Config) { c.Name = "a\n" }, ErrInvalidArgument, `name "a\n"`},
		{func(c *Config) { c.Name = strings.Repeat("n", 256) }, ErrInvalidArgument, "255"},
		{func(c *Config) { c.Hostname = "a b" }, ErrInvalidArgument, `hostname "a b"`},
		{func(c *Config) { c.Hostname = "a\n127.0.0.1 evil" }, ErrInvalidArgument, "hostname"},
		{func(c *Config) { c.Hostname = strings.Repeat("h", 64) }, ErrInvalidArgument, "at most 63"},
		{func(c *Config) { c.Env = []string{"=x"} }, ErrInvalidArgument, `"=x": has no name`},
		{func(c *Config) { c.Env = []string{""} }, ErrInvalidArgument, "has no name"},
		{func(c *Config) { c.WaitDelay = -1 }, ErrInvalidArgument, "wait delay"},
	}
	for _, test := range tests {
		c := good
		test.change(&c)
		err := c.check()
		if !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%v, want %v with %q", err, test.is, test.text)
		}
	}
}

func FuzzMergeEnv(f *testing.F) {
	f.Add("A=1,B=2", "A,C=3")
	f.Add("=,==", "A=,A,A")
	f.Fuzz(func(t *testing.T, a, b string) {
		merged := mergeEnv(strings.Split(a, ","), strings.Split(b, ","))
		seen := make(map[string]bool)
		for _, v := range merged {
			name, _, ok := strings.Cut(v, "=")
			if !ok || seen[name] {
				t.Fatalf("%q in %q", v, merged)
			}
			seen[name] = true
		}
	})
}
