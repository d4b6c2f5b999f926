// Command tools is a shell and the usual tools in one static file, for images of
// tests: it does what the name says by which it is called. Called by another
// name, its first argument says it; "--list" prints all names.
//
// The tools have what scripts of tests use, as POSIX or GNU have it, and refuse
// options that they do not know.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// names are the tools by name; each file adds its own.
var names = map[string]func(*call) error{}

// add adds tools at the program's start.
func add(tools map[string]func(*call) error) bool {
	maps.Copy(names, tools)
	return true
}

// call is one use of a tool.
type call struct {
	name string
	args []string
	out  *bufio.Writer // standard output, written when the tool returns
	err  error         // the first failure of those that do not end the tool
}

// status is an error that says nothing, and what the program exits with.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// failed prints an error and goes on; the tool ends with status 1.
func (c *call) failed(err error) {
	if err == nil {
		return
	}
	c.out.Flush()
	fmt.Fprintf(os.Stderr, "%s: %s\n", c.name, text(err))
	c.err = status(1)
}

// text is an error as C programs print it: "NAME: reason".
func text(err error) string {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return path.Path + ": " + path.Err.Error()
	case errors.As(err, &link):
		return link.Old + " to " + link.New + ": " + link.Err.Error()
	}
	return err.Error()
}

// eachInput calls do with each file that the arguments name, "-" and no
// argument being standard input.
func (c *call) eachInput(args []string, do func(name string, f *os.File) error) {
	if len(args) == 0 {
		args = []string{"-"}
	}
	for _, name := range args {
		f := os.Stdin
		if name != "-" {
			var err error
			if f, err = os.Open(name); err != nil {
				c.failed(err)
				continue
			}
		}
		c.failed(do(name, f))
		if f != os.Stdin {
			f.Close()
		}
	}
}

// eachLine calls do with each line of a file, without its end.
func eachLine(f *os.File, do func(line string) error) error {
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadString('\n')
		if line == "" && err != nil {
			return nil
		}
		if err := do(strings.TrimSuffix(line, "\n")); err != nil {
			return err
		}
	}
}

func main() {
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	if names[strings.TrimPrefix(name, "-")] == nil && len(args) > 0 {
		name, args = args[0], args[1:]
	}
	if name == "--list" {
		for _, n := range slices.Sorted(maps.Keys(names)) {
			fmt.Println(n)
		}
		return
	}
	name = strings.TrimPrefix(name, "-") // a login shell
	tool := names[name]
	if tool == nil {
		fmt.Fprintf(os.Stderr, "%s: no such tool\n", name)
		os.Exit(127)
	}
	os.Exit(run(name, tool, args))
}

// run gives the exit status of a tool.
func run(name string, tool func(*call) error, args []string) int {
	c := &call{name: name, args: args, out: bufio.NewWriter(os.Stdout)}
	err := tool(c)
	if flush := c.out.Flush(); err == nil {
		err = flush
	}
	if err == nil {
		err = c.err
	}
	var s status
	switch {
	case err == nil:
		return 0
	case errors.As(err, &s):
		return int(s)
	}
	fmt.Fprintf(os.Stderr, "%s: %s\n", name, text(err))
	return 1
}
