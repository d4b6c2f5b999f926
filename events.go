package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// EventType says what an Event is about.
type EventType string

// What events are about.
const (
	EventContainer EventType = "container"
	EventImage     EventType = "image"
)

// EventAction says what has happened. The names are those of Docker's API.
type EventAction string

// What happens to containers.
const (
	EventCreate  EventAction = "create"
	EventStart   EventAction = "start"
	EventDie     EventAction = "die" // with "exitCode", if it is known
	EventOOM     EventAction = "oom"
	EventKill    EventAction = "kill" // a signal was sent: "signal"
	EventStop    EventAction = "stop"
	EventPause   EventAction = "pause"
	EventUnpause EventAction = "unpause"
	EventUpdate  EventAction = "update"
	EventRename  EventAction = "rename" // with "oldName"
	EventDestroy EventAction = "destroy"

	EventExecStart EventAction = "exec_start" // with "execCommand"
	EventExecDie   EventAction = "exec_die"   // with "exitCode"
)

// What happens to images. EventPrune is of both.
const (
	EventPull   EventAction = "pull"
	EventLoad   EventAction = "load"
	EventImport EventAction = "import"
	EventUntag  EventAction = "untag"
	EventDelete EventAction = "delete"

	EventPrune EventAction = "prune" // with "reclaimed", in bytes, and no ID
)

// Event is a change of a container or an image.
type Event struct {
	Time   time.Time   `json:"time"`
	Type   EventType   `json:"type"`
	Action EventAction `json:"action"`
	// ID is the container's or image's.
	ID string `json:"id,omitempty"`
	// Attributes of a container are its "name", its "image", its labels, and
	// what the action says; of an image its "name", if it has one.
	Attributes map[string]string `json:"attributes,omitempty"`
}

// EventOptions are those of Events; the zero value is right.
type EventOptions struct {
	// Since begins with the events that are kept from that time on. Zero: those
	// after the call of Events.
	Since time.Time
	// Until ends the iteration at that time. Zero: it ends with its context.
	Until time.Time

	// Types and Actions, if they are not empty, are what events must have one
	// of; so are Containers (IDs, their first digits, or names), Images (IDs or
	// names) and Labels ("key" or "key=value"), of which events must have all.
	Types      []EventType
	Actions    []EventAction
	Containers []string
	Images     []string
	Labels     []string
}

// Events is Default's Events.
func Events(ctx context.Context, o EventOptions) iter.Seq2[Event, error] {
	return Default().Events(ctx, o)
}

// Events gives what happens to the containers and images of the root, by all
// programs, in the order in which it was written down: between programs that is
// not exactly that of its times. What happens after the call is given, even
// before the iteration begins. The last 1 MiB or more of events is kept, also
// when no program has the root open.
//
// A consumer that is slow gets every event, until what it has yet to read is not
// kept any more: then it gets an error with ErrDataLoss, and after it what is
// kept. Other errors end the iteration, that of the context too. Nothing is left
// of it when it ends or is broken off.
//
// What a program that is killed leaves of its containers is told, as EventDie
// without an exit code and EventDestroy, when another one sweeps it: at its Open,
// which may be the first one after all others were killed.
func (e *Engine) Events(ctx context.Context, o EventOptions) iter.Seq2[Event, error] {
	const op = "watch events"
	var from eventPosition
	_, leave, err := e.enter(ctx)
	if err == nil {
		if o.Since.IsZero() {
			from, err = e.events.end()
		}
		leave()
	}
	return func(yield func(Event, error) bool) {
		if err == nil {
			err = e.follow(ctx, &o, from, yield)
		}
		if err != nil && !errors.Is(err, errEnough) {
			yield(Event{}, failed(op, "", err))
		}
	}
}

