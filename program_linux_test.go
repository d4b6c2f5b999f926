package engine

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// programFlag makes this test binary the program of a container: it is the one
// file that all test images have, at /prog.
const programFlag = "-program"

// program is what containers run.
func program(args []string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	switch args[0] {
	case "exit":
		code, _ := strconv.Atoi(args[1])
		return code
	case "echo":
		fmt.Println(strings.Join(args[1:], " "))
	case "both":
		fmt.Println("to stdout")
		fmt.Fprintln(os.Stderr, "to stderr")
	case "cat":
		if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
			return fail(err)
		}
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "id":
		groups, _ := os.Getgroups()
		slices.Sort(groups)
		dir, _ := os.Getwd()
		fmt.Println(os.Getuid(), os.Getgid(), groups, dir)
	case "read":
		data, err := os.ReadFile(args[1])
		if err != nil {
			return fail(err)
		}
		os.Stdout.Write(data)
	case "open":
		f, err := os.Open(args[1])
		if err != nil {
			return fail(err)
		}
		f.Close()
	case "mkdir":
		if err := os.Mkdir(args[1], 0o755); err != nil {
			return fail(err)
		}
	case "write":
		if err := os.WriteFile(args[1], []byte(args[2]), 0o644); err != nil {
			return fail(err)
		}
	case "chmod":
		if err := os.Chmod(args[1], 0o700); err != nil {
			return fail(err)
		}
	case "list":
		entries, err := os.ReadDir(args[1])
		if err != nil {
			return fail(err)
		}
		for _, e := range entries {
			fmt.Println(e.Name())
		}
	case "stat":
		var st syscall.Stat_t
		if err := syscall.Stat(args[1], &st); err != nil {
			return fail(err)
		}
		fmt.Printf("%o %d %d %d\n", st.Mode&0o7777, st.Uid, st.Gid, st.Mtim.Sec)
	case "look": // at files
		for _, name := range args[1:] {
			l, err := lookAt(filepath.Join("/", name))
			if err != nil {
				return fail(err)
			}
			fmt.Println(l)
		}
	case "namespaces": // and the host name
		files, _ := filepath.Glob("/proc/self/ns/*")
		for _, f := range files {
			target, _ := os.Readlink(f)
			fmt.Println(target)
		}
		name, _ := os.Hostname()
		fmt.Println(name)
	case "links":
		files, _ := filepath.Glob("/proc/self/fd/*")
		for _, f := range files {
			if target, err := os.Readlink(f); err == nil {
				fmt.Println(filepath.Base(f), target)
			}
		}
	case "wait": // for a signal, then exits with its number
		ch := make(chan os.Signal, 1)
		signal.Notify(ch, syscall.SIGINT, syscall.SIGUSR1)
		if len(args) > 1 {
			signal.Ignore(syscall.SIGTERM)
		} else {
			signal.Notify(ch, syscall.SIGTERM)
		}
		fmt.Println("ready")
		return int((<-ch).(syscall.Signal))
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		time.Sleep(time.Hour)
	case "orphan": // leaves a process that holds its output
		cmd := exec.Command("/proc/self/exe", programFlag, "stubborn")
		cmd.Stdout = os.Stdout
		if err := cmd.Start(); err != nil {
			return fail(err)
		}
	case "eat": // memory
		var hoard [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			hoard = append(hoard, b)
			if len(hoard) > 1<<20 {
				return 0
			}
		}
	case "log": // many lines
		n, _ := strconv.Atoi(args[1])
		for i := range n {
			fmt.Printf("line %d\n", i)
		}
	case "logerr":
		n, _ := strconv.Atoi(args[1])
		for i := range n {
			fmt.Fprintf(os.Stderr, "line %d\n", i)
		}
	case "bytes": // as many on both streams
		n, _ := strconv.Atoi(args[1])
		data := testBytes(n)
		os.Stdout.Write(data)
		for i := range data {
			data[i] ^= 0xff
		}
		os.Stderr.Write(data)
	case "count": // lines on both streams
		n, _ := strconv.Atoi(args[1])
		for i := range n {
			fmt.Printf("stdout %d\n", i)
			fmt.Fprintf(os.Stderr, "stderr %d\n", i)
		}
	case "hoard": // megabytes
		n, _ := strconv.Atoi(args[1])
		hoard := make([]byte, n<<20)
		for i := range hoard {
			hoard[i] = 1
		}
		fmt.Println("full")
		time.Sleep(time.Hour)
		return int(hoard[0])
	case "breed": // a child that eats memory; goes on when it was killed
		err := exec.Command("/proc/self/exe", programFlag, "eat").Run()
		fmt.Println(err)
		time.Sleep(time.Hour)
	case "tty":
		if size, err := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ); err == nil {
			fmt.Printf("terminal %dx%d of user %d", size.Row, size.Col, ownerOf(os.Stdin))
		} else {
			fmt.Print("no terminal")
		}
		fmt.Printf(", TERM %s\n", os.Getenv("TERM"))
		fmt.Fprintln(os.Stderr, "to stderr")
	case "sizes": // of its terminal, until it is interrupted
		ch := make(chan os.Signal, 1)
		signal.Notify(ch, syscall.SIGINT, syscall.SIGWINCH)
		for sig := os.Signal(syscall.SIGWINCH); sig == syscall.SIGWINCH; sig = <-ch {
			size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
			if err != nil {
				return fail(err)
			}
			fmt.Printf("%dx%d\n", size.Row, size.Col)
		}
		return 2
	case "pause":
		time.Sleep(time.Hour)
	case "append": // and print what there is then
		f, err := os.OpenFile(args[1], os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.WriteString(args[2])
		}
		data, _ := os.ReadFile(args[1])
		fmt.Printf("%s\n", data)
		if err != nil {
			return fail(err)
		}
	case "sync": // what it writes
		f, err := os.Create(args[1])
		if err == nil {
			_, err = f.WriteString("data")
		}
		if err = errors.Join(err, f.Sync()); err != nil {
			return fail(err)
		}
	case "device":
		var st syscall.Stat_t
		if err := syscall.Stat(args[1], &st); err != nil {
			return fail(err)
		}
		fmt.Println(st.Dev)
	case "alone": // in its root filesystem, and perhaps not for long
		entries, err := os.ReadDir("/tmp")
		if err != nil || len(entries) > 0 {
			return fail(fmt.Errorf("/tmp has %v, %v", entries, err))
		}
		if len(args) > 1 {
			if err := os.WriteFile("/tmp/mine", nil, 0o600); err != nil {
				return fail(err)
			}
		}
		fmt.Println("x")
	case "swap": // two names, until it is killed
		fmt.Println("ready")
		for {
			_ = unix.Renameat2(unix.AT_FDCWD, args[1], unix.AT_FDCWD, args[2], unix.RENAME_EXCHANGE)
		}
	case "send-root":
		if err := sendRoot(args[1:]); err != nil {
			return fail(err)
		}
	case "leave":
		if err := leftovers[args[1]].leave(); err != nil {
			return fail(err)
		}
	case "survey":
		if err := survey(); err != nil {
			return fail(err)
		}
	default:
		return fail(fmt.Errorf("what is %q", args))
	}
	return 0
}

func ownerOf(f *os.File) uint32 {
	info, err := f.Stat()
	if err != nil {
		return ^uint32(0)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

// testBytes are n bytes of all values.
func testBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}
