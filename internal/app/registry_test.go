package app_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	foreign "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/armclient"
	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/fake"
	"github.com/berthdev/berth/internal/mlclient"
	"github.com/berthdev/berth/internal/registry"
)

// otherRegistry is a registry with a user, robot, and a password that may change.
type otherRegistry struct {
	t        *testing.T
	host     string
	password atomic.Value
}

func startRegistry(t *testing.T, password string) *otherRegistry {
	t.Helper()
	o, inner := &otherRegistry{t: t}, foreign.New(foreign.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		registry.Access{User: "robot", Password: o.password.Load().(string)}.Guard(inner).ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	o.host = srv.Listener.Addr().String()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	o.signIn(password)
	return o
}

func (o *otherRegistry) auth() string {
	return base64.StdEncoding.EncodeToString([]byte("robot:" + o.password.Load().(string)))
}

// signIn changes the password, and writes what docker login writes.
func (o *otherRegistry) signIn(password string) {
	o.t.Helper()
	o.password.Store(password)
	data := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, o.host, o.auth())
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(data), 0o600); err != nil {
		o.t.Fatal(err)
	}
}

func (o *otherRegistry) as() remote.Option {
	return remote.WithAuth(&authn.Basic{Username: "robot", Password: o.password.Load().(string)})
}

func (o *otherRegistry) repositories() []string {
	o.t.Helper()
	reg, err := name.NewRegistry(o.host, name.Insecure)
	if err != nil {
		o.t.Fatal(err)
	}
	list, err := remote.Catalog(o.t.Context(), reg, o.as())
	if err != nil {
		o.t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

// named is a provider by another name, so that its clusters get front ends.
type named struct {
	cluster.Provider
	name string
}

func (n named) Name() string { return n.name }

// pods is a Berth with a registry and clusters that could run pods.
type pods struct {
	*server
	provider cluster.Provider
}

func startPods(t *testing.T, provider, address string, change func(*app.Config)) *pods {
	t.Helper()
	libexec := t.TempDir()
	if err := os.WriteFile(filepath.Join(libexec, "azureml-fe"), []byte("a program"), 0o700); err != nil {
		t.Fatal(err)
	}
	world := fake.NewWorld()
	t.Cleanup(world.Close)
	p := &pods{provider: named{fake.New(world, fake.Options{}), provider}}
	p.server = start(t, func(c *app.Config) {
		c.UseProvider, c.Libexec, c.Registry = p.provider, libexec, address
		if change != nil {
			change(c)
		}
	})
	return p
}

func (p *pods) until(what string, is func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(20 * time.Millisecond) { // polling a real server
		if time.Now().After(deadline) {
			p.t.Fatalf("waited in vain for %s", what)
		}
	}
}

const compute = "/computes/made?api-version=2020-02-02"

// pullSecret is what the namespace's pods show to fetch images.
func (p *pods) pullSecret() string {
	p.t.Helper()
	owned, err := p.provider.List(p.t.Context())
	if err != nil || len(owned) != 1 {
		p.t.Fatalf("%d clusters, %v", len(owned), err)
	}
	kubeconfig, err := p.provider.Credentials(p.t.Context(), owned[0].ID, owned[0].Handle, cluster.RoleAdmin)
	if err != nil {
		p.t.Fatal(err)
	}
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig.Data)
	if err != nil {
		p.t.Fatal(err)
	}
	secrets, err := kubernetes.NewForConfigOrDie(cfg).CoreV1().Secrets("").List(p.t.Context(), metav1.ListOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	for _, s := range secrets.Items {
		if s.Name == "berth-registry" {
			return string(s.Data[".dockerconfigjson"])
		}
	}
	p.t.Fatal("there is no pull secret")
	return ""
}

// Everything that pods run goes to the registry that was chosen, and nothing to Berth's own. Nodes that fetch it themselves
// have its password, and the new one once it changes.
func TestRegistry_D1(t *testing.T) { //nolint:paralleltest // of the environment
	other := startRegistry(t, "hunter-one")
	base, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(other.host+"/base/python:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, base, other.as()); err != nil {
		t.Fatal(err)
	}
	var log buffer
	p := startPods(t, "elsewhere", "http://"+other.host+"/team", func(c *app.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	ws := p.workspace()
	if op := p.settle(p.want(201, "PUT", ws+compute, `{"location":"westeurope","properties":{"computeType":"AKS"}}`)); op.at("status") != "Succeeded" {
		t.Fatal(op.raw)
	}
	shows := func() string { return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, other.host, other.auth()) }
	if got := p.pullSecret(); got != shows() {
		t.Errorf("nodes show %s, want %s", got, shows())
	}
	answers := p.deploy(t, ws, other)
	want := []string{"base/python", "team/berth/workspaces/" + p.account() + "/code", "team/berth/azureml-fe", "team/berth/environments"}
	slices.Sort(want)
	var has []string
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the registry has %q, and Berth says: %s", has, log.String())
		}
	})
	p.until("everything to be in the registry", func() bool { has = other.repositories(); return slices.Equal(has, want) })
	if blobs, err := filepath.Glob(filepath.Join(string(p.home), "registry", "docker", "registry", "v2", "blobs", "*", "*")); err != nil || len(blobs) != 0 {
		t.Errorf("Berth's own registry has %v, %v", blobs, err)
	}
	other.signIn("hunter-two")
	p.until("nodes to show the new password", func() bool { return p.pullSecret() == shows() })
	answers += p.want(200, "GET", ws+compute, "").raw + log.String()
	if strings.Contains(answers, "hunter") || strings.Contains(answers, other.auth()) {
		t.Error("a password is in an answer or the log")
	}
	p.search("the registry's password", "hunter")
}

