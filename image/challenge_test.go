package image

import (
	"fmt"
	"testing"
)

func TestParseChallenges(t *testing.T) {
	for _, c := range []struct {
		headers []string
		want    string
	}{
		{nil, "[]"},
		{[]string{`Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push"`},
			"[{bearer map[realm:https://auth.example/token scope:repository:a/b:pull,push service:registry]}]"},
		{[]string{`Basic realm="x"`, `BEARER realm=https://a/t?x=y,service=s`}, "[{basic map[realm:x]} {bearer map[realm:https://a/t?x=y service:s]}]"},
		{[]string{`Negotiate, Basic realm="a, b", Bearer realm = "q\"uote"`}, `[{negotiate map[]} {basic map[realm:a, b]} {bearer map[realm:q"uote]}]`},
		{[]string{`Bearer realm="first",realm="second"`}, "[{bearer map[realm:first]}]"},
		{[]string{`Bearer realm="open`}, "[{bearer map[]}]"},
		{[]string{`,,, Basic`}, "[{basic map[]}]"},
		{[]string{`"Basic"`, `=`, `()`}, "[]"},
	} {
		if got := fmt.Sprint(parseChallenges(c.headers)); got != c.want {
			t.Errorf("%q: %s, want %s", c.headers, got, c.want)
		}
	}
}

func FuzzParseChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://a/token",service="s",scope="x"`)
	f.Add(`Basic realm=x, Bearer realm="\`)
	f.Add(`a=b, c d="e"f`)
	f.Fuzz(func(t *testing.T, h string) {
		for _, c := range parseChallenges([]string{h, h}) {
			if c.scheme == "" || c.params == nil {
				t.Fatalf("%q: %+v", h, c)
			}
		}
	})
}
