package engine

import (
	"archive/tar"
	"strings"
	"testing"
)

// The files that a container gets stand over whatever the image has in their
// place, also where a link inside leads to it; or the start says which cannot.
func TestInjectedFiles(t *testing.T) {
	e := sharedEngine(t)
	directory := func(name string) tarFile {
		return tarFile{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, ""}
	}
	for what, test := range map[string]struct {
		files []tarFile
		err   string
	}{
		"/etc is a link":         {[]tarFile{link("etc", "usr/etc"), directory("usr/etc/")}, ""},
		"/etc is absolute":       {[]tarFile{link("etc", "/usr/etc"), directory("usr/etc/")}, ""},
		"link to another file":   {[]tarFile{link("etc/hosts", "/data/notexec")}, ""},
		"link to nothing":        {[]tarFile{link("etc/hosts", "/nothing/here"), link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")}, ""},
		"a FIFO":                 {[]tarFile{{tar.Header{Name: "etc/hosts", Typeflag: tar.TypeFifo}, ""}}, ""},
		"files in /proc and dev": {[]tarFile{file("proc/self/status", "fake"), file("dev/null", "fake"), file("sys/fs/cgroup", "fake")}, ""},
		"a directory":            {[]tarFile{directory("etc/hosts/")}, "put file /etc/hosts: "},
		"/etc is a file":         {[]tarFile{file("etc", "")}, "put file /etc/hosts: not a directory"},
		"/etc leads to nothing":  {[]tarFile{link("etc", "../../nothing")}, "put file /etc/hosts: "},
	} {
		img := pulled(t, e, nil, tarLayer(t, test.files...))
		c := create(t, e, img, Config{Args: []string{"read", "/etc/hosts"}, User: "1000"})
		err := c.Start(t.Context())
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: %v", what, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		status, err := c.Wait(t.Context())
		if got := logOf(t, c); err != nil || status.Code != 0 || strings.ReplaceAll(got, "stdout ", "") != localHosts {
			t.Errorf("%s: %v, %v, %q", what, status, err, got)
		}
	}
	// What lies below is as the image has it.
	img := pulled(t, e, nil, tarLayer(t, link("etc/hosts", "/data/notexec")))
	c := started(t, e, img, Config{Args: []string{"read", "/data/notexec"}})
	if _, err := c.Wait(t.Context()); err != nil || logOf(t, c) != "stdout text" {
		t.Errorf("%q, %v", logOf(t, c), err)
	}
}
