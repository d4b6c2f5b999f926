package engine

import (
	"log/slog"
	"os"
	"path/filepath"
	"runtime"

	"github.com/inboard/engine/layer"
)

// Option is an option of Open.
type Option func(*options)

type options struct {
	root, run    string
	layerForm    layer.Form
	cgroupParent string
	logger       *slog.Logger
}

// WithRoot says where images, layers and containers are kept. Without it that
// is /var/lib/inboard, or for an ordinary user inboard in XDG_DATA_HOME. If
// WithRunDir is not given too, the run directory is "run" in dir.
func WithRoot(dir string) Option { return func(o *options) { o.root = dir } }

// WithRunDir says where the state is kept that need not survive a boot;
// best on tmpfs. Without it that is /run/inboard, or for an ordinary user
// inboard in XDG_RUNTIME_DIR. A root has one run directory, and a run
// directory one root.
func WithRunDir(dir string) Option { return func(o *options) { o.run = dir } }

// WithLayerForm chooses the form in which new layers are kept. Without it, or
// with layer.FormAuto, a probe of the root chooses.
func WithLayerForm(form layer.Form) Option { return func(o *options) { o.layerForm = form } }

// WithCgroupParent says below which cgroup containers get theirs, as a path
// from the root of each hierarchy. Without it that is "inboard".
func WithCgroupParent(path string) Option { return func(o *options) { o.cgroupParent = path } }

// WithLogger has the Engine tell what it does beside its calls, and what goes
// wrong there without a call that could return it: sweeps, a keeper that has
// died, output that was lost, layers that cannot be removed. Records have
// "engine", "container" or "image" with an ID where they are of one. Without it,
// or with nil, they go nowhere: the library prints nothing itself.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.logger = l } }

// log is where the Engine tells of what no call can return.
func (e *Engine) log() *slog.Logger {
	if e.options.logger == nil {
		return silent
	}
	return e.options.logger
}

var silent = slog.New(slog.DiscardHandler)

// complete fills in what was not given.
func (o *options) complete() {
	root, run := defaultDirs()
	if o.run == "" {
		o.run = run
		if o.root != "" && filepath.Clean(o.root) != root {
			o.run = filepath.Join(o.root, "run")
		}
	}
	if o.root == "" {
		o.root = root
	}
}

// defaultDirs follows the XDG base directory specification for ordinary users.
func defaultDirs() (root, run string) {
	if os.Geteuid() == 0 {
		return "/var/lib/inboard", "/run/inboard"
	}
	data := os.Getenv("XDG_DATA_HOME")
	if !filepath.IsAbs(data) {
		if runtime.GOOS == "linux" {
			home, _ := os.UserHomeDir()
			data = filepath.Join(home, ".local", "share")
		} else {
			data, _ = os.UserConfigDir()
		}
	}
	root = filepath.Join(data, "inboard")
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return root, filepath.Join(dir, "inboard")
	}
	return root, filepath.Join(root, "run")
}
