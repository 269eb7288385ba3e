package model_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/internal/dataplane/model"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/store"
)

// read opens all files and returns their content by path.
func read(t *testing.T, files []image.File) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, f := range files {
		r, err := f.Open(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", f.Path, err)
		}
		data, err := io.ReadAll(r)
		if err != nil || r.Close() != nil || int64(len(data)) != f.Size {
			t.Fatalf("%s: %d bytes of %d: %v", f.Path, len(data), f.Size, err)
		}
		if _, twice := out[f.Path]; twice {
			t.Errorf("%s is listed twice", f.Path)
		}
		out[f.Path] = string(data)
	}
	return out
}

// load finds a model's files as a deployment does.
func (s *server) load(id string) ([]image.File, error) {
	s.T.Helper()
	var content *model.Content
	err := s.Manager.Store.View(s.T.Context(), func(tx store.ReadTx) (err error) {
		content, err = s.models.Load(tx, s.Workspace, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	files, _, err := s.models.Files(s.T.Context(), content)
	return files, err
}

func TestFiles(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.Upload("c1", "model.pkl", "weights", "model.pkl2", "not mine")
	s.Upload("c2", "folder/a", "1", "folder/sub/b", "2", "folder2/c", "not mine")
	s.Upload("c3", "packed", string(archive(t, true, entry{name: "in/a", text: "1"})))
	asset := func(artifacts string) map[string]any {
		return map[string]any{"url": "aml://asset/" + s.Want(200, "POST", mms, "/assets", `{"artifacts":[`+artifacts+`]}`).At("id").(string)}
	}
	unpacked := asset(`{"prefix":"LocalUpload/c3/packed"}`)
	unpacked["unpack"] = true
	for name, tt := range map[string]struct {
		more map[string]any
		want map[string]string
	}{
		"file":           {asset(`{"prefix":"LocalUpload/c1/model.pkl"}`), map[string]string{"model.pkl": "weights"}},
		"by-id":          {asset(`{"id":"LocalUpload/c1/model.pkl"}`), map[string]string{"model.pkl": "weights"}},
		"folder":         {asset(`{"prefix":"LocalUpload/c2/folder"}`), map[string]string{"folder/a": "1", "folder/sub/b": "2"}},
		"folder-slash":   {asset(`{"prefix":"LocalUpload/c2/folder/"}`), map[string]string{"folder/a": "1", "folder/sub/b": "2"}},
		"two":            {asset(`{"prefix":"LocalUpload/c1/model.pkl"},{"prefix":"LocalUpload/c2/folder"}`), map[string]string{"model.pkl": "weights", "folder/a": "1", "folder/sub/b": "2"}},
		"archive":        {asset(`{"prefix":"LocalUpload/c3/packed"}`), map[string]string{"packed": string(archive(t, true, entry{name: "in/a", text: "1"}))}},
		"unpack-archive": {unpacked, map[string]string{"in/a": "1"}},
	} {
		s.register(name, tt.more)
		files, err := s.load(name + ":1")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(tt.want, read(t, files)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	s.register("lost", asset(`{"prefix":"LocalUpload/c9/x"}`))
	if _, err := s.load("lost:1"); err == nil || !strings.Contains(err.Error(), "'lost:1' has no files") || !strings.Contains(err.Error(), "Register the model again") {
		t.Errorf("a model without files: %v", err)
	}
	if _, err := s.load("none:1"); err == nil || !strings.Contains(err.Error(), "ModelNotFound") {
		t.Errorf("no model: %v", err)
	}
}

// entry is one of an archive's.
type entry struct {
	name, text string
	kind       byte // 0 means a file
	link       string
}

func archive(t testing.TB, compressed bool, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	var w io.Writer = &buf
	z := gzip.NewWriter(&buf)
	if compressed {
		w = z
	}
	out := tar.NewWriter(w)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Size: int64(len(e.text)), Mode: 0o600}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := out.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(out, e.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if compressed {
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return buf.Bytes()
}

// file is an archive that counts how often it is opened.
func file(content []byte, opened *int) image.File {
	return image.File{Path: "code.tar.gz", Size: int64(len(content)), Open: func(context.Context) (io.ReadCloser, error) {
		*opened++
		return io.NopCloser(bytes.NewReader(content)), nil
	}}
}

func TestUnpack(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		entries []entry
		want    map[string]string
	}{
		"empty":                      {nil, map[string]string{}},
		"files and folders":          {[]entry{{name: "d/", kind: tar.TypeDir}, {name: "d/a", text: "1"}, {name: "b"}}, map[string]string{"d/a": "1", "b": ""}},
		"paths upwards stay inside":  {[]entry{{name: "../../a", text: "1"}, {name: "/etc/b", text: "2"}, {name: "c/../../d", text: "3"}}, map[string]string{"a": "1", "etc/b": "2", "d": "3"}},
		"the last of a name counts":  {[]entry{{name: "a", text: "old"}, {name: "b", text: "x"}, {name: "./a", text: "new"}}, map[string]string{"a": "new", "b": "x"}},
		"a hard link":                {[]entry{{name: "d/a", text: "1"}, {name: "d/b", kind: tar.TypeLink, link: "d/a"}}, map[string]string{"d/a": "1", "d/b": "1"}},
		"a link beside":              {[]entry{{name: "d/b", kind: tar.TypeSymlink, link: "a"}, {name: "d/a", text: "1"}}, map[string]string{"d/a": "1", "d/b": "1"}},
		"a link upwards":             {[]entry{{name: "snap/a", kind: tar.TypeSymlink, link: "../blobs/x"}, {name: "blobs/x", text: "1"}}, map[string]string{"snap/a": "1", "blobs/x": "1"}},
		"a link to a link":           {[]entry{{name: "a", kind: tar.TypeSymlink, link: "b"}, {name: "b", kind: tar.TypeSymlink, link: "c"}, {name: "c", text: "1"}}, map[string]string{"a": "1", "b": "1", "c": "1"}},
		"a link to a folder":         {[]entry{{name: "lib64", kind: tar.TypeSymlink, link: "lib"}, {name: "lib/a/b", text: "1"}}, map[string]string{"lib/a/b": "1", "lib64/a/b": "1"}},
		"links that lead nowhere":    {[]entry{{name: "a", kind: tar.TypeSymlink, link: "/usr/bin/python3"}, {name: "b", kind: tar.TypeSymlink, link: "b"}, {name: "c", kind: tar.TypeSymlink, link: "d"}, {name: "d", kind: tar.TypeSymlink, link: "c"}}, map[string]string{}},
		"a link to what it is in":    {[]entry{{name: "a/b", text: "1"}, {name: "a/up", kind: tar.TypeSymlink, link: ".."}, {name: "a/self", kind: tar.TypeSymlink, link: "."}}, map[string]string{"a/b": "1"}},
		"a link that a file follows": {[]entry{{name: "a", kind: tar.TypeSymlink, link: "b"}, {name: "b", text: "1"}, {name: "a", text: "2"}}, map[string]string{"a": "2", "b": "1"}},
	} {
		for _, compressed := range []bool{false, true} {
			opened := 0
			files, err := (&model.Service{Work: t.TempDir()}).Unpack(t.Context(), file(archive(t, compressed, tt.entries...), &opened))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			for range 2 { // an image is read twice: for its digest, and to be sent
				if diff := cmp.Diff(tt.want, read(t, files)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
			}
			if opened != 1 {
				t.Errorf("%s: the archive was read %d times", name, opened)
			}
			for _, f := range files {
				if f.Mode != 0o644 {
					t.Errorf("%s: %s has the mode %o; whoever runs the container has to read it", name, f.Path, f.Mode)
				}
			}
		}
	}
}

func TestUnpackRefuses(t *testing.T) {
	t.Parallel()
	whole := archive(t, true, entry{name: "a", text: strings.Repeat("x", 1<<16)})
	bomb := []entry{{name: "0/a", text: "x"}}
	for i := range 30 {
		for _, side := range []string{"l", "r"} {
			bomb = append(bomb, entry{name: fmt.Sprintf("%d/%s", i+1, side), kind: tar.TypeSymlink, link: fmt.Sprintf("../%d", i)})
		}
	}
	for name, tt := range map[string]struct {
		content []byte
		says    string
	}{
		"no archive":                  {bytes.Repeat([]byte("no archive "), 100), "has to be a tar file"},
		"half an archive":             {whole[:len(whole)/2], "code.tar.gz"},
		"gzip of something else":      {[]byte{0x1f, 0x8b, 0}, "code.tar.gz"},
		"links to links that double":  {archive(t, true, bomb...), "files"},
		"bzip2 that is none":          {[]byte("BZh9 no"), "bzip2"},
		"a tar that ends in a header": {archive(t, false, entry{name: "a", text: "x"})[:100], "code.tar.gz"},
	} {
		opened := 0
		files, err := (&model.Service{Work: t.TempDir()}).Unpack(t.Context(), file(tt.content, &opened))
		var user *image.UserError
		if !errors.As(err, &user) || user.Code != "AssetNotReadable" || !strings.Contains(user.Message, tt.says) {
			t.Errorf("%s: %d files and %v, want an error with %q", name, len(files), err, tt.says)
		}
	}
}

// A bucket or a disk that fails for a moment says nothing about the archive: the deployment is to be tried again.
func TestUnpackErrorsThatPass(t *testing.T) {
	t.Parallel()
	whole := archive(t, true, entry{name: "a", text: strings.Repeat("x", 1<<16)})
	away := errors.New("the bucket is away")
	broken := image.File{Path: "code.tar.gz", Size: int64(len(whole)), Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), iotest.ErrReader(away))), nil
	}}
	notFolder := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(notFolder, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	opened := 0
	for what, try := range map[string]func() ([]image.File, error){
		"the bucket": func() ([]image.File, error) { return (&model.Service{Work: t.TempDir()}).Unpack(t.Context(), broken) },
		"the disk": func() ([]image.File, error) {
			return (&model.Service{Work: notFolder}).Unpack(t.Context(), file(whole, &opened))
		},
	} {
		_, err := try()
		var user *image.UserError
		if err == nil || errors.As(err, &user) {
			t.Errorf("%s: %v", what, err)
		}
		if what == "the bucket" && !errors.Is(err, away) {
			t.Errorf("the cause is not in %v", err)
		}
	}
}