// deploy posts a web service whose environment is an image of the registry's, and returns what clients see of it.
func (p *pods) deploy(t *testing.T, ws string, other *otherRegistry) string {
	t.Helper()
	c, err := p.home.ReadCredentials()
	if err != nil {
		t.Fatal(err)
	}
	arm, err := armclient.New(armclient.Config{URL: p.info.URL, CAFile: p.info.CAFile, Proxy: p.info.ProxyURL, Tenant: c.TenantID, ClientID: c.ClientID, ClientSecret: c.ClientSecret, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(arm.Close)
	ml, err := mlclient.Open(t.Context(), arm, ws, "2024-04-01")
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "score.py")
	if err := os.WriteFile(script, []byte("def run(data): return data"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, files, err := mlclient.Tree(script)
	if err != nil {
		t.Fatal(err)
	}
	if err := ml.Upload(t.Context(), "source", files, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	_, err = ml.Do(t.Context(), http.MethodPost, ml.Models("/services"), nil, map[string]any{
		"name": "echo", "computeType": "AKS", "computeName": "made", "numReplicas": 1,
		"environmentImageRequest": map[string]any{
			"assets": []any{map[string]any{"id": "score.py", "mimeType": "application/x-python", "url": "aml://artifact/" + mlclient.Origin + "/source/score.py"}},
			"environment": map[string]any{
				"name": "own", "environmentVariables": map[string]any{"AZUREML_ENTRY_SCRIPT": "score.py"}, "python": map[string]any{"userManagedDependencies": true},
				"docker": map[string]any{"baseImage": "base/python:1", "baseImageRegistry": map[string]any{"address": other.host, "username": "robot", "password": other.password.Load()}},
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := ml.Get(t.Context(), ml.Models("/services/echo"), nil)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Nodes that fetch images through Berth have what Berth gives their workspace, for its own registry and the other one, whose
// password they have no need of.
func TestRegistryThroughBerth(t *testing.T) { //nolint:paralleltest // of the environment
	other := startRegistry(t, "hunter-one")
	p := startPods(t, "local", "http://"+other.host+"/team", nil)
	ws := p.workspace()
	if op := p.settle(p.want(201, "PUT", ws+compute, `{"location":"westeurope","properties":{"computeType":"AKS"}}`)); op.at("status") != "Succeeded" {
		t.Fatal(op.raw)
	}
	var got struct {
		Auths map[string]struct{ Auth string }
	}
	if err := json.Unmarshal([]byte(p.pullSecret()), &got); err != nil {
		t.Fatal(err)
	}
	own := got.Auths["registry.berth.internal"].Auth
	user, _ := base64.StdEncoding.DecodeString(own) // what is none names no user
	if !strings.HasPrefix(string(user), p.account()+":") {
		t.Errorf("nodes of %s show who they are as %q", p.account(), user)
	}
	if len(got.Auths) != 2 || own == "" || got.Auths[other.host].Auth != own || own == other.auth() {
		t.Errorf("nodes show %+v", got.Auths)
	}
}

// A registry that is down keeps no Berth from starting. What needs it fails by name, after a while in which it could
// have come back, and is made once it has.
func TestRegistryIsDown(t *testing.T) { //nolint:paralleltest // of the environment
	t.Setenv("HOME", t.TempDir())
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	var ahead atomic.Int64
	p := startPods(t, "elsewhere", "http://"+gone.Listener.Addr().String(), func(c *app.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	ws := p.workspace()
	r := p.want(201, "PUT", ws+compute, `{"location":"westeurope","properties":{"computeType":"AKS"}}`)
	p.until("the compute to have a cluster", func() bool { return p.do("GET", ws+compute, "").at("properties.resourceId") != nil })
	ahead.Store(int64(2 * time.Minute))
	op := p.settle(r)
	if op.at("status") != "Failed" || op.at("error.code") != "RegistryNotUsable" || !strings.Contains(op.raw, "cannot be reached from Berth's machine") {
		t.Errorf("the operation says %s", op.raw)
	}
}

// The registry that was chosen is that of later starts, until another one is, or Berth's own.
func TestRegistryIsRemembered(t *testing.T) {
	t.Parallel()
	home := app.Home(t.TempDir())
	for _, c := range []struct{ choose, kept string }{
		{"", ""}, {"http://registry.test/team", "http://registry.test/team"}, {"", "http://registry.test/team"}, {"registry.test", "registry.test"}, {app.EmbeddedRegistry, "embedded"}, {"", "embedded"},
	} {
		if err := run(t, app.Config{Home: home, Registry: c.choose, Blobs: ""}); err != nil {
			t.Fatal(err)
		}
		in, err := home.LoadInstallation()
		if err != nil || in.Registry != c.kept {
			t.Errorf("after %q: %q, %v", c.choose, in.Registry, err)
		}
	}
	if err := run(t, app.Config{Home: home, Registry: "team/ml"}); err == nil || !strings.HasPrefix(err.Error(), `--registry: "team/ml" is no registry`) {
		t.Errorf("a bad address: %v", err)
	}
	both := app.Config{Home: home, Registry: "registry.test", Blobs: "file://" + t.TempDir()}
	if err := run(t, both); err != nil {
		t.Fatal(err)
	}
	if in, err := home.LoadInstallation(); err != nil || in.Registry != both.Registry || in.Blobs != both.Blobs {
		t.Errorf("of both %+v is remembered, %v", in, err)
	}
}
