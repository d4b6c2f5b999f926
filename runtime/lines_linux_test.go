package runtime

import (
	"bufio"
	"io"
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// lines is a Writer from which a test takes lines as they come.
type lines struct {
	io.Writer
	from *bufio.Reader
}

func newLines() *lines {
	r, w := io.Pipe()
	return &lines{w, bufio.NewReader(r)}
}

func (l *lines) want(t *testing.T, want string) {
	t.Helper()
	if got := l.next(t); got != want {
		t.Fatalf("line %q, want %q", got, want)
	}
}

func (l *lines) next(t *testing.T) string {
	t.Helper()
	line, err := l.from.ReadString('\n')
	if err != nil {
		t.Fatalf("line %q: %v", line, err)
	}
	return line[:len(line)-1]
}

func notify(ch chan os.Signal) {
	signal.Notify(ch, syscall.SIGUSR1, syscall.SIGTERM, syscall.SIGINT)
}
