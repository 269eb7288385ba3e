package image

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcr "github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/berthdev/berth/internal/tracing"
)

// writeTar writes files in the order of their paths, with nothing in it that differs from one time
// to the next.
func writeTar(ctx context.Context, w io.Writer, files []File) error {
	t := newTarWriter(w)
	files = slices.SortedFunc(slices.Values(files), func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return errors.Join(t.addAll(ctx, files), t.w.Close())
}

// tarWriter writes files with the folders that they are in.
type tarWriter struct {
	w    *tar.Writer
	made map[string]bool
}

func newTarWriter(w io.Writer) *tarWriter {
	return &tarWriter{w: tar.NewWriter(w), made: map[string]bool{}}
}

func (t *tarWriter) addAll(ctx context.Context, files []File) error {
	for _, f := range files {
		if err := t.add(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (t *tarWriter) add(ctx context.Context, f File) error {
	clean := strings.TrimPrefix(path.Clean("/"+f.Path), "/")
	if strings.HasSuffix(f.Path, "/") {
		return t.addFolder(clean)
	}
	if err := t.addFolder(path.Dir(clean)); err != nil {
		return err
	}
	mode := f.Mode
	if mode == 0 {
		mode = 0o644
	}
	if err := t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: clean, Size: f.Size, Mode: mode, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}); err != nil {
		return err
	}
	if err := copyFile(ctx, t.w, f); err != nil {
		return fmt.Errorf("reading %s: %w", f.Path, err)
	}
	return nil
}

func (t *tarWriter) addFolder(dir string) error {
	if dir == "." || dir == "" || t.made[dir] {
		return nil
	}
	if err := t.addFolder(path.Dir(dir)); err != nil {
		return err
	}
	t.made[dir] = true
	return t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
}

func copyFile(ctx context.Context, w io.Writer, f File) error {
	src, err := f.Open(ctx)
	if err != nil {
		return err
	}
	n, err := io.Copy(w, src)
	if err == nil && n != f.Size {
		err = fmt.Errorf("it has %d bytes, and %d were expected: it is truncated or changed", n, f.Size)
	}
	return errors.Join(err, src.Close())
}

// layer is an uncompressed layer that is produced anew whenever it is read. Nodes of this
// registry are near, and compressing costs more than it saves there.
type layer struct {
	digest v1.Hash
	size   int64
	write  func(io.Writer) error
}

func newLayer(ctx context.Context, write func(io.Writer) error) (l *layer, err error) {
	_, span := tracing.Begin(ctx, "make layer")
	defer func() { tracing.End(span, err) }()
	return measure(write)
}

// measure writes a layer once, to learn its digest and size.
func measure(write func(io.Writer) error) (*layer, error) {
	h := sha256.New()
	n := &counter{w: h}
	if err := write(n); err != nil {
		return nil, err
	}
	return &layer{digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}, size: n.n, write: write}, nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func (l *layer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *layer) DiffID() (v1.Hash, error)            { return l.digest, nil }
func (l *layer) Size() (int64, error)                { return l.size, nil }
func (l *layer) MediaType() (types.MediaType, error) { return types.OCIUncompressedLayer, nil }
func (l *layer) Compressed() (io.ReadCloser, error)  { return l.Uncompressed() }
func (l *layer) Uncompressed() (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() {
		err := l.write(w)
		if err != nil {
			err = &sourceError{err}
		}
		_ = w.CloseWithError(err) // never fails: it only passes the error on
	}()
	return r, nil
}

// sourceError is an error of what a layer is made of, as opposed to one of the registry that it goes to.
type sourceError struct{ error }

func (e *sourceError) Unwrap() error { return e.error }

// stream is a layer that gets its digest while it is sent, so that what it is made of is read once, and need not
// be the same to the last byte when it is made again.
type stream struct {
	write func(io.Writer) error
	mu    sync.Mutex
	sent  *layer
}

func (s *stream) known() (*layer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sent == nil {
		return nil, ggcr.ErrNotComputed
	}
	return s.sent, nil
}

func (s *stream) Digest() (v1.Hash, error) {
	l, err := s.known()
	if err != nil {
		return v1.Hash{}, err
	}
	return l.digest, nil
}

func (s *stream) Size() (int64, error) {
	l, err := s.known()
	if err != nil {
		return 0, err
	}
	return l.size, nil
}

func (s *stream) DiffID() (v1.Hash, error)            { return s.Digest() }
func (s *stream) MediaType() (types.MediaType, error) { return types.OCIUncompressedLayer, nil }
func (s *stream) Compressed() (io.ReadCloser, error)  { return s.Uncompressed() }
func (s *stream) Uncompressed() (io.ReadCloser, error) {
	s.mu.Lock()
	s.sent = nil
	s.mu.Unlock()
	r, w := io.Pipe()
	go func() {
		buffered := bufio.NewWriterSize(w, 1<<20)
		l, err := measure(func(sum io.Writer) error {
			return errors.Join(s.write(io.MultiWriter(sum, buffered)), buffered.Flush())
		})
		if err == nil {
			s.mu.Lock()
			s.sent = l
			s.mu.Unlock()
		} else {
			err = &sourceError{err}
		}
		_ = w.CloseWithError(err) // never fails: it only passes the error on
	}()
	return r, nil
}
