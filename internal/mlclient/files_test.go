package mlclient

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func paths(files []File) []string {
	var out []string
	for _, f := range files {
		out = append(out, f.Path)
	}
	return out
}

func TestTree(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]int{"a": 1, "sub/b": 2})
	if err := errors.Join(
		os.Symlink("a", filepath.Join(dir, "link")), os.Symlink(".", filepath.Join(dir, "loop")), os.Symlink(dir, filepath.Join(dir, "..", "other")),
	); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		root, base string
		want       []string
	}{
		{dir, "model", []string{"model/a", "model/link", "model/sub/b"}}, // links to files are followed, those to folders are not
		{dir + "/", "model", []string{"model/a", "model/link", "model/sub/b"}},
		{filepath.Join(dir, "..", "other"), "other", []string{"other/a", "other/link", "other/sub/b"}},
		{filepath.Join(dir, "a"), "a", []string{"a"}},
		{filepath.Join(dir, "link"), "link", []string{"link"}},
	} {
		base, files, err := Tree(tc.root)
		if err != nil || base != tc.base || !slices.Equal(paths(files), tc.want) {
			t.Errorf("%s: %q %v %v; want %q %v", tc.root, base, paths(files), err, tc.base, tc.want)
		}
	}
}

func TestTree_Errors(t *testing.T) {
	t.Parallel()
	if _, _, err := Tree(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
	dangling := write(t, map[string]int{"a": 1})
	if err := os.Symlink("nowhere", filepath.Join(dangling, "link")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Tree(dangling); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a link that leads nowhere: %v", err)
	}
	dir, err := os.MkdirTemp("", "s") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, _, err := Tree(dir); err == nil || !strings.Contains(err.Error(), "socket") {
		t.Errorf("a socket: %v", err)
	}
}

func TestArchive(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]int{"score.py": 100, "sub/b": 2})
	_, files, err := Tree(dir)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := Archive(files, t.TempDir(), "x.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(packed.Local)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() != packed.Size || packed.Path != "x.tar.gz" {
		t.Errorf("the archive is %+v; the file has %v", packed, info)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(z)
	got := map[string]string{}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		data, rerr := io.ReadAll(r)
		if err = errors.Join(err, rerr); err != nil {
			t.Fatal(err)
		}
		got[h.Name] = string(data)
	}
	for _, file := range files {
		want, err := os.ReadFile(file.Local)
		if err != nil || got[file.Path] != string(want) {
			t.Errorf("%s is packed with %d bytes; want %d (%v)", file.Path, len(got[file.Path]), len(want), err)
		}
	}
	if len(got) != len(files) {
		t.Errorf("the archive has %d entries; want %d", len(got), len(files))
	}
}
