package service_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubetesting "k8s.io/client-go/testing"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/dataplane/service"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/route"
	"github.com/berthdev/berth/internal/store"
)

func waiting(reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "model", Image: "img", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}
	}
}

// A deployment whose pods cannot serve fails: at once where trying again cannot help, after a while where it might. The
// web service says why until it serves.
func TestFailures(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		pod      func(s *server) func(*corev1.Pod) // of a first look, after which the deployment goes on
		patience time.Duration
		then     func(s *server) func(*corev1.Pod) // of the second look, after patience; nil for the same pod
		code     string
		state    string
		texts    []string
	}{
		{"crashes", func(s *server) func(*corev1.Pod) { return s.crashed(1) }, time.Second, func(s *server) func(*corev1.Pod) { return s.crashed(2) },
			"CrashLoopBackOff", "Failed", []string{"Your container application crashed. This may be caused by errors in your scoring file's init() function.", "exit code 3", "KeyError: 'x'"}},
		{"no room", func(*server) func(*corev1.Pod) { return unschedulable }, 5*time.Minute + 10*time.Second, nil,
			"Unschedulable", "Unschedulable", []string{"didn't have available resources after trying for 00:05:00", "3 Insufficient cpu", "cpu_cores", "add nodes"}},
		{"no image", func(*server) func(*corev1.Pod) { return waiting("ImagePullBackOff", "denied") }, 2*time.Minute + 10*time.Second, nil,
			"InaccessibleImage", "Failed", []string{"img", "denied"}},
		{"refused", func(*server) func(*corev1.Pod) { return waiting("CreateContainerConfigError", "no secret") }, 2*time.Minute + 10*time.Second, nil,
			"KubernetesDeploymentFailed", "Failed", []string{"no secret"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			op := s.create(deployment("iris", nil))
			s.pass()
			s.pod("iris", tt.pod(s))
			s.after(time.Second)
			s.ended(op, "Running")
			if r := s.is("iris", "Transitioning"); r.At("deploymentStatus.error.code") != tt.code {
				t.Errorf("meanwhile the status is %v", r.At("deploymentStatus"))
			}
			if tt.then != nil {
				s.pod("iris", tt.then(s))
			}
			s.after(tt.patience)
			failed := s.ended(op, "Failed")
			for range 3 { // it says the same at every later look
				r := s.is("iris", tt.state)
				for _, e := range []struct{ what, code, message any }{
					{"operation", failed.At("error.code"), failed.At("error.message")}, {"service", r.At("error.code"), r.At("error.message")},
				} {
					message, _ := e.message.(string)
					if e.code != tt.code {
						t.Errorf("the %s fails with %v, want %s", e.what, e.code, tt.code)
					}
					for _, text := range tt.texts {
						if !strings.Contains(message, text) {
							t.Errorf("the %s's message lacks %q: %s", e.what, text, message)
						}
					}
				}
				s.after(20 * time.Second)
			}
			if log := s.operation(op).At("streamingOperationLog").(string); strings.Count(log, "The deployment failed") != 1 {
				t.Errorf("the log says the failure more than once, or never: %s", log)
			}
			s.noPod("iris")
			s.serve()
			if r := s.is("iris", "Healthy"); r.At("error") != nil {
				t.Errorf("it serves, and still says %v", r.At("error"))
			}
			s.ended(op, "Failed")
		})
	}
}

// What happened to the pods goes with the error, as clients know it.
func TestFailureEvents(t *testing.T) {
	t.Parallel()
	s := start(t)
	op := s.create(deployment("iris", nil))
	s.pass()
	s.pod("iris", unschedulable)
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: ns}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "iris-pod"}, Type: "Warning", Reason: "FailedScheduling", Message: "0/3 nodes",
		LastTimestamp: metav1.NewTime(s.Now()),
	}
	must(s.kube.CoreV1().Events(ns).Create(t.Context(), event, metav1.CreateOptions{}))
	s.after(6 * time.Minute)
	e := s.ended(op, "Failed")
	if detail, _ := e.At("error.details.0.message").(string); e.At("error.details.0.code") != "FailedScheduling" || !strings.Contains(detail, `"InvolvedObject":"iris-pod"`) || !strings.Contains(detail, `"Message":"0/3 nodes"`) {
		t.Errorf("the error is %s", e.Raw)
	}
}

