package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/berthdev/berth/internal/tracing"
)

// writeTar writes files in the order of their paths, with nothing in it that differs from one time
// to the next.
func writeTar(ctx context.Context, w io.Writer, files []File) error {
	files = slices.SortedFunc(slices.Values(files), func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	t := tar.NewWriter(w)
	made := map[string]bool{}
	for _, f := range files {
		clean := strings.TrimPrefix(path.Clean("/"+f.Path), "/")
		if strings.HasSuffix(f.Path, "/") {
			clean += "/."
		}
		if err := writeParents(t, made, clean); err != nil {
			return err
		}
		if strings.HasSuffix(f.Path, "/") {
			continue
		}
		mode := f.Mode
		if mode == 0 {
			mode = 0o644
		}
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: clean, Size: f.Size, Mode: mode, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}); err != nil {
			return err
		}
		if err := copyFile(ctx, t, f); err != nil {
			return fmt.Errorf("reading %s: %w", f.Path, err)
		}
	}
	return t.Close()
}

func writeParents(t *tar.Writer, made map[string]bool, file string) error {
	dir := path.Dir(file)
	if dir == "." || made[dir] {
		return nil
	}
	if err := writeParents(t, made, dir); err != nil {
		return err
	}
	made[dir] = true
	return t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
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
