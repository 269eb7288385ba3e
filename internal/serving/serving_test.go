package serving_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/berthdev/berth/internal/route"
	"github.com/berthdev/berth/internal/serving"
)

const ns = "azureml-ws"

// bench is a cluster in memory, which runs no pods: tests say how they do.
type bench struct {
	*testing.T
	api     *fake.Clientset
	cluster *serving.Cluster
	written serving.Written
}

func newBench(t *testing.T) *bench {
	api := fake.NewClientset()
	return &bench{T: t, api: api, cluster: serving.New(api, ns), written: serving.Written{}}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// workload is a version of the web service iris, which has two replicas.
func workload(version string) serving.Workload {
	name := "iris"
	if version != "" {
		name += "-" + version
	}
	return serving.Workload{
		Name: name, Service: "iris", Version: version, Image: "registry.test/env@sha256:1", Command: []string{"serve", "score.py"}, Env: map[string]string{"B": "2", "A": "1"},
		Mounts: []serving.Mount{{Path: serving.AppRoot, Image: "registry.test/code@sha256:2"}, {Path: serving.ModelsRoot + "/m/1", Image: "registry.test/model@sha256:3"}},
		CPU:    0.1, CPULimit: 0.5, Memory: 0.5, MemoryMax: 1, Liveness: serving.Liveness{InitialDelay: 310, Period: 10, Timeout: 2, Success: 1, Failure: 3},
		Timeout: 60 * time.Second, PullSecret: "pull", Scale: route.Scale{Min: 2, Max: 2},
	}
}

func routeTo(workloads ...serving.Workload) *route.Route {
	r := &route.Route{Service: "iris", ID: "1", Auth: route.Auth{Mode: route.AuthNone}}
	for i, w := range workloads {
		r.Versions = append(r.Versions, route.Version{Name: w.Version, Workload: w.Name, Default: i == 0, MaxConcurrent: 1, Timeout: w.Timeout, MaxBody: route.MaxBody, Scale: w.Scale})
	}
	return r
}

func (b *bench) apply(workloads ...serving.Workload) {
	b.Helper()
	if err := b.cluster.Apply(b.Context(), workloads, b.written); err != nil {
		b.Fatal(err)
	}
}

// route has front ends follow a route to workloads.
func (b *bench) route(workloads ...serving.Workload) {
	b.Helper()
	if err := b.cluster.Route(b.Context(), routeTo(workloads...)); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) deployment(name string) *appsv1.Deployment {
	b.Helper()
	return must(b.api.AppsV1().Deployments(ns).Get(b.Context(), name, metav1.GetOptions{}))
}

// names are the objects of each kind that Apply makes.
func (b *bench) names() string {
	b.Helper()
	var out []string
	for _, d := range must(b.api.AppsV1().Deployments(ns).List(b.Context(), metav1.ListOptions{})).Items {
		out = append(out, "deployment/"+d.Name)
	}
	for _, s := range must(b.api.CoreV1().Services(ns).List(b.Context(), metav1.ListOptions{})).Items {
		out = append(out, "service/"+s.Name)
	}
	for _, p := range must(b.api.PolicyV1().PodDisruptionBudgets(ns).List(b.Context(), metav1.ListOptions{})).Items {
		out = append(out, "budget/"+p.Name)
	}
	for _, s := range must(b.api.CoreV1().Secrets(ns).List(b.Context(), metav1.ListOptions{})).Items {
		out = append(out, "secret/"+s.Name)
	}
	return strings.Join(out, " ")
}

// writes are what was done since the last call, in order, as verb/resource.
func (b *bench) writes() string {
	var out []string
	for _, a := range b.api.Actions() {
		if !slices.Contains([]string{"get", "list", "watch"}, a.GetVerb()) {
			out = append(out, a.GetVerb()+"/"+a.GetResource().Resource)
		}
	}
	b.api.ClearActions()
	return strings.Join(out, " ")
}

// Applying again what is there writes nothing, and every object can be found by the service's label.
func TestApplyIsIdempotent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.apply(workload(""))
	b.route(workload(""))
	if got, want := b.writes(), "create/services create/poddisruptionbudgets create/deployments create/secrets"; got != want {
		t.Errorf("wrote %q, want %q", got, want)
	}
	b.apply(workload(""))
	b.route(workload(""))
	if got := b.writes(); got != "" {
		t.Errorf("the second time wrote %q", got)
	}
	d := b.deployment("iris")
	for what, labels := range map[string]map[string]string{
		"deployment": d.Labels, "pods": d.Spec.Template.Labels,
		"service": must(b.api.CoreV1().Services(ns).Get(t.Context(), "iris", metav1.GetOptions{})).Labels,
		"budget":  must(b.api.PolicyV1().PodDisruptionBudgets(ns).Get(t.Context(), "iris", metav1.GetOptions{})).Labels,
		"route":   must(b.api.CoreV1().Secrets(ns).Get(t.Context(), "route-iris", metav1.GetOptions{})).Labels,
	} {
		if labels[route.ServiceLabel] != "iris" {
			t.Errorf("the %s has the labels %v", what, labels)
		}
	}
	for k, v := range d.Spec.Selector.MatchLabels {
		if d.Spec.Template.Labels[k] != v {
			t.Errorf("the deployment does not select its own pods: %v of %v", d.Spec.Selector.MatchLabels, d.Spec.Template.Labels)
		}
	}
}

