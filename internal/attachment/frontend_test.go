package attachment

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/berthdev/berth/internal/digest"
	"github.com/berthdev/berth/internal/route"
)

var holder = Attachment{
	Installation: "inst", Workspace: "/subscriptions/s/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws",
	Compute: "/subscriptions/s/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws/computes/c",
}

// installed is a cluster in memory with a front end; change makes it differ from the simplest.
func installed(t *testing.T, change func(*FrontEnd)) (*fake.Clientset, *FrontEnd) {
	t.Helper()
	c := fake.NewClientset()
	f := &FrontEnd{Image: "registry.test/fe@sha256:1", Version: "1", Registry: []byte(`{"auths":{}}`), Replicas: 1}
	if change != nil {
		change(f)
	}
	install(t, c, f)
	return c, f
}

func install(t *testing.T, c *fake.Clientset, f *FrontEnd) {
	t.Helper()
	if err := holder.install(t.Context(), c, f); err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func deploymentOf(t *testing.T, c *fake.Clientset) *appsv1.Deployment {
	t.Helper()
	return must(c.AppsV1().Deployments(holder.Namespace()).Get(t.Context(), frontEndName, metav1.GetOptions{}))
}

func serviceOf(t *testing.T, c *fake.Clientset, name string) *corev1.Service {
	t.Helper()
	return must(c.CoreV1().Services(holder.Namespace()).Get(t.Context(), name, metav1.GetOptions{}))
}

// changes are the writes since the last call that succeeded and made nothing new, without the role, which is always written.
func changes(c *fake.Clientset) []string {
	out := []string{}
	for _, a := range c.Actions() {
		what := a.GetVerb() + " " + a.GetResource().Resource
		if slices.Contains([]string{"update", "patch"}, a.GetVerb()) && what != "update roles" {
			out = append(out, what)
		}
	}
	c.ClearActions()
	return out
}

// All that is installed is in the workspace's namespace and says whose it is, so that removing the namespace
// leaves nothing (A6). Its names are the original's.
func TestInstall_A6(t *testing.T) {
	t.Parallel()
	c, _ := installed(t, func(f *FrontEnd) { f.Certificate, f.Key = []byte("cert"), []byte("key") })
	var got []string
	for _, a := range c.Actions() {
		create, ok := a.(kubetesting.CreateAction)
		if !ok {
			continue
		}
		o := must(meta.Accessor(create.GetObject()))
		got = append(got, a.GetResource().Resource+"/"+o.GetName())
		if a.GetNamespace() != holder.Namespace() || o.GetLabels()[installationLabel] != "inst" || o.GetLabels()[managedByLabel] != "berth" || o.GetAnnotations()[workspaceKey] != holder.Workspace {
			t.Errorf("%s/%s is in %q, with the labels %v", a.GetResource().Resource, o.GetName(), a.GetNamespace(), o.GetLabels())
		}
	}
	slices.Sort(got)
	want := []string{
		"deployments/azureml-fe", "networkpolicies/berth-models", "poddisruptionbudgets/azureml-fe", "rolebindings/azureml-fe", "roles/azureml-fe", "secrets/azureml-fe-peers", "secrets/azuremlfessl", "secrets/berth-registry",
		"serviceaccounts/azureml-fe", "services/azureml-fe", "services/azureml-fe-int-http",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("installed (-want +got):\n%s", diff)
	}
}

// Only front ends may connect to model pods, and only where these answer: model pods ask nobody for a key. What others make
// of the policy is taken back.
func TestModelPolicy(t *testing.T) {
	t.Parallel()
	c, f := installed(t, nil)
	policies := c.NetworkingV1().NetworkPolicies(holder.Namespace())
	for range 2 {
		p := must(policies.Get(t.Context(), modelPolicyName, metav1.GetOptions{}))
		s := p.Spec
		if len(s.PolicyTypes) != 1 || s.PolicyTypes[0] != networkingv1.PolicyTypeIngress || len(s.Ingress) != 1 || len(s.Ingress[0].From) != 1 || len(s.Ingress[0].Ports) != 1 {
			t.Fatalf("the policy is %+v", s)
		}
		selects := func(selector *metav1.LabelSelector, pod map[string]string) bool {
			return must(metav1.LabelSelectorAsSelector(selector)).Matches(labels.Set(pod))
		}
		front := deploymentOf(t, c).Spec.Template.Labels
		model := map[string]string{"berth.dev/service": "iris", "app.kubernetes.io/name": "iris-v1"}
		from := s.Ingress[0].From[0]
		if !selects(&s.PodSelector, model) || selects(&s.PodSelector, front) || !selects(from.PodSelector, front) || selects(from.PodSelector, model) || from.NamespaceSelector != nil || from.IPBlock != nil {
			t.Errorf("the policy is for other pods: %+v", s)
		}
		if port := s.Ingress[0].Ports[0]; port.Port.IntValue() != 5001 || *port.Protocol != corev1.ProtocolTCP {
			t.Errorf("the port is %+v", port)
		}
		p.Spec.Ingress = nil
		must(policies.Update(t.Context(), p, metav1.UpdateOptions{}))
		install(t, c, f)
	}
}

// The front end runs under the Restricted standard, which its namespace demands, with the rights to learn and to
// scale and no others, and requests go on while one of its pods is replaced.
func TestFrontEndPod(t *testing.T) {
	t.Parallel()
	c, _ := installed(t, nil)
	d := deploymentOf(t, c)
	p := d.Spec.Template.Spec
	k := p.Containers[0]
	s := k.SecurityContext
	if !*p.SecurityContext.RunAsNonRoot || p.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("security: %+v, %+v", p.SecurityContext, s)
	}
	if k.Image != "registry.test/fe@sha256:1" || p.ServiceAccountName != frontEndName || len(p.ImagePullSecrets) != 1 || p.ImagePullSecrets[0].Name != PullSecret {
		t.Errorf("image %s, account %s, pull secrets %v", k.Image, p.ServiceAccountName, p.ImagePullSecrets)
	}
	r := d.Spec.Strategy.RollingUpdate
	if r.MaxUnavailable.IntValue() != 0 || r.MaxSurge.IntValue() != 1 || k.ReadinessProbe == nil {
		t.Errorf("an update interrupts requests: %+v", r)
	}
	if grace := time.Duration(*p.TerminationGracePeriodSeconds) * time.Second; grace <= route.LeavingPeriod+route.MaxDrain {
		t.Errorf("a front end has %v to leave and to finish requests, and may take %v for it", grace, route.LeavingPeriod+route.MaxDrain)
	}
	for key, v := range d.Spec.Selector.MatchLabels {
		for _, name := range []string{frontEndName, route.PeersService} {
			if d.Spec.Template.Labels[key] != v || serviceOf(t, c, name).Spec.Selector[key] != v {
				t.Errorf("%s=%s does not select the front end's pods everywhere", key, v)
			}
		}
	}
	for _, rule := range must(c.RbacV1().Roles(holder.Namespace()).Get(t.Context(), frontEndName, metav1.GetOptions{})).Rules {
		for _, verb := range rule.Verbs {
			reads := slices.Contains([]string{"get", "list", "watch"}, verb)
			if !reads && (len(rule.Resources) != 1 || rule.Resources[0] != "deployments/scale") {
				t.Errorf("the front end may %s %v", verb, rule.Resources)
			}
		}
	}
	pull := must(c.CoreV1().Secrets(holder.Namespace()).Get(t.Context(), PullSecret, metav1.GetOptions{}))
	if pull.Type != corev1.SecretTypeDockerConfigJson || string(pull.Data[corev1.DockerConfigJsonKey]) != `{"auths":{}}` {
		t.Errorf("the pull secret is %+v", pull)
	}
}

