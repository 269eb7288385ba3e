package azure

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	clicmd "github.com/berthdev/berth/internal/cli/cmd"
)

// files makes a folder with files of the given content.
func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		file, args string
		want       map[string]any
		err        string
	}{
		"nothing":     {"", "", map[string]any{}, ""},
		"flags":       {"", "--cpu-cores 0.5 --num-replicas 2 --auth-enabled False", map[string]any{"containerResourceRequirements/cpu": 0.5, "numReplicas": 2, "authEnabled": false}, ""},
		"short names": {"", "--cc 0.5 --nr 2 --ae true --ct c", map[string]any{"containerResourceRequirements/cpu": 0.5, "numReplicas": 2, "authEnabled": true, "computeName": "c"}, ""},
		"JSON": {
			`{"computeType": "aks", "autoScaler": {"minReplicas": 0}, "tokenAuthEnabled": true, "gpuCores": 1, "computeTargetName": "c", "namespace": null}`, "",
			map[string]any{"autoScaler/minReplicas": 0.0, "aadAuthEnabled": true, "containerResourceRequirements/gpu": 1.0, "computeName": "c"}, "",
		},
		"YAML":            {"numReplicas: 3\nkeys: {primaryKey: k}\n", "", map[string]any{"numReplicas": 3.0, "keys/primaryKey": "k"}, ""},
		"flags go before": {"numReplicas: 3\n", "--nr 4", map[string]any{"numReplicas": 4}, ""},
		"another setting": {"dnsNameLabel: x\n", "", nil, "no setting dnsNameLabel"},
		"one inside":      {"autoScaler: {min: 1}\n", "", nil, "no setting autoScaler.min"},
		"no object":       {"autoScaler: 1\n", "", nil, "no setting autoScaler."},
		"ACI":             {"computeType: ACI\n", "", nil, "not AKS"},
		"an endpoint":     {"computeType: AksEndpoint\n", "", nil, "azureml-core"},
		"no document":     {"- a\n", "", nil, "neither JSON nor YAML"},
		"no number":       {"", "--nr many", nil, `"many" is not of the kind int`},
		"no truth":        {"", "--ae perhaps", nil, `"perhaps"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, c, short := settings{}, &cobra.Command{}, map[string]string{}
			s.declare(c, true, short)
			aliases(c, short)
			args := strings.Fields(tc.args)
			if tc.file != "" {
				args = append(args, "--dc", filepath.Join(files(t, map[string]string{"f": tc.file}), "f"))
			}
			err := c.ParseFlags(args)
			var got map[string]any
			if err == nil {
				got, err = s.given()
			}
			if tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) || tc.err == "" && err != nil {
				t.Fatalf("the error is %v; want %q", err, tc.err)
			}
			if diff := cmp.Diff(tc.want, got); tc.err == "" && diff != "" {
				t.Errorf("what was given (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPut(t *testing.T) {
	t.Parallel()
	body := map[string]any{}
	put(body, "a/b", 1)
	put(body, "a/c", 2)
	put(body, "d", 3)
	if diff := cmp.Diff(map[string]any{"a": map[string]any{"b": 1, "c": 2}, "d": 3}, body); diff != "" {
		t.Error(diff)
	}
}

func TestInference(t *testing.T) {
	t.Parallel()
	dir := files(t, map[string]string{"src/score.py": "", "src/conda.yml": "dependencies: [pip]", "src/notes.txt": ""})
	src := filepath.Join(dir, "src")
	for name, tc := range map[string]struct {
		flags inference
		file  string
		err   string // "" for what is accepted, "-" for what asks for nothing
	}{
		"nothing":                   {inference{}, "", "-"},
		"flags":                     {inference{source: src, entryScript: "score.py", conda: "conda.yml"}, "", ""},
		"without a folder":          {inference{entryScript: filepath.Join(src, "score.py")}, "", ""},
		"a file":                    {inference{}, `{"entryScript": "score.py", "sourceDirectory": "SRC", "runtime": "python", "condaFile": "conda.yml", "enableGpu": false, "cudaVersion": null, "description": "d", "baseImage": "i", "baseImageRegistry": {"address": "r"}}`, ""},
		"an environment":            {inference{}, `{"entryScript": "score.py", "sourceDirectory": "SRC", "environment": {"name": "e"}}`, ""},
		"an environment's name":     {inference{source: src, entryScript: "score.py", envName: "e", envVersion: "1"}, "", ""},
		"no script":                 {inference{source: src}, "", "--entry-script"},
		"a script that is no file":  {inference{source: src, entryScript: "absent.py"}, "", "absent.py is no file"},
		"a script of another kind":  {inference{source: src, entryScript: "notes.txt"}, "", "no Python file"},
		"a script not in it":        {inference{source: src, entryScript: filepath.Join(src, "score.py")}, "", "not relative"},
		"no such folder":            {inference{source: dir + "/absent", entryScript: "score.py"}, "", "no folder"},
		"no conda file":             {inference{source: src, entryScript: "score.py", conda: "absent.yml"}, "", "conda file"},
		"Spark":                     {inference{source: src, entryScript: "score.py", runtime: "spark-py"}, "", "not python"},
		"two sources of packages":   {inference{source: src, entryScript: "score.py", conda: "conda.yml", envName: "e"}, "", "leave out"},
		"two environments":          {inference{envName: "e"}, `{"entryScript": "score.py", "sourceDirectory": "SRC", "environment": {}}`, "leave one out"},
		"a version of nothing":      {inference{source: src, entryScript: "score.py", envVersion: "1"}, "", "--environment-name"},
		"a folder and a name":       {inference{source: src, entryScript: "score.py", envFolder: dir, envName: "e"}, "", "leave one out"},
		"a folder without one":      {inference{source: src, entryScript: "score.py", envFolder: dir}, "", "azureml_environment.json"},
		"another setting":           {inference{}, `{"entryScript": "score.py", "sourceDirectory": "SRC", "enableGpu": true}`, "no setting enableGpu"},
		"a setting of another kind": {inference{}, `{"entryScript": 1}`, "entryScript is no text"},
		"an environment's file":     {inference{}, `{"environment": "env.json"}`, "environment is no object"},
		"a registry's password":     {inference{}, `{"baseImageRegistry": {"address": "r", "username": "u"}}`, "credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := tc.flags
			if tc.file != "" {
				i.file = filepath.Join(files(t, map[string]string{"f": strings.ReplaceAll(tc.file, "SRC", src)}), "f")
			}
			asked, err := i.read()
			var usage *clicmd.UsageError
			switch tc.err {
			case "", "-":
				if err != nil || asked != (tc.err == "") {
					t.Errorf("asked %v, error %v", asked, err)
				}
			default:
				if !errors.As(err, &usage) || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("the error is %v; want a wrong call that names %q", err, tc.err)
				}
			}
		})
	}
}

func TestInference_Environment(t *testing.T) {
	t.Parallel()
	dir := files(t, map[string]string{"conda.yml": "dependencies:\n- python=3.11\n- pip: [numpy]\n"})
	packages := map[string]any{"dependencies": []any{"python=3.11", map[string]any{"pip": []any{"numpy"}}}}
	for name, tc := range map[string]struct {
		given inference
		want  map[string]any
	}{
		"nothing": {inference{}, map[string]any{"name": "svc-env", "python": map[string]any{"interpreterPath": "python", "userManagedDependencies": false}}},
		"parts": {
			inference{source: dir, conda: "conda.yml", baseImage: "i", registry: "r"},
			map[string]any{
				"name": "svc-env", "python": map[string]any{"interpreterPath": "python", "userManagedDependencies": false, "condaDependencies": packages},
				"docker": map[string]any{"baseImage": "i", "baseImageRegistry": map[string]any{"address": "r"}},
			},
		},
		"as it is": {inference{env: map[string]any{"name": "e", "r": 1}}, map[string]any{"name": "e", "r": 1}},
		"with a file": {
			inference{source: dir, env: map[string]any{"python": map[string]any{"condaDependenciesFile": "conda.yml"}}},
			map[string]any{"name": "svc-env", "python": map[string]any{"condaDependenciesFile": nil, "condaDependencies": packages}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := tc.given.environment(t.Context(), nil, "svc")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("the environment (-want +got):\n%s", diff)
			}
		})
	}
}

// What azureml-core saved into a folder is the environment again.
func TestInference_Folder(t *testing.T) {
	t.Parallel()
	packages := map[string]any{"dependencies": []any{map[string]any{"pip": []any{"numpy"}}}}
	for name, tc := range map[string]struct {
		files map[string]string
		want  map[string]any
	}{
		"packages": {
			map[string]string{"azureml_environment.json": `{"name": "e", "python": {"interpreterPath": "python"}}`, "conda_dependencies.yml": "dependencies: [{pip: [numpy]}]"},
			map[string]any{"name": "e", "python": map[string]any{"interpreterPath": "python", "condaDependencies": packages}},
		},
		"a Dockerfile": {
			map[string]string{"azureml_environment.json": `{"name": "e", "python": null}`, "BaseDockerfile": "FROM x"},
			map[string]any{"name": "e", "python": nil, "docker": map[string]any{"baseDockerfile": "FROM x"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.files["score.py"] = ""
			dir := files(t, tc.files)
			i := inference{source: dir, entryScript: "score.py", envFolder: dir}
			if asked, err := i.read(); err != nil || !asked {
				t.Fatal(asked, err)
			}
			got, err := i.environment(t.Context(), nil, "svc")
			if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
				t.Errorf("the environment (-want +got, error %v):\n%s", err, diff)
			}
		})
	}
}

func TestScore(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case r.Header.Get("Authorization") != "Bearer key":
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, "no key")
		case r.Header.Get("Content-Type") != "application/json":
			t.Errorf("the content is sent as %q", r.Header.Get("Content-Type"))
		default:
			_, _ = w.Write(body)
		}
	}))
	t.Cleanup(srv.Close)
	for _, tc := range []struct {
		key, body string
		want      any
		err       string
	}{
		{"key", `{"a": [1]}`, map[string]any{"a": []any{1.0}}, ""},
		{"key", "plain words", "plain words", ""},
		{"key", "", "", ""},
		{"other", "{}", nil, "401 Unauthorized: no key"},
		{"", "{}", nil, "401 Unauthorized: no key"},
	} {
		got, err := score(t.Context(), srv.URL, tc.key, tc.body)
		if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%q with the key %q: error %v; want %q", tc.body, tc.key, err, tc.err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%q: the answer (-want +got):\n%s", tc.body, diff)
		}
	}
}

func TestShownService(t *testing.T) {
	t.Parallel()
	got := shownService(map[string]any{
		"kvTags": map[string]any{"a": "b"}, "environmentImageRequest": map[string]any{"environment": "e"}, "models": []any{},
		"versions": map[string]any{"v1": map[string]any{"type": "Control"}},
	}, "ws")
	want := map[string]any{
		"tags": map[string]any{"a": "b"}, "environmentDetails": "e", "modelDetails": []any{}, "workspaceName": "ws",
		"versions": map[string]any{"v1": map[string]any{"versionType": "Control", "workspaceName": "ws"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReadable(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 bytes", 999: "999 bytes", 1000: "1.0 kB", 300_000_000: "300.0 MB", 5e15: "5000.0 TB"} {
		if got := readable(n); got != want {
			t.Errorf("%d bytes are %q; want %q", n, got, want)
		}
	}
	for _, tc := range [][3]int64{{0, 0, 100}, {0, 5, 0}, {4, 5, 80}, {5, 5, 100}, {99, 100, 90}} {
		if got := tens(tc[0], tc[1]); got != tc[2] {
			t.Errorf("%d of %d are %d%%; want %d", tc[0], tc[1], got, tc[2])
		}
	}
}
