package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sync/singleflight"

	"github.com/berthdev/berth/internal/tracing"
)

const (
	// basePython is the version of Python in Berth's own base image.
	basePython = "3.11"
	// layout is raised when images are put together in another way, so that older ones are not reused.
	layout = "1"

	// Environments is the repository of environments' images. They are no workspace's: the same definition gives the same.
	Environments = "berth/environments"
)

// Builder makes the images of environments.
type Builder struct {
	Registry *Registry
	Base     string // Berth's base image: the tar file of its root, and a folder of the same name without .tar
	UV       string // the program uv, which resolves and unpacks wheels
	Work     string // folder for what is under way; emptied by Clean

	building singleflight.Group
}

// Clean removes what builds that were interrupted left behind. Call it before the first one.
func (b *Builder) Clean() error { return os.RemoveAll(b.Work) }

// Has reports whether an image that Environment made is still there.
func (b *Builder) Has(ctx context.Context, ref Reference) (bool, error) {
	return b.Registry.Has(ctx, ref)
}

// Environment returns the image of a definition, which azureml-core sends as JSON, making it unless it is
// there. It writes what it does to log, a line at a time. Errors: *UserError when the
// definition cannot be met; anything else may pass.
func (b *Builder) Environment(ctx context.Context, definition json.RawMessage, log func(line string)) (ref Reference, err error) {
	ctx, span := tracing.Begin(ctx, "make environment")
	defer func() { tracing.End(span, err) }()
	d, r, err := read(definition, basePython)
	if err != nil {
		return "", err
	}
	base, err := b.base(ctx, d, log)
	if err != nil {
		return "", err
	}
	digest, err := base.Digest()
	if err != nil {
		return "", err
	}
	for _, note := range r.notes {
		log(note)
	}
	tag := tagOf(strings.Join(append([]string{layout, digest.String(), basePython, wheelPlatform}, r.requirements...), "\n"))
	if ref, err := b.Registry.find(ctx, Environments, tag); ref != "" || err != nil {
		if ref != "" {
			span.SetAttributes(attribute.Bool("berth.image.existed", true))
			log("Use the existing image.")
		}
		return ref, err
	}
	made, err, _ := b.building.Do(tag, func() (any, error) { return b.make(ctx, tag, base, r, log) })
	if err != nil {
		return "", err
	}
	return made.(Reference), nil
}

func (b *Builder) make(ctx context.Context, tag string, base v1.Image, r *recipe, log func(string)) (Reference, error) {
	var layers []v1.Layer
	if len(r.requirements) > 0 {
		if err := os.MkdirAll(b.Work, 0o700); err != nil {
			return "", err
		}
		dir, err := os.MkdirTemp(b.Work, "wheels-")
		if err != nil {
			return "", err
		}
		defer func() { _ = os.RemoveAll(dir) }() // Clean removes what is left
		log(fmt.Sprintf("Resolving and installing %d requirements: %s", len(r.requirements), shown(r.requirements)))
		if err := b.install(ctx, dir, r); err != nil {
			return "", err
		}
		files, size, err := filesOf(dir, packagesDir)
		if err != nil {
			return "", err
		}
		log(fmt.Sprintf("Pushing a layer of %d files, %d MB.", len(files), size>>20))
		l, err := newLayer(ctx, func(w io.Writer) error { return writeTar(ctx, w, files) })
		if err != nil {
			return "", err
		}
		layers = append(layers, l)
	}
	cfg, err := base.ConfigFile()
	if err != nil {
		return "", err
	}
	config := cfg.Config
	config.Entrypoint, config.Cmd = nil, nil
	config.Env = append(config.Env, "PYTHONPATH="+packagesDir, "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1")
	img, err := compose(base, config, layers...)
	if err != nil {
		return "", err
	}
	return b.Registry.push(ctx, Environments, tag, img)
}

// shown leaves out options, which may hold credentials.
func shown(requirements []string) string {
	var out []string
	for _, r := range requirements {
		if !strings.HasPrefix(r, "-") {
			out = append(out, r)
		}
	}
	return strings.Join(out, ", ")
}

// filesOf lists a folder's files as they go below target in an image.
func filesOf(dir, target string) (files []File, size int64, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		size += info.Size()
		files = append(files, LocalFile(filepath.ToSlash(filepath.Join(target, rel)), path, info))
		return nil
	})
	return files, size, err
}

// LocalFile is a file of this machine as one of an image.
func LocalFile(target, source string, info fs.FileInfo) File {
	return File{Path: target, Size: info.Size(), Mode: int64(info.Mode().Perm() | 0o444), Open: func(context.Context) (io.ReadCloser, error) { return os.Open(source) }}
}

// sdkImages are the base images that azureml-core names when its user named none. They have Python
// and nothing that a model would need beyond it, so Berth's own takes their place.
const sdkImages = "mcr.microsoft.com/azureml/"

func (b *Builder) base(ctx context.Context, d *Definition, log func(string)) (img v1.Image, err error) {
	ctx, span := tracing.Begin(ctx, "find base")
	defer func() { tracing.End(span, err) }()
	ref := strings.TrimSpace(d.Docker.BaseImage)
	if ref == "" || strings.HasPrefix(ref, sdkImages) {
		if d.Python.UserManaged {
			return nil, unsupported("The environment %q leaves Python's packages to its base image, which is %q: that has none. Name a base image that brings azureml-inference-server-http, or set python.user_managed_dependencies to False.", d.Name, ref)
		}
		log("Using Berth's base image: Debian 12 with Python " + basePython + ".")
		return b.ownBase(ctx)
	}
	if a := d.Docker.Registry.Address; a != "" && !strings.HasPrefix(ref, a+"/") {
		ref = a + "/" + ref
	}
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return nil, unsupported("The base image %q of the environment %q is no image reference: %v.", ref, d.Name, err)
	}
	log("Using the base image " + ref + ".")
	auth := authn.Anonymous
	if d.Docker.Registry.Username != "" {
		auth = &authn.Basic{Username: d.Docker.Registry.Username, Password: d.Docker.Registry.Password}
	}
	img, err = remote.Image(parsed, remote.WithContext(ctx), remote.WithAuth(auth), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"}))
	if err != nil {
		return nil, &UserError{Code: BaseImageNotReachable, Message: fmt.Sprintf("The base image %q cannot be read from %s: %v. Check its name, the registry's credentials (docker.base_image_registry) and that this machine reaches the registry.", ref, parsed.Context().RegistryStr(), err)}
	}
	return img, nil
}

// ownBase is the image of Berth's base.
func (b *Builder) ownBase(ctx context.Context) (v1.Image, error) {
	info, err := os.Stat(b.Base)
	if err != nil {
		return nil, fmt.Errorf("the base image is not at %s; make images makes it", b.Base)
	}
	l, err, _ := b.building.Do(fmt.Sprintf("base:%d:%d", info.Size(), info.ModTime().UnixNano()), func() (any, error) {
		return newLayer(ctx, func(w io.Writer) error {
			f, err := os.Open(b.Base)
			if err != nil {
				return err
			}
			_, err = io.Copy(w, f)
			return errors.Join(err, f.Close())
		})
	})
	if err != nil {
		return nil, err
	}
	return compose(empty.Image, v1.Config{Env: []string{"PATH=" + packagesDir + "/bin:/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"}}, l.(*layer))
}