// A production cluster has three front ends, spread over nodes, of which one at a time may go; a dev-test cluster has one.
func TestReplicas(t *testing.T) {
	t.Parallel()
	c, f := installed(t, nil)
	for _, n := range []int{1, 3, 1} {
		f.Replicas = n
		install(t, c, f)
		d := deploymentOf(t, c)
		if got := *d.Spec.Replicas; int(got) != n {
			t.Errorf("%d replicas, want %d", got, n)
		}
		if spread := d.Spec.Template.Spec.TopologySpreadConstraints; len(spread) != 1 || spread[0].TopologyKey != corev1.LabelHostname || spread[0].WhenUnsatisfiable != corev1.ScheduleAnyway {
			t.Errorf("spread: %+v", spread)
		}
	}
	b := must(c.PolicyV1().PodDisruptionBudgets(holder.Namespace()).Get(t.Context(), frontEndName, metav1.GetOptions{}))
	if b.Spec.MaxUnavailable.IntValue() != 1 {
		t.Errorf("the disruption budget is %+v", b.Spec)
	}
}

// What is as it should be is left alone, also where Kubernetes and its cloud filled things in.
func TestInstallIsIdempotent(t *testing.T) {
	t.Parallel()
	c, f := installed(t, func(f *FrontEnd) {
		f.Internal, f.Certificate, f.Key = true, []byte("cert"), []byte("key")
		f.Env, f.EnvFiles = map[string]string{"A": "1"}, map[string][]byte{"F": []byte("f")}
	})
	services := c.CoreV1().Services(holder.Namespace())
	public, peers := serviceOf(t, c, frontEndName), serviceOf(t, c, route.PeersService)
	public.Annotations["cloud.example/id"], public.Finalizers = "17", []string{"service.kubernetes.io/load-balancer-cleanup"}
	public.Spec.ClusterIP, public.Spec.Ports[0].NodePort, public.Spec.Ports[0].Protocol = "10.0.0.1", 30123, corev1.ProtocolTCP
	peers.Spec.Type, peers.Spec.Ports[0].TargetPort = corev1.ServiceTypeClusterIP, intstr.FromInt32(route.PeersPort)
	d := deploymentOf(t, c)
	filledIn(d)
	d.Spec.Template.Spec.Containers[0].Resources.Limits[corev1.ResourceMemory] = quantityOf("1Gi") // the cluster's owner may
	must(c.AppsV1().Deployments(holder.Namespace()).Update(t.Context(), d, metav1.UpdateOptions{}))
	for _, s := range []*corev1.Service{public, peers} {
		must(services.Update(t.Context(), s, metav1.UpdateOptions{}))
	}
	token := must(c.CoreV1().Secrets(holder.Namespace()).Get(t.Context(), route.PeersSecret, metav1.GetOptions{})).Data["token"]
	changes(c)
	install(t, c, f)
	if got := changes(c); len(got) > 0 {
		t.Errorf("the second time changed %v", got)
	}
	again := must(c.CoreV1().Secrets(holder.Namespace()).Get(t.Context(), route.PeersSecret, metav1.GetOptions{})).Data["token"]
	if len(token) < 32 || string(token) != string(again) {
		t.Errorf("what front ends show each other changed from %q to %q", token, again)
	}
}

