package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/singleflight"
)

const (
	// packagesDir is where wheels are in an environment's image.
	packagesDir = "/opt/berth/packages"
	// basePython is the version of Python in Berth's own base image.
	basePython = "3.11"
	// wheelPlatform is what wheels are chosen for: glibc 2.36, which Debian 12 has, runs them.
	wheelPlatform = "x86_64-manylinux_2_28"
	// layout is raised when images are put together in another way, so that older ones are not reused.
	layout = "1"

	environments = "berth/environments"
)

// ServerCommand starts azureml-inference-server-http in a model container; script is the
// entry script's path there. The server listens on port 5001, writes below /tmp only, and ends with
// code 3 when the script's init() fails.
func ServerCommand(script string) []string {
	return []string{"python3", "-m", "azureml_inference_server_http", "--entry_script", script}
}

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

// Environment returns the image of a definition, which azureml-core sends as JSON, making it unless it is
// there. It writes what it does to log, a line at a time. Errors: *UserError when the
// definition cannot be met; anything else may pass.
func (b *Builder) Environment(ctx context.Context, definition json.RawMessage, log func(line string)) (Reference, error) {
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
	sum := sha256.Sum256([]byte(strings.Join(append([]string{layout, digest.String(), basePython, wheelPlatform}, r.requirements...), "\n")))
	tag := hex.EncodeToString(sum[:16])
	if ref, err := b.Registry.find(ctx, environments, tag); ref != "" || err != nil {
		if ref != "" {
			log("Use the existing image.")
		}
		return ref, err
	}
	ref, err, _ := b.building.Do(tag, func() (any, error) { return b.make(ctx, tag, base, r, log) })
	if err != nil {
		return "", err
	}
	return ref.(Reference), nil
}

func (b *Builder) make(ctx context.Context, tag string, base v1.Image, r *recipe, log func(string)) (Reference, error) {
	img := base
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
		if err := b.install(ctx, dir, r.requirements); err != nil {
			return "", err
		}
		files, size, err := filesOf(dir, packagesDir)
		if err != nil {
			return "", err
		}
		log(fmt.Sprintf("Pushing a layer of %d files, %d MB.", len(files), size>>20))
		l, err := newLayer(func(w io.Writer) error { return writeTar(ctx, w, files) })
		if err != nil {
			return "", err
		}
		if img, err = mutate.AppendLayers(base, l); err != nil {
			return "", err
		}
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return "", err
	}
	config := cfg.Config
	config.Entrypoint, config.Cmd = nil, nil
	config.Env = append(config.Env, "PYTHONPATH="+packagesDir, "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1")
	if img, err = mutate.Config(img, config); err != nil {
		return "", err
	}
	if img, err = platform(img); err != nil {
		return "", err
	}
	return b.Registry.push(ctx, environments, tag, img)
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

