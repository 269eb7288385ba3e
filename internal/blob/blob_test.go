package blob

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var testKey = []byte("0123456789abcdef0123456789abcdef")

// clock is a time that tests move.
type clock struct{ at atomic.Pointer[time.Time] }

func newClock(at time.Time) *clock {
	c := &clock{}
	c.at.Store(&at)
	return c
}

func (c *clock) now() time.Time { return *c.at.Load() }
func (c *clock) add(d time.Duration) {
	at := c.now().Add(d)
	c.at.Store(&at)
}

func openStore(t *testing.T, dir string, now func() time.Time) *Store {
	t.Helper()
	s, err := Open(context.Background(), "file://"+filepath.ToSlash(dir)+"?create_dir=true&no_tmp_dir=true", testKey, now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // a test may have closed it
	return s
}

func content(t *testing.T, s *Store, n Name) string {
	t.Helper()
	r, err := s.Read(context.Background(), n, 0, -1)
	if err != nil {
		t.Fatalf("reading %v: %v", n, err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("reading %v: %v", n, err)
	}
	return string(data)
}

func paths(t *testing.T, s *Store, prefix string) []string {
	t.Helper()
	out := []string{}
	err := s.List(context.Background(), "acct", "box", prefix, func(i Info) error {
		out = append(out, i.Name.Path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func named1(path string) Name { return Name{"acct", "box", path} }

func write(t *testing.T, s *Store, path, text string) {
	t.Helper()
	if err := s.Write(context.Background(), named1(path), Upload{}, strings.NewReader(text)); err != nil {
		t.Fatalf("writing %s: %v", path, err)
	}
}

// Whatever a client calls its files, each is kept under its own name and listed in order.
func TestNames(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *Store, _ *clock) {
		names := []string{
			"a", "a.txt", "a/b", "a/b/c", "a-b", "m.attrs", "m", "m.attrs/x", "x~", "x", "with space", "ünïcode/日本", "%2e%2e/x", "a//b", "q?x=1#y", "t.16f.tmp", "...", ".hidden",
		}
		for _, n := range names {
			write(t, s, n, "content of "+n)
		}
		for _, n := range names {
			if got := content(t, s, named1(n)); got != "content of "+n {
				t.Errorf("%q holds %q", n, got)
			}
		}
		slices.Sort(names)
		if got := paths(t, s, ""); !slices.Equal(got, names) {
			t.Errorf("listed\n%q, want\n%q", got, names)
		}
		if got, want := paths(t, s, "a/"), []string{"a//b", "a/b", "a/b/c"}; !slices.Equal(got, want) {
			t.Errorf("below a/: %q, want %q", got, want)
		}
		if err := s.Delete(context.Background(), named1("a/b")); err != nil {
			t.Fatal(err)
		}
		if got := content(t, s, named1("a/b/c")); got != "content of a/b/c" {
			t.Errorf("after the deletion of its namesake, a/b/c holds %q", got)
		}
		for _, other := range []Name{{"acct", "box2", "a"}, {"acct2", "box", "a"}, named1("a/b"), named1("absent")} {
			if _, err := s.Stat(context.Background(), other); !errors.Is(err, ErrNotFound) {
				t.Errorf("Stat(%v) = %v, want ErrNotFound", other, err)
			}
			if err := s.Delete(context.Background(), other); !errors.Is(err, ErrNotFound) {
				t.Errorf("Delete(%v) = %v, want ErrNotFound", other, err)
			}
		}
	})
}

// A model of thousands of files is listed whole. A bucket's own pages of a folder lose some.
func TestListOfManyIsWhole(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *Store, _ *clock) {
		want := []string{"model.txt", "model/z"}
		for i := range 1200 {
			want = append(want, fmt.Sprintf("model/%04d", i))
		}
		for _, n := range want {
			if err := s.bucket.WriteAll(context.Background(), named1(n).object(), nil, nil); err != nil { // quicker than write
				t.Fatal(err)
			}
		}
		slices.Sort(want)
		if got := paths(t, s, "model"); !slices.Equal(got, want) {
			t.Errorf("%d blobs listed of %d; the first is %q, the last %q", len(got), len(want), got[0], got[len(got)-1])
		}
	})
}

type broken struct{ after io.Reader }

var errBroken = errors.New("the connection broke")

func (b *broken) Read(p []byte) (int, error) {
	n, err := b.after.Read(p)
	if errors.Is(err, io.EOF) {
		err = errBroken
	}
	return n, err
}

// A blob is as it was before when its replacement fails (the package's invariant).
func TestFailedWriteChangesNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *Store, _ *clock) {
		write(t, s, "b", "before")
		other := md5.Sum([]byte("something else"))
		for name, tt := range map[string]struct {
			u       Upload
			content io.Reader
			want    error
		}{
			"the content breaks off": {Upload{}, &broken{strings.NewReader("half")}, errBroken},
			"MD5 does not match":     {Upload{Checksum: Checksum{MD5: other[:]}}, strings.NewReader("after"), ErrChecksum},
			"SHA-256 does not match": {Upload{Checksum: Checksum{SHA256: make([]byte, 32)}}, strings.NewReader("after"), ErrChecksum},
			"it has to be new":       {Upload{New: true}, strings.NewReader("after"), ErrExists},
		} {
			for _, path := range []string{"b", "new"} {
				if path == "new" && tt.u.New {
					continue
				}
				if err := s.Write(context.Background(), named1(path), tt.u, tt.content); !errors.Is(err, tt.want) && path == "b" {
					t.Errorf("%s: %v, want %v", name, err, tt.want)
				}
			}
			if got := content(t, s, named1("b")); got != "before" {
				t.Errorf("%s: the blob holds %q", name, got)
			}
		}
	})
}

