package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// unpack writes what layers have into a folder.
func unpack(t *testing.T, layers []v1.Layer) string {
	t.Helper()
	root := t.TempDir()
	for _, l := range layers {
		rc, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		extract(t, rc, root)
		if err := rc.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func extract(t *testing.T, r io.Reader, root string) {
	t.Helper()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(root, filepath.Clean("/"+h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o700)
		} else {
			var data []byte
			if data, err = io.ReadAll(tr); err == nil {
				err = os.WriteFile(path, data, h.FileInfo().Mode())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// layersOf are an image's layers, its base's first.
func layersOf(t *testing.T, b *Builder, ref Reference) []v1.Layer {
	t.Helper()
	layers, err := pull(t, b.Registry, ref).Layers()
	if err != nil {
		t.Fatal(err)
	}
	return layers
}

// The image of each Python has that Python, wheels for it and their bytecode, and the server that answers requests starts
// with them.
func TestEnvironmentOfEachPython(t *testing.T) {
	t.Parallel()
	b := builder(t)
	pythons, err := b.pythons()
	if err != nil {
		t.Fatal(err)
	}
	for _, python := range pythons {
		t.Run(python, func(t *testing.T) {
			t.Parallel()
			definition := fmt.Sprintf(`{"name":"e","python":{"condaDependencies":{"dependencies":["python=%s",{"pip":["azureml-inference-server-http","numpy"]}]}}}`, python)
			ref, err := b.Environment(t.Context(), []byte(definition), func(l string) { t.Log(l) })
			if err != nil {
				t.Fatal(err)
			}
			layers := layersOf(t, b, ref)
			root := filepath.Join(unpack(t, layers[1:]), packagesDir)
			const check = `import sys, numpy, werkzeug
from azureml_inference_server_http import amlserver
for m in (numpy, werkzeug, amlserver):
    open(m.__cached__).close()
    print(m.__name__, m.__spec__.origin)
print(sys.version_info[:2])`
			command := b.base(python).interpreter()
			cmd := exec.CommandContext(t.Context(), command[0], append(command[1:], "-c", check)...)
			cmd.Env = append(b.base(python).environ(), "PYTHONPATH="+root, "PYTHONDONTWRITEBYTECODE=1")
			out, err := cmd.CombinedOutput()
			if want := "(3, " + strings.TrimPrefix(python, "3.") + ")"; err != nil || !strings.Contains(string(out), want) {
				t.Errorf("it says %s: %v", out, err)
			}
			script, err := os.ReadFile(filepath.Join(root, "bin", "gunicorn")) //nolint:gosec // a file of this test
			if err != nil || !strings.HasPrefix(string(script), "#!/usr/bin/python3\n") {
				t.Errorf("the script begins with %.60q, %v", script, err)
			}
			rc, err := layers[0].Uncompressed()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = rc.Close() }()
			found := false
			for tr := tar.NewReader(rc); !found; {
				h, err := tr.Next()
				if err != nil {
					t.Fatalf("the base has no Python %s: %v", python, err)
				}
				found = h.Name == "./usr/bin/python"+python
			}
		})
	}
}

// Environments that differ by a small package have the layers of the large ones in common (D4).
func TestEnvironmentsShareLayers(t *testing.T) {
	t.Parallel()
	b := builder(t)
	digests := func(packages string) (out []string) {
		ref, err := b.Environment(t.Context(), []byte(`{"name":"e","python":{"condaDependencies":{"dependencies":[{"pip":["azureml-inference-server-http","numpy"`+packages+`]}]}}}`), func(l string) { t.Log(l) })
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range layersOf(t, b, ref) {
			d, err := l.Digest()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, d.String())
		}
		return out
	}
	one, other := digests(""), digests(`,"cowsay==6.1"`)
	differ := slices.DeleteFunc(slices.Clone(other), func(d string) bool { return slices.Contains(one, d) })
	if len(one) != len(other) || len(one) < 4 || len(differ) != 2 {
		t.Errorf("layers %q and %q", one, other)
	}
}

// Sources that this Python cannot read stay what they are, and those of tests are not compiled.
func TestBytecode(t *testing.T) {
	t.Parallel()
	b := builder(t)
	dir := t.TempDir()
	for name, content := range map[string]string{
		"p/__init__.py": "x = '\\d'", "p/template.py": "def {{ name }}(): pass", "p/tests/__init__.py": "y = 1", "p/latin.py": "# coding: latin-1\nz = '\xe9'", "p/nul.py": "a\x00b", "p/empty.py": "", "p/data.txt": "text",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	base := b.base(defaultPython)
	files, _, err := filesOf(dir, base)
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	if err := b.writePackages(t.Context(), &layer, base, dir, files); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	extract(t, &layer, root)
	compiled, err := filepath.Glob(filepath.Join(root, packagesDir, "p", "__pycache__", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range compiled {
		compiled[i] = filepath.Base(compiled[i])
	}
	if got := strings.Join(compiled, " "); got != "__init__.cpython-311.pyc empty.cpython-311.pyc latin.cpython-311.pyc" {
		t.Errorf("compiled %s", got)
	}
	if left, _ := filepath.Glob(filepath.Join(root, packagesDir, "p", "tests", "*")); len(left) != 1 {
		t.Errorf("of the tests there is %q", left)
	}
}

// A layer's key is what its files hold, not what they are called: a package that only pretends to be another one does
// not take its place.
func TestKeyOfContent(t *testing.T) {
	t.Parallel()
	key := func(f File) string {
		k, err := keyOf(t.Context(), base{python: "3.11"}, []File{f})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if key(text("numpy/core.py", "true")) == key(text("numpy/core.py", "evil")) {
		t.Error("another content has the same key")
	}
	if key(text("numpy/core.py", "true")) != key(text("numpy/core.py", "true")) {
		t.Error("the same content has another key")
	}
}

// Large packages are apart, and below what differs more often: the small ones, and what says which packages there are.
func TestGrouped(t *testing.T) {
	t.Parallel()
	file := func(path string, size int64) File { return File{Path: packagesDir + "/" + path, Size: size} }
	got := ""
	for _, g := range grouped([]File{
		file("scipy/x.so", 50<<20), file("numpy/a.so", 5<<20), file("numpy.libs/b.so", 3<<20), file("small/x.py", 10), file("six.py", 5), file("bin/f2py", 3), file("numpy-2.dist-info/RECORD", 7),
	}) {
		for _, f := range g {
			got += strings.TrimPrefix(f.Path, packagesDir+"/") + " "
		}
		got += "| "
	}
	if want := "numpy.libs/b.so numpy/a.so | scipy/x.so | six.py small/x.py | bin/f2py numpy-2.dist-info/RECORD | "; got != want {
		t.Errorf("grouped %s, want %s", got, want)
	}
}