// A web service that serves says so, and says when pods are lost.
func TestUnhealthy(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(deployment("iris", object{"numReplicas": 2}))
	op := s.get("iris").At("operationId").(string)
	s.is("iris", "Healthy")
	for _, tt := range []struct {
		available int32
		state     string
	}{{1, "Unhealthy"}, {2, "Healthy"}, {0, "Unhealthy"}, {2, "Healthy"}} {
		s.roll("iris", func(st *appsv1.DeploymentStatus) { st.AvailableReplicas = tt.available })
		s.after(20 * time.Second)
		if r := s.is("iris", tt.state); r.At("deploymentStatus.availableReplicas") != float64(tt.available) || r.At("deploymentStatus.desiredReplicas") != 2.0 {
			t.Errorf("with %d replicas the status is %v", tt.available, r.At("deploymentStatus"))
		}
	}
	s.ended(op, "Succeeded")
}

// A deployment is there when the front end is: the scoring URI works then.
func TestWaitsForFrontEnd(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.frontEnd("", "its load balancer to get an address")
	op := s.create(deployment("iris", nil))
	s.pass()
	s.serve()
	s.ended(op, "Running")
	if r := s.is("iris", "Transitioning"); r.At("scoringUri") != nil || r.At("swaggerUri") != nil {
		t.Errorf("without an address the URI is %v", r.At("scoringUri"))
	}
	s.frontEnd("http://20.0.0.1:80", "")
	s.serve()
	s.ended(op, "Succeeded")
	if r := s.is("iris", "Healthy"); r.At("scoringUri") != "http://20.0.0.1:80/api/v1/service/iris/score" {
		t.Errorf("the URI is %v", r.At("scoringUri"))
	}
}

// Without its compute a web service fails, by the compute's reason, and comes back with it. A cluster that does not
// answer for a moment fails nothing.
func TestComputeGone(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(deployment("iris", nil))
	s.lose(errors.New("dial tcp: connection refused"))
	s.after(20 * time.Second)
	s.is("iris", "Healthy")
	s.lose(armerr.New(armerr.CodeClusterNotFound, "The compute 'aks' has lost its cluster: it was deleted."))
	s.after(time.Minute)
	if r := s.is("iris", "Failed"); r.At("error.code") != "ClusterNotFound" || !strings.Contains(r.Raw, "lost its cluster") {
		t.Errorf("the error is %v", r.At("error"))
	}
	s.lose(nil)
	s.after(time.Minute)
	if r := s.is("iris", "Healthy"); r.At("error") != nil {
		t.Errorf("it is back, with %v", r.At("error"))
	}
	s.lose(errors.New("dial tcp: connection refused"))
	op := s.patch("iris", "/description", "d")
	s.after(time.Minute)
	s.ended(op, "Running")
	s.lose(nil)
	s.after(time.Minute)
	s.ended(op, "Succeeded")
}

// A deployment that never comes to an end ends by its deadline, and says what it waited for.
func TestTimedOut(t *testing.T) {
	t.Parallel()
	s := start(t)
	op := s.create(deployment("iris", object{"numReplicas": 2}))
	s.pass()
	for range 3 {
		s.after(7 * time.Minute)
	}
	r := s.ended(op, "TimedOut")
	if r.At("error.code") != "DeploymentTimedOut" || r.At("error.statusCode") != 504.0 {
		t.Errorf("the error is %v", r.At("error"))
	}
	if message, _ := r.At("error.message").(string); !strings.Contains(message, "Timed out waiting for AKS deployment to complete.") || !strings.Contains(message, "20m") || !strings.Contains(message, "the replicas of iris: 0 of 2 serve") || !strings.Contains(message, "Send the same request again") {
		t.Errorf("the operation says %q", message)
	}
	s.is("iris", "Failed")
	s.serve()
	s.is("iris", "Healthy")
}

