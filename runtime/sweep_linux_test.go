package runtime

import (
	"slices"
	"testing"
)

// What a lock file says is left: the line that was not written whole says
// nothing, and what was removed is not left.
func TestLeftCgroups(t *testing.T) {
	for content, want := range map[string][]string{
		"":                                      nil,
		"inboard/1\n":                           {"inboard/1"},
		"inboard/1":                             nil,
		"inboard/1\n+a\n+b/c\n":                 {"inboard/1", "a", "b/c"},
		"inboard/1\n+a\n+b\n-a\n":               {"inboard/1", "b"},
		"inboard/1\n+a\n-a\n+a\n":               {"inboard/1", "a"},
		"inboard/1\n+a\n-":                      {"inboard/1", "a"},
		"inboard/1\n+a\n+half":                  {"inboard/1", "a"},
		"inboard/1\n-never made\n+with -dash\n": {"inboard/1", "with -dash"},
		"inboard/1\n+p\n/p/1\n":                 {"inboard/1", "/p/1", "p"},
		"inboard/1\n+-p\n/-p/1\n/q/1\n-/q/1\n":  {"inboard/1", "/-p/1", "-p"},
		"inboard/1\n/p/1\n-/p/1\n/p/1\n":        {"inboard/1", "/p/1"},
	} {
		parents, named := leftCgroups(content)
		if got := slices.Concat(parents, named); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", content, got, want)
		}
	}
}
