// Probe is the program of the image that the example's test runs.
package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	switch args := os.Args[1:]; args[0] {
	case "exit":
		code, _ := strconv.Atoi(args[1])
		os.Exit(code)
	case "look": // at itself
		dir, _ := os.Getwd()
		env := slices.DeleteFunc(os.Environ(), func(v string) bool { return !strings.HasPrefix(v, "PROBE_") })
		fmt.Println(os.Getuid(), os.Getgid(), dir, env, args[1:])
		fmt.Fprintln(os.Stderr, "to stderr")
	case "write":
		if err := os.WriteFile(args[1], []byte("written"), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "capabilities":
		status, _ := os.ReadFile("/proc/self/status")
		for line := range strings.Lines(string(status)) {
			if strings.HasPrefix(line, "CapBnd:") {
				fmt.Print(line)
			}
		}
	case "namespaces": // and its process ID in one of them
		for _, kind := range []string{"pid", "ipc", "uts", "net", "user"} {
			target, _ := os.Readlink("/proc/self/ns/" + kind)
			fmt.Print(target, " ")
		}
		fmt.Println(os.Getpid())
		if len(args) > 1 {
			io.Copy(io.Discard, os.Stdin)
		}
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
	case "wait": // for a signal, and exit with its number
		ch := make(chan os.Signal, 1)
		signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGWINCH)
		fmt.Println("ready")
		os.Exit(int((<-ch).(syscall.Signal)))
	case "eat": // memory, without end
		var all [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			all = append(all, b)
		}
	}
}
