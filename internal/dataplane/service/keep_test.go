package service_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubetesting "k8s.io/client-go/testing"

	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/route"
	"github.com/berthdev/berth/internal/store"
)

// split is how a route shares the traffic out.
func (s *server) split(name string) string {
	s.T.Helper()
	var out []string
	for _, v := range s.routeOf(name).Versions {
		out = append(out, fmt.Sprintf("%s=%d", v.Workload, v.Percent))
	}
	return strings.Join(out, " ")
}

// wakeAll is what a start of Berth does.
func (s *server) wakeAll() {
	s.T.Helper()
	s.restart()
	s.check(s.Manager.Store.WakeAll(s.T.Context(), s.Now(), time.Second))
}

// A web service that nobody changes goes on without what it was made of: the registry of its base image, its code, its
// model, Berth's memory. What its cluster loses comes back as it was.
func TestServesOnAlone(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(deployment("iris", object{"numReplicas": 2}))
	s.deploy(endpoint("pair", object{"a": version(object{"isDefault": true}), "b": version(object{"isDefault": false, "trafficPercentile": 40})}))
	before := text([]any{s.kubeDeployment("iris").Spec, s.kubeDeployment("pair-b").Spec, s.routeOf("iris"), s.routeOf("pair")})
	built := len(s.images.definitions)
	s.images.fail(&image.UserError{Code: image.BaseImageNotReachable, Message: "no such host"})
	s.damage("def run(data): return data", os.Remove)
	s.damage("weights of iris", os.Remove)
	for range 5 {
		s.after(7 * time.Minute)
	}
	s.wakeAll()
	s.after(time.Minute)
	s.is("iris", "Healthy")
	background := metav1.DeleteOptions{}
	for _, name := range s.deployments() {
		s.check(s.kube.AppsV1().Deployments(ns).Delete(t.Context(), name, background))
		s.check(s.kube.CoreV1().Services(ns).Delete(t.Context(), name, background))
	}
	for _, name := range []string{"iris", "pair"} {
		s.check(s.kube.CoreV1().Secrets(ns).Delete(t.Context(), route.SecretName(name), background))
	}
	s.wakeAll()
	s.after(time.Minute)
	s.is("iris", "Unhealthy")
	s.serve()
	for _, name := range []string{"iris", "pair"} {
		if r := s.is(name, "Healthy"); r.At("error") != nil {
			t.Errorf("%s says %v", name, r.At("error"))
		}
	}
	if after := text([]any{s.kubeDeployment("iris").Spec, s.kubeDeployment("pair-b").Spec, s.routeOf("iris"), s.routeOf("pair")}); after != before {
		t.Errorf("it came back as %s, and was %s", after, before)
	}
	if len(s.images.definitions) != built {
		t.Errorf("images were made %d times, want %d", len(s.images.definitions), built)
	}
}

// An endpoint's callers notice nothing of versions that come and go: the route leads to what serves until what replaces
// it does, and what it has left stays until front ends know and requests that wait for its pods have got one (D2).
func TestEndpointUpdateLosesNothing_D2(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(endpoint("pair", object{"v1": version(object{"trafficPercentile": 100, "maxQueueWaitMs": 20000})}))
	op := s.patch("pair", "/versions/v2", version(object{"trafficPercentile": 100, "isDefault": true}), "/versions/v1", nil)
	s.pass()
	s.after(time.Second)
	if got := fmt.Sprint(s.deployments()); got != "[pair-v1 pair-v2]" {
		t.Fatalf("while v2 starts the cluster runs %s", got)
	}
	for range 3 {
		s.ended(op, "Running")
		if got := s.split("pair"); got != "pair-v1=100" {
			t.Fatalf("while v2 starts the route is %s", got)
		}
		s.after(time.Minute)
	}
	s.roll("pair-v2", nil)
	s.after(time.Second)
	s.ended(op, "Succeeded")
	if got := s.split("pair"); got != "pair-v2=100" {
		t.Errorf("once v2 serves the route is %s", got)
	}
	s.images.fail(&image.UserError{Code: image.PackageNotFound, Message: "There is no package nonsense."}) // also where the next update fails at once
	op = s.patch("pair", "/description", "d")
	s.pass()
	s.ended(op, "Failed")
	s.images.fail(nil)
	for _, d := range []time.Duration{time.Second, 18 * time.Second} {
		s.after(d)
		if got := fmt.Sprint(s.deployments()); got != "[pair-v1 pair-v2]" {
			t.Errorf("%v after the route left it, v1 is not there: %s", d, got)
		}
	}
	s.wakeAll()
	s.after(10 * time.Second)
	if got := fmt.Sprint(s.deployments()); got != "[pair-v2]" {
		t.Errorf("later the cluster runs %s", got)
	}
	// A version that never serves leaves the others as they are.
	op = s.patch("pair", "/versions/v2/trafficPercentile", 10, "/versions/v3", version(object{"isDefault": false, "trafficPercentile": 90}))
	s.pass()
	s.pod("pair-v3", s.crashed(2))
	s.after(time.Second)
	s.ended(op, "Failed")
	s.noPod("pair-v3")
	s.after(time.Second)
	if got, want := fmt.Sprint(s.deployments())+" "+s.split("pair"), "[pair-v2] pair-v2=100"; got != want {
		t.Errorf("after the failed update the cluster has %s, want %s", got, want)
	}
}