// The route that is written is the one that front ends read, and it changes with what it says.
func TestRoute(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	w := workload("")
	for _, keys := range [][]string{{"one", "two"}, {"one", "three"}} {
		r := routeTo(w)
		r.Auth = route.Auth{Mode: route.AuthKey, Keys: keys}
		if err := b.cluster.Route(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		secret := must(b.api.CoreV1().Secrets(ns).Get(t.Context(), "route-iris", metav1.GetOptions{}))
		if got, err := route.FromSecret(secret); err != nil || !got.Equal(r) || secret.Type != route.SecretType {
			t.Errorf("the cluster has the route %+v (%v), want %+v", got, err, r)
		}
	}
	broken := routeTo(w)
	broken.Versions[0].MaxConcurrent = 0
	if err := b.cluster.Route(t.Context(), broken); err == nil || !strings.Contains(err.Error(), "the route of iris") {
		t.Errorf("a route that breaks a rule: %v", err)
	}
}

// A version that is gone goes from the cluster when it is told so, and not before; what other services have stays.
func TestPrune(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	other := workload("")
	other.Name, other.Service = "other", "other"
	b.apply(other, workload("v1"), workload("v2"))
	b.route(workload("v1"), workload("v2"))
	if err := b.cluster.Route(t.Context(), &route.Route{Service: "other", Auth: route.Auth{Mode: route.AuthNone}}); err != nil {
		t.Fatal(err)
	}
	if got := b.deployment("iris-v2").Spec.Template.Labels[route.VersionLabel]; got != "v2" {
		t.Errorf("the version's label is %q", got)
	}
	b.writes()
	b.apply(workload("v1"))
	b.route(workload("v1"))
	if got, want := b.writes(), "update/secrets"; got != want {
		t.Errorf("wrote %q, want %q", got, want)
	}
	if err := b.cluster.Prune(t.Context(), "iris", []serving.Workload{workload("v1")}, b.written); err != nil {
		t.Fatal(err)
	}
	if got, want := b.writes(), "delete/deployments delete/services delete/poddisruptionbudgets"; got != want {
		t.Errorf("wrote %q, want %q", got, want)
	}
	if _, ok := b.written["deployment/iris-v2"]; ok || b.written["deployment/iris-v1"] == "" {
		t.Errorf("remembered is %v", b.written)
	}
	if got, want := b.names(), "deployment/iris-v1 deployment/other service/iris-v1 service/other budget/iris-v1 budget/other secret/route-iris secret/route-other"; got != want {
		t.Errorf("there are %q, want %q", got, want)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "iris-v1-x", Namespace: ns, Labels: map[string]string{route.ServiceLabel: "iris"}}}
	must(b.api.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}))
	b.writes()
	if done, err := b.cluster.Remove(t.Context(), "iris"); done || err != nil {
		t.Errorf("with a pod left, Remove says %v, %v", done, err)
	}
	if got := b.writes(); !strings.HasPrefix(got, "delete/secrets ") {
		t.Errorf("removing wrote %q; the route goes first", got)
	}
	if err := b.api.CoreV1().Pods(ns).Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time, too, when nothing is there
		if done, err := b.cluster.Remove(t.Context(), "iris"); !done || err != nil {
			t.Errorf("Remove says %v, %v", done, err)
		}
	}
	if got, want := b.names(), "deployment/other service/other budget/other secret/route-other"; got != want {
		t.Errorf("there are %q, want %q", got, want)
	}
}

// What fails says which part it was.
func TestApplyErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ verb, resource, want string }{
		{"create", "services", "the Kubernetes service of iris: "}, {"create", "deployments", "the deployment of iris: "}, {"create", "secrets", "the route of iris: "},
		{"get", "deployments", "the deployment of iris: "}, {"get", "secrets", "the route of iris: "}, {"get", "poddisruptionbudgets", "the disruption budget of iris: "},
	} {
		b := newBench(t)
		broken := errors.New("no")
		b.api.PrependReactor(tt.verb, tt.resource, func(kubetesting.Action) (bool, runtime.Object, error) { return true, nil, broken })
		err := b.cluster.Apply(t.Context(), []serving.Workload{workload("")}, b.written)
		if err == nil {
			err = b.cluster.Route(t.Context(), routeTo(workload("")))
		}
		if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s %s: %v, want %s", tt.verb, tt.resource, err, tt.want)
		}
		if got := serving.Refusal(err); got != "" {
			t.Errorf("%s %s is taken for final: %s", tt.verb, tt.resource, got)
		}
	}
}