// An update that fails takes nothing from callers: the cluster gets back what served, and keeps it over later looks
// and a restart of Berth, until an update succeeds.
func TestFailedUpdate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		fail func(s *server, op string) // has the update fail
		op   string
		text string
	}{
		{"pods crash", func(s *server, _ string) {
			s.pod("iris", s.crashed(2))
			s.after(time.Second)
		}, "Failed", "KeyError"},
		{"no room", func(s *server, _ string) {
			s.pod("iris", unschedulable)
			s.after(5*time.Minute + 10*time.Second)
		}, "Failed", "3 Insufficient cpu"},
		{"no image", func(s *server, _ string) {
			s.pod("iris", waiting("ImagePullBackOff", "connection refused"))
			s.after(2*time.Minute + 10*time.Second)
		}, "Failed", "connection refused"},
		{"no end", func(s *server, _ string) {
			s.roll("iris", func(st *appsv1.DeploymentStatus) { st.UpdatedReplicas = 0 })
			s.after(21 * time.Minute)
			s.after(20 * time.Second)
		}, "TimedOut", "did not finish"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			s.deploy(deployment("iris", object{"kvTags": object{"berth.maxSurge": "0"}}))
			good, before := s.kubeDeployment("iris"), text(s.routeOf("iris").Versions)
			next := imageRequest(nil)
			next["environment"] = with(env(nil), object{"environmentVariables": object{"AZUREML_ENTRY_SCRIPT": "score.py", "COLOUR": "blue"}})
			op := s.patch("iris", "/environmentImageRequest", next, "/scoringTimeoutMs", 1000)
			s.pass()
			if got := s.variables("iris")["COLOUR"]; got != "blue" {
				t.Fatalf("the update brings %q", got)
			}
			tt.fail(s, op)
			s.noPod("iris")
			if message, _ := s.ended(op, tt.op).At("error.message").(string); !strings.Contains(message, tt.text) {
				t.Errorf("the operation says %q", message)
			}
			kept := func(what string) {
				t.Helper()
				d := s.kubeDeployment("iris")
				if d.Annotations["berth.dev/spec"] != good.Annotations["berth.dev/spec"] || text(d.Spec.Template) != text(good.Spec.Template) || text(d.Spec.Strategy) != text(good.Spec.Strategy) {
					t.Errorf("%s the cluster has %v", what, s.variables("iris"))
				}
				if got := text(s.routeOf("iris").Versions); got != before {
					t.Errorf("%s the route has %s, want %s", what, got, before)
				}
			}
			kept("after the failure")
			s.serve()
			r := s.is("iris", "Healthy")
			if message, _ := r.At("error.message").(string); !strings.Contains(message, tt.text) {
				t.Errorf("the service says %q", message)
			}
			kept("later")
			s.roll("iris", func(st *appsv1.DeploymentStatus) { st.AvailableReplicas = 0 })
			s.after(20 * time.Second)
			s.is("iris", "Unhealthy")
			s.restart()
			s.check(s.Manager.Store.WakeAll(t.Context(), s.Now(), time.Second))
			s.serve()
			kept("after a restart")
			s.is("iris", "Healthy")
			op = s.patch("iris", "/description", "try again")
			s.pass()
			s.serve()
			s.ended(op, "Succeeded")
			if r := s.is("iris", "Healthy"); r.At("error") != nil || s.variables("iris")["COLOUR"] != "blue" {
				t.Errorf("the next update leaves %s", r.Raw)
			}
		})
	}
}

