//go:build linux

// Worker is the program of the image that the example's test serves.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

func main() {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		panic(err)
	}
	what := "square"
	if len(os.Args) > 1 {
		what = os.Args[1]
	}
	switch what {
	case "square": // the number that is the input
		n, err := strconv.Atoi(string(input))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		fmt.Printf("%d %d\n", n, n*n)
	case "echo":
		os.Stdout.Write(input)
	case "nap": // for as long as the input says
		d, err := time.ParseDuration(string(input))
		if err != nil {
			panic(err)
		}
		time.Sleep(d)
		fmt.Println("awake")
	case "eat": // more memory than there is, most of it by one call
		all, err := syscall.Mmap(-1, 0, 1<<30, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANONYMOUS|syscall.MAP_POPULATE)
		if err != nil {
			panic(err)
		}
		for i := 0; i < len(all); i += 4096 {
			all[i] = 1
		}
	case "talk": // without end
		for {
			os.Stdout.Write(bytes.Repeat([]byte("talk\n"), 1000))
		}
	case "multiply": // until that fails
		for {
			cmd := exec.Command("/worker", "nap")
			in, err := cmd.StdinPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				fmt.Println(err)
				os.Exit(4)
			}
			defer in.Close()
		}
	case "write": // where nothing may be written
		if err := os.WriteFile("/file", input, 0o644); err != nil {
			fmt.Println(err)
			os.Exit(5)
		}
	}
}
