package main

import (
	"fmt"
	"os"
	"strings"
)

// options are the letters that a call was given, with their values.
type options map[byte][]string

func (o options) has(letters string) bool {
	for i := range len(letters) {
		if _, ok := o[letters[i]]; ok {
			return true
		}
	}
	return false
}

// value is the last value of a letter.
func (o options) value(letter byte, otherwise string) string {
	if v := o[letter]; len(v) > 0 {
		return v[len(v)-1]
	}
	return otherwise
}

// options reads the options before the first argument that is none, as
// getopt(3): letters are the ones known, those before a colon take a value.
func (c *call) options(letters string) (options, []string, error) {
	o, args := options{}, c.args
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		word := args[0][1:]
		args = args[1:]
		if word == "-" {
			break
		}
		for len(word) > 0 {
			letter := word[0]
			word = word[1:]
			at := strings.IndexByte(letters, letter)
			if at < 0 || letter == ':' {
				fmt.Fprintf(os.Stderr, "%s: no option -%c here\n", c.name, letter)
				return nil, nil, status(2)
			}
			if at+1 == len(letters) || letters[at+1] != ':' {
				o[letter] = append(o[letter], "")
				continue
			}
			if word == "" {
				if len(args) == 0 {
					return nil, nil, c.usage(fmt.Sprintf("option -%c needs a value", letter))
				}
				word, args = args[0], args[1:]
			}
			o[letter] = append(o[letter], word)
			word = ""
		}
	}
	return o, args, nil
}

// usage says what is wrong with the arguments.
func (c *call) usage(what string) error {
	fmt.Fprintf(os.Stderr, "%s: %s\n", c.name, what)
	return status(2)
}
