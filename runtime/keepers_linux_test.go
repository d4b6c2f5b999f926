package runtime

import (
	"context"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKeepers has more containers than one keeper takes: each has its own
// keeper's fate and no other's.
func TestKeepers(t *testing.T) {
	r := openTest(t)
	r.nested.room = 2
	parents := map[string][]*Container{}
	for range 5 {
		c := idle(t, r, nil)
		parent := statusField(t, c.Pid(), "PPid")
		parents[parent] = append(parents[parent], c)
	}
	if len(parents) != 3 || len(r.nested.list) != 3 {
		t.Fatalf("containers of keepers: %v", parents)
	}
	killed := r.nested.list[0]
	unix.Kill(killed.pid, unix.SIGKILL)
	for parent, containers := range parents {
		for _, c := range containers {
			if parent == strconv.Itoa(killed.pid) {
				if s, _ := c.Wait(context.Background()); s.Known {
					t.Errorf("status %v of a container whose keeper was killed", s)
				}
			} else if err := c.Signal(context.Background(), 0); err != nil {
				t.Errorf("a container of another keeper: %v", err)
			}
		}
	}
	<-killed.gone
	c := idle(t, r, nil)
	if parent := statusField(t, c.Pid(), "PPid"); len(parents[parent]) != 1 {
		t.Errorf("the next container is with %s of %v", parent, parents)
	}
	if len(r.nested.list) != 2 {
		t.Errorf("%d keepers", len(r.nested.list))
	}
}