// filledIn makes a deployment of Berth's what an API server and its controllers make of it.
func filledIn(d *appsv1.Deployment) {
	d.Generation, d.UID, d.ResourceVersion = 1, "17", "5"
	d.Annotations["deployment.kubernetes.io/revision"] = "1"
	d.Spec.ProgressDeadlineSeconds = ptr(int32(600))
	p := &d.Spec.Template.Spec
	p.RestartPolicy, p.DNSPolicy, p.SchedulerName, p.DeprecatedServiceAccount = corev1.RestartPolicyAlways, corev1.DNSClusterFirst, corev1.DefaultSchedulerName, p.ServiceAccountName
	for _, v := range p.Volumes {
		v.Secret.DefaultMode = ptr(int32(0o644))
	}
	k := &p.Containers[0]
	k.TerminationMessagePath, k.TerminationMessagePolicy = corev1.TerminationMessagePathDefault, corev1.TerminationMessageReadFile
	for i := range k.Ports {
		k.Ports[i].Protocol = corev1.ProtocolTCP
	}
	for _, p := range []*corev1.Probe{k.ReadinessProbe, k.LivenessProbe} {
		p.HTTPGet.Scheme, p.SuccessThreshold = corev1.URISchemeHTTP, 1
	}
	for i := range k.Env {
		if from := k.Env[i].ValueFrom; from != nil && from.FieldRef != nil {
			from.FieldRef.APIVersion = "v1"
		}
	}
}