// An API server that is away for a minute ends nothing: a deployment that it knows half of goes on, a web service that
// serves stays as it is, and what was accepted meanwhile is done.
func TestAPIServerAway(t *testing.T) {
	t.Parallel()
	s := start(t)
	var away atomic.Bool
	var calls atomic.Int32 // until it goes away
	s.kube.PrependReactor("*", "*", func(kubetesting.Action) (bool, runtime.Object, error) {
		if away.Load() || calls.Add(-1) == 0 {
			away.Store(true)
			return true, nil, errors.New("dial tcp: connection refused")
		}
		return false, nil, nil
	})
	minute := func() {
		t.Helper()
		for range 6 {
			s.after(10 * time.Second)
		}
		if !away.Load() {
			t.Fatal("it was never asked for anything")
		}
		away.Store(false)
		calls.Store(0)
	}
	for known := range int32(10) { // it goes away after the first call of a deployment, after the second and so on
		name := fmt.Sprintf("iris%d", known)
		calls.Store(known + 1)
		op := s.create(deployment(name, nil))
		s.pass()
		minute()
		s.ended(op, "Running")
		s.is(name, "Transitioning")
		s.serve()
		s.serve()
		s.ended(op, "Succeeded")
		s.is(name, "Healthy")
		s.routeOf(name)
	}
	away.Store(true)
	before, _ := s.keys("iris1")
	change := s.patch("iris0", "/scoringTimeoutMs", 1000)
	s.Want(202, "POST", mms, "/services/iris1/regenerateKeys", `{"keyType":"Primary"}`)
	remove := operationOf(s.Want(202, "DELETE", mms, "/services/iris2", ""))
	minute()
	s.ended(change, "Running")
	s.ended(remove, "Running")
	s.is("iris3", "Healthy")
	s.after(time.Minute) // the longest pause between tries is shorter
	s.serve()
	s.ended(change, "Succeeded")
	s.ended(remove, "Succeeded")
	if got := s.routeOf("iris0").Versions[0].Timeout; got != time.Second {
		t.Errorf("the time limit is %v", got)
	}
	if primary, _ := s.keys("iris1"); !s.routeOf("iris1").Auth.HasKey(primary) || s.routeOf("iris1").Auth.HasKey(before) {
		t.Error("the route does not have the new key")
	}
	if slices.Contains(s.deployments(), "iris2") {
		t.Error("what was deleted is there")
	}
}

// An environment that cannot be made fails the deployment by name, once in its log; sending it again tries again.
func TestBuildFails(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.images.fail(&image.UserError{Code: image.PackageNotFound, Message: "There is no package nonsense."})
	op := s.create(deployment("iris", nil))
	s.pass()
	r := s.ended(op, "Failed")
	if r.At("error.code") != "PackageNotFound" || !strings.Contains(r.Raw, "There is no package nonsense") {
		t.Errorf("the operation says %v", r.At("error"))
	}
	for range 50 {
		s.after(20 * time.Second)
	}
	s.is("iris", "Failed")
	if log := s.operation(op).At("streamingOperationLog").(string); strings.Count(log, "nonsense") != 1 || strings.Count(log, "Pushing") != 1 {
		t.Errorf("the log repeats itself: %s", log)
	}
	if len(s.deployments()) != 0 {
		t.Errorf("the cluster runs %v", s.deployments())
	}
	s.images.fail(nil)
	op = operationOf(s.Want(202, "PUT", mms, "/services", text(deployment("iris", nil))))
	s.pass()
	s.serve()
	s.ended(op, "Succeeded")
}

// What fails for a while is tried again, and the deployment goes on.
func TestBuildIsRetried(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.images.fail(errors.New("the registry is starting"))
	op := s.create(deployment("iris", nil))
	for range 3 {
		s.after(6 * time.Second)
	}
	s.ended(op, "Running")
	if n := len(s.images.definitions); n < 2 || n > 4 {
		t.Errorf("tried %d times", n)
	}
	s.images.fail(nil)
	s.after(6 * time.Second)
	s.serve()
	s.ended(op, "Succeeded")
}

