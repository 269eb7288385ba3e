// Package image makes OCI images without Docker and pushes them to a registry: of files
// (models, code), of a program (the front end), and of an environment (a base and the wheels that
// its definition names). It knows nothing of services or clusters. Images are named by what they are
// made of, so the same is never made twice, and a layer that the registry has is not sent again.
//
// # What a model's container must be given
//
// The command is ServerCommand(script). It runs gunicorn with one worker, which answers on port 5001:
// POST /score, GET /swagger.json and GET / for probes, the last once the script's init() has returned. When
// the script cannot be imported or its init() raises, the process ends with code 3 and the traceback
// is on standard output. Environment variables:
//
//   - AML_APP_ROOT: the folder below which code and models are mounted; it is on sys.path, and where the
//     server looks for its own configuration;
//   - AZUREML_MODEL_DIR: the model's folder, which scripts read;
//   - AZUREML_ENTRY_SCRIPT is not needed: the command names the script;
//   - WORKER_COUNT, WORKER_TIMEOUT (seconds), SCORING_TIMEOUT_MS, SERVICE_NAME, SERVICE_PATH_PREFIX as wanted.
//
// The image sets PYTHONPATH and the rest. The root may be read-only, the user any without rights (1000 has a
// name), /tmp must be writable: gunicorn keeps its heartbeat files there.
package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/berthdev/berth/internal/tracing"
)

// Registry is where images are pushed. Host is its name in references, as nodes know it, and may go on
// with what all repositories there begin with: registry.example.com/team. Transport leads to it from here (nil: the
// network). Insecure means plain HTTP.
type Registry struct {
	Host      string
	Keychain  authn.Keychain // asked at each use; nil means none
	Insecure  bool
	Transport http.RoundTripper
	Own       bool // Berth's own, from which it removes images that nobody needs
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
	Path string // slash-separated, relative to the image's root; one that ends with a slash is a folder
	Size int64  // bytes
	Mode int64  // 0 means 0644
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// Files makes an image of files, in one layer. key says what they are, so that an image
// that is there already is found without reading them. Whatever their size, they are
// streamed: once to name the layer by its content, once to send it.
func (r *Registry) Files(ctx context.Context, repo, key string, files []File) (Reference, error) {
	return r.single(ctx, repo, key, files, v1.Config{})
}

// nonRoot is the user of images that are one program.
const nonRoot = 65532

// Program makes an image that is one static program, run as a user without rights.
func (r *Registry) Program(ctx context.Context, repo, key string, program File) (Reference, error) {
	program.Mode = 0o755
	return r.single(ctx, repo, key, []File{program}, v1.Config{Entrypoint: []string{"/" + program.Path}, User: fmt.Sprintf("%d:%d", nonRoot, nonRoot)})
}

// single finds or makes an image of one layer.
func (r *Registry) single(ctx context.Context, repo, key string, files []File, config v1.Config) (ref Reference, err error) {
	ctx, span := tracing.Begin(ctx, "make image", trace.WithAttributes(attribute.String("berth.image.repository", repo)))
	defer func() { tracing.End(span, err) }()
	tag := tagOf(key)
	if ref, err := r.find(ctx, repo, tag); ref != "" || err != nil {
		span.SetAttributes(attribute.Bool("berth.image.existed", ref != ""))
		return ref, err
	}
	l, err := newLayer(ctx, func(w io.Writer) error { return writeTar(ctx, w, files) })
	if err != nil {
		return "", err
	}
	img, err := compose(empty.Image, config, l)
	if err != nil {
		return "", err
	}
	return r.push(ctx, repo, tag, img)
}

// layer finds or makes a layer, which is kept as an image of its own so that it is found by its key. made tells
// whether it was not there.
func (r *Registry) layer(ctx context.Context, repo, key string, write func(io.Writer) error) (l v1.Layer, made bool, err error) {
	tag := tagOf(key)
	ref, err := r.find(ctx, repo, tag)
	if err != nil {
		return nil, false, err
	}
	if made = ref == ""; made {
		rep, err := r.repository(repo)
		if err != nil {
			return nil, false, err
		}
		l := &stream{write: write}
		if err := remote.WriteLayer(rep, l, r.options(ctx)...); err != nil {
			return nil, false, r.trouble("pushing to", rep, err)
		}
		img, err := compose(empty.Image, v1.Config{}, l)
		if err != nil {
			return nil, false, err
		}
		if ref, err = r.push(ctx, repo, tag, img); err != nil {
			return nil, false, err
		}
	}
	l, err = r.only(ctx, ref)
	return l, made, err
}

// only is the layer of an image that has one.
func (r *Registry) only(ctx context.Context, ref Reference) (v1.Layer, error) {
	d, err := r.digest(ref)
	if err != nil {
		return nil, err
	}
	img, err := remote.Image(d, r.options(ctx)...)
	if err != nil {
		return nil, r.trouble("asking", d.Context(), err)
	}
	layers, err := img.Layers()
	if err == nil && len(layers) != 1 {
		err = fmt.Errorf("the image %s has %d layers", ref, len(layers))
	}
	if err != nil {
		return nil, err
	}
	return layers[0], nil
}

// tagOf turns any text into a tag.
func tagOf(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:16])
}