// wants tells whether an event is asked for.
func (o *EventOptions) wants(ev *Event) bool {
	among := func(list []string, is func(string) bool) bool {
		return len(list) == 0 || slices.ContainsFunc(list, is)
	}
	a := ev.Attributes
	switch {
	case len(o.Types) > 0 && !slices.Contains(o.Types, ev.Type):
	case len(o.Actions) > 0 && !slices.Contains(o.Actions, ev.Action):
	case ev.Time.Before(o.Since), !o.Until.IsZero() && ev.Time.After(o.Until):
	case !among(o.Containers, func(ref string) bool {
		return ev.Type == EventContainer && ref != "" && (strings.HasPrefix(ev.ID, ref) || a["name"] == ref)
	}):
	case !among(o.Images, func(ref string) bool {
		return ev.Type == EventImage && (ev.ID == ref || a["name"] == ref) || ev.Type == EventContainer && a["image"] == ref
	}):
	default:
		return labelsMatch(a, o.Labels, nil)
	}
	return false
}

// eventLog is where all programs write down events: files in the run directory,
// numbered by generations, of which two are kept. An event is one line, which is
// appended by one write; no lock is taken, so that a program that is stopped
// stops no other.
//
// Who has written looks whether the next generation is there, and if so, writes
// again into that. So a reader that has seen the next generation, and then read
// the one before to its end, has read all of that which is not in the next one
// too. What it reads twice it knows by the number of the event.
type eventLog struct {
	dir    string
	engine string

	mu         sync.Mutex
	file       *os.File // of the generation; nil: not opened yet
	generation uint64
	number     uint64 // of the last event
	torn       bool   // the last write ended within a line
}

const (
	// maxEvents is the size at which a generation ends, in bytes.
	maxEvents = 1 << 20
	// sizeEvery is how many events are written before a look at the size.
	sizeEvery = 64
)

// eventLine is an event as it is written down.
type eventLine struct {
	By     string `json:"by"` // an Engine
	Number uint64 `json:"n"`  // grows within an Engine
	Event
}

// eventPosition is a place in the log.
type eventPosition struct {
	generation uint64 // 0: the oldest
	offset     int64
}

func (l *eventLog) path(generation uint64) string {
	return filepath.Join(l.dir, strconv.FormatUint(generation, 10))
}

// generations gives those that are there, in order.
func (l *eventLog) generations() ([]uint64, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, err
	}
	var all []uint64
	for _, entry := range entries {
		if n, err := strconv.ParseUint(entry.Name(), 10, 64); err == nil {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, nil
}

// end is the place behind the last event.
func (l *eventLog) end() (eventPosition, error) {
	for {
		all, err := l.generations()
		if err != nil || len(all) == 0 {
			return eventPosition{generation: 1}, err
		}
		last := all[len(all)-1]
		info, err := os.Stat(l.path(last))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return eventPosition{}, err
		}
		return eventPosition{last, info.Size()}, nil
	}
}

// open opens the last generation; l.mu is held.
func (l *eventLog) open() error {
	for l.file == nil {
		all, err := l.generations()
		if err != nil {
			return err
		}
		last, flags := uint64(1), os.O_CREATE
		if len(all) > 0 {
			last, flags = all[len(all)-1], 0
		}
		f, err := os.OpenFile(l.path(last), os.O_WRONLY|os.O_APPEND|flags, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // two generations have come meanwhile
		}
		if err != nil {
			return err
		}
		l.file, l.generation = f, last
	}
	return nil
}

// add writes an event down.
func (l *eventLog) add(ev Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.number++
	line, err := json.Marshal(eventLine{l.engine, l.number, ev})
	if err != nil {
		return err
	}
	line = append(line, '\n')
	for {
		if err := l.open(); err != nil {
			return err
		}
		if l.torn {
			line = append([]byte("\n"), line...)
		}
		n, err := l.file.Write(line)
		if l.torn = err != nil && n > 0; err != nil {
			return err
		}
		if _, err := os.Lstat(l.path(l.generation + 1)); err != nil {
			break // it is not there
		}
		l.shut()
	}
	if l.number%sizeEvery == 0 {
		return l.rotate()
	}
	return nil
}

