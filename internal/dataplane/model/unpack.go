package model

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/berthdev/berth/internal/image"
)

// Unpack lists the files in a tar file, compressed or not. It reads the archive once: what is in it lies in a
// file without a name, whose space is free again when nobody has the list any more.
func Unpack(ctx context.Context, archive image.File) (files []image.File, err error) {
	src, err := archive.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	content, err := decompress(src)
	if err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", archive.Path, err)
	}
	spool, err := os.CreateTemp("", "berth-unpack-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(spool.Name()); err != nil { // it stays until it is closed, which the runtime does
		return nil, err
	}
	u := unpacked{spool: spool, files: map[string]image.File{}, links: map[string]string{}}
	if err := u.read(tar.NewReader(content)); err != nil {
		return nil, fmt.Errorf("unpacking %s, which has to be a tar file, as it is or compressed by gzip or bzip2: %w", archive.Path, err)
	}
	if err := u.follow(); err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", archive.Path, err)
	}
	return slices.SortedFunc(maps.Values(u.files), func(a, b image.File) int { return strings.Compare(a.Path, b.Path) }), nil
}

func decompress(src io.Reader) (io.Reader, error) {
	r := bufio.NewReader(src)
	start, err := r.Peek(3)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return nil, err
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		return gzip.NewReader(r)
	case string(start) == "BZh":
		return bzip2.NewReader(r), nil
	}
	return r, nil
}

// unpacked is what was found in an archive so far.
type unpacked struct {
	spool *os.File
	size  int64 // of the spool
	files map[string]image.File
	links map[string]string // from a name to another, a file's or a folder's
}

func (u *unpacked) read(t *tar.Reader) error {
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := inside("/", h.Name)
		if name == "" {
			continue
		}
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeGNUSparse:
			n, err := io.Copy(u.spool, t)
			if err != nil {
				return err
			}
			at := u.size
			u.size += n
			u.files[name] = image.File{Path: name, Size: n, Mode: h.Mode&0o777 | 0o444, Open: func(context.Context) (io.ReadCloser, error) {
				return io.NopCloser(io.NewSectionReader(u.spool, at, n)), nil
			}}
			delete(u.links, name)
		case tar.TypeLink:
			u.links[name] = inside("/", h.Linkname)
		case tar.TypeSymlink:
			u.links[name] = inside("/"+path.Dir(name), h.Linkname)
		}
	}
}

// inside is a name in the archive, which has nothing above its root.
func inside(folder, name string) string {
	if !path.IsAbs(name) {
		name = folder + "/" + name
	}
	return path.Clean("/" + name)[1:]
}

const (
	maxDepth = 8       // of links to links
	maxFiles = 1 << 17 // of an archive with links, with what they repeat
)

// follow puts in the place of links what they lead to; those that lead out of the archive have nothing there.
func (u *unpacked) follow() error {
	for range maxDepth {
		before := len(u.files)
		for _, name := range slices.Sorted(maps.Keys(u.links)) {
			target := u.links[name]
			if strings.HasPrefix(name+"/", target+"/") {
				continue // a folder that would hold itself
			}
			for _, old := range slices.Collect(maps.Keys(u.files)) {
				if below, ok := strings.CutPrefix(old, target); ok && (below == "" || below[0] == '/') {
					f := u.files[old]
					f.Path = name + below
					u.files[f.Path] = f
				}
			}
			if len(u.files) > maxFiles {
				return fmt.Errorf("it has more than %d files, or links that make as many", maxFiles)
			}
		}
		if len(u.files) == before {
			break
		}
	}
	return nil
}