// All that Berth says of the deployment counts, so that whatever a new release changes reaches clusters that have a front end.
func TestDigestOfFrontEnd(t *testing.T) {
	t.Parallel()
	build := func() *appsv1.Deployment {
		return holder.frontEndDeployment(&FrontEnd{Image: "i", Replicas: 1, Env: map[string]string{"A": "1", "B": "2", "C": "3"}, EnvFiles: map[string][]byte{"F": []byte("f"), "G": []byte("g")}})
	}
	want := build()
	for range 20 {
		if diff := cmp.Diff(want, build()); diff != "" {
			t.Fatalf("the same front end is another each time, and would be replaced for ever (-first +now):\n%s", diff)
		}
	}
	for name, change := range map[string]func(*appsv1.Deployment){
		"a limit": func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.Containers[0].Resources.Limits[corev1.ResourceMemory] = quantityOf("1Gi")
		},
		"a probe":     func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].LivenessProbe.PeriodSeconds++ },
		"a port":      func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Ports[0].ContainerPort++ },
		"a variable":  func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Env[2].Value = "1GiB" },
		"the rollout": func(d *appsv1.Deployment) { d.Spec.Strategy.RollingUpdate.MaxSurge = ptr(intstr.FromInt32(2)) },
		"replicas":    func(d *appsv1.Deployment) { d.Spec.Replicas = ptr(int32(3)) },
		"a label":     func(d *appsv1.Deployment) { d.Labels["x"] = "y" },
	} {
		d := build()
		delete(d.Annotations, frontEndSpec)
		if got := digest.Of(d); got != want.Annotations[frontEndSpec] {
			t.Fatalf("the digest %s is not that of the whole, %s", want.Annotations[frontEndSpec], got)
		}
		if change(d); digest.Of(d) == want.Annotations[frontEndSpec] {
			t.Errorf("another release changes %s, and the digest stays", name)
		}
	}
}

