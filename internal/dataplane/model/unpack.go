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
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/berthdev/berth/internal/image"
)

// What bounds the work and the disk that an archive takes.
const (
	maxRatio = 100     // of what is in an archive to what was uploaded, beyond minLimit
	minLimit = 1 << 30 // bytes
	maxFiles = 1 << 17 // with links, and what they repeat
	maxDepth = 8       // of links to links
)

// Unpack lists the files in a tar file, compressed or not. It reads the archive once: what is in it lies in a
// file without a name, whose space is free again when nobody has the list any more. Errors: *image.UserError when
// the archive is the reason; others may pass.
func (s *Service) Unpack(ctx context.Context, archive image.File) (files []image.File, err error) {
	src, err := archive.Open(ctx)
	if err != nil {
		return nil, err
	}
	from := &source{Reader: src}
	defer func() {
		var spooled *fs.PathError
		if err != nil && from.err == nil && ctx.Err() == nil && !errors.As(err, &spooled) {
			err = &image.UserError{Code: "AssetNotReadable", Message: err.Error()}
		}
		err = errors.Join(err, src.Close())
	}()
	content, err := decompress(from)
	if err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", archive.Path, err)
	}
	if s.Work != "" {
		if err := os.MkdirAll(s.Work, 0o700); err != nil {
			return nil, err
		}
	}
	spool, err := os.CreateTemp(s.Work, "unpack-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(spool.Name()); err != nil { // it stays until it is closed, which the runtime does
		return nil, err
	}
	u := unpacked{spool: spool, limit: max(minLimit, maxRatio*archive.Size), files: map[string]image.File{}, links: map[string]string{}}
	if err := u.read(ctx, tar.NewReader(content)); err != nil {
		return nil, fmt.Errorf("unpacking %s, which has to be a tar file, as it is or compressed by gzip or bzip2: %w", archive.Path, err)
	}
	if err := u.follow(ctx); err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", archive.Path, err)
	}
	return slices.SortedFunc(maps.Values(u.files), func(a, b image.File) int { return strings.Compare(a.Path, b.Path) }), nil
}

// source keeps the error of what an archive is read from, to tell it from one of the archive.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
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
	limit int64 // of that
	files map[string]image.File
	links map[string]string // from a name to another, a file's or a folder's
}

func (u *unpacked) read(ctx context.Context, t *tar.Reader) error {
	for n := 0; ; n++ {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if n > maxFiles {
			return tooMany()
		}
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
			n, err := io.Copy(u.spool, io.LimitReader(t, u.limit-u.size+1))
			if err != nil {
				return err
			}
			if u.size+n > u.limit {
				return fmt.Errorf("it holds more than %d bytes, which is out of proportion to its size. Upload the files as they are", u.limit)
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

func tooMany() error {
	return fmt.Errorf("it has more than %d files, or links that make as many", maxFiles)
}

// follow puts in the place of links what they lead to; those that lead out of the archive have nothing there.
func (u *unpacked) follow(ctx context.Context) error {
	for range maxDepth {
		names := slices.Sorted(maps.Keys(u.files))
		for _, link := range slices.Sorted(maps.Keys(u.links)) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			target := u.links[link]
			if strings.HasPrefix(link+"/", target+"/") {
				continue // a folder that would hold itself
			}
			if f, ok := u.files[target]; ok {
				f.Path = link
				u.files[link] = f
			}
			at, _ := slices.BinarySearch(names, target+"/")
			for ; at < len(names) && strings.HasPrefix(names[at], target+"/"); at++ {
				f := u.files[names[at]]
				f.Path = link + strings.TrimPrefix(names[at], target)
				u.files[f.Path] = f
			}
			if len(u.files) > maxFiles {
				return tooMany()
			}
		}
		if len(u.files) == len(names) {
			return nil
		}
	}
	return fmt.Errorf("its links lead to links, more than %d times over. Upload the files as they are", maxDepth)
}
