package engine

import (
	"bytes"
	"os"
	"strings"

	"github.com/inboard/engine/runtime"
)

// localHosts is /etc/hosts of a container that has nothing but loopback, as
// Docker writes it.
const localHosts = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// hostFiles are the files that a container gets about its host's name and
// network. With the host's network they are the host's own, as they are at
// this start; else resolv.conf leaves out servers that only the host can reach.
func hostFiles(network Network, hostname string) []runtime.File {
	hosts := []byte(localHosts)
	// A host without these files is one whose containers get empty ones.
	resolv, _ := os.ReadFile("/etc/resolv.conf")
	if network == NetworkHost {
		hosts, _ = os.ReadFile("/etc/hosts")
	} else {
		resolv = withoutLocalServers(resolv)
	}
	return []runtime.File{
		{Path: "/etc/hosts", Data: hosts},
		{Path: "/etc/hostname", Data: []byte(hostname + "\n")},
		{Path: "/etc/resolv.conf", Data: resolv},
	}
}

func withoutLocalServers(resolv []byte) []byte {
	var kept []byte
	for line := range bytes.Lines(resolv) {
		fields := strings.Fields(string(line))
		if len(fields) > 1 && fields[0] == "nameserver" &&
			(strings.HasPrefix(fields[1], "127.") || fields[1] == "::1") {
			continue
		}
		kept = append(kept, line...)
	}
	return kept
}