// compose puts layers on an image and sets its configuration. It always says the platform: containerd
// leaves out images that do not.
func compose(base v1.Image, config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(base, types.OCIManifestSchema1), types.OCIConfigJSON), layers...)
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Config = "linux", "amd64", config
	return mutate.ConfigFile(img, cfg)
}

func (r *Registry) repository(repo string) (name.Repository, error) {
	var opts []name.Option
	if r.Insecure {
		opts = append(opts, name.Insecure)
	}
	return name.NewRepository(r.Host+"/"+repo, opts...)
}

func (r *Registry) digest(ref Reference) (name.Digest, error) {
	var opts []name.Option
	if r.Insecure {
		opts = append(opts, name.Insecure)
	}
	return name.NewDigest(string(ref), opts...)
}

func (r *Registry) options(ctx context.Context) []remote.Option {
	opts := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(keys{r})}
	if r.Transport != nil {
		opts = append(opts, remote.WithTransport(r.Transport))
	}
	return opts
}

// find returns the image that a tag names, "" for none. In Berth's own registry it stores the image's manifest again, so
// that a collection that begins before the caller noted the image down takes it for a new one.
func (r *Registry) find(ctx context.Context, repo, tag string) (Reference, error) {
	rep, err := r.repository(repo)
	if err != nil {
		return "", err
	}
	found, err := remote.Get(rep.Tag(tag), r.options(ctx)...)
	if err == nil && r.Own {
		err = remote.Put(rep.Tag(tag), found, r.options(ctx)...)
	}
	if said(err, transport.ManifestUnknownErrorCode, transport.NameUnknownErrorCode, transport.ManifestBlobUnknownErrorCode) || answered(err, http.StatusNotFound) {
		return "", nil
	}
	if err != nil {
		return "", r.trouble("asking", rep, err)
	}
	return Reference(rep.Digest(found.Digest.String()).Name()), nil
}

// Has reports whether an image is in the registry. It is no use of the image.
func (r *Registry) Has(ctx context.Context, ref Reference) (bool, error) {
	name, here := strings.CutPrefix(string(ref), r.Host+"/")
	if !here {
		return false, nil // it was made for another registry
	}
	repo, digest, _ := strings.Cut(name, "@")
	rep, err := r.repository(repo)
	if err != nil {
		return false, err
	}
	_, err = remote.Get(rep.Digest(digest), r.options(ctx)...)
	if said(err, transport.ManifestUnknownErrorCode, transport.NameUnknownErrorCode) || answered(err, http.StatusNotFound) {
		return false, nil
	}
	if err != nil {
		return false, r.trouble("asking", rep, err)
	}
	return true, nil
}

func (r *Registry) push(ctx context.Context, repo, tag string, img v1.Image) (ref Reference, err error) {
	ctx, span := tracing.Begin(ctx, "push image", trace.WithAttributes(attribute.String("berth.image.repository", repo)))
	defer func() { tracing.End(span, err) }()
	rep, err := r.repository(repo)
	if err != nil {
		return "", err
	}
	err = remote.Write(rep.Tag(tag), img, r.options(ctx)...)
	if said(err, transport.ManifestBlobUnknownErrorCode) { // a collection took layers that no image had yet
		err = remote.Write(rep.Tag(tag), img, r.options(ctx)...)
	}
	if err != nil {
		return "", r.trouble("pushing to", rep, err)
	}
	d, err := img.Digest()
	if err != nil {
		return "", err
	}
	return Reference(rep.Digest(d.String()).Name()), nil
}

// said tells whether a registry refused with one of some codes.
func said(err error, codes ...transport.ErrorCode) bool {
	var refused *transport.Error
	return errors.As(err, &refused) && slices.ContainsFunc(refused.Errors, func(d transport.Diagnostic) bool { return slices.Contains(codes, d.Code) })
}
