package image

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/berthdev/berth/internal/registry"
)

const testPassword = "a password of this test"

// startRegistry runs the real registry, which nodes know as registry.test.
func startRegistry(t *testing.T, dir string) *Registry {
	t.Helper()
	reg, err := registry.Open(registry.Config{Dir: dir, Access: registry.Access{User: "berth", Password: testPassword}})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(reg)
	t.Cleanup(srv.Close)
	addr := srv.Listener.Addr().String()
	return &Registry{Host: "registry.test", Keychain: Password{"berth", testPassword}, Insecure: true, Own: true, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		},
	}}
}

func pull(t *testing.T, r *Registry, ref Reference) v1.Image {
	t.Helper()
	d, err := name.NewDigest(string(ref), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(d, r.options(t.Context())...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func text(path, content string) File {
	return File{Path: path, Size: int64(len(content)), Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }}
}

// An image of files has them, says its platform, survives a restart of the registry, and
// is found again without its files being read (D4).
func TestFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := startRegistry(t, dir)
	ref, err := r.Files(t.Context(), "berth/models", "model:1", []File{text("b/model.pkl", "pickled"), text("a.txt", "first")})
	if err != nil {
		t.Fatal(err)
	}
	again := startRegistry(t, dir)
	unread := File{Path: "x", Open: func(context.Context) (io.ReadCloser, error) { return nil, errors.New("it was read") }}
	same, err := again.Files(t.Context(), "berth/models", "model:1", []File{unread})
	if err != nil || same != ref {
		t.Fatalf("the second time: %s, %v; want %s", same, err, ref)
	}
	img := pull(t, again, ref)
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.OS != "linux" || cfg.Architecture != "amd64" {
		t.Errorf("platform %s/%s", cfg.OS, cfg.Architecture)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	rc, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rc.Close() }()
	var names []string
	for tr := tar.NewReader(rc); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if got := strings.Join(names, " "); got != "a.txt b/ b/model.pkl" {
		t.Errorf("the layer has %q", got)
	}
}

// A file that is shorter than it says is refused by name, and nothing is pushed.
func TestTruncatedFile(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, t.TempDir())
	short := text("model.pkl", "only this")
	short.Size = 100
	_, err := r.Files(t.Context(), "berth/models", "short", []File{short})
	if err == nil || !strings.Contains(err.Error(), "model.pkl") || !strings.Contains(err.Error(), "truncated") {
		t.Errorf("error %v", err)
	}
	if ref, err := r.find(t.Context(), "berth/models", tagOf("short")); ref != "" || err != nil {
		t.Errorf("found %q, %v", ref, err)
	}
}

// endless is a file's content of a given size without holding it.
type endless struct{ left int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := int64(len(p))
	if n > e.left {
		n = e.left
	}
	e.left -= n
	return int(n), nil
}

// A large model takes no more memory than a small one.
func TestLargeFileIsStreamed(t *testing.T) {
	const size = 1 << 30
	r := startRegistry(t, t.TempDir())
	big := File{Path: "model.bin", Size: size, Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(&endless{size}), nil }}
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() {
		var most uint64
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				peak <- most
				return
			case <-tick.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapInuse)
			}
		}
	}()
	_, err := r.Files(t.Context(), "berth/models", "big", []File{big})
	close(stop)
	if most := <-peak; most > 200<<20 {
		t.Errorf("the heap grew to %d MB for a file of %d MB", most>>20, size>>20)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The registry gives nothing to whoever does not know its password.
func TestRegistryNeedsPassword(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, t.TempDir())
	ref, err := r.Files(t.Context(), "berth/models", "k", []File{text("f", "x")})
	if err != nil {
		t.Fatal(err)
	}
	d, err := name.NewDigest(string(ref), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	_, err = remote.Image(d, remote.WithContext(t.Context()), remote.WithTransport(r.Transport), remote.WithAuth(&authn.Basic{Username: "berth", Password: "guess"}))
	if err == nil {
		t.Error("a wrong password was accepted")
	}
}

// builder needs what make images makes.
func builder(t *testing.T) *Builder {
	t.Helper()
	libexec, err := filepath.Abs("../../bin/libexec")
	if err != nil {
		t.Fatal(err)
	}
	b := &Builder{Registry: startRegistry(t, t.TempDir()), Bases: filepath.Join(libexec, "base"), UV: filepath.Join(libexec, "uv"), Work: t.TempDir()}
	if have, err := b.pythons(); err != nil || len(have) == 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("there is no base image: run make images")
		}
		t.Skip("there is no base image: run make images")
	}
	return b
}