// While an update starts, front ends scale within its bounds: within the old ones they would end the pods that it
// waits for. After a failure the old bounds count again.
func TestScaleDuringUpdate(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(deployment("iris", object{"numReplicas": nil, "autoScaler": object{"autoscaleEnabled": true, "minReplicas": 1, "maxReplicas": 2}}))
	before := s.routeOf("iris")
	op := s.patch("iris", "/numReplicas", 3, "/scoringTimeoutMs", 1000)
	s.pass()
	v := s.routeOf("iris").Versions[0]
	if v.Scale.Auto || v.Scale.Min != 3 || v.Timeout != before.Versions[0].Timeout {
		t.Errorf("meanwhile the route is %+v", v)
	}
	s.pod("iris", s.crashed(2))
	s.after(time.Second)
	s.ended(op, "Failed")
	if after := s.routeOf("iris"); !after.Equal(before) {
		t.Errorf("after the failure the route is %+v", after)
	}
}

// A first deployment has a route before it serves: callers hear that no replica is ready, and not that there is no such
// web service, which they have the address of.
func TestRouteOfFirstDeployment(t *testing.T) {
	t.Parallel()
	s := start(t)
	op := s.create(deployment("iris", nil))
	s.pass()
	if r := s.routeOf("iris"); len(r.Versions) != 1 || r.Versions[0].Workload != "iris" {
		t.Errorf("the route is %+v", r)
	}
	s.pod("iris", s.crashed(2))
	s.after(time.Second)
	s.ended(op, "Failed")
	s.routeOf("iris")
}

// What callers must show changes with the update that says so, and not when it fails. Keys that are made anew count at
// once, whatever becomes of the deployment: the old one may have been stolen.
func TestFailedUpdateKeepsAuth(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(deployment("iris", nil))
	primary, secondary := s.keys("iris")
	s.images.fail(&image.UserError{Code: image.PackageNotFound, Message: "There is no package nonsense."})
	op := s.patch("iris", "/authEnabled", false)
	for range 3 {
		s.pass()
		s.ended(op, "Failed")
		if a := s.routeOf("iris").Auth; a.Mode != route.AuthKey || !a.HasKey(primary) || !a.HasKey(secondary) {
			t.Errorf("after the failed update callers must show %+v", a)
		}
		s.is("iris", "Healthy")
		s.wakeAll()
		s.Advance(time.Minute)
	}
	op = operationOf(s.Want(202, "POST", mms, "/services/iris/regenerateKeys", `{"keyType":"Primary"}`))
	s.pass()
	s.ended(op, "Failed")
	fresh, _ := s.keys("iris")
	if a := s.routeOf("iris").Auth; fresh == primary || a.HasKey(primary) || !a.HasKey(fresh) || !a.HasKey(secondary) {
		t.Errorf("the key that was taken back counts, or the new one does not: %+v", a)
	}
	s.images.fail(nil)
	s.update("iris", "/description", "d")
	if a := s.routeOf("iris").Auth; a.Mode != route.AuthNone {
		t.Errorf("after the update callers must show %+v", a)
	}
}

// A web service stays on its compute: moved, it would go on serving in the old cluster.
func TestComputeIsFixed(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.compute("other", "Succeeded")
	s.deploy(deployment("iris", nil))
	s.Refused(400, "PropertyChangeNotAllowed", "PATCH", mms, "/services/iris", s.patchBody("/computeName", "other"), "computeName")
	s.Refused(400, "PropertyChangeNotAllowed", "PUT", mms, "/services", text(deployment("iris", object{"computeName": "other"})), "computeName")
}

