package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Every blob of every account is met once, those of an account, a container and a folder in one run, also where there
// are more than a page has and what is met is removed.
func TestWalk(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *Store, _ *clock) {
		ctx := t.Context()
		many := 1100 // more than a page of S3's
		if s.folder {
			many = 3
		}
		var want []Name
		for _, path := range []string{"x", "x/y", "x.txt", "x-a", "x/a/b", "x.d/f", "X", "ä ö/ü"} {
			want = append(want, Name{"one", "c", path}, Name{"one", "c-1", path}, Name{"one-1", "c", path})
		}
		for i := range many {
			want = append(want, Name{"two", "c", fmt.Sprintf("many/%d", i)})
		}
		for _, n := range want {
			if err := s.Write(ctx, n, Upload{}, strings.NewReader(n.Path)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.PutBlock(ctx, Name{"one", "c", "staged"}, "id", Checksum{}, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
		var got []Name
		ended, present := map[string]bool{}, []string{"", "", ""}
		err := s.Walk(ctx, func(i Info) error {
			got = append(got, i.Name)
			if i.Size != int64(len(i.Name.Path)) || i.Modified.IsZero() {
				t.Errorf("%v has %d bytes, written at %v", i.Name, i.Size, i.Modified)
			}
			folder, _, inside := strings.Cut(i.Name.Path, "/")
			runs := []string{i.Name.Account + "/", i.Name.Account + "/" + i.Name.Container + "/", ""}
			if inside {
				runs[2] = i.Name.Account + "/" + i.Name.Container + "/" + folder + "/"
			}
			for k, run := range runs {
				if run != present[k] {
					if run != "" && ended[run] {
						t.Errorf("%s comes in more than one run", run)
					}
					ended[present[k]], present[k] = true, run
				}
			}
			_, ok, err := s.Reap(ctx, i.Name, time.Now().Add(time.Hour))
			if !ok {
				t.Errorf("%v was not removed", i.Name)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		order := func(a, b Name) int { return strings.Compare(a.object(), b.object()) }
		slices.SortFunc(got, order)
		slices.SortFunc(want, order)
		if !slices.Equal(got, want) {
			t.Errorf("met were %d blobs, want %d", len(got), len(want))
		}
		stop := errors.New("stop")
		write(t, s, "a", "x")
		if err := s.Walk(ctx, func(Info) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("the walk ended in %v", err)
		}
	})
}

// A blob that was written after whoever wants it gone looked is another one, and stays; so does one that is being
// written, and what is staged for one.
func TestReap(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *Store, _ *clock) {
		ctx, n := t.Context(), named1("b")
		write(t, s, "b", "first")
		if err := s.PutBlock(ctx, n, "id", Checksum{}, strings.NewReader("staged")); err != nil {
			t.Fatal(err)
		}
		i, err := s.Stat(ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		reap := func(before time.Time) bool {
			t.Helper()
			size, ok, err := s.Reap(ctx, n, before)
			if err != nil || ok && size != int64(len("first")) {
				t.Errorf("removed %d bytes, %v", size, err)
			}
			return ok
		}
		if reap(i.Modified) {
			t.Error("a blob that was written at that time is gone")
		}
		later := i.Modified.Add(time.Hour)
		content, upload := io.Pipe()
		done := make(chan error)
		go func() { done <- s.Write(ctx, n, Upload{}, content) }()
		if _, err := io.WriteString(upload, "se"); err != nil { // the upload is under way now
			t.Fatal(err)
		}
		if reap(later) {
			t.Error("a blob is gone while it is written")
		}
		_, _ = io.WriteString(upload, "cond")
		_ = upload.Close()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		write(t, s, "b", "third")
		if err := s.PutBlock(ctx, n, "id", Checksum{}, strings.NewReader("staged")); err != nil {
			t.Fatal(err)
		}
		if !reap(later) {
			t.Error("a blob that nobody writes stays")
		}
		if _, err := s.Stat(ctx, n); !errors.Is(err, ErrNotFound) {
			t.Errorf("it is still there: %v", err)
		}
		if reap(later) {
			t.Error("what is gone was removed")
		}
		if err := s.Commit(ctx, n, []string{"id"}, Upload{}); err != nil {
			t.Errorf("what was staged for it is gone: %v", err)
		}
	})
}

// Directories that nothing is in go, and what a kill left of a file's attributes; what is young may be in use.
func TestSweepPrunesFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir, time.Now)
	write(t, s, "kept/x", "x")
	write(t, s, "gone/a/b", "x")
	write(t, s, "young/a", "x")
	at := func(path string) string { return filepath.Join(dir, filepath.FromSlash(named1(path).object())) }
	old := time.Now().Add(-2 * time.Hour)
	for _, path := range []string{"gone/a/b", "young/a"} {
		if _, ok, err := s.Reap(context.Background(), named1(path), time.Now().Add(time.Hour)); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	orphan := filepath.Dir(at("gone/a/b")) + "/x~.attrs"
	if err := os.WriteFile(orphan, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || strings.Contains(path, "young") {
			return err
		}
		return os.Chtimes(path, old, old)
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the directory of what went is younger now
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		for d := filepath.Dir(orphan); strings.Contains(d, "gone"); d = filepath.Dir(d) {
			_ = os.Chtimes(d, old, old) // it may be gone
		}
	}
	for path, want := range map[string]bool{orphan: false, filepath.Dir(at("gone/a")): false, filepath.Dir(at("young/a")): true, at("kept/x"): true, at("kept/x") + ".attrs": true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	write(t, s, "gone/a/b", "again")
	if got := content(t, s, named1("gone/a/b")); got != "again" {
		t.Errorf("a blob in a directory that was removed holds %q", got)
	}
}
