package service_test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/dataplane/build"
	"github.com/berthdev/berth/internal/dataplane/dataplanetest"
	"github.com/berthdev/berth/internal/dataplane/environment"
	"github.com/berthdev/berth/internal/dataplane/model"
	"github.com/berthdev/berth/internal/dataplane/service"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/route"
	"github.com/berthdev/berth/internal/serving"
	"github.com/berthdev/berth/internal/store"
)

const (
	mms = dataplane.ModelManagement
	ns  = "azureml-ws"

	atATime = 4 // builds
)

// server is a data plane with web services on a cluster in memory. The cluster runs no pods: tests say how they do.
type server struct {
	*dataplanetest.Server
	services *service.Service
	kube     *fake.Clientset
	images   *images
	registry *registry

	mu    sync.Mutex
	place service.Place
	lost  error // what finding the place ends in
}

// images stands in for the builder of environments.
type images struct {
	mu          sync.Mutex
	definitions []string // that were asked for
	err         error
	host        string        // of the images; "" means registry.test
	gate        chan struct{} // builds wait until it is closed
}

func (i *images) Environment(ctx context.Context, definition json.RawMessage, log func(string)) (image.Reference, error) {
	i.mu.Lock()
	i.definitions = append(i.definitions, string(definition))
	err, gate, host := i.err, i.gate, cmp.Or(i.host, "registry.test")
	i.mu.Unlock()
	log("Resolving|the # environment.")
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	log("Pushing.")
	return image.Reference(host + "/env@sha256:1"), err
}

// move gives images made from now on another registry.
func (i *images) move(host string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.host = host
}

func (i *images) Has(context.Context, image.Reference) (bool, error) { return true, nil }

func (i *images) fail(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.err = err
}

// begun waits until so many builds have begun, and returns how many did.
func (i *images) begun(n int) int {
	for {
		i.mu.Lock()
		have := len(i.definitions)
		i.mu.Unlock()
		if have >= n {
			return have
		}
		runtime.Gosched()
	}
}

// close makes builds wait for open.
func (i *images) close() (open func()) {
	gate := make(chan struct{})
	i.mu.Lock()
	defer i.mu.Unlock()
	i.gate = gate
	return sync.OnceFunc(func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.gate = nil
		close(gate)
	})
}

// registry keeps what images of files are made of.
type registry struct {
	mu     sync.Mutex
	images map[string]map[string]string // by repository and key: content by path
}

func (r *registry) Files(ctx context.Context, repo, key string, files []image.File) (image.Reference, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := repo + " " + key
	if r.images[id] == nil {
		content := map[string]string{}
		for _, f := range files {
			if strings.HasSuffix(f.Path, "/") {
				content[f.Path] = ""
				continue
			}
			src, err := f.Open(ctx)
			if err != nil {
				return "", fmt.Errorf("reading %s: %w", f.Path, err)
			}
			data, err := io.ReadAll(src)
			_ = src.Close() // it was only read
			if err != nil {
				return "", fmt.Errorf("reading %s: %w", f.Path, err)
			}
			content[f.Path] = string(data)
		}
		r.images[id] = content
	}
	sum := sha256.Sum256([]byte(id))
	return image.Reference("registry.test/" + repo + "@sha256:" + hex.EncodeToString(sum[:])), nil
}

