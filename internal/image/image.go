// Package image makes OCI images without Docker and pushes them to a registry: of files
// (models, code), of a program (the front end), and of an environment (a base and the wheels that
// its definition names). Images are named by what they are made of, so the same is never made
// twice, and a layer that the registry has is not sent again.
package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Registry is where images are pushed. Host is its name in references, as nodes know it;
// Transport leads to it from here (nil: the network). Insecure means plain HTTP.
type Registry struct {
	Host      string
	Username  string
	Password  string
	Insecure  bool
	Transport http.RoundTripper
}

// Reference names an image by its digest: host/repository@sha256:….
type Reference string

// Digest is the reference's digest.
func (r Reference) Digest() string {
	_, d, _ := strings.Cut(string(r), "@")
	return d
}

// File is one file of an image.
type File struct {
	Path string // slash-separated, relative to the image's root
	Size int64  // bytes
	Mode int64  // 0 means 0644
	Open func(ctx context.Context) (io.ReadCloser, error)
}

func (r *Registry) repository(repo string) (name.Repository, error) {
	var opts []name.Option
	if r.Insecure {
		opts = append(opts, name.Insecure)
	}
	return name.NewRepository(r.Host+"/"+repo, opts...)
}

func (r *Registry) options(ctx context.Context) []remote.Option {
	opts := []remote.Option{remote.WithContext(ctx), remote.WithAuth(&authn.Basic{Username: r.Username, Password: r.Password})}
	if r.Transport != nil {
		opts = append(opts, remote.WithTransport(r.Transport))
	}
	return opts
}

// find returns the image that a tag names, "" for none.
func (r *Registry) find(ctx context.Context, repo, tag string) (Reference, error) {
	rep, err := r.repository(repo)
	if err != nil {
		return "", err
	}
	d, err := remote.Head(rep.Tag(tag), r.options(ctx)...)
	var refused *transport.Error
	if errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("asking the registry %s: %w", r.Host, err)
	}
	return Reference(rep.Digest(d.Digest.String()).Name()), nil
}

func (r *Registry) push(ctx context.Context, repo, tag string, img v1.Image) (Reference, error) {
	rep, err := r.repository(repo)
	if err != nil {
		return "", err
	}
	if err := remote.Write(rep.Tag(tag), img, r.options(ctx)...); err != nil {
		return "", fmt.Errorf("pushing to the registry %s: %w", r.Host, err)
	}
	d, err := img.Digest()
	if err != nil {
		return "", err
	}
	return Reference(rep.Digest(d.String()).Name()), nil
}

// platform is what all images are for. containerd leaves out images that do not say.
func platform(base v1.Image) (v1.Image, error) {
	cfg, err := base.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	return mutate.ConfigFile(base, cfg)
}

// Files makes an image of files, in one layer. key says what they are, so that an image
// that is there already is found without reading them. Whatever their size, they are
// streamed: once to name the layer by its content, once to send it.
func (r *Registry) Files(ctx context.Context, repo, key string, files []File) (Reference, error) {
	tag := tagOf(key)
	if ref, err := r.find(ctx, repo, tag); ref != "" || err != nil {
		return ref, err
	}
	l, err := newLayer(func(w io.Writer) error { return writeTar(ctx, w, files) })
	if err != nil {
		return "", err
	}
	base, err := platform(mutate.MediaType(empty.Image, types.OCIManifestSchema1))
	if err != nil {
		return "", err
	}
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(base, types.OCIConfigJSON), l)
	if err != nil {
		return "", err
	}
	return r.push(ctx, repo, tag, img)
}

// nonRoot is the user of images that are one program.
const nonRoot = 65532

// Program makes an image that is one static program, run as a user without rights.
func (r *Registry) Program(ctx context.Context, repo, key string, program File) (Reference, error) {
	tag := tagOf(key)
	if ref, err := r.find(ctx, repo, tag); ref != "" || err != nil {
		return ref, err
	}
	program.Mode = 0o755
	l, err := newLayer(func(w io.Writer) error { return writeTar(ctx, w, []File{program}) })
	if err != nil {
		return "", err
	}
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), l)
	if err != nil {
		return "", err
	}
	if img, err = mutate.Config(img, v1.Config{Entrypoint: []string{"/" + program.Path}, User: fmt.Sprintf("%d:%d", nonRoot, nonRoot)}); err != nil {
		return "", err
	}
	if img, err = platform(img); err != nil {
		return "", err
	}
	return r.push(ctx, repo, tag, img)
}

// tagOf turns any text into a tag.
func tagOf(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:16])
}

// writeTar writes files in the order of their paths, with nothing in it that differs from one time
// to the next.
func writeTar(ctx context.Context, w io.Writer, files []File) error {
	files = slices.SortedFunc(slices.Values(files), func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	t := tar.NewWriter(w)
	made := map[string]bool{}
	for _, f := range files {
		clean := strings.TrimPrefix(path.Clean("/"+f.Path), "/")
		if err := writeParents(t, made, clean); err != nil {
			return err
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

func newLayer(write func(io.Writer) error) (*layer, error) {
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
	go func() { _ = w.CloseWithError(l.write(w)) }() // never fails: it only passes the error on
	return r, nil
}
