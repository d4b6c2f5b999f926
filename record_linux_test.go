package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func testRecord(engine, id string) *record {
	r := &record{Version: recordVersion}
	r.ContainerInfo = ContainerInfo{
		ID:      id,
		Name:    defaultName(id),
		Owner:   Owner{Engine: engine, PID: 1},
		State:   StateCreated,
		Created: time.Now(),
		Process: Process{Args: []string{"true"}},
		Network: NetworkNone,
	}
	return r
}

func createRecord(d records, r *record) error {
	drafts := drafts{dir: d, engine: r.Owner.Engine}
	draft, err := drafts.take()
	if err != nil {
		return err
	}
	_, err = d.create(r, draft)
	return errors.Join(err, drafts.close())
}

// filesOf lists the files among records.
func filesOf(t testing.TB, d records) (files []string) {
	t.Helper()
	err := filepath.WalkDir(string(d), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestDrafts(t *testing.T) {
	d := drafts{dir: records(t.TempDir()), engine: "ab"}
	inode := func(path string) os.FileInfo {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	var last os.FileInfo
	for i := range 4 {
		f, err := d.take()
		if err != nil {
			t.Fatal(err)
		}
		r := testRecord("ab", newID())
		r.ImageName = strings.Repeat("x", 100*(5-i)) // each shorter than the last
		if _, err := d.dir.create(r, f); err != nil {
			t.Fatal(err)
		}
		if got, err := d.dir.read(r.ID); err != nil || got.ImageName != r.ImageName {
			t.Errorf("%v", err)
		}
		now := inode(d.dir.path(r.ID))
		// The third has a reader when it is removed, so the fourth is another file.
		if reused := last != nil && os.SameFile(now, last); reused != (i == 1 || i == 2) {
			t.Errorf("record %d: reused %v", i, reused)
		}
		last = now
		var reader *os.File
		if i == 2 {
			if reader, err = os.Open(d.dir.path(r.ID)); err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
		}
		locked, err := d.dir.open(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.give(locked); err != nil {
			t.Error(err)
		}
		locked.Close()
		if _, err := d.dir.read(r.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("%v", err)
		}
		if reader != nil {
			if old, err := decodeRecord(reader, r.ID); err != nil || old.ImageName != r.ImageName {
				t.Errorf("the reader lost it: %v", err)
			}
		}
	}
	if err := d.close(); err != nil {
		t.Error(err)
	}
	if left := filesOf(t, d.dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	// A name that is there already is not taken for a new file.
	again := drafts{dir: d.dir, engine: "ab"}
	if err := os.WriteFile(d.dir.draft("ab", "1"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := again.take(); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v", err)
	}
}

func TestRecord(t *testing.T) {
	d := records(t.TempDir())
	id := newID()
	if _, err := d.read(id); !errors.Is(err, ErrNotFound) {
		t.Errorf("before: %v", err)
	}
	if err := createRecord(d, testRecord("ab", id)); err != nil {
		t.Fatal(err)
	}
	if err := d.change(t.Context(), id, startChange{State: StateRunning, PID: 7, Runs: 1, Layer: "3"}); err != nil {
		t.Fatal(err)
	}
	r, err := d.read(id)
	if err != nil {
		t.Fatal(err)
	}
	if r.State != StateRunning || r.PID != 7 || r.Layer != "3" || r.Process.Args[0] != "true" || r.Owner.Engine != "ab" {
		t.Errorf("started: %+v", r)
	}
	if err := d.change(t.Context(), id, exitChange{State: StateExited, Status: Status{Code: 3, Known: true}}); err != nil {
		t.Fatal(err)
	}
	if r, err = d.read(id); err != nil || r.State != StateExited || r.PID != 0 || r.Status.Code != 3 || !r.Status.Known || r.Layer != "3" {
		t.Errorf("exited: %+v, %v", r, err)
	}
	if names, err := d.list(); err != nil || len(names) != 1 || names[0] != id[:shortID] {
		t.Errorf("list: %v, %v", names, err)
	}
	if err := os.Remove(d.path(id)); err != nil {
		t.Fatal(err)
	}
	if err := d.change(t.Context(), id, exitChange{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("change of a removed record: %v", err)
	}
}

// Members that this program does not know survive its changes, also when the
// record is made shorter.
func TestRecordKeepsUnknownMembers(t *testing.T) {
	d := records(t.TempDir())
	id := newID()
	if err := createRecord(d, testRecord("ab", id)); err != nil {
		t.Fatal(err)
	}
	if err := d.change(t.Context(), id, map[string]any{"from_the_future": []int{1, 2}}); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", longRecord)
	for _, name := range []string{long, "short", "last"} {
		if err := d.change(t.Context(), id, map[string]any{"image_name": name}); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(d.path(id))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(data), "\n") != 2 || len(data) > 4096 {
		t.Errorf("the record has not been made shorter: %d bytes", len(data))
	}
	if !strings.Contains(string(data), `"from_the_future":[1,2]`) {
		t.Errorf("lost: %s", data)
	}
	if r, err := d.read(id); err != nil || r.ImageName != "last" || r.ID != id {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestRecordDamaged(t *testing.T) {
	d := records(t.TempDir())
	id := newID()
	if err := createRecord(d, testRecord("ab", id)); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(d.path(id))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, data string
		is         error
	}{
		{"empty", "", ErrDataLoss},
		{"truncated", string(whole[:len(whole)/2]), ErrDataLoss},
		{"no newline", string(whole[:len(whole)-1]), ErrDataLoss},
		{"zeros", string(make([]byte, 100)), ErrDataLoss},
		{"not an object", "[]\n", ErrDataLoss},
		{"another's", strings.ReplaceAll(string(whole), id, newID()), ErrDataLoss},
		{"unknown state", string(whole) + `{"state":"dancing"}` + "\n", ErrDataLoss},
		{"layer outside", string(whole) + `{"layer":"../.."}` + "\n", ErrDataLoss},
		{"bad change", string(whole) + "{\n", ErrDataLoss},
		{"the future's", string(whole) + `{"version":2}` + "\n", ErrFailedPrecondition},
	}
	for _, test := range tests {
		if err := os.WriteFile(d.path(id), []byte(test.data), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := d.read(id)
		if !errors.Is(err, test.is) || !strings.Contains(err.Error(), d.path(id)) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	// A change that is being written is not there yet.
	if err := os.WriteFile(d.path(id), append(whole, `{"state":"exi`...), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := d.read(id); err != nil || r.State != StateCreated {
		t.Errorf("half a change: %v", err)
	}
}

// Readers see whole states while a writer changes and shortens the record.
func TestRecordRace(t *testing.T) {
	d := records(t.TempDir())
	id := newID()
	if err := createRecord(d, testRecord("ab", id)); err != nil {
		t.Fatal(err)
	}
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for w := range 2 {
		writers.Go(func() {
			for i := range 100 {
				name := strings.Repeat(fmt.Sprint(i%10), 1000)
				if err := d.change(t.Context(), id, map[string]any{fmt.Sprint("w", w): i, "image_name": name}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	readers.Go(func() {
		for {
			if r, err := d.read(id); err != nil {
				t.Error(err)
				return
			} else if n := len(r.ImageName); n != 0 && n != 1000 {
				t.Errorf("name of %d bytes", n)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	writers.Wait()
	close(stop)
	readers.Wait()
	data, err := os.ReadFile(d.path(id))
	if err != nil {
		t.Fatal(err)
	}
	for _, last := range []string{`"w0":99`, `"w1":99`} {
		if !strings.Contains(string(data), last) {
			t.Errorf("%s is lost", last)
		}
	}
	if files := filesOf(t, d); len(files) != 1 {
		t.Errorf("files %v", files)
	}
}

// A record is found by its container's ID, and by as many of its first digits as
// no other ID begins with.
func TestFindRecord(t *testing.T) {
	d := records(t.TempDir())
	id := func(digits string) string { return digits + strings.Repeat("0", 64-len(digits)) }
	ids := []string{id("1"), id("a1b2c3d4e5f601"), id("a1b2c4"), id("a1c"), id("bb1"), id("bc1")}
	for _, id := range ids {
		if err := createRecord(d, testRecord("ab", id)); err != nil {
			t.Fatal(err)
		}
	}
	for digits, want := range map[string]any{
		"1": ids[0], "10": ids[0], "1000": ids[0], ids[0][:shortID]: ids[0], ids[0][:40]: ids[0], ids[0]: ids[0],
		"a1b2c3": ids[1], "a1b2c3d4e5f6": ids[1], "a1b2c3d4e5f601": ids[1], ids[1]: ids[1],
		"a1b2c4": ids[2], "a1c": ids[3], "bb": ids[4], "bc": ids[5],
		"a": ErrInvalidArgument, "a1": ErrInvalidArgument, "a1b": ErrInvalidArgument, "a1b2c": ErrInvalidArgument, "b": ErrInvalidArgument,
		"2": ErrNotFound, "11": ErrNotFound, "a1d": ErrNotFound, "a1b2c3d4e5f7": ErrNotFound,
		"a1b2c3d4e5f602": ErrNotFound, id("a1b2c3d4e5f6"): ErrNotFound, // the file's name is the same
	} {
		r, err := d.find(digits)
		if fail, _ := want.(error); fail != nil {
			if !errors.Is(err, fail) {
				t.Errorf("%s: %v", digits, err)
			}
		} else if err != nil || r.ID != want {
			t.Errorf("%s: %+v, %v", digits, r, err)
		}
	}
	// A second one in the same place is refused, and the first one stays.
	if err := createRecord(d, testRecord("ab", id("a1b2c3d4e5f6ff"))); !errors.Is(err, errIDTaken) {
		t.Errorf("the same short ID: %v", err)
	}
	if r, err := d.read(ids[1]); err != nil || r.ID != ids[1] {
		t.Errorf("%+v, %v", r, err)
	}
	if files := filesOf(t, d); len(files) != len(ids) {
		t.Errorf("%v", files)
	}
	names, err := d.list()
	slices.Sort(names)
	if want := []string{"100000000000", "a1b2c3d4e5f6", "a1b2c4000000", "a1c000000000", "bb1000000000", "bc1000000000"}; !slices.Equal(names, want) || err != nil {
		t.Errorf("list: %v, %v", names, err)
	}
	// What a later version has written, or damage, is told of, however it is found.
	for line, want := range map[string]error{`{"version":2}`: ErrFailedPrecondition, `{"layer":"/"}`: ErrDataLoss} {
		if err := d.change(t.Context(), ids[1], json.RawMessage(line)); err != nil {
			t.Fatal(err)
		}
		for _, digits := range []string{"a1b2c3", ids[1][:shortID], ids[1]} {
			if _, err := d.find(digits); !errors.Is(err, want) || !strings.Contains(err.Error(), d.path(ids[1])) {
				t.Errorf("%s with %s: %v", digits, line, err)
			}
		}
		if err := d.change(t.Context(), ids[1], json.RawMessage(`{"version":1,"layer":""}`)); err != nil {
			t.Fatal(err)
		}
	}
}

// Of many who make records, also of one ID, each gets a place or is refused, and
// a directory that goes away in between is made again.
func TestPlaceRecords(t *testing.T) {
	d := records(t.TempDir())
	const ids = 40
	var all []string
	for i := range ids {
		all = append(all, fmt.Sprintf("%02d", i%4)+newID()[2:])
	}
	var made atomic.Int32
	var makers, remover sync.WaitGroup
	stop := make(chan struct{})
	remover.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				_ = os.Remove(filepath.Join(string(d), fmt.Sprintf("%02d", i%4))) // as who could not place one
			}
		}
	})
	for maker := range 3 {
		makers.Go(func() {
			drafts := drafts{dir: d, engine: fmt.Sprintf("e%d", maker)}
			for _, id := range all {
				f, err := drafts.take()
				if err == nil {
					_, err = d.create(testRecord("ab", id), f)
				}
				if err == nil {
					made.Add(1)
				} else if !errors.Is(err, errIDTaken) {
					t.Error(err)
				}
			}
		})
	}
	makers.Wait()
	close(stop)
	remover.Wait()
	if n := int(made.Load()); n != ids || len(filesOf(t, d)) != ids {
		t.Errorf("%d made, files %v", n, filesOf(t, d))
	}
}

func TestRecordSweep(t *testing.T) {
	d := records(t.TempDir())
	dead, alive, damaged := newID(), newID(), newID()
	for id, engine := range map[string]string{dead: "dead", alive: "a11e"} {
		if err := createRecord(d, testRecord(engine, id)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(d.path(damaged)), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{d.path(damaged), d.draft("dead", newID()), d.draft("a11e", newID())} {
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.sweep(func(e string) bool { return e == "dead" }, func(*record) {}); err != nil {
		t.Fatal(err)
	}
	if files := filesOf(t, d); len(files) != 3 {
		t.Errorf("%v: want the live engine's two files and the damaged one", files)
	}
	if _, err := d.read(alive); err != nil {
		t.Error(err)
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"x","owner":{"engine":"ab"}}` + "\n" + `{"state":"exited"}` + "\n"))
	f.Add([]byte("{}\n{}"))
	f.Add([]byte(`{"labels":{"a":null},"status":3}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := parseRecord(data); err == nil {
			_ = r.check("path", strings.Repeat("1", shortID))
		}
	})
}