// While a blob is on its way, nobody sees any of it.
func TestUnfinishedIsInvisible(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *Store, _ *clock) {
		r, w := io.Pipe()
		done := make(chan error)
		go func() { done <- s.Write(context.Background(), named1("b"), Upload{}, r) }()
		if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil { // more than is buffered: the file is there
			t.Fatal(err)
		}
		if got := paths(t, s, ""); len(got) != 0 {
			t.Errorf("listed %q", got)
		}
		if _, err := s.Stat(context.Background(), named1("b")); !errors.Is(err, ErrNotFound) {
			t.Errorf("Stat = %v", err)
		}
		_ = w.Close() // it never fails
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := paths(t, s, ""); !slices.Equal(got, []string{"b"}) {
			t.Errorf("listed %q when it was complete", got)
		}
	})
}

// crash leaves in the folder what a process leaves that is killed while it writes a key.
func crash(t *testing.T, dir, key string, age time.Duration) string {
	t.Helper()
	file := filepath.Join(dir, filepath.FromSlash(key)+".18a5b6c7d8e9f00.tmp")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-age)
	if err := os.Chtimes(file, at, at); err != nil {
		t.Fatal(err)
	}
	return file
}

// An upload in blocks goes on after Berth was killed and started again.
func TestResumeAfterRestart(t *testing.T) {
	t.Parallel()
	dir, ctx, n := t.TempDir(), context.Background(), named1("big")
	s := openStore(t, dir, time.Now)
	for i, text := range []string{"one,", "two,"} {
		if err := s.PutBlock(ctx, n, fmt.Sprint(i), Checksum{}, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	crash(t, dir, n.block("2"), 0)
	crash(t, dir, n.object(), 0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, time.Now)
	staged, err := s.Blocks(ctx, n)
	if want := []Block{{"0", 4}, {"1", 4}}; err != nil || !slices.Equal(staged, want) {
		t.Fatalf("staged are %v (%v), want %v", staged, err, want)
	}
	if err := s.Commit(ctx, n, []string{"0", "1", "2"}, Upload{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a commit of a block that is half there: %v", err)
	}
	if err := s.PutBlock(ctx, n, "2", Checksum{}, strings.NewReader("three")); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(ctx, n, []string{"0", "1", "2"}, Upload{}); err != nil {
		t.Fatal(err)
	}
	if got := content(t, s, n); got != "one,two,three" {
		t.Errorf("the blob holds %q", got)
	}
	if got := paths(t, s, ""); !slices.Equal(got, []string{"big"}) {
		t.Errorf("listed %q", got)
	}
}

func TestCommit(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, tt := range map[string]struct {
		staged map[string]string
		ids    []string
		want   string // content
		err    error
	}{
		"in the order of the list": {map[string]string{"a": "1", "b": "2", "c": "3"}, []string{"c", "a", "b"}, "312", nil},
		"not all":                  {map[string]string{"a": "1", "b": "2"}, []string{"b"}, "2", nil},
		"one twice":                {map[string]string{"a": "1", "b": "2"}, []string{"a", "b", "a"}, "121", nil},
		"none":                     {nil, nil, "", nil},
		"empty ones":               {map[string]string{"a": "", "b": "2"}, []string{"a", "b", "a"}, "2", nil},
		"one that was never sent":  {map[string]string{"a": "1"}, []string{"a", "b"}, "before", ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, s *Store, _ *clock) {
				n := named1("b")
				write(t, s, "b", "before")
				for id, text := range tt.staged {
					if err := s.PutBlock(ctx, n, id, Checksum{}, strings.NewReader(text)); err != nil {
						t.Fatal(err)
					}
				}
				if err := s.Commit(ctx, n, tt.ids, Upload{}); !errors.Is(err, tt.err) {
					t.Fatalf("Commit: %v, want %v", err, tt.err)
				}
				if got := content(t, s, n); got != tt.want {
					t.Errorf("the blob holds %q, want %q", got, tt.want)
				}
				staged, err := s.Blocks(ctx, n)
				if left := len(staged); err != nil || tt.err == nil && left != 0 || tt.err != nil && left != len(tt.staged) {
					t.Errorf("%d blocks are left (%v)", left, err)
				}
			})
		})
	}
}