// A registry that cannot be used is tried for two minutes, and then fails the deployment by name. Once it can be, the
// deployment comes to serve by itself.
func TestRegistryNotUsable(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.images.fail(&image.RegistryError{Message: "The registry registry.test denies access. Sign in."})
	op := s.create(deployment("iris", nil))
	for range 15 {
		s.after(8 * time.Second)
	}
	s.ended(op, "Running")
	for range 2 {
		s.after(8 * time.Second)
	}
	r := s.ended(op, "Failed")
	if r.At("error.code") != "RegistryNotUsable" || !strings.Contains(r.Raw, "denies access. Sign in.") {
		t.Errorf("the operation says %v", r.At("error"))
	}
	s.after(time.Minute)
	s.is("iris", "Failed")
	s.images.fail(nil)
	for range 3 {
		s.after(20 * time.Second)
	}
	s.serve()
	s.after(20 * time.Second)
	s.is("iris", "Healthy")
}

// A Berth that is started with another registry leaves what serves alone, whether that can be used or not, and moves it there with
// the next update.
func TestRegistryChanges(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(deployment("iris", nil))
	runs := func(what, host string) {
		t.Helper()
		if got := s.kubeDeployment("iris").Spec.Template.Spec.Containers[0].Image; got != host+"/env@sha256:1" {
			t.Errorf("%s the cluster runs %s", what, got)
		}
	}
	for _, why := range []error{
		&image.RegistryError{Message: "The registry other.test cannot be reached."}, &image.UserError{Code: image.PackageNotFound, Message: "There is no package nonsense any more."},
	} {
		s.images.move("other.test/team")
		s.images.fail(why)
		s.restart()
		s.check(s.Manager.Store.WakeAll(t.Context(), s.Now(), time.Second))
		for range 20 {
			s.after(10 * time.Second)
		}
		s.is("iris", "Healthy")
		runs("without the registry", "registry.test")
		s.roll("iris", func(st *appsv1.DeploymentStatus) { st.AvailableReplicas = 0 })
		s.after(10 * time.Second)
		s.is("iris", "Unhealthy")
		s.serve()
		s.is("iris", "Healthy")
	}
	s.images.fail(nil)
	s.after(11 * time.Minute)
	runs("before an update", "registry.test")
	op := s.patch("iris", "/scoringTimeoutMs", 1000)
	s.pass()
	runs("with an update", "other.test/team")
	s.serve()
	s.ended(op, "Succeeded")
	s.is("iris", "Healthy")
}

// A Berth that ends while images are made begins again where it starts, and the deployment comes to its end.
func TestRestartDuringBuild(t *testing.T) {
	t.Parallel()
	s := start(t)
	open := s.images.close()
	t.Cleanup(open)
	op := s.create(deployment("iris", nil))
	s.Due()
	s.is("iris", "Transitioning")
	s.restart()
	s.check(s.Manager.Store.WakeAll(t.Context(), s.Now(), time.Second))
	s.Advance(2 * time.Second)
	s.Due()
	open()
	s.pass()
	s.serve()
	s.ended(op, "Succeeded")
	if n := len(s.images.definitions); n != 2 {
		t.Errorf("the image was begun %d times, want twice", n)
	}
	// One more, between the images and the pods.
	op = s.patch("iris", "/environmentImageRequest", imageRequest(object{"modelIds": []string{}}))
	s.pass()
	s.restart()
	s.after(time.Second)
	s.serve()
	s.ended(op, "Succeeded")
}

