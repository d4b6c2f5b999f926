package image

import "strings"

// challenge is one way to authenticate that a server offers.
type challenge struct {
	scheme string // in lower case
	params map[string]string
}

// parseChallenges reads WWW-Authenticate headers (RFC 9110, section 11.6.1).
// What breaks the grammar ends the header it stands in.
func parseChallenges(headers []string) []challenge {
	var all []challenge
	for _, h := range headers {
		for {
			h = strings.TrimLeft(h, " \t,")
			scheme, rest := cutToken(h)
			if scheme == "" {
				break
			}
			c := challenge{strings.ToLower(scheme), map[string]string{}}
			c.params, h = parseParams(rest)
			all = append(all, c)
		}
	}
	return all
}

// parseParams reads name=value pairs up to the next challenge or the end.
func parseParams(s string) (params map[string]string, rest string) {
	params = make(map[string]string)
	for {
		s = strings.TrimLeft(s, " \t,")
		name, after := cutToken(s)
		after, ok := strings.CutPrefix(strings.TrimLeft(after, " \t"), "=")
		if name == "" || !ok {
			return params, s
		}
		after = strings.TrimLeft(after, " \t")
		var value string
		if strings.HasPrefix(after, `"`) {
			if value, after, ok = cutQuoted(after[1:]); !ok {
				return params, ""
			}
		} else {
			// Not only a token: servers send unquoted addresses.
			end := strings.IndexAny(after, " \t,")
			if end < 0 {
				end = len(after)
			}
			value, after = after[:end], after[end:]
		}
		if name = strings.ToLower(name); params[name] == "" {
			params[name] = value
		}
		s = after
	}
}

func cutToken(s string) (token, rest string) {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`()<>@,;:\"/[]?={}`, c) >= 0 {
			return s[:i], s[i:]
		}
	}
	return s, ""
}

// cutQuoted reads up to the closing quote; the opening one is gone.
func cutQuoted(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:], true
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", false
}