// of is the content of the only image whose repository ends so.
func (r *registry) of(t *testing.T, suffix string) map[string]string {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []map[string]string
	for id, content := range r.images {
		if repo, _, _ := strings.Cut(id, " "); strings.HasSuffix(repo, suffix) {
			found = append(found, content)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d images of %s, want 1", len(found), suffix)
	}
	return found[0]
}

func start(t *testing.T) *server {
	t.Helper()
	s := &server{kube: fake.NewClientset(), images: &images{}, registry: &registry{images: map[string]map[string]string{}}}
	s.place = service.Place{Kubeconfig: []byte("config"), Namespace: ns, PullSecret: "pull", Address: "http://20.0.0.1:80"}
	s.Server = dataplanetest.Start(t, func(d *dataplanetest.Server) []dataplanetest.Noun {
		artifacts := &artifact.Service{Blobs: d.Blobs}
		models := &model.Service{Manager: d.Manager, Artifacts: artifacts}
		builds := &build.Builds{Manager: d.Manager, AtATime: atATime}
		environments := &environment.Service{Manager: d.Manager, Artifacts: artifacts, Images: s.images, Builds: builds, Logger: d.Manager.Logger}
		s.services = &service.Service{
			Manager: d.Manager, Models: models, Artifacts: artifacts, Images: s.images, Registry: s.registry, ScheduleWait: 5 * time.Minute, Builds: builds,
			Place: func(_ context.Context, compute armid.ID) (service.Place, error) {
				s.mu.Lock()
				defer s.mu.Unlock()
				if compute.Name() != "aks" {
					t.Errorf("a service was placed on %s", compute)
				}
				return s.place, s.lost
			},
			Open: s.open,
		}
		models.UsedBy = s.services.UsedBy
		return []dataplanetest.Noun{artifacts, models, environments, s.services}
	})
	t.Cleanup(s.services.Builds.Wait) // before the store closes
	s.compute("aks", resource.StateSucceeded)
	s.Upload("code", "score.py", "def run(data): return data", "driver.py", "generated")
	s.register("iris", "ScikitLearn")
	return s
}

func (s *server) open(kubeconfig []byte, namespace string) (*serving.Cluster, error) {
	if string(kubeconfig) != "config" || namespace != ns {
		s.T.Errorf("opened the namespace %s with %q", namespace, kubeconfig)
	}
	return serving.New(s.kube, namespace), nil
}

// restart gives what follows to a Berth that remembers only what is stored.
func (s *server) restart() {
	s.T.Helper()
	old := s.services
	fresh := &service.Service{
		Manager: old.Manager, Models: old.Models, Artifacts: old.Artifacts, Images: old.Images, Registry: old.Registry, ScheduleWait: old.ScheduleWait, Builds: &build.Builds{Manager: old.Manager, AtATime: atATime}, Place: old.Place, Open: s.open,
	}
	s.T.Cleanup(fresh.Builds.Wait)
	registry, err := resource.NewRegistry(append(old.Models.Types(), fresh.Types()...)...)
	s.check(err)
	s.Manager.Registry, s.services = registry, fresh
}

func (s *server) check(err error) {
	s.T.Helper()
	if err != nil {
		s.T.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// lose makes the place of web services one that cannot be had, nil for one that can.
func (s *server) lose(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = err
}

// frontEnd says where the front end is, and what it waits for.
func (s *server) frontEnd(address, waiting string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.place.Address, s.place.Waiting = address, waiting
}

func (s *server) compute(name, state string) {
	s.T.Helper()
	id := s.Workspace.Child("computes", name)
	s.check(s.Manager.Store.Update(s.T.Context(), func(tx store.Tx) error {
		return tx.Create(&store.Resource{Key: id.Key(), ID: id.String(), Type: strings.ToLower(id.Type()), Parent: s.Workspace.Key(), Spec: json.RawMessage(`{}`), State: state})
	}))
}

// register makes the next version of a model with one file.
func (s *server) register(name, framework string) {
	s.T.Helper()
	s.Upload("m-"+name, "model.pkl", "weights of "+name)
	asset := s.Want(200, "POST", mms, "/assets", fmt.Sprintf(`{"name":"m","artifacts":[{"prefix":"LocalUpload/m-%s/model.pkl"}]}`, name)).At("id")
	s.Want(200, "POST", mms, "/models", fmt.Sprintf(`{"name":%q,"url":"aml://asset/%s","mimeType":"application/json","framework":%q,"frameworkVersion":"1.3"}`, name, asset, framework))
}

type object = map[string]any

// deployment is what azureml-core sends to deploy a model with a script; more replaces fields, nil removes them.
func deployment(name string, more object) object {
	body := object{
		"name": name, "computeType": "AKS", "computeName": "aks", "deploymentType": "HttpRealtimeEndpoint", "location": nil, "description": nil, "kvTags": object{}, "properties": object{}, "keys": nil,
		"environmentImageRequest": imageRequest(nil), "numReplicas": 1, "imageId": nil,
		"containerResourceRequirements": object{"cpu": nil, "cpuLimit": nil, "memoryInGB": nil, "memoryInGBLimit": nil, "gpu": nil},
	}
	return with(body, more)
}

func with(body, more object) object {
	for k, v := range more {
		if body[k] = v; v == nil {
			delete(body, k)
		}
	}
	return body
}

func imageRequest(more object) object {
	return with(object{
		"driverProgram": "driver", "modelIds": []string{"iris:1"}, "models": []any{},
		"assets": []any{
			object{"id": "driver", "url": "aml://artifact/LocalUpload/code/driver.py", "mimeType": "application/x-python"},
			object{"id": "score.py", "url": "aml://artifact/LocalUpload/code/score.py", "mimeType": "application/octet-stream"},
		},
		"environment": env(nil),
	}, more)
}

func env(registry object) object {
	return object{"name": "e", "version": "1", "environmentVariables": object{"AZUREML_ENTRY_SCRIPT": "score.py", "COLOUR": "red"}, "docker": object{"baseImage": "base:1", "baseImageRegistry": registry}}
}

// endpoint is an AksEndpoint with versions.
func endpoint(name string, versions object) object {
	return object{"name": name, "computeType": "AKSENDPOINT", "computeName": "aks", "kvTags": object{}, "properties": object{}, "versions": versions}
}

// version is a version of an endpoint as azureml-core sends it: with what the endpoint says for all of them.
func version(more object) object {
	return with(deployment("v", object{"name": nil}), more)
}

func text(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// create asks for a deployment and returns its operation.
func (s *server) create(body object) string {
	s.T.Helper()
	return operationOf(s.Want(202, "POST", mms, "/services", text(body)))
}

func operationOf(r dataplanetest.Reply) string {
	at := r.Header.Get("Operation-Location")
	return at[strings.LastIndex(at, "/")+1:]
}

// deploy creates a web service and has it serve.
func (s *server) deploy(body object) {
	s.T.Helper()
	op := s.create(body)
	s.pass()
	s.serve()
	s.ended(op, "Succeeded")
}

// patch changes a web service: ops are pairs of a path and a value; nil removes.
func (s *server) patchBody(ops ...any) string {
	var out []object
	for i := 0; i < len(ops); i += 2 {
		if ops[i+1] == nil {
			out = append(out, object{"op": "remove", "path": ops[i]})
			continue
		}
		out = append(out, object{"op": "replace", "path": ops[i], "value": ops[i+1]})
	}
	return text(out)
}

func (s *server) patch(name string, ops ...any) string {
	s.T.Helper()
	return operationOf(s.Want(202, "PATCH", mms, "/services/"+name, s.patchBody(ops...)))
}

// update changes a web service and has it serve.
func (s *server) update(name string, ops ...any) {
	s.T.Helper()
	op := s.patch(name, ops...)
	s.pass()
	s.serve()
	s.ended(op, "Succeeded")
}

func (s *server) get(name string) dataplanetest.Reply {
	s.T.Helper()
	return s.Want(200, "GET", mms, "/services/"+name+"?expand=true", "")
}

func (s *server) operation(id string) dataplanetest.Reply {
	s.T.Helper()
	return s.Want(200, "GET", mms, "/operations/"+id, "")
}

// ended insists that an operation has come to a state.
func (s *server) ended(id, state string) dataplanetest.Reply {
	s.T.Helper()
	op := s.operation(id)
	if op.At("state") != state {
		s.T.Fatalf("the operation is not %s: %s", state, op.Raw)
	}
	return op
}

// is insists on a web service's state.
func (s *server) is(name, state string) dataplanetest.Reply {
	s.T.Helper()
	r := s.get(name)
	if r.At("state") != state {
		s.T.Errorf("%s is %v, want %s: %s", name, r.At("state"), state, r.Raw)
	}
	return r
}

// pass has the reconciler look at what is due until the builds have ended and it has seen them.
func (s *server) pass() {
	s.T.Helper()
	s.Due()
	s.services.Builds.Wait()
	s.Due()
}

// after lets time pass in one step.
func (s *server) after(d time.Duration) {
	s.T.Helper()
	s.Advance(d)
	s.pass()
}

// serve has all pods run that deployments ask for, and the reconciler see it.
func (s *server) serve() {
	s.T.Helper()
	for _, name := range s.deployments() {
		s.roll(name, nil)
	}
	s.after(20 * time.Second) // longer than any pause between two looks
}

func (s *server) deployments() []string {
	var out []string
	for _, d := range must(s.kube.AppsV1().Deployments(ns).List(s.T.Context(), metav1.ListOptions{})).Items {
		out = append(out, d.Name)
	}
	return out
}

func (s *server) kubeDeployment(name string) *appsv1.Deployment {
	s.T.Helper()
	d, err := s.kube.AppsV1().Deployments(ns).Get(s.T.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		s.T.Fatalf("the cluster has no deployment %s but %v", name, s.deployments())
	}
	s.check(err)
	return d
}

// roll has a deployment's pods run; change makes their numbers others.
func (s *server) roll(name string, change func(*appsv1.DeploymentStatus)) {
	s.T.Helper()
	d := s.kubeDeployment(name)
	n := *d.Spec.Replicas
	d.Status = appsv1.DeploymentStatus{Replicas: n, UpdatedReplicas: n, AvailableReplicas: n}
	if change != nil {
		change(&d.Status)
	}
	must(s.kube.AppsV1().Deployments(ns).UpdateStatus(s.T.Context(), d, metav1.UpdateOptions{}))
}

// pod gives a deployment one pod of its present template, in place of others, and no replica that serves.
func (s *server) pod(deployment string, change func(*corev1.Pod)) {
	s.T.Helper()
	s.roll(deployment, func(st *appsv1.DeploymentStatus) { st.AvailableReplicas = 0 })
	d := s.kubeDeployment(deployment)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: deployment + "-pod", Namespace: ns, Labels: d.Spec.Template.Labels, Annotations: d.Spec.Template.Annotations, CreationTimestamp: metav1.NewTime(s.Now())},
		Spec:       d.Spec.Template.Spec,
	}
	change(p)
	s.noPod(deployment)
	must(s.kube.CoreV1().Pods(ns).Create(s.T.Context(), p, metav1.CreateOptions{}))
}

func (s *server) noPod(deployment string) {
	s.T.Helper()
	err := s.kube.CoreV1().Pods(ns).Delete(s.T.Context(), deployment+"-pod", metav1.DeleteOptions{})
	if !apierrors.IsNotFound(err) {
		s.check(err)
	}
}

// crashed is a pod whose init() raised for the n-th time.
func (s *server) crashed(n int32) func(*corev1.Pod) {
	started := false
	return func(p *corev1.Pod) {
		ended := &corev1.ContainerStateTerminated{Reason: "Error", ExitCode: 3, Message: "KeyError: 'x'", FinishedAt: metav1.NewTime(s.Now())}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "model", Started: &started, RestartCount: n, LastTerminationState: corev1.ContainerState{Terminated: ended}}}
	}
}