// The log of an operation grows while it runs; clients ask for what follows the characters that they have.
func TestOperationLog(t *testing.T) {
	t.Parallel()
	s := start(t)
	open := s.images.close()
	t.Cleanup(open)
	op := s.create(endpoint("pair", object{"b": version(object{"isDefault": true}), "a": version(object{"isDefault": false})}))
	if r := s.operation(op); r.At("streamingOperationLog") != "" {
		t.Errorf("at first it is %s", r.Raw)
	}
	s.Due()
	if r := s.operation(op); r.At("operationDetails.subOperationType") != "BuildEnvironment" || r.At("operationDetails.subOperationState") != "Running" {
		t.Errorf("while images are made it is %s", r.Raw)
	}
	have, offset := "", 0
	more := func() {
		t.Helper()
		r := s.Want(200, "GET", mms, "/operations/"+op+"?offset="+text(offset), "")
		part := r.At("streamingOperationLog").(string)
		have += part
		offset += utf8.RuneCountInString(part)
	}
	more()
	open()
	s.pass()
	more()
	if r := s.operation(op); r.At("operationDetails.subOperationType") != "DeployService" {
		t.Errorf("after the images are made it is %s", r.Raw)
	}
	s.serve()
	more()
	more()
	all := s.ended(op, "Succeeded").At("streamingOperationLog").(string)
	if have != all {
		t.Errorf("piece by piece %q, at once %q", have, all)
	}
	lines := map[string]int{}
	for entry := range strings.SplitSeq(strings.TrimSuffix(all, "#"), "#") {
		stamp, line, ok := strings.Cut(entry, "|")
		if _, err := time.Parse("20060102150405", stamp); err != nil || !ok || strings.Contains(line, "|") {
			t.Errorf("the entry %q cannot be read", entry)
		}
		lines[line]++
	}
	for line, times := range map[string]int{"Registering the environment.": 2, "Resolving the   environment.": 2, "Pushing.": 2, "Submitting deployment to compute.": 1, "The deployment serves at http://20.0.0.1:80/api/v1/service/pair/score": 1} {
		if lines[line] != times {
			t.Errorf("the log has %q %d times, want %d: %s", line, lines[line], times, all)
		}
	}
	s.Refused(400, "InvalidParameter", "GET", mms, "/operations/"+op+"?offset=-1", "", "offset")
}

// A deletion takes the place of a deployment under way, and what that still makes does not come back.
func TestDeleteWhileDeploying(t *testing.T) {
	t.Parallel()
	for _, building := range []bool{true, false} {
		s := start(t)
		open := s.images.close()
		t.Cleanup(open)
		if !building {
			open()
		}
		create := s.create(deployment("iris", nil))
		if s.Due(); !building {
			s.pass()
			s.kubeDeployment("iris")
		}
		remove := operationOf(s.Want(202, "DELETE", mms, "/services/iris", ""))
		s.ended(create, "Cancelled")
		s.is("iris", "Transitioning")
		s.Due()
		if building {
			open()
		}
		s.after(time.Minute)
		s.ended(remove, "Succeeded")
		s.Want(404, "GET", mms, "/services/iris", "")
		if got := s.deployments(); len(got) != 0 {
			t.Errorf("the cluster runs %v", got)
		}
		s.deploy(deployment("iris", nil))
	}
}

// A deletion is done when the pods have ended; without the cluster there is nothing to wait for.
func TestDelete(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(deployment("iris", nil))
	s.deploy(deployment("rose", nil))
	s.pod("iris", func(*corev1.Pod) {})
	op := operationOf(s.Want(202, "DELETE", mms, "/services/iris", ""))
	s.after(time.Second)
	s.ended(op, "Running")
	if again := operationOf(s.Want(202, "DELETE", mms, "/services/iris", "")); again != op {
		t.Errorf("deleting again is the operation %s, want %s", again, op)
	}
	s.Refused(409, "Conflict", "PUT", mms, "/services", text(deployment("iris", nil)))
	s.noPod("iris")
	s.after(time.Second)
	if r := s.ended(op, "Succeeded"); r.At("operationType") != "DeleteService" {
		t.Errorf("the operation is %s", r.Raw)
	}
	s.Want(204, "DELETE", mms, "/services/iris", "")
	if got := s.deployments(); len(got) != 1 || got[0] != "rose" {
		t.Errorf("the cluster runs %v", got)
	}
	if _, err := s.kube.CoreV1().Secrets(ns).Get(t.Context(), route.SecretName("iris"), getOptions); err == nil {
		t.Error("front ends still have a route")
	}
	s.lose(errors.New("no answer"))
	op = operationOf(s.Want(202, "DELETE", mms, "/services/rose", ""))
	s.after(time.Minute)
	s.ended(op, "Running")
	s.lose(armerr.New(armerr.CodeClusterNotFound, "The cluster is gone."))
	s.after(time.Minute)
	s.ended(op, "Succeeded")
}