// install puts the wheels of the requirements into a folder, as files that Python can run as they are.
func (b *Builder) install(ctx context.Context, dir string, requirements []string) error {
	if _, err := os.Stat(b.UV); err != nil {
		return fmt.Errorf("the program uv is not at %s; make images puts it there", b.UV)
	}
	list := dir + ".txt"
	if err := os.WriteFile(list, []byte(strings.Join(requirements, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(list) }() // Clean removes what is left
	cmd := exec.CommandContext(ctx, b.UV, "pip", "install", "--quiet", "--no-progress", "--color=never", "--target", dir,
		"--python-version", basePython, "--python-platform", wheelPlatform, "--only-binary", ":all:", "--link-mode", "copy", "--requirements", list)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if err == nil {
		return b.compile(ctx, dir)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || ctx.Err() != nil {
		return fmt.Errorf("running uv: %w", errors.Join(err, ctx.Err()))
	}
	text := stderr.String()
	if strings.Contains(text, "error sending request") || strings.Contains(text, "Failed to fetch") && !strings.Contains(text, "404") {
		return fmt.Errorf("the package index cannot be reached: %s", reason(text))
	}
	return &UserError{Code: PackagesNotFound, Message: "The environment's packages cannot be installed: " + reason(text) + " Berth installs wheels for Python " + basePython + " on Linux; correct the pip packages, then deploy again."}
}

// compile adds the bytecode of packages, because a container that cannot write would compile them at
// each start. It runs the base's own Python, by its own loader, which takes no rights.
func (b *Builder) compile(ctx context.Context, dir string) error {
	root := strings.TrimSuffix(b.Base, ".tar")
	libraries := filepath.Join(root, "lib/x86_64-linux-gnu") + ":" + filepath.Join(root, "usr/lib/x86_64-linux-gnu")
	cmd := exec.CommandContext(ctx, filepath.Join(root, "lib64/ld-linux-x86-64.so.2"), "--library-path", libraries, filepath.Join(root, "usr/bin/python"+basePython),
		"-m", "compileall", "-q", "-j", "0", "-x", `/tests?/`, "-s", dir, "-p", packagesDir, "--invalidation-mode", "unchecked-hash", dir)
	cmd.Env = []string{"PYTHONHOME=" + filepath.Join(root, "usr"), "PYTHONHASHSEED=0"}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return nil // files that are not for this Python, such as tests and templates; they are not imported either
	}
	if err != nil {
		return fmt.Errorf("compiling the packages: %w: %s", err, reason(string(out)))
	}
	return nil
}

// reason is what uv says, in one paragraph and without what could be a password in a URL.
func reason(text string) string {
	var words []string
	for _, w := range strings.Fields(strings.NewReplacer("×", "", "╰─▶", "", "│", "", "error:", "").Replace(text)) {
		if scheme, rest, ok := strings.Cut(w, "://"); ok {
			if _, host, secret := strings.Cut(rest, "@"); secret {
				w = scheme + "://" + host
			}
		}
		words = append(words, w)
	}
	const most = 1200
	out := strings.Join(words, " ")
	if len(out) > most {
		out = strings.ToValidUTF8(out[:most], "") + " …"
	}
	return out
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

func (b *Builder) base(ctx context.Context, d *Definition, log func(string)) (v1.Image, error) {
	ref := strings.TrimSpace(d.Docker.BaseImage)
	if ref == "" || strings.HasPrefix(ref, sdkImages) {
		if d.Python.UserManaged {
			return nil, unsupported("The environment %q leaves Python's packages to its base image, which is %q: that has none. Name a base image that brings azureml-inference-server-http, or set python.user_managed_dependencies to False.", d.Name, ref)
		}
		log("Using Berth's base image: Debian 12 with Python " + basePython + ".")
		return b.ownBase()
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
	img, err := remote.Image(parsed, remote.WithContext(ctx), remote.WithAuth(auth), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"}))
	if err != nil {
		return nil, &UserError{Code: BaseImageNotReachable, Message: fmt.Sprintf("The base image %q cannot be read from %s: %v. Check its name, the registry's credentials (docker.base_image_registry) and that this machine reaches the registry.", ref, parsed.Context().RegistryStr(), err)}
	}
	return img, nil
}

// ownBase is the image of Berth's base.
func (b *Builder) ownBase() (v1.Image, error) {
	info, err := os.Stat(b.Base)
	if err != nil {
		return nil, fmt.Errorf("the base image is not at %s; make images makes it", b.Base)
	}
	l, err, _ := b.building.Do(fmt.Sprintf("base:%d:%d", info.Size(), info.ModTime().UnixNano()), func() (any, error) {
		return newLayer(func(w io.Writer) error {
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
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), l.(*layer))
	if err != nil {
		return nil, err
	}
	if img, err = mutate.Config(img, v1.Config{Env: []string{"PATH=" + packagesDir + "/bin:/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"}}); err != nil {
		return nil, err
	}
	return platform(img)
}
