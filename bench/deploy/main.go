// Command deploy measures web services on a real cluster of one node: from the POST that Model.deploy sends to
// the first 200 of the scoring address, with an environment that has nothing in common with earlier ones (each has
// another Python), with one that has another version of scikit-learn than an earlier one, and with one that was made
// before; and a version that sleeps (min replicas 0) from its first request to the answer. It needs root and an idle machine. Wheels
// come from uv's cache, which it fills first: how fast a package index answers is not Berth's.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/berthdev/berth/bench/internal/berth"
	"github.com/berthdev/berth/internal/mlclient"
)

const (
	ml  = "2024-04-01"
	key = "a key of this benchmark"
)

// setup is what makes environments differ.
type setup struct{ python, sklearn string }

// first have nothing in common, not even the base image.
var first = []setup{{"3.11", "1.7.1"}, {"3.13", "1.7.1"}, {"3.9", "1.5.2"}}

// sklearn are versions that make the environments of the runs differ from the first one.
var sklearn = []string{"1.7.2", "1.7.0", "1.6.1", "1.6.0", "1.5.2", "1.5.1", "1.5.0"}

const script = `
import json, sklearn
from sklearn.linear_model import LinearRegression

def init():
    global model
    model = LinearRegression().fit([[0], [1]], [1, 3])

def run(body):
    return model.predict([[json.loads(body)]]).tolist()
`

func main() {
	bin := flag.String("berth", "bin/berth", "the berth program")
	libexec := flag.String("libexec", "bin/libexec", "what local clusters run, and uv")
	runs := flag.Int("runs", 5, fmt.Sprintf("runs, 1 to %d", len(sklearn)))
	flag.Parse()
	if err := run(*bin, *libexec, max(1, min(*runs, len(sklearn)))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// bench is a Berth with a cluster and a model.
type bench struct {
	server *berth.Server
	ml     *mlclient.Client
	source map[string]any // the asset with the script
	http   *http.Client
}

func run(bin, libexec string, runs int) (err error) {
	ctx, cancel := berth.Context(30 * time.Minute)
	defer cancel()
	wheels, err := os.MkdirTemp("", "berth-bench-wheels-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(wheels)) }()
	if err := fillCache(ctx, libexec, wheels, runs); err != nil {
		return err
	}
	home, err := berth.Home()
	if err != nil {
		return err
	}
	s, err := berth.Up(bin, home, "local")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Down(true)) }()
	b := &bench{server: s, http: &http.Client{Timeout: time.Minute}}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	var firsts, fresh, cached, woken []time.Duration
	for i, env := range first {
		name := fmt.Sprintf("first-%d", i)
		d, err := b.deploy(ctx, name, env, nil)
		if err != nil {
			return err
		}
		firsts = append(firsts, d)
		if err := b.remove(ctx, name); err != nil {
			return err
		}
	}
	for i := range runs {
		env := setup{first[0].python, sklearn[i]}
		d, err := b.deploy(ctx, fmt.Sprintf("new-%d", i), env, nil)
		if err != nil {
			return err
		}
		fresh = append(fresh, d)
		if d, err = b.deploy(ctx, fmt.Sprintf("cached-%d", i), env, nil); err != nil {
			return err
		}
		cached = append(cached, d)
		if err := errors.Join(b.remove(ctx, fmt.Sprintf("new-%d", i)), b.remove(ctx, fmt.Sprintf("cached-%d", i))); err != nil {
			return err
		}
	}
	fmt.Println("deploy: POST to the first 200 with a new environment, nothing of it known:", berth.Summary(firsts))
	fmt.Println("deploy: POST to the first 200 with another version of scikit-learn:", berth.Summary(fresh))
	fmt.Println("deploy: POST to the first 200 with a cached environment:", berth.Summary(cached))
	for i := range runs { // they all fall asleep in the same ten minutes
		if _, err := b.deploy(ctx, fmt.Sprintf("sleeper-%d", i), first[0], map[string]any{"autoscaleEnabled": true, "minReplicas": 0, "maxReplicas": 1}); err != nil {
			return err
		}
	}
	for i := range runs {
		d, err := b.wakeUp(ctx, fmt.Sprintf("sleeper-%d", i))
		if err != nil {
			return err
		}
		woken = append(woken, d)
	}
	fmt.Println("scale from zero: request to answer, image on the node:", berth.Summary(woken))
	return nil
}

// fillCache fetches the wheels that the runs install. It unpacks them below dir, which is to stay until the end: ext4
// without a journal passes over each inode that became free a short while ago, for every new file.
func fillCache(ctx context.Context, libexec, dir string, runs int) error {
	all := slices.Clone(first)
	for _, version := range sklearn[:runs] {
		all = append(all, setup{first[0].python, version})
	}
	for i, env := range all {
		out, err := exec.CommandContext(ctx, filepath.Join(libexec, "uv"), "pip", "install", "--quiet", "--target", filepath.Join(dir, strconv.Itoa(i)), "--python-version", env.python,
			"--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:", "azureml-inference-server-http", "scikit-learn=="+env.sklearn).CombinedOutput()
		if err != nil {
			return fmt.Errorf("fetching scikit-learn %s: %w: %s", env.sklearn, err, out)
		}
	}
	return nil
}

func (b *bench) prepare(ctx context.Context) error {
	group := "/subscriptions/" + b.server.Info.SubscriptionID + "/resourceGroups/bench"
	workspace := group + "/providers/Microsoft.MachineLearningServices/workspaces/ws"
	for _, path := range []string{group, workspace} {
		if _, err := b.server.Put(ctx, path, ml, map[string]any{"location": "westeurope"}); err != nil {
			return err
		}
	}
	if _, err := b.server.Put(ctx, workspace+"/computes/aks", ml, map[string]any{"location": "westeurope", "properties": map[string]any{"computeType": "AKS", "properties": map[string]any{"clusterPurpose": "DevTest"}}}); err != nil {
		return err
	}
	var err error
	if b.ml, err = mlclient.Open(ctx, b.server.Client, workspace, ml); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "berth-bench-source-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is in the temporary folder
	path := filepath.Join(dir, "score.py")
	if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
		return err
	}
	_, files, err := mlclient.Tree(path)
	if err != nil {
		return err
	}
	b.source = map[string]any{"id": "score.py", "mimeType": "application/x-python", "url": "aml://artifact/" + mlclient.Origin + "/source/score.py"}
	return b.ml.Upload(ctx, "source", files, func(int64) {})
}

