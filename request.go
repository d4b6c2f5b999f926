package engine

import (
	"errors"
	"slices"
)

// A request asks the program that a container belongs to for what must be done by
// that alone: it has the terminal and the pipe, and knows better than the record
// what it does to the container at that moment. Everything else (Kill, Exec, Wait
// and so on) any program does by itself.
type request struct {
	ID   string `json:"id"`
	Verb verb   `json:"verb"`
	// Run is the run that is meant, of verbs that must not meet another.
	Run       int         `json:"run,omitempty"`
	Resources *Resources  `json:"resources,omitempty"`
	Size      *WindowSize `json:"size,omitempty"`
}

type verb string

const (
	verbPause   verb = "pause"
	verbUnpause verb = "unpause"
	// verbResume, with Run, tells that a paused container goes on, for a signal.
	verbResume verb = "resume"
	verbUpdate verb = "update" // with Resources
	verbResize verb = "resize" // with Size
	// verbInput, with Run, is answered with a descriptor to write the process's
	// input to. The connection stays open for as long as both want that.
	verbInput verb = "input"
	// verbInputEnd, with Run, tells that somebody's input has ended.
	verbInputEnd verb = "input end"
)

// reply is the answer to a request. Its zero value says that it is done.
type reply struct {
	Error   string   `json:"error,omitempty"`
	Classes []string `json:"classes,omitempty"` // of the error
}

// classes are the sentinels that an error of another program may wrap.
var classes = []error{
	ErrNotFound, ErrInvalidArgument, ErrAlreadyExists, ErrFailedPrecondition, ErrConflict,
	ErrPermissionDenied, ErrUnavailable, ErrResourceExhausted, ErrDataLoss, ErrNotImplemented,
}

// replyWith says what has become of a request.
func replyWith(err error) (r reply) {
	if err == nil {
		return r
	}
	if e, ok := err.(*Error); ok {
		err = e.Err // who asks knows the rest
	}
	r.Error = err.Error()
	for _, class := range classes {
		if errors.Is(err, class) {
			r.Classes = append(r.Classes, class.Error())
		}
	}
	return r
}

// err is the error that the reply is about.
func (r *reply) err() error {
	if r.Error == "" {
		return nil
	}
	e := &repliedError{text: r.Error}
	for _, class := range classes {
		if slices.Contains(r.Classes, class.Error()) {
			e.classes = append(e.classes, class)
		}
	}
	return e
}

// repliedError is an error of another program's.
type repliedError struct {
	text    string
	classes []error
}

func (e *repliedError) Error() string { return e.text }

func (e *repliedError) Unwrap() []error { return e.classes }
