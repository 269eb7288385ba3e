package model

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/image"
)

func newUnpacked(t *testing.T, limit int64) *unpacked {
	t.Helper()
	spool, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = spool.Close() })
	return &unpacked{spool: spool, limit: limit, files: map[string]image.File{}, links: map[string]string{}}
}

func tarOf(t *testing.T, headers ...*tar.Header) *tar.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return tar.NewReader(&b)
}

// An archive that holds more than its size lets expect fills neither the disk nor the time of others.
func TestUnpackIsBounded(t *testing.T) {
	t.Parallel()
	two := []*tar.Header{{Name: "a", Size: 60, Typeflag: tar.TypeReg}, {Name: "b", Size: 60, Typeflag: tar.TypeReg}}
	if err := newUnpacked(t, 120).read(t.Context(), tarOf(t, two...)); err != nil {
		t.Errorf("within the limit: %v", err)
	}
	u := newUnpacked(t, 119)
	if err := u.read(t.Context(), tarOf(t, two...)); err == nil || !strings.Contains(err.Error(), "more than 119 bytes") {
		t.Errorf("over the limit: %v", err)
	}
	if info, err := u.spool.Stat(); err != nil || info.Size() > 120 {
		t.Errorf("%d bytes were written (%v)", info.Size(), err)
	}
	var links []*tar.Header
	for i := range maxFiles + 1 {
		links = append(links, &tar.Header{Name: fmt.Sprint(i), Linkname: "nowhere", Typeflag: tar.TypeSymlink})
	}
	if err := newUnpacked(t, 1).read(t.Context(), tarOf(t, links...)); err == nil || !strings.Contains(err.Error(), "more than 131072 files") {
		t.Errorf("links without end: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := newUnpacked(t, 1).read(ended, tarOf(t, two...)); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

// Links cost what they lead to, not what there is: these took seconds when each looked at every file.
func TestUnpackManyLinks(t *testing.T) {
	t.Parallel()
	u := newUnpacked(t, 1)
	for i := range 20000 {
		u.files[fmt.Sprintf("d%d/f", i)] = image.File{}
		u.links[fmt.Sprintf("l%d", i)] = fmt.Sprintf("d%d", i)
	}
	if err := u.follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(u.files) != 40000 || u.files["l7/f"].Path != "l7/f" {
		t.Errorf("%d files, and l7/f at %q", len(u.files), u.files["l7/f"].Path)
	}
}