func TestLogs(t *testing.T) {
	t.Parallel()
	s := start(t)
	logs := func(name, query string) string {
		t.Helper()
		return s.Want(200, "GET", mms, "/services/"+name+"/logs"+query, "").At("content").(string)
	}
	s.images.fail(&image.UserError{Code: image.PackageNotFound, Message: "There is no package nonsense."})
	s.create(deployment("iris", nil))
	s.pass()
	if got := logs("iris", ""); !strings.Contains(got, "There is no package nonsense") {
		t.Errorf("without containers the log is %q", got)
	}
	s.images.fail(nil)
	s.deploy(deployment("iris", object{"overwrite": true}))
	s.pod("iris", func(*corev1.Pod) {})
	if got := logs("iris", "?tail=5"); got != "fake logs" {
		t.Errorf("the log is %q", got)
	}
	if got := logs("iris", "?init=true"); got != "" {
		t.Errorf("the log of init containers is %q", got)
	}
	s.deploy(endpoint("pair", object{"a": version(object{"isDefault": true}), "b": version(object{"isDefault": false})}))
	s.pod("pair-b", func(*corev1.Pod) {})
	if got := logs("pair", ""); got != "==> version b <==\nfake logs" {
		t.Errorf("the log of two versions, of which one has pods, is %q", got)
	}
	for _, tail := range []string{"0", "x", "100001"} {
		s.Refused(400, "InvalidParameter", "GET", mms, "/services/iris/logs?tail="+tail, "", "tail", "100000")
	}
	s.lose(errors.New("dial tcp: connection refused"))
	r := s.Do("GET", mms, "/services/iris/logs", "")
	if r.At("error.code") != "ClusterNotReachable" || !strings.Contains(r.Raw, "Try again") || strings.Contains(r.Raw, "dial tcp") {
		t.Errorf("a cluster that does not answer: %d %s", r.Status, r.Raw)
	}
}

// damage changes the only blob with a content in the folder of blobs.
func (s *server) damage(content string, do func(file string) error) {
	s.T.Helper()
	found := 0
	s.check(filepath.WalkDir(s.BlobsDir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != content {
			return err
		}
		found++
		return do(path)
	}))
	if found != 1 {
		s.T.Fatalf("%d blobs are %q", found, content)
	}
}

// A file that is missing, or not as it was uploaded, fails the deployment at once, by its name; what was deployed before
// goes on.
func TestLostFiles(t *testing.T) {
	t.Parallel()
	remove := os.Remove
	truncate := func(file string) error { return os.WriteFile(file, []byte("weights"), 0o600) }
	for _, tt := range []struct {
		name, content string
		damage        func(string) error
		code          string
		texts         []string
	}{
		{"model is missing", "weights of iris", remove, "ModelNotFound", []string{"iris:1", "model.pkl", "Register the model again"}},
		{"model is truncated", "weights of iris", truncate, "ModelNotFound", []string{"iris:1", "model.pkl", "Register the model again"}},
		{"code is missing", "def run(data): return data", remove, "AssetNotFound", []string{"score.py", "Deploy again"}},
		{"code is damaged", "def run(data): return data", truncate, "AssetNotFound", []string{"score.py", "Deploy again"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			s.damage(tt.content, tt.damage)
			op := s.create(deployment("iris", nil))
			s.pass()
			r := s.ended(op, "Failed")
			message, _ := r.At("error.message").(string)
			if r.At("error.code") != tt.code {
				t.Errorf("the operation fails with %v", r.At("error.code"))
			}
			for _, text := range tt.texts {
				if !strings.Contains(message, text) {
					t.Errorf("the message lacks %q: %s", text, message)
				}
			}
		})
	}
	// A file that goes between listing and packing, among others of a folder.
	s := start(t)
	s.Upload("f", "folder/a.bin", "first", "folder/b.bin", "second")
	asset := s.Want(200, "POST", mms, "/assets", `{"name":"m","artifacts":[{"prefix":"LocalUpload/f/folder"}]}`).At("id").(string)
	s.Want(200, "POST", mms, "/models", `{"name":"folder","url":"aml://asset/`+asset+`","mimeType":"application/json"}`)
	s.damage("second", func(file string) error { return os.WriteFile(file, []byte("sec"), 0o600) })
	op := s.create(deployment("iris", object{"environmentImageRequest": imageRequest(object{"modelIds": []string{"folder:1"}})}))
	s.pass()
	if message, _ := s.ended(op, "Failed").At("error.message").(string); !strings.Contains(message, "folder/b.bin") || strings.Contains(message, "a.bin") {
		t.Errorf("the operation says %q", message)
	}
}