// What somebody changed or deleted comes back, and what the cloud added to it stays.
func TestInstallRepairs(t *testing.T) {
	t.Parallel()
	ns := holder.Namespace()
	changedDeployment := func(change func(*appsv1.Deployment)) func(*testing.T, *fake.Clientset) {
		return func(t *testing.T, c *fake.Clientset) {
			d := deploymentOf(t, c)
			change(d)
			must(c.AppsV1().Deployments(ns).Update(t.Context(), d, metav1.UpdateOptions{}))
		}
	}
	changedService := func(change func(*corev1.Service)) func(*testing.T, *fake.Clientset) {
		return func(t *testing.T, c *fake.Clientset) {
			s := serviceOf(t, c, frontEndName)
			change(s)
			must(c.CoreV1().Services(ns).Update(t.Context(), s, metav1.UpdateOptions{}))
		}
	}
	for _, tt := range []struct {
		name  string
		spoil func(*testing.T, *fake.Clientset)
	}{
		{"scaled to nothing", changedDeployment(func(d *appsv1.Deployment) { d.Spec.Replicas = ptr(int32(0)) })},
		{"another image", changedDeployment(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "other" })},
		{"an older Berth's", changedDeployment(func(d *appsv1.Deployment) {
			d.Annotations[frontEndSpec] = "[]"
			d.Spec.Template.Spec.Containers[0].Resources.Limits[corev1.ResourceMemory] = quantityOf("1Gi")
		})},
		{"another probe", changedDeployment(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].ReadinessProbe.PeriodSeconds = 60 })},
		{"another variable", changedDeployment(func(d *appsv1.Deployment) {
			e := d.Spec.Template.Spec.Containers[0].Env
			e[len(e)-1].Value = "1GiB"
		})},
		{"fewer ports", changedDeployment(func(d *appsv1.Deployment) {
			k := &d.Spec.Template.Spec.Containers[0]
			k.Ports = k.Ports[:2]
		})},
		{"less time to stop", changedDeployment(func(d *appsv1.Deployment) { d.Spec.Template.Spec.TerminationGracePeriodSeconds = ptr(int64(1)) })},
		{"more rights in the container", changedDeployment(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].SecurityContext = nil })},
		{"another container", changedDeployment(func(d *appsv1.Deployment) {
			p := &d.Spec.Template.Spec
			p.Containers = append(p.Containers, corev1.Container{Name: "other"})
		})},
		{"no longer a load balancer", changedService(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })},
		{"another selector", changedService(func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "x"} })},
		{"another port", changedService(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(1) })},
		{"no ports for TLS", changedService(func(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[:1] })},
		{"public", changedService(func(s *corev1.Service) { delete(s.Annotations, internalBalancer) })},
		{"another password", func(t *testing.T, c *fake.Clientset) {
			s := must(c.CoreV1().Secrets(ns).Get(t.Context(), PullSecret, metav1.GetOptions{}))
			s.Data[corev1.DockerConfigJsonKey] = []byte("{}")
			must(c.CoreV1().Secrets(ns).Update(t.Context(), s, metav1.UpdateOptions{}))
		}},
		{"more rights", func(t *testing.T, c *fake.Clientset) {
			r := must(c.RbacV1().Roles(ns).Get(t.Context(), frontEndName, metav1.GetOptions{}))
			r.Rules[0].Verbs = []string{"*"}
			must(c.RbacV1().Roles(ns).Update(t.Context(), r, metav1.UpdateOptions{}))
		}},
		{"deleted", func(t *testing.T, c *fake.Clientset) {
			for _, err := range []error{
				c.AppsV1().Deployments(ns).Delete(t.Context(), frontEndName, metav1.DeleteOptions{}), c.CoreV1().Services(ns).Delete(t.Context(), frontEndName, metav1.DeleteOptions{}),
				c.CoreV1().Secrets(ns).Delete(t.Context(), PullSecret, metav1.DeleteOptions{}), c.RbacV1().Roles(ns).Delete(t.Context(), frontEndName, metav1.DeleteOptions{}),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, f := installed(t, func(f *FrontEnd) { f.Internal = true })
			type state struct {
				deployment, service, pull, role any
			}
			look := func() state {
				return state{
					deploymentOf(t, c).Spec, serviceOf(t, c, frontEndName).Spec, must(c.CoreV1().Secrets(ns).Get(t.Context(), PullSecret, metav1.GetOptions{})).Data,
					must(c.RbacV1().Roles(ns).Get(t.Context(), frontEndName, metav1.GetOptions{})).Rules,
				}
			}
			want := look()
			tt.spoil(t, c)
			install(t, c, f)
			if diff := cmp.Diff(want, look(), cmp.AllowUnexported(state{})); diff != "" {
				t.Errorf("repaired (-want +got):\n%s", diff)
			}
			if serviceOf(t, c, frontEndName).Annotations[internalBalancer] != "true" {
				t.Error("the load balancer became public")
			}
		})
	}
}