// What Kubernetes refuses for good is told from what may pass.
func TestRefusal(t *testing.T) {
	t.Parallel()
	kind := schema.GroupResource{Group: "apps", Resource: "deployments"}
	ending := apierrors.NewForbidden(kind, "iris", errors.New("unable to create new content in namespace x because it is being terminated"))
	ending.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{apierrors.NewInvalid(schema.GroupKind{Group: "apps", Kind: "Deployment"}, "iris", nil), `Deployment.apps "iris" is invalid`},
		{apierrors.NewForbidden(kind, "iris", errors.New("exceeded quota: team")), "exceeded quota: team"},
		{apierrors.NewBadRequest("admission webhook denied the request"), "admission webhook denied the request"},
		{apierrors.NewRequestEntityTooLargeError("limit is 3145728"), "limit is 3145728"},
		{apierrors.NewConflict(kind, "iris", errors.New("changed")), ""}, {apierrors.NewInternalError(errors.New("etcd")), ""}, {ending, ""}, {nil, ""},
	} {
		b := newBench(t)
		b.api.PrependReactor("create", "deployments", func(kubetesting.Action) (bool, runtime.Object, error) { return tt.err != nil, nil, tt.err })
		if got := serving.Refusal(b.cluster.Apply(t.Context(), []serving.Workload{workload("")}, b.written)); tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%v: %q, want %q", tt.err, got, tt.want)
		}
	}
}