func unschedulable(p *corev1.Pod) {
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/3 nodes are available: 3 Insufficient cpu."}}
}

// routeOf is a web service's route in the cluster.
func (s *server) routeOf(name string) *route.Route {
	s.T.Helper()
	secret, err := s.kube.CoreV1().Secrets(ns).Get(s.T.Context(), route.SecretName(name), metav1.GetOptions{})
	s.check(err)
	r, err := route.FromSecret(secret)
	s.check(err)
	return r
}

// keys are a web service's.
func (s *server) keys(name string) (primary, secondary string) {
	s.T.Helper()
	r := s.Want(200, "POST", mms, "/services/"+name+"/listkeys", "")
	primary, _ = r.At("primaryKey").(string)
	secondary, _ = r.At("secondaryKey").(string)
	return primary, secondary
}

func (s *server) variables(deployment string) map[string]string {
	s.T.Helper()
	out := map[string]string{}
	for _, e := range s.kubeDeployment(deployment).Spec.Template.Spec.Containers[0].Env {
		out[e.Name] = e.Value
	}
	return out
}

func sortedKeys[V any](m map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(m)), " ")
}

var getOptions = metav1.GetOptions{}

func (s *server) row(name string) *store.Resource {
	s.T.Helper()
	var row *store.Resource
	s.check(s.Manager.Store.View(s.T.Context(), func(tx store.ReadTx) (err error) {
		row, err = tx.Resource(s.Workspace.Child("services", name).Key())
		return err
	}))
	return row
}

// kubeObjects is all that Berth wrote into the cluster.
func (s *server) kubeObjects() []any {
	list := metav1.ListOptions{}
	return []any{
		must(s.kube.AppsV1().Deployments(ns).List(s.T.Context(), list)), must(s.kube.CoreV1().Services(ns).List(s.T.Context(), list)), must(s.kube.CoreV1().Secrets(ns).List(s.T.Context(), list)),
	}
}
