package realcluster

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/armclient"
	"github.com/berthdev/berth/internal/mlclient"
	"github.com/berthdev/berth/internal/registry"
)

const (
	ml        = "2024-04-01"
	robot     = "robot"
	password  = "a password of this test"
	scoreKey  = "a key of this test"
	scoreText = "def init():\n    pass\n\n\ndef run(body):\n    return body[::-1]\n"
)

// A web service whose images are all in a registry of somebody else's, with a password that no node has and on an
// address that no node reaches, serves on a real cluster.
func TestAnotherRegistry_D1(t *testing.T) {
	needBerth(t)
	untouched(t)
	images, err := registry.Open(registry.Config{Dir: t.TempDir(), Access: registry.Access{User: robot, Password: password}})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(images)
	t.Cleanup(srv.Close)
	host := srv.Listener.Addr().String()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	login := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(robot+":"+password)))
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(login), 0o600); err != nil {
		t.Fatal(err)
	}

	i := &installation{t: t, home: t.TempDir()}
	i.up("--registry", "http://"+host+"/team")
	t.Cleanup(func() { i.must("down", "--delete", "--yes") })
	i.must("group", "create", "-n", "rg", "-l", "westeurope")
	i.must("ml", "workspace", "create", "-w", "ws", "-g", "rg")
	i.must("ml", "computetarget", "create", "aks", "-n", "made", "-g", "rg", "-w", "ws", "--cluster-purpose", "DevTest", "--agent-count", "1")
	arm, subscription := i.client()
	workspace := "/subscriptions/" + subscription + "/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"
	data, err := mlclient.Open(t.Context(), arm, workspace, ml)
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "score.py")
	if err := os.WriteFile(script, []byte(scoreText), 0o600); err != nil {
		t.Fatal(err)
	}
	_, files, err := mlclient.Tree(script)
	if err != nil {
		t.Fatal(err)
	}
	if err := data.Upload(t.Context(), "source", files, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	res, err := data.Do(t.Context(), http.MethodPost, data.Models("/services"), nil, map[string]any{
		"name": "mirror", "computeType": "AKS", "computeName": "made", "numReplicas": 1, "keys": map[string]any{"primaryKey": scoreKey},
		"environmentImageRequest": map[string]any{
			"assets":      []any{map[string]any{"id": "score.py", "mimeType": "application/x-python", "url": "aml://artifact/" + mlclient.Origin + "/source/score.py"}},
			"environment": map[string]any{"name": "default", "environmentVariables": map[string]any{"AZUREML_ENTRY_SCRIPT": "score.py"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := data.Wait(t.Context(), res, func(string) {}); err != nil {
		t.Fatal(err)
	}
	service, err := data.Get(t.Context(), data.Models("/services/mirror"), nil)
	if err != nil {
		t.Fatal(err)
	}
	uri := fmt.Sprint(service["scoringUri"])
	if status, body := post(t, uri, "abc"); status != http.StatusOK || !strings.Contains(body, "cba") {
		t.Errorf("scored with %d %s", status, body)
	}

	used := imagesOf(t, arm, workspace)
	for _, what := range []string{"azureml-fe", "environments", "workspaces/"} {
		begin := host + "/team/berth/" + what
		if !slices.ContainsFunc(used, func(ref string) bool { return strings.HasPrefix(ref, begin) }) {
			t.Errorf("no pod has an image %s…; they have %q", begin, used)
		}
	}
	for _, ref := range used {
		d, err := name.NewDigest(ref, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := remote.Get(d, remote.WithContext(t.Context()), remote.WithAuth(&authn.Basic{Username: robot, Password: password})); err != nil {
			t.Errorf("the registry does not have %s: %v", ref, err)
		}
	}
	if blobs, err := filepath.Glob(filepath.Join(i.home, "registry", "docker", "registry", "v2", "blobs", "*", "*")); err != nil || len(blobs) != 0 {
		t.Errorf("Berth's own registry has %v, %v", blobs, err)
	}

	// With Berth's own registry again, and back: images move with an update, and the web service answers all the while.
	for n, to := range []struct{ address, host string }{{"embedded", "registry.berth.internal"}, {"http://" + host + "/team", host + "/team"}} {
		i.must("down")
		i.up("--registry", to.address)
		patch := []map[string]any{{"op": "replace", "path": "/scoringTimeoutMs", "value": 50000 + n}}
		if _, err := data.Do(t.Context(), http.MethodPatch, data.Models("/services/mirror"), nil, patch); err != nil {
			t.Fatal(err)
		}
		i.until("all pods to have images of "+to.host, func() bool {
			if status, body := post(t, uri, "abc"); status != http.StatusOK {
				t.Errorf("while images move to %s: %d %s", to.host, status, body)
			}
			used := imagesOf(t, arm, workspace)
			return len(used) > 0 && !slices.ContainsFunc(used, func(ref string) bool { return !strings.HasPrefix(ref, to.host+"/berth/") })
		})
	}

	res, err = data.Do(t.Context(), http.MethodDelete, data.Models("/services/mirror"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := data.Wait(t.Context(), res, func(string) {}); err != nil {
		t.Fatal(err)
	}
	i.must("group", "delete", "-n", "rg", "--yes")
}

// client signs in as the installation's first service principal.
func (i *installation) client() (client *armclient.Client, subscription string) {
	i.t.Helper()
	var info app.Info
	state, err := os.ReadFile(filepath.Join(i.home, "berth.json"))
	if err == nil {
		err = json.Unmarshal(state, &info)
	}
	if err != nil {
		i.t.Fatal(err)
	}
	c, err := app.Home(i.home).ReadCredentials()
	if err != nil {
		i.t.Fatal(err)
	}
	client, err = armclient.New(armclient.Config{URL: info.URL, CAFile: info.CAFile, Proxy: info.ProxyURL, Tenant: c.TenantID, ClientID: c.ClientID, ClientSecret: c.ClientSecret, Version: "test"})
	if err != nil {
		i.t.Fatal(err)
	}
	i.t.Cleanup(client.Close)
	return client, info.SubscriptionID
}

// imagesOf are the images of Berth's pods on a workspace's compute, those of volumes included.
func imagesOf(t *testing.T, arm *armclient.Client, workspace string) []string {
	t.Helper()
	res, err := arm.Do(t.Context(), armclient.Request{Method: http.MethodPost, Path: workspace + "/computes/made/listKeys", Version: ml})
	if err != nil {
		t.Fatal(err)
	}
	keys, _ := res.Body.(map[string]any)
	admin, _ := keys["adminKubeConfig"].(string)
	cfg, err := clientcmd.RESTConfigFromKubeConfig([]byte(admin))
	if err != nil {
		t.Fatal("the compute's kubeconfig cannot be read")
	}
	pods, err := kubernetes.NewForConfigOrDie(cfg).CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, p := range pods.Items {
		if !strings.HasPrefix(p.Namespace, "azureml-") {
			continue
		}
		for _, c := range p.Spec.Containers {
			all = append(all, c.Image)
		}
		for _, v := range p.Spec.Volumes {
			if v.Image != nil {
				all = append(all, v.Image.Reference)
			}
		}
	}
	return all
}

func post(t *testing.T, uri, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, uri, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+scoreKey)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(data)
}