// The tag berth.maxSurge has updates end an old pod before a new one starts, without touching pods itself.
func TestMaxSurge(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(deployment("iris", nil))
	pods := s.kubeDeployment("iris").Spec.Template
	for _, tt := range []struct {
		tags               object
		unavailable, surge int
	}{{object{"berth.maxSurge": "0"}, 1, 0}, {object{"berth.maxSurge": "1"}, 0, 1}, {object{"berth.maxSurge": "0", "team": "a"}, 1, 0}, {object{}, 0, 1}} {
		s.update("iris", "/kvTags", tt.tags)
		d := s.kubeDeployment("iris")
		r := d.Spec.Strategy.RollingUpdate
		if r.MaxUnavailable.IntValue() != tt.unavailable || r.MaxSurge.IntValue() != tt.surge || text(d.Spec.Template) != text(pods) {
			t.Errorf("with the tags %v: maxUnavailable %v, maxSurge %v, pods %v", tt.tags, r.MaxUnavailable, r.MaxSurge, d.Spec.Template)
		}
	}
	s.Refused(400, "InvalidParameter", "PATCH", mms, "/services/iris", s.patchBody("/kvTags", object{"berth.maxSurge": "25%"}), "kvTags.berth.maxSurge", "25%")
}

// The autoscaler's bounds reach the route; its replicas are its own.
func TestAutoscaler_D3(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(deployment("iris", object{"numReplicas": nil, "autoScaler": object{"autoscaleEnabled": true, "minReplicas": 2, "maxReplicas": 6, "targetUtilization": 50, "refreshPeriodInSeconds": 3}}))
	want := route.Scale{Auto: true, Min: 2, Max: 6, Utilization: 50, Refresh: 3 * time.Second}
	if got := s.routeOf("iris").Versions[0].Scale; got != want {
		t.Errorf("the route's scale is %+v, want %+v", got, want)
	}
	d := s.kubeDeployment("iris")
	five := int32(5)
	d.Spec.Replicas = &five
	must(s.kube.AppsV1().Deployments(ns).Update(context.Background(), d, metav1.UpdateOptions{}))
	s.update("iris", "/description", "d")
	if got := *s.kubeDeployment("iris").Spec.Replicas; got != 5 {
		t.Errorf("the autoscaler had 5 replicas, and an update made it %d", got)
	}
	s.update("iris", "/autoScaler/maxReplicas", 3)
	if got := *s.kubeDeployment("iris").Spec.Replicas; got != 3 {
		t.Errorf("with a bound of 3 there are %d replicas", got)
	}
}

// A model that a web service has cannot be deleted; and the compute's services are named.
func TestUsedBy(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.deploy(endpoint("pair", object{"a": version(nil)}))
	s.Refused(412, "PreconditionFailed", "DELETE", mms, "/models/iris:1", "", "iris:1", "pair")
	var on []string
	s.check(s.Manager.Store.View(t.Context(), func(tx store.ReadTx) (err error) {
		on, err = service.On(tx, s.Workspace.Child("computes", "AKS"))
		return err
	}))
	if len(on) != 1 || on[0] != "pair" {
		t.Errorf("on the compute are %v", on)
	}
}