// rotate begins a new generation if the last one is large.
func (l *eventLog) rotate() error {
	info, err := l.file.Stat()
	if err != nil || info.Size() < maxEvents {
		return err
	}
	next, err := os.OpenFile(l.path(l.generation+1), os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		l.shut()
		return nil
	}
	if err != nil {
		return err
	}
	l.shut()
	l.file = next
	l.generation++
	if err := os.Remove(l.path(l.generation - 2)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// shut lets go of the file; l.mu is held.
func (l *eventLog) shut() {
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

func (l *eventLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shut()
}

// publish is the one place through which each change of state goes. That an
// event cannot be written down keeps nothing from happening.
func (e *Engine) publish(typ EventType, action EventAction, id string, attributes map[string]string) {
	err := e.events.add(Event{Time: time.Now(), Type: typ, Action: action, ID: id, Attributes: attributes})
	if err != nil {
		e.log().Warn("an event is lost", "action", string(action), string(typ), id, "error", err)
	}
}

// publish is Engine.publish for a container, with pairs of further attributes.
func (c *Container) publish(action EventAction, more ...string) {
	o := c.own
	if o == nil {
		if r, err := c.engine.root.records().read(c.id); err == nil {
			c.engine.publishRecord(r, action, more...)
		}
		return
	}
	c.engine.publish(EventContainer, action, c.id, containerAttributes(c.currentName(), o.imageName, o.process.Labels, more...))
}

// currentName is the name of a container of this Engine, which any program may
// change. It is asked for with each event, so the record is read only if it has
// changed since it was last known.
func (c *Container) currentName() string {
	o := c.own
	o.mu.Lock()
	name, known := o.name, o.recorded
	o.mu.Unlock()
	path := c.engine.root.records().path(c.id)
	info, err := os.Stat(path)
	if err != nil || info.Size() == known {
		return name
	}
	r, err := c.engine.root.records().read(c.id)
	if err != nil {
		return name
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.recorded == known { // else it is known better now
		o.name, o.recorded = r.Name, info.Size()
	}
	return r.Name
}

// publishRecord is the same with a container's record.
func (e *Engine) publishRecord(r *record, action EventAction, more ...string) {
	e.publish(EventContainer, action, r.ID, containerAttributes(r.Name, first(r.ImageName, string(r.Image)), r.Process.Labels, more...))
}

func containerAttributes(name, image string, labels map[string]string, more ...string) map[string]string {
	a := make(map[string]string, len(labels)+2+len(more)/2)
	maps.Copy(a, labels)
	a["name"], a["image"] = name, image
	for i := 0; i < len(more); i += 2 {
		a[more[i]] = more[i+1]
	}
	return a
}

// publishDeath tells how a process ended.
func (c *Container) publishDeath(action EventAction, s Status, more ...string) {
	if s.Known {
		more = append(more, "exitCode", strconv.Itoa(s.Code))
	}
	c.publish(action, more...)
}

// publishImages tells of images that have come, under the names that they were
// given.
func (e *Engine) publishImages(action EventAction, images ...*Image) {
	for _, i := range images {
		e.publishImage(action, string(i.ID()), i.ref)
	}
}

func (e *Engine) publishImage(action EventAction, id, name string) {
	var a map[string]string
	if name != "" {
		a = map[string]string{"name": name}
	}
	e.publish(EventImage, action, id, a)
}

// publishRemoved tells of names and images that have gone.
func (e *Engine) publishRemoved(id string, r *RemovedImage) {
	if r == nil {
		return
	}
	for _, name := range r.Untagged {
		e.publishImage(EventUntag, id, name)
	}
	for _, d := range r.Deleted {
		if string(d) == id {
			e.publishImage(EventDelete, id, "")
		}
	}
}

var errEventsLost = fmt.Errorf("events were lost: they were read too late to be kept: %w", ErrDataLoss)