// A load balancer becomes public or internal as the compute says, and keeps what the cloud wrote on it.
func TestInternalBalancer(t *testing.T) {
	t.Parallel()
	c, f := installed(t, nil)
	for _, internal := range []bool{false, true, false} {
		s := serviceOf(t, c, frontEndName)
		s.Annotations["cloud.example/id"] = "17"
		must(c.CoreV1().Services(holder.Namespace()).Update(t.Context(), s, metav1.UpdateOptions{}))
		f.Internal = internal
		install(t, c, f)
		a := serviceOf(t, c, frontEndName).Annotations
		if (a[internalBalancer] == "true") != internal || a["cloud.example/id"] != "17" {
			t.Errorf("internal %v: annotations %v", internal, a)
		}
	}
}

// The certificate is written, renewed and taken away with TLS.
func TestCertificate(t *testing.T) {
	t.Parallel()
	c, f := installed(t, nil)
	for _, cert := range []string{"", "one", "two", "", ""} {
		f.Certificate, f.Key = []byte(cert), []byte(strings.Repeat("k", len(cert)))
		install(t, c, f)
		s, err := c.CoreV1().Secrets(holder.Namespace()).Get(t.Context(), route.CertificateSecret, metav1.GetOptions{})
		if (err == nil) != (cert != "") || err == nil && (string(s.Data["cert.pem"]) != cert || string(s.Data["key.pem"]) != string(f.Key)) {
			t.Errorf("with the certificate %q the cluster has %v, %v", cert, s, err)
		}
		status, err := holder.frontEnd(t.Context(), c)
		if err != nil || status.TLS != (cert != "") {
			t.Errorf("with the certificate %q the status is %+v, %v", cert, status, err)
		}
	}
}

// The status says what the front end waits for.
func TestFrontEndStatus(t *testing.T) {
	t.Parallel()
	c := fake.NewClientset()
	want := func(address, waiting string) {
		t.Helper()
		s, err := holder.frontEnd(t.Context(), c)
		if err != nil || s.Address != address || (s.Waiting == "") != (waiting == "") || !strings.Contains(s.Waiting, waiting) {
			t.Errorf("status %+v, %v; want the address %q, waiting for %q", s, err, address, waiting)
		}
	}
	want("", "to be installed")
	c, _ = installed(t, nil)
	want("", "load balancer")
	balanced := func(in ...corev1.LoadBalancerIngress) {
		s := serviceOf(t, c, frontEndName)
		s.Status.LoadBalancer.Ingress = in
		must(c.CoreV1().Services(holder.Namespace()).UpdateStatus(t.Context(), s, metav1.UpdateOptions{}))
	}
	balanced(corev1.LoadBalancerIngress{IP: "20.1.2.3"})
	want("20.1.2.3", "kubectl -n "+holder.Namespace())
	d := deploymentOf(t, c)
	d.Status.AvailableReplicas = 1
	must(c.AppsV1().Deployments(holder.Namespace()).UpdateStatus(t.Context(), d, metav1.UpdateOptions{}))
	want("20.1.2.3", "")
	balanced(corev1.LoadBalancerIngress{Hostname: "lb.example"})
	want("lb.example", "")
	if err := c.AppsV1().Deployments(holder.Namespace()).Delete(t.Context(), frontEndName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want("lb.example", "first replica")
}

func denied(a kubetesting.Action) (bool, runtime.Object, error) {
	return true, nil, apierrors.NewForbidden(a.GetResource().GroupResource(), "", errors.New("no"))
}

// What cannot be read or written is named, for whoever has to give Berth the right.
func TestFrontEndErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ verb, resource, want string }{
		{"create", "secrets", "secrets"}, {"create", "serviceaccounts", "service account"}, {"create", "roles", "rights"}, {"create", "rolebindings", "rights"},
		{"create", "services", "the service azureml-fe"}, {"create", "poddisruptionbudgets", "disruption budget"}, {"create", "deployments", "deployment"},
	} {
		c := fake.NewClientset()
		c.PrependReactor(tt.verb, tt.resource, denied)
		if err := holder.install(t.Context(), c, &FrontEnd{Replicas: 1}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %s: %v, want %q", tt.verb, tt.resource, err, tt.want)
		}
	}
	for resource, want := range map[string]string{"services": "front end's service", "deployments": "front end's deployment", "secrets": "front end's certificate"} {
		c, _ := installed(t, nil)
		c.PrependReactor("get", resource, denied)
		if _, err := holder.frontEnd(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("get %s: %v, want %q", resource, err, want)
		}
	}
}