// Variables that a container cannot have are refused at once, by name.
func TestVariables(t *testing.T) {
	t.Parallel()
	s := start(t)
	with := func(name, value string) object {
		return deployment("iris", object{"environmentImageRequest": imageRequest(object{"environment": object{"name": "e", "environmentVariables": object{"AZUREML_ENTRY_SCRIPT": "score.py", name: value}}})})
	}
	for _, name := range []string{"A=B", "", "A\nB", "Ä"} {
		s.Refused(400, "InvalidParameter", "POST", mms, "/services", text(with(name, "x")), "environmentVariables", fmt.Sprintf("%q", name), "printable ASCII")
	}
	s.Refused(400, "InvalidParameter", "POST", mms, "/services", text(with("A", "x\x00y")), "environmentVariables", `"A"`, "NUL")
	s.Refused(400, "InvalidParameter", "POST", mms, "/services", text(endpoint("pair", object{"v1": version(object{"environmentImageRequest": with("A=B", "")["environmentImageRequest"]})})),
		"versions.v1.environmentImageRequest.environment.environmentVariables")
	s.deploy(with("a.b-c 1", "ü\n"))
	if got := s.variables("iris")["a.b-c 1"]; got != "ü\n" {
		t.Errorf("the container gets %q", got)
	}
}

// What Kubernetes refuses for good fails at once, in its words; an update that it refuses takes nothing away.
func TestKubernetesRefuses(t *testing.T) {
	t.Parallel()
	s := start(t)
	var refusal error
	s.kube.PrependReactor("*", "deployments", func(a kubetesting.Action) (bool, runtime.Object, error) {
		return refusal != nil && (a.GetVerb() == "create" || a.GetVerb() == "update"), nil, refusal
	})
	refusal = apierrors.NewForbidden(schema.GroupResource{Resource: "deployments"}, "iris", errors.New("exceeded quota: team"))
	op := s.create(deployment("iris", nil))
	s.pass()
	if r := s.ended(op, "Failed"); r.At("error.code") != "KubernetesDeploymentFailed" || !strings.Contains(r.Raw, "exceeded quota: team") {
		t.Errorf("the operation says %v", r.At("error"))
	}
	s.after(time.Minute)
	s.is("iris", "Failed")
	refusal = nil
	s.after(time.Minute) // it may yet come to serve
	s.serve()
	s.is("iris", "Healthy")
	refusal = apierrors.NewInvalid(schema.GroupKind{Kind: "Deployment"}, "iris", nil)
	op = s.patch("iris", "/scoringTimeoutMs", 1000)
	s.pass()
	s.ended(op, "Failed")
	if r := s.is("iris", "Healthy"); !strings.Contains(r.Raw, "what was deployed before goes on serving") {
		t.Errorf("it says %v", r.At("error"))
	}
	refusal = apierrors.NewConflict(schema.GroupResource{Resource: "deployments"}, "iris", errors.New("changed"))
	op = s.patch("iris", "/scoringTimeoutMs", 2000)
	s.after(time.Second)
	s.ended(op, "Running")
	refusal = nil
	s.after(time.Minute)
	s.serve()
	s.ended(op, "Succeeded")
}

// Files that are uploaded to the same place again are other files, and so is an archive that is unpacked now.
func TestImagesAreWhatWasUploaded(t *testing.T) {
	t.Parallel()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, err := range []error{w.WriteHeader(&tar.Header{Name: "helper.py", Mode: 0o600}), w.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		volume        int
		first         []string
		second        []string // uploaded in the place of first
		before, after func(s *server) object
	}{
		"code":                  {1, nil, []string{"code", "score.py", "def run(data): return 2"}, nil, nil},
		"model":                 {2, nil, []string{"m-iris", "model.pkl", "other weights"}, nil, nil},
		"code that is unpacked": {volume: 1, first: []string{"code", "helpers.tar", archive.String()}, before: codeWith(false), after: codeWith(true)},
		"model that is unpacked": {volume: 2, first: []string{"m-iris", "model.pkl", archive.String()}, after: func(s *server) object {
			s.Want(200, "POST", mms, "/models", `{"name":"iris","url":"`+s.Want(200, "GET", mms, "/models/iris:1", "").At("url").(string)+`","mimeType":"application/json","unpack":true}`)
			return imageRequest(object{"modelIds": []string{"iris:2"}})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			if tt.first != nil {
				s.Upload(tt.first[0], tt.first[1:]...)
			}
			mounted := func() string {
				t.Helper()
				return s.kubeDeployment("iris").Spec.Template.Spec.Volumes[tt.volume].Image.Reference
			}
			request := imageRequest(nil)
			if tt.before != nil {
				request = tt.before(s)
			}
			s.deploy(deployment("iris", object{"environmentImageRequest": request}))
			first := mounted()
			s.update("iris", "/description", "the same")
			if got := mounted(); got != first {
				t.Errorf("the same is another image: %s, %s", first, got)
			}
			if tt.second != nil {
				s.Upload(tt.second[0], tt.second[1:]...)
			}
			if tt.after != nil {
				request = tt.after(s)
			}
			s.update("iris", "/description", "another", "/environmentImageRequest", request)
			if got := mounted(); got == first {
				t.Errorf("what is another is the same image: %s", got)
			}
		})
	}
}