// A client whose answer was lost sends its list again, and a Berth that was killed had forgotten some of the blocks already. Another list
// is none that the blob is made of.
func TestCommitAgain(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *Store, _ *clock) {
		ctx, n, ids := context.Background(), named1("b"), []string{"a", "b"}
		for _, id := range ids {
			if err := s.PutBlock(ctx, n, id, Checksum{}, strings.NewReader(id)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Commit(ctx, n, ids, Upload{Metadata: map[string]string{"k": "v"}}); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(ctx, n, ids, Upload{}); err != nil {
			t.Errorf("the same list again: %v", err)
		}
		if err := s.PutBlock(ctx, n, "b", Checksum{}, strings.NewReader("b")); err != nil { // as if it had not been forgotten
			t.Fatal(err)
		}
		if err := s.Commit(ctx, n, ids, Upload{}); err != nil {
			t.Errorf("the same list again, after some blocks were forgotten: %v", err)
		}
		if staged, err := s.Blocks(ctx, n); err != nil || len(staged) != 0 {
			t.Errorf("there are the blocks %v (%v)", staged, err)
		}
		for _, other := range [][]string{{"b", "a"}, {"a"}, {"a", "b", "c"}} {
			if err := s.Commit(ctx, n, other, Upload{}); !errors.Is(err, ErrNotFound) {
				t.Errorf("the list %q: %v", other, err)
			}
		}
		if i, err := s.Stat(ctx, n); err != nil || len(i.Metadata) != 1 || i.Metadata["k"] != "v" {
			t.Errorf("the metadata is %v (%v)", i.Metadata, err)
		}
		if err := s.Delete(ctx, n); err != nil {
			t.Fatal(err)
		}
		if err := s.Write(ctx, n, Upload{Metadata: map[string]string{s.committed(): sumOf(ids)}}, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(ctx, n, ids, Upload{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("a list that the blob was never made of: %v", err)
		}
		if got := content(t, s, n); got != "x" {
			t.Errorf("the blob holds %q", got)
		}
	})
}

// What replaces or removes a blob forgets the blocks that were staged for it, and no other's.
func TestBlocksAreForgotten(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *Store, _ *clock) {
		ctx := context.Background()
		n, other := named1("b"), named1("b2")
		stage := func(n Name) {
			if err := s.PutBlock(ctx, n, "id", Checksum{}, strings.NewReader("x")); err != nil {
				t.Fatal(err)
			}
		}
		stage(other)
		for name, do := range map[string]func() error{
			"Write":  func() error { return s.Write(ctx, n, Upload{}, strings.NewReader("y")) },
			"Delete": func() error { write(t, s, "b", ""); stage(n); return s.Delete(ctx, n) },
		} {
			stage(n)
			if err := do(); err != nil {
				t.Fatal(err)
			}
			if staged, err := s.Blocks(ctx, n); err != nil || len(staged) != 0 {
				t.Errorf("after %s there are the blocks %v (%v)", name, staged, err)
			}
		}
		if staged, err := s.Blocks(ctx, other); err != nil || len(staged) != 1 {
			t.Errorf("another blob's blocks are %v (%v)", staged, err)
		}
	})
}