// What the front end's environment has in addition is in a secret, because it may hold one, and pods are
// replaced when it changes.
func TestFrontEndEnvironment(t *testing.T) {
	t.Parallel()
	c, f := installed(t, nil)
	before := deploymentOf(t, c)
	for _, change := range []map[string]string{
		{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_EXPORTER_OTLP_HEADERS": "x-api-key=COLLECTORKEY"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_EXPORTER_OTLP_HEADERS": "x-api-key=COLLECTORKEY2"},
	} {
		f.Env, f.EnvFiles = change, map[string][]byte{"OTEL_EXPORTER_OTLP_CERTIFICATE": []byte("PEM")}
		last := deploymentOf(t, c)
		install(t, c, f)
		d := deploymentOf(t, c)
		text := must(d.Marshal())
		if strings.Contains(string(text), "COLLECTORKEY") {
			t.Error("the deployment shows a secret of the environment")
		}
		if d.Spec.Template.Annotations[envSum] == "" || d.Spec.Template.Annotations[envSum] == last.Spec.Template.Annotations[envSum] {
			t.Errorf("the environment changed, and pods stay: %v", d.Spec.Template.Annotations)
		}
		secret := must(c.CoreV1().Secrets(holder.Namespace()).Get(t.Context(), envSecretName, metav1.GetOptions{}))
		k := d.Spec.Template.Spec.Containers[0]
		got := map[string]string{}
		for _, e := range k.Env {
			switch {
			case e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && e.ValueFrom.SecretKeyRef.Name == envSecretName:
				got[e.Name] = string(secret.Data[e.ValueFrom.SecretKeyRef.Key])
			case e.ValueFrom == nil:
				got[e.Name] = e.Value
			}
		}
		want := map[string]string{"OTEL_EXPORTER_OTLP_CERTIFICATE": "/etc/azureml-fe/OTEL_EXPORTER_OTLP_CERTIFICATE", "GOMEMLIMIT": "440MiB"}
		for name, value := range change {
			want[name] = value
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the container's environment (-want +got):\n%s", diff)
		}
		v := d.Spec.Template.Spec.Volumes
		if len(v) != 1 || v[0].Secret.SecretName != envSecretName || v[0].Secret.Items[0].Path != "OTEL_EXPORTER_OTLP_CERTIFICATE" || k.VolumeMounts[0].MountPath != envFilesDir || string(secret.Data["OTEL_EXPORTER_OTLP_CERTIFICATE"]) != "PEM" {
			t.Errorf("files: %v, %v", v, k.VolumeMounts)
		}
		c.ClearActions()
		install(t, c, f)
		if got := changes(c); len(got) != 0 {
			t.Errorf("nothing changed, and it wrote %v", got)
		}
	}
	f.Env, f.EnvFiles = nil, nil
	install(t, c, f)
	if _, err := c.CoreV1().Secrets(holder.Namespace()).Get(t.Context(), envSecretName, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("nothing is exported any more, and the secret is left: %v", err)
	}
	if diff := cmp.Diff(before.Spec, deploymentOf(t, c).Spec); diff != "" {
		t.Errorf("nothing is exported any more (-as before +now):\n%s", diff)
	}
}