// codeWith is a request with an archive among the code.
func codeWith(unpack bool) func(*server) object {
	return func(*server) object {
		request := imageRequest(nil)
		request["assets"] = append(request["assets"].([]any), object{"id": "helpers.tar", "url": "aml://artifact/LocalUpload/code/helpers.tar", "mimeType": "application/octet-stream", "unpack": unpack})
		return request
	}
}

// A look at a cluster that has lost the images of what served says what to do about it.
func TestLostImage(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(deployment("iris", nil))
	s.pod("iris", waiting("ImagePullBackOff", "manifest unknown"))
	s.after(10 * time.Second)
	if r := s.is("iris", "Unhealthy"); r.At("error") != nil {
		t.Errorf("a registry that is away for a moment is %v", r.At("error"))
	}
	s.after(3 * time.Minute)
	if r := s.is("iris", "Unhealthy"); r.At("error.code") != "InaccessibleImage" || !strings.Contains(r.Raw, "manifest unknown") || !strings.Contains(r.Raw, "deploy again") {
		t.Errorf("it says %s", r.Raw)
	}
	s.noPod("iris")
	s.serve()
	if r := s.is("iris", "Healthy"); r.At("error") != nil {
		t.Errorf("it is back, with %v", r.At("error"))
	}
}

// What containers say that start for long is read every ten seconds, and what it told is not forgotten between.
func TestStartingLogsAreReadNowAndThen(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.Advance(time.Since(s.Now())) // serving has a clock of its own
	s.create(deployment("iris", nil))
	s.pass()
	s.pod("iris", func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "model", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(s.Now().Add(-time.Hour))}}}}
	})
	asked := 0
	s.kube.PrependReactor("get", "pods/log", func(kubetesting.Action) (bool, runtime.Object, error) {
		asked++
		return true, &runtime.Unknown{Raw: []byte("Perhaps out of memory?")}, nil
	})
	s.Advance(10 * time.Second)
	for range 29 {
		s.after(time.Second)
		if r := s.is("iris", "Transitioning"); r.At("deploymentStatus.error.code") != "OOMKilled" {
			t.Fatalf("the status is %v", r.At("deploymentStatus"))
		}
	}
	if asked < 2 || asked > 3 {
		t.Errorf("in 29 seconds the log was read %d times", asked)
	}
}

// A few builds run at a time, and they end with Berth: the next one begins them again.
func TestBuildsAreBounded(t *testing.T) {
	t.Parallel()
	s := start(t)
	open := s.images.close()
	t.Cleanup(open)
	var ops []string
	for i := range 7 {
		ops = append(ops, s.create(deployment(fmt.Sprintf("iris%d", i), nil)))
	}
	s.Due()
	s.images.begun(4)
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.services.Builds.Run(ctx) }()
	end()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if n := s.images.begun(4); n != 4 {
		t.Errorf("%d builds were begun", n)
	}
	s.after(time.Minute)
	if n := s.images.begun(4); n != 4 {
		t.Errorf("%d builds were begun after the end", n)
	}
	open()
	s.wakeAll()
	s.after(time.Minute)
	s.serve()
	for _, op := range ops {
		s.ended(op, "Succeeded")
	}
}

// between does something before the next write.
type between struct {
	store.Store
	do func()
}

func (b *between) Update(ctx context.Context, fn func(store.Tx) error) error {
	if do := b.do; do != nil {
		b.do = nil
		do()
	}
	return b.Store.Update(ctx, fn)
}

// A change that follows from what a web service was is refused when it is another by then, or none.
func TestChangedMeanwhile(t *testing.T) {
	t.Parallel()
	s := start(t)
	remove := func() {
		s.Want(202, "DELETE", mms, "/services/iris", "")
		s.after(time.Minute)
	}
	for _, tt := range []struct {
		name, code string
		status     int
		meanwhile  func()
	}{
		{"deleted", "ResourceNotFound", 404, remove},
		{"made anew", "Conflict", 409, func() { remove(); s.deploy(deployment("iris", nil)) }},
		{"changed", "Conflict", 409, func() { s.update("iris", "/description", s.Now().String()) }},
	} {
		for _, call := range [][]string{{"POST", "/services/iris/regenerateKeys", `{"keyType":"Primary"}`}, {"PATCH", "/services/iris", s.patchBody("/numReplicas", 2)}} {
			if s.Do("GET", mms, "/services/iris", "").Status == 404 {
				s.deploy(deployment("iris", nil))
			}
			inner := s.Manager.Store
			s.Manager.Store = &between{Store: inner, do: func() {
				s.Manager.Store = inner
				tt.meanwhile()
			}}
			s.Refused(tt.status, tt.code, call[0], mms, call[1], call[2])
			s.Manager.Store = inner
			if tt.status == 404 {
				s.Want(404, "GET", mms, "/services/iris", "")
			}
		}
	}
}