// Blocks that nobody commits go after a week, with what a crash left of some; blobs stay.
func TestSweep(t *testing.T) {
	t.Parallel()
	ctx, dir, n := context.Background(), t.TempDir(), named1("b")
	now := newClock(time.Now())
	s := openStore(t, dir, now.now)
	write(t, s, "kept", "x")
	if err := s.PutBlock(ctx, n, "id", Checksum{}, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	old, young := crash(t, dir, n.block("old"), 2*time.Hour), crash(t, dir, n.block("young"), 0)
	left := func() int {
		staged, err := s.Blocks(ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		return len(staged)
	}
	now.add(uncommitted - time.Hour)
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if got := left(); got != 1 {
		t.Errorf("an hour before their time there are %d blocks, want 1", got)
	}
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a crash left is still there: %v", err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Error(err)
	}
	now.add(2 * time.Hour)
	if err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if got := left(); got != 0 {
		t.Errorf("an hour after their time there are %d blocks", got)
	}
	if got := content(t, s, named1("kept")); got != "x" {
		t.Errorf("a blob holds %q", got)
	}
}

// zeros is a reader of so many bytes.
type zeros int64

func (z *zeros) Read(p []byte) (int, error) {
	if *z == 0 {
		return 0, io.EOF
	}
	n := min(len(p), int(*z))
	clear(p[:n])
	*z -= zeros(n)
	return n, nil
}

// A file of any size takes as much memory as a small one, in one piece or in blocks. The test is not parallel: it
// counts all that the process allocates, which is more than what it has in use at any time.
func TestLargeBlobIsStreamed(t *testing.T) { //nolint:paralleltest // see above
	if testing.Short() {
		t.Skip("it writes half a gigabyte")
	}
	const size, allowed = 256 << 20, 8 << 20
	ctx := context.Background()
	s := openStore(t, t.TempDir(), time.Now)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	in := zeros(size)
	if err := s.PutBlock(ctx, named1("big"), "0", Checksum{}, &in); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(ctx, named1("big"), []string{"0"}, Upload{}); err != nil {
		t.Fatal(err)
	}
	r, err := s.Read(ctx, named1("big"), 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.Copy(io.Discard, r); err != nil || got != size {
		t.Fatalf("read %d bytes of %d: %v", got, size, err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > allowed {
		t.Errorf("staging, committing and reading %d MiB allocated %d MiB, want at most %d", size>>20, grown>>20, allowed>>20)
	}
}