const sklearnDefinition = `{"name":"e","python":{"condaDependencies":{"dependencies":["python=3.10.18",{"pip":["azureml-inference-server-http","scikit-learn"]}]}},"docker":{"baseImage":"mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:1"}}`

// An environment is made of wheels once, and then found (D4).
func TestEnvironment(t *testing.T) {
	t.Parallel()
	b := builder(t)
	var lines []string
	log := func(l string) { lines = append(lines, l); slog.Info(l) }
	start := time.Now()
	ref, err := b.Environment(t.Context(), []byte(sklearnDefinition), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("made in %s", time.Since(start))
	start = time.Now()
	lines = nil
	again, err := b.Environment(t.Context(), []byte(sklearnDefinition), log)
	if err != nil || again != ref {
		t.Fatalf("again: %s, %v; want %s", again, err, ref)
	}
	t.Logf("found in %s", time.Since(start))
	if !strings.Contains(strings.Join(lines, "\n"), "Use the existing image.") {
		t.Errorf("the log of the second time is %q", lines)
	}
	if left, err := os.ReadDir(b.Work); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A package that does not exist is the environment's fault, and named.
func TestEnvironmentWithUnknownPackage(t *testing.T) {
	t.Parallel()
	b := builder(t)
	_, err := b.Environment(t.Context(), []byte(`{"name":"e","python":{"condaDependencies":{"dependencies":[{"pip":["no-such-package-of-berth==1.2.3"]}]}}}`), func(string) {})
	var user *UserError
	if !errors.As(err, &user) || user.Code != PackageNotFound || !strings.Contains(user.Message, "no-such-package-of-berth") {
		t.Errorf("error %v", err)
	}
}

// Packages that exclude each other are the environment's fault, and both are named.
func TestEnvironmentWithConflict(t *testing.T) {
	t.Parallel()
	b := builder(t)
	_, err := b.Environment(t.Context(), []byte(`{"name":"e","python":{"condaDependencies":{"dependencies":[{"pip":["requests==2.32.3","urllib3==1.20"]}]}}}`), func(string) {})
	var user *UserError
	if !errors.As(err, &user) || user.Code != PackageConflict || !strings.Contains(user.Message, "requests==2.32.3") || !strings.Contains(user.Message, "urllib3==1.20") {
		t.Errorf("error %v", err)
	}
}

// What uv says is told apart: what the user can mend is the user's, and an index that is away for a while is nobody's, so
// that the deployment goes on when it is back.
func TestRefusal(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, says, code, want string }{
		{"unknown", "error: No solution found when resolving dependencies:\n  cause: Because nonsense was not found in the package registry and you require nonsense, we can conclude that your requirements are unsatisfiable.",
			PackageNotFound, "The package nonsense does not exist"},
		{"unknown version", "No solution found when resolving dependencies: cause: Because there is no version of numpy==99 and you require numpy==99, we can conclude that your requirements are unsatisfiable.",
			PackageNotFound, "There is no numpy==99 for Python"},
		{"source only", "No solution found when resolving dependencies: cause: Because all versions of fusepy have no usable wheels and you require fusepy, we can conclude that your requirements are unsatisfiable.",
			EnvironmentNotSupported, "no wheel of fusepy"},
		{"conflict", "No solution found when resolving dependencies: cause: Because requests==2.32.3 depends on urllib3>=1.21.1 and you require urllib3==1.20, we can conclude that your requirements are unsatisfiable.",
			PackageConflict, "exclude each other"},
		{"not a requirement", "error: Couldn't parse requirement in `list.txt` at position 0", PackageNotFound, "cannot be installed"},
		{"index away", "error: Failed to fetch: `https://me:hunter2@index.example/simple/numpy/` Caused by: error sending request", "", "cannot be reached"},
		{"index slow", "error: Request failed after 3 retries Caused by: operation timed out", "", "cannot be reached"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := refusal(tt.says, "3.11")
			var user *UserError
			if errors.As(err, &user) != (tt.code != "") || user != nil && user.Code != tt.code || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%T %v, want %s with %q", err, err, tt.code, tt.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error tells a password: %v", err)
			}
		})
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, definition, requirements, refused string }{
		{"nothing", `{"name":"e"}`, serving, ""},
		{"defaults bring the server", `{"python":{"condaDependencies":{"dependencies":[{"pip":["azureml-defaults"]}]}}}`, "azureml-defaults", ""},
		{"conda's twin", `{"python":{"condaDependencies":{"dependencies":["scikit-learn=1.5","numpy",{"pip":["azureml_defaults"]}]}}}`, "azureml_defaults|numpy|scikit-learn==1.5.*", ""},
		{"PyPI itself", `{"python":{"condaDependencies":{"dependencies":[{"pip":["--extra-index-url https://pypi.python.org/simple","azureml-defaults"]}]}}}`, "azureml-defaults", ""},
		{"another index", `{"python":{"condaDependencies":{"dependencies":[{"pip":["--extra-index-url=https://u:p@pypi.example/simple","azureml-defaults"]}]}}}`, "--extra-index-url https://u:p@pypi.example/simple|azureml-defaults", ""},
		{"the SDK's Python", `{"python":{"condaDependencies":{"dependencies":["python=3.10.18"]}}}`, serving, ""},
		{"the base's Python", `{"python":{"condaDependencies":{"dependencies":["python=3.11"]}}}`, serving, ""},
		{"another Python", `{"python":{"condaDependencies":{"dependencies":["python=3.9"]}}}`, serving, ""},
		{"a Python without a base", `{"python":{"condaDependencies":{"dependencies":["python=3.10"]}}}`, "", "asks for Python 3.10, and Berth's base images have 3.9, 3.11, 3.13. Set python=3.11"},
		{"no Python", `{"python":{"condaDependencies":{"dependencies":["python=three"]}}}`, "", "cannot read"},
		{"a native package", `{"python":{"condaDependencies":{"dependencies":["cudatoolkit=11"]}}}`, "", "cudatoolkit"},
		{"a repository", `{"python":{"condaDependencies":{"dependencies":[{"pip":["git+https://example.org/x.git"]}]}}}`, "", "repository"},
		{"an editable folder", `{"python":{"condaDependencies":{"dependencies":[{"pip":["-e ."]}]}}}`, "", `"-e"`},
		{"a Dockerfile", `{"docker":{"baseDockerfile":"FROM x"}}`, "", "Dockerfile"},
		{"R", `{"r":{"rVersion":"4"}}`, "", "R"},
		{"ARM", `{"docker":{"platform":{"architecture":"arm64"}}}`, "", "arm64"},
		{"not JSON", `{`, "", "cannot be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, r, err := read([]byte(c.definition), []string{"3.9", "3.11", "3.13"})
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Fatalf("error %v, want one with %q", err, c.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(r.requirements, "|"); got != c.requirements {
				t.Errorf("requirements %q, want %q", got, c.requirements)
			}
		})
	}
}

// What a build says never has a password of a URL.
func TestReasonHidesPasswords(t *testing.T) {
	t.Parallel()
	got := reason("error: Failed to fetch: `https://user:secret@index.example/simple/x/`")
	if strings.Contains(got, "secret") || !strings.Contains(got, "index.example") {
		t.Errorf("said %q", got)
	}
}
