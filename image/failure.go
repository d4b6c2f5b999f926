package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/errdefs"
)

// Error is the type of the errors of what a [Store] does with images. Its text
// says each name once: what Err says, from package layer too, does not repeat
// Op and Name.
type Error struct {
	// Op is what was asked for, as "pull".
	Op string
	// Name is the reference, ID or directory that was given for it. Empty
	// where there is none.
	Name string
	// Err is what went wrong; it names the step and the thing.
	Err error
}

// Error gives Op, Name and Err.
func (e *Error) Error() string {
	if e.Name == "" {
		return e.Op + ": " + e.Err.Error()
	}
	return e.Op + " " + e.Name + ": " + e.Err.Error()
}

// Unwrap gives Err.
func (e *Error) Unwrap() error { return e.Err }

// ended makes the error of a call whose context has ended say so: what that
// breaks says it in many ways.
func ended(ctx context.Context, err error) error {
	if e := ctx.Err(); e != nil && !errors.Is(err, e) {
		return fmt.Errorf("%w: %w", e, err)
	}
	return err
}

// networkError is a request that got no whole answer.
type networkError struct{ err error }

func (e *networkError) Error() string   { return e.err.Error() }
func (e *networkError) Unwrap() []error { return []error{e.err, errdefs.ErrUnavailable} }

// statusError is an answer other than the one that was asked for.
type statusError struct {
	where   string
	code    int
	message string
	after   time.Duration
}

// newStatusError reads what the answer says about itself; the caller closes it.
func newStatusError(resp *http.Response, u *url.URL) *statusError {
	e := &statusError{where: place(u), code: resp.StatusCode}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 8<<10))
	e.message = registryMessage(body)
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		e.after = time.Duration(min(s, 3600)) * time.Second
	} else if t, err := http.ParseTime(resp.Header.Get("Retry-After")); err == nil {
		e.after = time.Until(t)
	}
	return e
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("GET %s: %d %s", e.where, e.code, cmp.Or(http.StatusText(e.code), "unknown status"))
	if e.message != "" {
		s += ": " + e.message
	}
	return s
}

func (e *statusError) Unwrap() error {
	switch {
	case e.code == http.StatusNotFound:
		return errdefs.ErrNotFound
	case e.code == http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case e.code == http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case e.code == http.StatusTooManyRequests:
		return errdefs.ErrResourceExhausted
	case e.code >= 500:
		return errdefs.ErrUnavailable
	}
	return errdefs.ErrUnknown
}

// registryMessage makes one printable line of an error body: the codes and
// messages of the distribution specification, or the start of whatever it is.
func registryMessage(body []byte) string {
	var answer struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
		Details string `json:"details"` // some token servers
	}
	text := string(body)
	if json.Unmarshal(body, &answer) == nil {
		text = answer.Details
		for _, e := range answer.Errors {
			if text != "" {
				text += "; "
			}
			text += strings.Trim(e.Code+": "+e.Message, ": ")
		}
	}
	// A terminal may read it: no control characters, and not without end.
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > 300 {
		text = string(runes[:300]) + "..."
	}
	return text
}