// What others change of a web service's objects is taken back, also what they add or take away. The containers' resources
// are the cluster's owner's to change, and pods are not made anew for what is in them already.
func TestDrift(t *testing.T) {
	t.Parallel()
	deployment := func(change func(*appsv1.Deployment)) func(*bench) {
		return func(b *bench) {
			d := b.deployment("iris")
			change(d)
			must(b.api.AppsV1().Deployments(ns).Update(b.Context(), d, metav1.UpdateOptions{}))
		}
	}
	service := func(change func(*corev1.Service)) func(*bench) {
		return func(b *bench) {
			s := must(b.api.CoreV1().Services(ns).Get(b.Context(), "iris", metav1.GetOptions{}))
			change(s)
			must(b.api.CoreV1().Services(ns).Update(b.Context(), s, metav1.UpdateOptions{}))
		}
	}
	for _, tt := range []struct {
		name, want string
		change     func(*bench)
	}{
		{"a variable more", "update/deployments", deployment(func(d *appsv1.Deployment) {
			c := &d.Spec.Template.Spec.Containers[0]
			c.Env = append(c.Env, corev1.EnvVar{Name: "X", Value: "y"})
		})},
		{"host network", "update/deployments", deployment(func(d *appsv1.Deployment) { d.Spec.Template.Spec.HostNetwork = true })},
		{"another image", "update/deployments", deployment(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "other" })},
		{"no probe", "update/deployments", deployment(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].StartupProbe = nil })},
		{"no label", "update/deployments", deployment(func(d *appsv1.Deployment) { d.Labels = nil })},
		{"paused", "update/deployments", deployment(func(d *appsv1.Deployment) { d.Spec.Paused = true })},
		{"replicas", "update/deployments", deployment(func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32) })},
		{"resources", "", deployment(func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("2")
		})},
		{"port", "update/services", service(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(1) })},
		{"selector", "update/services", service(func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "mine"} })},
		{"no budget", "create/poddisruptionbudgets", func(b *bench) {
			must("", b.api.PolicyV1().PodDisruptionBudgets(ns).Delete(b.Context(), "iris", metav1.DeleteOptions{}))
		}},
		{"what the cluster says of it", "", deployment(func(d *appsv1.Deployment) {
			d.Annotations["deployment.kubernetes.io/revision"], d.Status.Replicas = "1", 1
		})},
		{"an earlier Berth", "update/deployments", deployment(func(d *appsv1.Deployment) { d.Annotations["berth.dev/spec"] = "of another release" })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.apply(workload(""))
			before := b.deployment("iris")
			tt.change(b)
			b.writes()
			b.apply(workload(""))
			if got := b.writes(); got != tt.want {
				t.Errorf("wrote %q, want %q", got, tt.want)
			}
			b.apply(workload(""))
			if got := b.writes(); got != "" {
				t.Errorf("then it wrote %q", got)
			}
			if after := b.deployment("iris"); tt.want == "update/deployments" {
				if diff := cmp.Diff(before.Spec, after.Spec); diff != "" {
					t.Errorf("the deployment is not what it was (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// What Berth knows of earlier writes may be lost: each object is written once more then, as it is.
func TestDriftUnknown(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.apply(workload(""))
	before := b.deployment("iris")
	b.written = serving.Written{}
	b.writes()
	b.apply(workload(""))
	if got, want := b.writes(), "update/services update/poddisruptionbudgets update/deployments"; got != want {
		t.Errorf("wrote %q, want %q", got, want)
	}
	if diff := cmp.Diff(before.Spec, b.deployment("iris").Spec); diff != "" {
		t.Errorf("the deployment changed (-want +got):\n%s", diff)
	}
	b.apply(workload(""))
	if got := b.writes(); got != "" {
		t.Errorf("then it wrote %q", got)
	}
}

// A name that another web service's objects still have is waited for.
func TestNameOfAnother(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	other := workload("")
	other.Service = "other"
	b.apply(other)
	err := b.cluster.Apply(t.Context(), []serving.Workload{workload("")}, serving.Written{})
	if err == nil || !strings.Contains(err.Error(), "still the web service other's") || serving.Refusal(err) != "" {
		t.Errorf("it says %v", err)
	}
}

// A drain of nodes takes one replica at a time, and is not held up by one that does not serve.
func TestBudget(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.apply(workload("v1"))
	p := must(b.api.PolicyV1().PodDisruptionBudgets(ns).Get(t.Context(), "iris-v1", metav1.GetOptions{}))
	if p.Spec.MaxUnavailable.IntValue() != 1 || p.Spec.MinAvailable != nil || *p.Spec.UnhealthyPodEvictionPolicy != policyv1.AlwaysAllow {
		t.Errorf("the budget is %+v", p.Spec)
	}
	if diff := cmp.Diff(b.deployment("iris-v1").Spec.Selector, p.Spec.Selector); diff != "" {
		t.Errorf("it is for other pods than the deployment's (-want +got):\n%s", diff)
	}
}

// A pod that is to be made anew is started before an old one ends, unless the cluster has no room for that.
func TestRollingUpdate(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, tt := range []struct {
		inPlace            bool
		unavailable, surge int
	}{{false, 0, 1}, {true, 1, 0}, {false, 0, 1}} {
		w := workload("")
		w.InPlace = tt.inPlace
		b.apply(w)
		d := b.deployment("iris")
		r := d.Spec.Strategy.RollingUpdate
		if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || r.MaxUnavailable.IntValue() != tt.unavailable || r.MaxSurge.IntValue() != tt.surge {
			t.Errorf("in place %v: %s, maxUnavailable %v, maxSurge %v", tt.inPlace, d.Spec.Strategy.Type, r.MaxUnavailable, r.MaxSurge)
		}
	}
	before := b.deployment("iris")
	w := workload("")
	w.Env = map[string]string{"A": "other"}
	b.apply(w)
	after := b.deployment("iris")
	const spec = "berth.dev/spec"
	if before.Annotations[spec] == after.Annotations[spec] || before.Spec.Template.Annotations[spec] == after.Spec.Template.Annotations[spec] || after.Spec.Template.Spec.Containers[0].Env[0].Value != "other" {
		t.Errorf("a changed variable leaves the pods as they are: %v, %v", before.Annotations, after.Annotations)
	}
}

// The replicas of a version with an autoscaler are the autoscaler's, within their bounds.
func TestReplicas(t *testing.T) {
	t.Parallel()
	auto := func(low, high int) route.Scale {
		return route.Scale{Auto: true, Min: low, Max: high, Utilization: 70, Refresh: time.Second}
	}
	fixed := func(n int) route.Scale { return route.Scale{Min: n, Max: n} }
	for _, tt := range []struct {
		name   string
		have   int32 // replicas that somebody else set
		scale  route.Scale
		change bool // something of the pods changes, too
		want   int32
	}{
		{"in bounds", 5, auto(1, 10), false, 5},
		{"in bounds, new pods", 5, auto(1, 10), true, 5},
		{"too few", 1, auto(3, 10), false, 3},
		{"too many", 9, auto(1, 4), false, 4},
		{"too many, new pods", 9, auto(1, 4), true, 4},
		{"asleep", 0, auto(0, 4), true, 0},
		{"fixed", 5, fixed(2), false, 2},
		{"fixed, new pods", 5, fixed(3), true, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			w := workload("")
			w.Scale = auto(1, 10)
			b.apply(w)
			if got := *b.deployment("iris").Spec.Replicas; got != 1 {
				t.Errorf("it begins with %d replicas, want the least", got)
			}
			d := b.deployment("iris")
			d.Spec.Replicas = &tt.have
			must(b.api.AppsV1().Deployments(ns).Update(t.Context(), d, metav1.UpdateOptions{}))
			w.Scale = tt.scale
			if tt.change {
				w.Image += "0"
			}
			b.apply(w)
			if got := *b.deployment("iris").Spec.Replicas; got != tt.want {
				t.Errorf("%d replicas, want %d", got, tt.want)
			}
		})
	}
}

// A model pod passes the Restricted pod security standard: the namespace refuses others.
func TestRestricted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.apply(workload(""))
	p := b.deployment("iris").Spec.Template.Spec
	if s := p.SecurityContext; !*s.RunAsNonRoot || *s.RunAsUser == 0 || *s.RunAsGroup == 0 || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the pod's security context is %+v", s)
	}
	if *p.AutomountServiceAccountToken || *p.EnableServiceLinks || p.HostNetwork || p.HostPID || p.HostIPC {
		t.Errorf("the pod gets what is not its own: %+v", p)
	}
	c := p.Containers[0]
	if s := c.SecurityContext; *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" || len(s.Capabilities.Add) > 0 || s.Privileged != nil {
		t.Errorf("the container's security context is %+v", s)
	}
	for _, v := range p.Volumes {
		if v.EmptyDir == nil && v.Image == nil {
			t.Errorf("the volume %s is of a kind that the standard does not allow, or the product does not need", v.Name)
		}
	}
	if grace := *p.TerminationGracePeriodSeconds; grace <= 60 {
		t.Errorf("a pod that stops has %d s, and its requests may take 60 s", grace)
	}
}