// deploy posts a web service and returns when its address answers with 200, with the time that took.
func (b *bench) deploy(ctx context.Context, name string, env setup, scaler map[string]any) (time.Duration, error) {
	body := map[string]any{
		"name": name, "computeType": "AKS", "computeName": "aks", "keys": map[string]any{"primaryKey": key},
		"environmentImageRequest": map[string]any{
			"assets": []any{b.source},
			"environment": map[string]any{
				"name": "bench", "environmentVariables": map[string]any{"AZUREML_ENTRY_SCRIPT": "score.py"},
				"python": map[string]any{"condaDependencies": map[string]any{"dependencies": []any{"python=" + env.python, map[string]any{"pip": []any{"azureml-inference-server-http", "scikit-learn==" + env.sklearn}}}}},
			},
		},
	}
	if body["numReplicas"] = 1; scaler != nil {
		delete(body, "numReplicas")
		body["autoScaler"] = scaler
	}
	start := time.Now()
	if _, err := b.ml.Do(ctx, http.MethodPost, b.ml.Models("/services"), nil, body); err != nil {
		return 0, err
	}
	uri := ""
	for range time.Tick(20 * time.Millisecond) {
		if uri == "" {
			service, err := b.ml.Get(ctx, b.ml.Models("/services/"+name), nil)
			if err != nil {
				return 0, err
			}
			if state, _ := service["state"].(string); state == "Failed" {
				return 0, fmt.Errorf("%s failed: %v", name, service["error"])
			}
			uri, _ = service["scoringUri"].(string)
		}
		if uri != "" && b.score(ctx, uri) == nil {
			return time.Since(start), nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return 0, ctx.Err()
}

func (b *bench) score(ctx context.Context, uri string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, uri, bytes.NewReader([]byte("2")))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	res, err := b.http.Do(req)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", res.Status, data)
	}
	return nil
}

func (b *bench) remove(ctx context.Context, name string) error {
	res, err := b.ml.Do(ctx, http.MethodDelete, b.ml.Models("/services/"+name), nil, nil)
	if err != nil {
		return err
	}
	return b.ml.Wait(ctx, res, func(string) {})
}

// wakeUp waits until a web service has no replica, and asks it something.
func (b *bench) wakeUp(ctx context.Context, name string) (time.Duration, error) {
	for range time.Tick(time.Second) {
		service, err := b.ml.Get(ctx, b.ml.Models("/services/"+name), nil)
		if err != nil {
			return 0, err
		}
		status, _ := service["deploymentStatus"].(map[string]any)
		if fmt.Sprintf("%v %v", status["desiredReplicas"], status["availableReplicas"]) != "0 0" {
			continue
		}
		uri, _ := service["scoringUri"].(string)
		start := time.Now()
		if err := b.score(ctx, uri); err != nil {
			return 0, fmt.Errorf("waking %s up: %w", name, err)
		}
		return time.Since(start), nil
	}
	return 0, ctx.Err()
}
