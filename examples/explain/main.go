// Explain prints what a container would be made of, system call by system call,
// without starting anything:
//
//	explain COMMAND [ARG...]
//	explain -spec config.json
//
// The first takes Docker's defaults, the second an OCI runtime specification.
// It needs no privileges.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/inboard/engine/runtime"
)

func main() {
	file := flag.String("spec", "", "OCI runtime specification, `file`")
	user := flag.String("u", "", "user[:group], `numbers`")
	flag.Parse()
	text, err := explain(*file, *user, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "explain:", err)
		os.Exit(1)
	}
	fmt.Print(text)
}

func explain(file, user string, args []string) (string, error) {
	spec, err := runtime.DefaultSpec(), error(nil)
	switch {
	case file != "":
		spec = new(specs.Spec)
		var data []byte
		if data, err = os.ReadFile(file); err == nil {
			err = json.Unmarshal(data, spec)
		}
	case len(args) == 0:
		err = errors.New("no command")
	default:
		spec.Process.Args = args
		spec.Linux.Seccomp, err = runtime.DefaultSeccomp(runtime.DefaultCapabilities())
	}
	if err != nil {
		return "", err
	}
	return runtime.Explain(spec, runtime.CreateOptions{ProcessOptions: runtime.ProcessOptions{User: user}})
}