// Code and models are volumes of images, read-only; /tmp is all that a model can write to.
func TestPod(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	w := workload("")
	w.GPU = 2
	b.apply(w)
	p := b.deployment("iris").Spec.Template.Spec
	c := p.Containers[0]
	type mount struct {
		path, image string
		readOnly    bool
	}
	var mounts []mount
	for _, m := range c.VolumeMounts {
		at := slices.IndexFunc(p.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		image := ""
		if v := p.Volumes[at]; v.Image != nil {
			image = v.Image.Reference
		}
		mounts = append(mounts, mount{m.MountPath, image, m.ReadOnly})
	}
	want := []mount{
		{"/tmp", "", false}, {"/var/azureml-app", "registry.test/code@sha256:2", true}, {"/var/azureml-app/azureml-models/m/1", "registry.test/model@sha256:3", true},
	}
	if diff := cmp.Diff(want, mounts, cmp.AllowUnexported(mount{})); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}}, c.Env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if c.Image != w.Image || !slices.Equal(c.Command, w.Command) || c.WorkingDir != serving.AppRoot || len(p.ImagePullSecrets) != 1 || p.ImagePullSecrets[0].Name != "pull" {
		t.Errorf("the container is %+v with the pull secrets %v", c, p.ImagePullSecrets)
	}
	amount := func(list corev1.ResourceList, name corev1.ResourceName) string { q := list[name]; return q.String() }
	for _, tt := range []struct{ what, got, want string }{
		{"cpu", amount(c.Resources.Requests, "cpu"), "100m"}, {"cpuLimit", amount(c.Resources.Limits, "cpu"), "500m"},
		{"memory", amount(c.Resources.Requests, "memory"), "512Mi"}, {"memoryLimit", amount(c.Resources.Limits, "memory"), "1Gi"},
		{"gpu", amount(c.Resources.Limits, "nvidia.com/gpu"), "2"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s is %s, want %s", tt.what, tt.got, tt.want)
		}
	}
	if tmp := p.Volumes[0].EmptyDir; tmp == nil || tmp.SizeLimit == nil || tmp.SizeLimit.String() != "10Gi" {
		t.Errorf("/tmp is %+v; what fills a node's disk ends other pods", tmp)
	}
	// gunicorn takes connections before init() returns, so a probe of a script that hangs lasts as long as its timeout.
	if s := c.StartupProbe; s.FailureThreshold*max(s.PeriodSeconds, s.TimeoutSeconds) != 310 || s.HTTPGet.Path != "/" || s.HTTPGet.Port != intstr.FromInt32(5001) {
		t.Errorf("init() has %d s; the probe is %+v", s.FailureThreshold*s.PeriodSeconds, s)
	}
	if l := c.LivenessProbe; l.PeriodSeconds != 10 || l.TimeoutSeconds != 2 || l.FailureThreshold != 3 || l.TCPSocket == nil {
		t.Errorf("the liveness probe is %+v", l)
	}
	if c.Lifecycle.PreStop.Sleep.Seconds < 1 || c.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
		t.Errorf("lifecycle %+v, messages %s", c.Lifecycle, c.TerminationMessagePolicy)
	}
	s := must(b.api.CoreV1().Services(ns).Get(t.Context(), "iris", metav1.GetOptions{}))
	if s.Spec.ClusterIP != corev1.ClusterIPNone || !s.Spec.PublishNotReadyAddresses || s.Spec.Ports[0].TargetPort != intstr.FromInt32(5001) {
		t.Errorf("the service is %+v", s.Spec)
	}
	w = workload("")
	w.CPULimit, w.MemoryMax, w.PullSecret = 0, 0, ""
	b.apply(w)
	if p := b.deployment("iris").Spec.Template.Spec; len(p.Containers[0].Resources.Limits) != 0 || len(p.ImagePullSecrets) != 0 {
		t.Errorf("limits that nobody gave: %v; pull secrets %v", p.Containers[0].Resources.Limits, p.ImagePullSecrets)
	}
}

// A kubeconfig that cannot be read is refused without a word of what is in it.
func TestOpen(t *testing.T) {
	t.Parallel()
	for _, config := range []string{"SECRETTEXT", "users: [{name: a, user: {token: SECRETTEXT}}]\nclusters: 7"} {
		if _, err := serving.Open([]byte(config), ns); err == nil || strings.Contains(err.Error(), "SECRETTEXT") {
			t.Errorf("%q: %v", config, err)
		}
	}
}

var since = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// pod adds a pod of the service's present template.
func (b *bench) pod(name string, age time.Duration, change func(p *corev1.Pod)) {
	b.Helper()
	d := b.deployment("iris")
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns, Labels: d.Spec.Template.Labels, Annotations: d.Spec.Template.Annotations, CreationTimestamp: metav1.NewTime(since.Add(-age))},
		Spec:       *d.Spec.Template.Spec.DeepCopy(),
	}
	if change != nil {
		change(p)
	}
	must(b.api.CoreV1().Pods(ns).Create(b.Context(), p, metav1.CreateOptions{}))
}

// status says how the deployment does.
func (b *bench) status(s appsv1.DeploymentStatus) {
	b.Helper()
	d := b.deployment("iris")
	d.Status = s
	must(b.api.AppsV1().Deployments(ns).UpdateStatus(b.Context(), d, metav1.UpdateOptions{}))
}

func (b *bench) observe() serving.Observation {
	b.Helper()
	return must(b.cluster.Observe(b.Context(), "iris", true))
}

