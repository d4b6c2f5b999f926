package engine

import (
	"os"
	"testing"
)

func TestHostFiles(t *testing.T) {
	read := func(network Network) map[string]string {
		files := make(map[string]string)
		for _, f := range hostFiles(network, "box") {
			files[f.Path] = string(f.Data)
		}
		return files
	}
	none, host := read(NetworkNone), read(NetworkHost)
	if none["/etc/hosts"] != localHosts || none["/etc/hostname"] != "box\n" || host["/etc/hostname"] != "box\n" {
		t.Errorf("none: %q", none)
	}
	for _, path := range []string{"/etc/hosts", "/etc/resolv.conf"} {
		if want, _ := os.ReadFile(path); host[path] != string(want) {
			t.Errorf("%s with the host's network: %q, want the host's", path, host[path])
		}
	}
}

func TestWithoutLocalServers(t *testing.T) {
	in := "search a b\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 10.0.0.1\n#nameserver 127.0.0.1\noptions edns0"
	want := "search a b\nnameserver 10.0.0.1\n#nameserver 127.0.0.1\noptions edns0"
	if got := string(withoutLocalServers([]byte(in))); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
