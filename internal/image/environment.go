package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sync/singleflight"

	"github.com/berthdev/berth/internal/tracing"
)

const (
	// layout is raised when images are put together in another way, so that older ones are not reused.
	layout = "2"

	// Environments is the repository of environments' images. They are no workspace's: the same definition gives the same.
	Environments = "berth/environments"
)

// Builder makes the images of environments.
type Builder struct {
	Registry *Registry
	Bases    string // folder of Berth's base images, one for each Python: python3.11.tar, and unpacked in python3.11
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
	pythons, err := b.pythons()
	if err != nil {
		return "", err
	}
	d, r, err := read(definition, pythons)
	if errors.Is(err, errNoBases) {
		return "", fmt.Errorf("%w in %s; make images makes them", err, b.Bases)
	}
	if err != nil {
		return "", err
	}
	from, err := b.from(ctx, d, r, log)
	if err != nil {
		return "", err
	}
	digest, err := from.Digest()
	if err != nil {
		return "", err
	}
	for _, note := range r.notes {
		log(note)
	}
	tag := tagOf(strings.Join(append([]string{layout, digest.String(), r.python, wheelPlatform}, r.requirements...), "\n"))
	if ref, err := b.Registry.find(ctx, Environments, tag); ref != "" || err != nil {
		if ref != "" {
			span.SetAttributes(attribute.Bool("berth.image.existed", true))
			log("Use the existing image.")
		}
		return ref, err
	}
	made, err, _ := b.building.Do(tag, func() (any, error) { return b.make(ctx, tag, from, r, log) })
	if err != nil {
		return "", err
	}
	return made.(Reference), nil
}

func (b *Builder) make(ctx context.Context, tag string, from v1.Image, r *recipe, log func(string)) (Reference, error) {
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
		if layers, err = b.packages(ctx, dir, r, log); err != nil {
			return "", err
		}
	}
	cfg, err := from.ConfigFile()
	if err != nil {
		return "", err
	}
	config := cfg.Config
	config.Entrypoint, config.Cmd = nil, nil
	config.Env = append(config.Env, "PYTHONPATH="+packagesDir, "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1")
	img, err := compose(from, config, layers...)
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

// LocalFile is a file of this machine as one of an image.
func LocalFile(target, source string, info fs.FileInfo) File {
	return File{Path: target, Size: info.Size(), Mode: int64(info.Mode().Perm() | 0o444), Open: func(context.Context) (io.ReadCloser, error) { return os.Open(source) }}
}

// from is the image that an environment's packages go on.
func (b *Builder) from(ctx context.Context, d *Definition, r *recipe, log func(string)) (img v1.Image, err error) {
	ctx, span := tracing.Begin(ctx, "find base")
	defer func() { tracing.End(span, err) }()
	ref, err := baseImage(d.Docker.BaseImage, d.Docker.Registry.Address)
	if err != nil {
		return nil, unsupported("The base image %q of the environment %q is no image reference: %v.", d.Docker.BaseImage, d.Name, err)
	}
	if ref == nil {
		if d.Python.UserManaged {
			return nil, unsupported("The environment %q leaves Python's packages to its base image, which is %q: that has none. Name a base image that brings azureml-inference-server-http, or set python.user_managed_dependencies to False.", d.Name, strings.TrimSpace(d.Docker.BaseImage))
		}
		log("Using Berth's base image: Debian with Python " + r.python + ".")
		return b.image(ctx, b.base(r.python))
	}
	log("Using the base image " + ref.String() + ".")
	auth := authn.Anonymous
	if d.Docker.Registry.Username != "" {
		auth = &authn.Basic{Username: d.Docker.Registry.Username, Password: d.Docker.Registry.Password}
	}
	return b.fetch(ctx, ref, auth)
}