func TestObserveCounts(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if o := b.observe(); o.Exists {
		t.Errorf("what was never applied is %+v", o)
	}
	b.apply(workload(""))
	for _, tt := range []struct {
		name   string
		status appsv1.DeploymentStatus
		want   serving.Observation
	}{
		{"nothing yet", appsv1.DeploymentStatus{}, serving.Observation{Exists: true, Desired: 2}},
		{"one of two", appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 1}, serving.Observation{Exists: true, Desired: 2, Updated: 2, Available: 1}},
		{"an old one is left", appsv1.DeploymentStatus{Replicas: 3, UpdatedReplicas: 2, AvailableReplicas: 3}, serving.Observation{Exists: true, Desired: 2, Updated: 2, Available: 3}},
		{"all", appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2}, serving.Observation{Exists: true, Desired: 2, Updated: 2, Available: 2, RolledOut: true}},
	} {
		b.status(tt.status)
		if diff := cmp.Diff(tt.want, b.observe()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	d := b.deployment("iris")
	d.Generation = 7 // Kubernetes has not seen this change yet
	must(b.api.AppsV1().Deployments(ns).Update(t.Context(), d, metav1.UpdateOptions{}))
	if o := b.observe(); o.RolledOut {
		t.Errorf("a change that Kubernetes has not seen is rolled out: %+v", o)
	}
}

func at(d time.Duration) metav1.Time { return metav1.NewTime(since.Add(d)) }

// ran is the state of a container that ended.
func ran(reason string, code int32, message string) *corev1.ContainerStateTerminated {
	return &corev1.ContainerStateTerminated{Reason: reason, ExitCode: code, Message: message, StartedAt: at(0), FinishedAt: at(time.Minute)}
}

// hung is the state of a container that was ended after a while.
func hung(after time.Duration) *corev1.ContainerStateTerminated {
	return &corev1.ContainerStateTerminated{Reason: "Error", ExitCode: 137, StartedAt: at(0), FinishedAt: at(after)}
}

func container(s corev1.ContainerStatus) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		s.Name = "model"
		if s.Image == "" {
			s.Image = "registry.test/env@sha256:1"
		}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{s}
	}
}

func waitingFor(reason, message string) func(*corev1.Pod) {
	return container(corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}})
}

// The state of a pod says what keeps it from serving, and the message what to do about it.
func TestObserveProblems(t *testing.T) {
	t.Parallel()
	no, yes := false, true
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Now().Add(-time.Minute))}}
	for _, tt := range []struct {
		name  string
		pod   func(*corev1.Pod)
		log   string
		code  string // "" for no problem
		times int
		since time.Time
		texts []string
	}{
		{"starts", container(corev1.ContainerStatus{State: running, Started: &no}), "loading", "", 0, time.Time{}, nil},
		{"init() raised", container(corev1.ContainerStatus{
			Started: &no, RestartCount: 2, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
			LastTerminationState: corev1.ContainerState{Terminated: ran("Error", 3, "ModuleNotFoundError: xgboost\n")},
		}), "", serving.CrashLoopBackOff, 2, since.Add(time.Minute), []string{
			"Your container application crashed. This may be caused by errors in your scoring file's init() function.", "exit code 3", "get_logs()", "ModuleNotFoundError: xgboost",
		}},
		{"init() hung", container(corev1.ContainerStatus{
			Started: &no, RestartCount: 1, State: running, LastTerminationState: corev1.ContainerState{Terminated: hung(312 * time.Second)},
		}), "", serving.CrashLoopBackOff, 1, since.Add(312 * time.Second), []string{"Your container application crashed.", "init() had not returned after 5m10s", "initial_delay_seconds"}},
		{"init() raised in the last moment", container(corev1.ContainerStatus{Started: &no, RestartCount: 1, State: running, LastTerminationState: corev1.ContainerState{Terminated: hung(310 * time.Second)}}), "",
			serving.CrashLoopBackOff, 1, since.Add(310 * time.Second), []string{"exit code 137"}},
		{"the first crash", container(corev1.ContainerStatus{Started: &no, State: corev1.ContainerState{Terminated: ran("Error", 3, "")}}), "",
			serving.CrashLoopBackOff, 1, since.Add(time.Minute), []string{"exit code 3"}},
		{"out of memory", container(corev1.ContainerStatus{Started: &no, RestartCount: 3, State: running, LastTerminationState: corev1.ContainerState{Terminated: ran("OOMKilled", 137, "loading")}}), "",
			serving.OutOfMemory, 3, since.Add(time.Minute), []string{"limit (1Gi)", "memory_gb_limit", "loading"}},
		{"the worker was out of memory", container(corev1.ContainerStatus{Started: &no, State: running}), "[ERROR] Worker (pid:9) was sent SIGKILL! Perhaps out of memory?\nagain: Perhaps out of memory?\n",
			serving.OutOfMemory, 2, time.Time{}, []string{"limit (1Gi)", "memory_gb_limit"}},
		{"the worker was out of memory and came back", container(corev1.ContainerStatus{Started: &yes, Ready: true, State: running}), "Perhaps out of memory?", "", 0, time.Time{}, nil},
		{"only just started", container(corev1.ContainerStatus{Started: &no, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}}), "Perhaps out of memory?", "", 0, time.Time{}, nil},
		{"serves after a crash", container(corev1.ContainerStatus{Started: &yes, Ready: true, RestartCount: 4, State: running, LastTerminationState: corev1.ContainerState{Terminated: ran("OOMKilled", 137, "")}}), "", "", 0, time.Time{}, nil},
		{"no image", waitingFor("ImagePullBackOff", "not found"), "", serving.InaccessibleImage, 0, since.Add(-time.Hour), []string{"registry.test/env@sha256:1", "not found"}},
		{"no image yet", waitingFor("ErrImagePull", "refused"), "", serving.InaccessibleImage, 0, since.Add(-time.Hour), []string{"refused"}},
		{"no name of an image", waitingFor("InvalidImageName", "bad"), "", serving.InaccessibleImage, 0, since.Add(-time.Hour), []string{"bad"}},
		{"no container", waitingFor("CreateContainerConfigError", "secret is missing"), "", serving.Refused, 0, since.Add(-time.Hour), []string{"CreateContainerConfigError", "secret is missing"}},
		{"no start", container(corev1.ContainerStatus{State: corev1.ContainerState{Terminated: ran("StartError", 128, "no such file: python3")}}), "",
			serving.Refused, 0, since.Add(-time.Hour), []string{"not the model's", "no such file: python3"}},
		{"is being made", waitingFor("ContainerCreating", ""), "", "", 0, time.Time{}, nil},
		{"evicted", func(p *corev1.Pod) {
			container(corev1.ContainerStatus{Started: &no, State: corev1.ContainerState{Terminated: ran("Error", 137, "")}})(p)
			p.Status.Phase, p.Status.Reason = corev1.PodFailed, "Evicted"
		}, "", "", 0, time.Time{}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.apply(workload(""))
			b.pod("iris-1", time.Hour, tt.pod)
			b.logs(tt.log, "")
			p := b.observe().Problem
			if tt.code == "" {
				if p != nil {
					t.Errorf("a problem is seen: %+v", p)
				}
				return
			}
			if p == nil || p.Code != tt.code || p.Times != tt.times || !tt.since.IsZero() && !p.Since.Equal(tt.since) || p.Since.IsZero() {
				t.Fatalf("seen: %+v, want %s %d times since %v", p, tt.code, tt.times, tt.since)
			}
			for _, text := range tt.texts {
				if !strings.Contains(p.Message, text) {
					t.Errorf("the message lacks %q: %s", text, p.Message)
				}
			}
		})
	}
}

// A pod without room says what each node has left, and what happened to it is passed on.
func TestObserveUnschedulable(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.apply(workload(""))
	capacity := corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi")}
	must(b.api.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-0"}, Status: corev1.NodeStatus{Allocatable: capacity}}, metav1.CreateOptions{}))
	other := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "other", Namespace: "elsewhere"}, Spec: corev1.PodSpec{NodeName: "node-0", Containers: []corev1.Container{
		{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("2500m"), "memory": resource.MustParse("6Gi")}}},
	}}}
	must(b.api.CoreV1().Pods("elsewhere").Create(t.Context(), other, metav1.CreateOptions{}))
	b.pod("iris-1", time.Hour, func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/1 nodes are available: 1 Insufficient cpu."}}
	})
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: ns}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "iris-1"}, Type: "Warning", Reason: "FailedScheduling", Message: "0/1 nodes",
		EventTime: metav1.NewMicroTime(since),
	}
	must(b.api.CoreV1().Events(ns).Create(t.Context(), event, metav1.CreateOptions{}))
	b.api.ClearActions()
	p := b.observe().Problem
	for _, a := range b.api.Actions() {
		if a.GetResource().Resource == "nodes" || a.GetNamespace() != ns {
			t.Errorf("a look does %s %s of the whole cluster", a.GetVerb(), a.GetResource().Resource)
		}
	}
	if p == nil {
		t.Fatal("nothing is seen")
	}
	b.cluster.Explain(t.Context(), p)
	if p.Code != serving.Unschedulable || !p.Since.Equal(since.Add(-time.Hour)) {
		t.Fatalf("seen: %+v", p)
	}
	for _, text := range []string{"1 Insufficient cpu", "node-0 1.50 CPU cores and 2.0 GB", "cpu_cores", "memory_gb", "add nodes"} {
		if !strings.Contains(p.Message, text) {
			t.Errorf("the message lacks %q: %s", text, p.Message)
		}
	}
	want := []serving.Event{{InvolvedObject: "iris-1", InvolvedKind: "Pod", Type: "Warning", Reason: "FailedScheduling", Message: "0/1 nodes", LastTimestamp: "2026-06-01T12:00:00Z"}}
	if diff := cmp.Diff(want, p.Events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// Where there are no pods to have trouble, Kubernetes says why it made none.
func TestObserveQuota(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.apply(workload(""))
	b.status(appsv1.DeploymentStatus{Conditions: []appsv1.DeploymentCondition{{
		Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Message: "exceeded quota: team", LastTransitionTime: at(0),
	}}})
	if p := b.observe().Problem; p == nil || p.Code != serving.Refused || !strings.Contains(p.Message, "exceeded quota: team") || !p.Since.Equal(since) {
		t.Errorf("seen: %+v", p)
	}
}

// Pods of an older template, and those on their way out, say nothing of the present one.
func TestObserveOnlyPresentPods(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.apply(workload(""))
	crashed := waitingFor("ImagePullBackOff", "not found")
	b.pod("old", time.Hour, func(p *corev1.Pod) {
		crashed(p)
		p.Annotations = map[string]string{"berth.dev/spec": "another"}
	})
	b.pod("ending", time.Hour, func(p *corev1.Pod) {
		crashed(p)
		now := at(0)
		p.DeletionTimestamp, p.Finalizers = &now, []string{"x/y"}
	})
	b.pod("good", time.Minute, nil)
	if o := b.observe(); o.Problem != nil {
		t.Errorf("seen: %+v", o.Problem)
	}
}

// logs gives containers something to have said: those that run, and those before them. "" is a log that is gone.
func (b *bench) logs(now, before string) {
	b.api.PrependReactor("get", "pods/log", func(a kubetesting.Action) (bool, runtime.Object, error) {
		o := a.(kubetesting.GenericAction).GetValue().(*corev1.PodLogOptions)
		said := now
		if o.Previous {
			said = before
		}
		if said == "" || o.Container != "model" {
			return true, nil, errors.New("there is no such log")
		}
		lines := strings.Split(said, "\n")
		return true, &runtime.Unknown{Raw: []byte(strings.Join(lines[max(0, len(lines)-int(*o.TailLines)):], "\n"))}, nil
	})
}

func TestLogs(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	logs := func(tail int64) string { return must(b.cluster.Logs(t.Context(), "iris", tail, 1<<20)) }
	if got := logs(10); got != "" {
		t.Errorf("without a deployment: %q", got)
	}
	b.apply(workload(""))
	b.logs("a\nb\nc", "")
	if got := logs(10); got != "" {
		t.Errorf("without pods: %q", got)
	}
	b.pod("iris-1", time.Hour, nil)
	if got := logs(10); got != "a\nb\nc" {
		t.Errorf("one pod: %q", got)
	}
	if got := logs(1); got != "c" {
		t.Errorf("its last line: %q", got)
	}
	b.pod("iris-2", time.Minute, nil)
	if got, want := logs(1), "==> iris-1 <==\nc==> iris-2 <==\nc"; got != want {
		t.Errorf("two pods: %q, want %q", got, want)
	}
}

// Of a container that was started again, what the one before said is told first: it has the traceback.
func TestLogsOfCrashes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.apply(workload(""))
	b.pod("iris-1", time.Hour, container(corev1.ContainerStatus{RestartCount: 3}))
	b.logs("starting\n", "Traceback\n")
	got, want := must(b.cluster.Logs(t.Context(), "iris", 100, 1<<20)), "Traceback\n--- the container was started again (3 times) ---\nstarting\n"
	if got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A container that has said nothing, or that is gone already, is no error.
func TestLogsThatAreGone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.apply(workload(""))
	b.pod("iris-1", time.Hour, container(corev1.ContainerStatus{RestartCount: 1}))
	b.logs("starting\n", "")
	if got := must(b.cluster.Logs(t.Context(), "iris", 100, 1<<20)); !strings.HasSuffix(got, "starting\n") {
		t.Errorf("%q", got)
	}
}

// Logs of a web service with many pods are of a few of them, those with trouble first, and not longer than asked for.
func TestLogsAreBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.apply(workload(""))
	for i := range 20 {
		b.pod(fmt.Sprintf("fine-%02d", i), time.Hour, container(corev1.ContainerStatus{Ready: true}))
	}
	b.pod("restarted", time.Minute, container(corev1.ContainerStatus{Ready: true, RestartCount: 1}))
	b.pod("troubled", time.Minute, waitingFor("ImagePullBackOff", "not found"))
	asked := 0
	b.logs(strings.Repeat("x", 1000), "")
	b.api.PrependReactor("get", "pods/log", func(kubetesting.Action) (bool, runtime.Object, error) {
		asked++
		return false, nil, nil
	})
	got := must(b.cluster.Logs(t.Context(), "iris", 10, 1<<20))
	first, second := strings.Index(got, "==> troubled <=="), strings.Index(got, "==> restarted <==")
	if first != 0 || second < 0 || asked != 6 || !strings.Contains(got, "17 more pods of iris") {
		t.Errorf("%d requests, %d and %d: %.3000s", asked, first, second, got)
	}
	if got := must(b.cluster.Logs(t.Context(), "iris", 10, 1500)); strings.Count(got, "x") > 1500 || strings.Count(got, "x") < 1000 {
		t.Errorf("of at most 1500 bytes there are %d", len(got))
	}
}

// What containers say is read only when asked for.
func TestObserveWithoutLogs(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.apply(workload(""))
	b.pod("iris-1", time.Hour, container(corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at(0)}}}))
	b.logs("Perhaps out of memory?\n", "")
	if p := must(b.cluster.Observe(t.Context(), "iris", false)).Problem; p != nil {
		t.Errorf("seen: %+v", p)
	}
	if p := must(b.cluster.Observe(t.Context(), "iris", true)).Problem; p == nil || p.Code != serving.OutOfMemory {
		t.Errorf("seen: %+v", p)
	}
}
