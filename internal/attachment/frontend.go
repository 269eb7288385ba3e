package attachment

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/berthdev/berth/internal/digest"
	"github.com/berthdev/berth/internal/route"
)

// Names of the front end's objects, the original's where it has them. What the front end itself relies on is in package route.
const (
	frontEndName    = "azureml-fe"
	envSecretName   = "azureml-fe-env"
	envFilesDir     = "/etc/azureml-fe"
	envSum          = "berth.dev/env" // annotation of pods: changes with their environment, so that they are replaced
	modelPolicyName = "berth-models"
	PullSecret      = "berth-registry" // with which the namespace's pods fetch images
	frontEndSpec    = "berth.dev/spec" // annotation: digest of what Berth wants, so that its changes are seen
	// terminationPeriod is how long a front end may take to stop, in seconds. It ends as soon as its requests have; the last
	// seconds are for its last traces.
	terminationPeriod = int64((route.LeavingPeriod+route.MaxDrain)/time.Second) + 15
	memoryLimit       = "512Mi"

	internalBalancer = "service.beta.kubernetes.io/azure-load-balancer-internal" // annotation that AKS follows
)

// FrontEnd is what runs in front of a workspace's web services.
type FrontEnd struct {
	Image    string
	Version  string // Berth's
	Registry []byte // a dockerconfigjson, with which the namespace fetches images
	Replicas int
	Internal bool // the load balancer is for the virtual network only

	// Env is what else its environment has, and EnvFiles the content of files that variables name. Both may hold secrets.
	Env      map[string]string
	EnvFiles map[string][]byte

	Certificate, Key []byte // PEM; empty without TLS
}

// FrontEndStatus is how the front end does.
type FrontEndStatus struct {
	Address string // of the load balancer; "" until it has one
	TLS     bool
	Waiting string // what it waits for, "" when it serves
}

// frontEndRights are what the front end needs: to learn, and to scale.
var frontEndRights = []rbacv1.PolicyRule{
	{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "list", "watch"}},
	{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"get", "list", "watch"}},
	{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get", "list", "watch"}},
	{APIGroups: []string{"apps"}, Resources: []string{"deployments/scale"}, Verbs: []string{"get", "patch", "update"}},
}

func ptr[T any](v T) *T { return &v }

// install puts the front end into the namespace, and repairs what was changed of it.
func (a Attachment) install(ctx context.Context, c kubernetes.Interface, f *FrontEnd) error {
	ns := a.Namespace()
	if err := a.secrets(ctx, c, ns, f); err != nil {
		return fmt.Errorf("the front end's secrets: %w", err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: a.meta(frontEndName)}
	if _, err := c.CoreV1().ServiceAccounts(ns).Create(ctx, account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("the front end's service account: %w", err)
	}
	role := &rbacv1.Role{ObjectMeta: a.meta(frontEndName), Rules: frontEndRights}
	_, err := c.RbacV1().Roles(ns).Create(ctx, role, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = c.RbacV1().Roles(ns).Update(ctx, role, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("the front end's rights: %w", err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: a.meta(frontEndName), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: frontEndName},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: frontEndName, Namespace: ns}},
	}
	if _, err := c.RbacV1().RoleBindings(ns).Create(ctx, binding, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("binding the front end's rights: %w", err)
	}
	for _, want := range a.frontEndServices(f) {
		if err := putService(ctx, c, ns, want); err != nil {
			return fmt.Errorf("the service %s: %w", want.Name, err)
		}
	}
	budget := &policyv1.PodDisruptionBudget{
		ObjectMeta: a.meta(frontEndName),
		Spec:       policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: frontEndPods}},
	}
	if _, err := c.PolicyV1().PodDisruptionBudgets(ns).Create(ctx, budget, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("the front end's disruption budget: %w", err)
	}
	if err := putPolicy(ctx, c, ns, a.modelPolicy()); err != nil {
		return fmt.Errorf("the network policy of model pods: %w", err)
	}
	return a.deployFrontEnd(ctx, c, ns, f)
}

// modelPolicy lets nobody but the front end connect to model pods, which ask for no key themselves. What a node sends to
// its own pods, such as probes, no policy keeps back. A cluster without an engine for policies ignores it.
func (a Attachment) modelPolicy() *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: a.meta(modelPolicyName),
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: route.ServiceLabel, Operator: metav1.LabelSelectorOpExists}}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{
				From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: frontEndPods}}},
				Ports: []networkingv1.NetworkPolicyPort{{Protocol: ptr(corev1.ProtocolTCP), Port: ptr(intstr.FromInt32(route.ContainerPort))}},
			}},
		},
	}
}

func putPolicy(ctx context.Context, c kubernetes.Interface, ns string, want *networkingv1.NetworkPolicy) error {
	have, err := c.NetworkingV1().NetworkPolicies(ns).Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = c.NetworkingV1().NetworkPolicies(ns).Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil || equality.Semantic.DeepEqual(have.Spec, want.Spec) {
		return err
	}
	have.Spec = want.Spec
	_, err = c.NetworkingV1().NetworkPolicies(ns).Update(ctx, have, metav1.UpdateOptions{})
	return err
}

// secrets are what nodes show the registry, what front ends show each other, and the certificate.
func (a Attachment) secrets(ctx context.Context, c kubernetes.Interface, ns string, f *FrontEnd) error {
	pull := &corev1.Secret{ObjectMeta: a.meta(PullSecret), Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: f.Registry}}
	if err := putSecret(ctx, c, ns, pull); err != nil {
		return err
	}
	var token [24]byte
	_, _ = rand.Read(token[:]) // it never fails
	peers := &corev1.Secret{ObjectMeta: a.meta(route.PeersSecret), Data: map[string][]byte{route.TokenEntry: []byte(hex.EncodeToString(token[:]))}}
	if _, err := c.CoreV1().Secrets(ns).Create(ctx, peers, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	if err := putOrRemove(ctx, c, ns, &corev1.Secret{ObjectMeta: a.meta(envSecretName), Data: f.environment()}); err != nil {
		return err
	}
	if len(f.Certificate) == 0 {
		return removeSecret(ctx, c, ns, route.CertificateSecret)
	}
	return putSecret(ctx, c, ns, &corev1.Secret{ObjectMeta: a.meta(route.CertificateSecret), Data: map[string][]byte{route.CertificateEntry: f.Certificate, route.KeyEntry: f.Key}})
}

// environment is what a secret has of the front end's environment.
func (f *FrontEnd) environment() map[string][]byte {
	data := maps.Clone(f.EnvFiles)
	for name, value := range f.Env {
		if data == nil {
			data = map[string][]byte{}
		}
		data[name] = []byte(value)
	}
	return data
}

// putOrRemove writes a secret that has something in it, and removes one that has not.
func putOrRemove(ctx context.Context, c kubernetes.Interface, ns string, want *corev1.Secret) error {
	if len(want.Data) == 0 {
		return removeSecret(ctx, c, ns, want.Name)
	}
	return putSecret(ctx, c, ns, want)
}

func removeSecret(ctx context.Context, c kubernetes.Interface, ns, name string) error {
	err := c.CoreV1().Secrets(ns).Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func putSecret(ctx context.Context, c kubernetes.Interface, ns string, want *corev1.Secret) error {
	have, err := c.CoreV1().Secrets(ns).Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = c.CoreV1().Secrets(ns).Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	same := len(have.Data) == len(want.Data)
	for k, v := range want.Data {
		same = same && string(have.Data[k]) == string(v)
	}
	if same {
		return nil
	}
	have.Data = want.Data
	_, err = c.CoreV1().Secrets(ns).Update(ctx, have, metav1.UpdateOptions{})
	return err
}

var frontEndPods = map[string]string{"app": frontEndName}

func (a Attachment) frontEndServices(f *FrontEnd) []*corev1.Service {
	public := &corev1.Service{ObjectMeta: a.meta(frontEndName), Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, Selector: frontEndPods,
		Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, TargetPort: intstr.FromInt32(route.HTTPPort)},
			{Name: "https", Port: 443, TargetPort: intstr.FromInt32(route.HTTPSPort)},
		},
	}}
	if f.Internal {
		public.Annotations[internalBalancer] = "true"
	}
	inner := &corev1.Service{ObjectMeta: a.meta(route.PeersService), Spec: corev1.ServiceSpec{
		ClusterIP: corev1.ClusterIPNone, Selector: frontEndPods, Ports: []corev1.ServicePort{{Name: "peers", Port: route.PeersPort}},
	}}
	return []*corev1.Service{public, inner}
}

func putService(ctx context.Context, c kubernetes.Interface, ns string, want *corev1.Service) error {
	have, err := c.CoreV1().Services(ns).Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = c.CoreV1().Services(ns).Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	fixed := have.DeepCopy() // what the cluster and its cloud added stays
	fixed.Spec.Selector = want.Spec.Selector
	if want.Spec.Type != "" {
		fixed.Spec.Type = want.Spec.Type
	}
	if fixed.Annotations == nil {
		fixed.Annotations = map[string]string{}
	}
	if delete(fixed.Annotations, internalBalancer); want.Annotations[internalBalancer] != "" {
		fixed.Annotations[internalBalancer] = want.Annotations[internalBalancer]
	}
	if !samePorts(have.Spec.Ports, want.Spec.Ports) {
		fixed.Spec.Ports = want.Spec.Ports
	}
	if equality.Semantic.DeepEqual(have, fixed) {
		return nil
	}
	_, err = c.CoreV1().Services(ns).Update(ctx, fixed, metav1.UpdateOptions{})
	return err
}

// samePorts compares what a service's ports lead to; the rest of them is the cluster's to choose.
func samePorts(have, want []corev1.ServicePort) bool {
	return slices.EqualFunc(have, want, func(h, w corev1.ServicePort) bool {
		return h.Name == w.Name && h.Port == w.Port && (h.TargetPort == w.TargetPort || w.TargetPort == intstr.IntOrString{})
	})
}

func (a Attachment) deployFrontEnd(ctx context.Context, c kubernetes.Interface, ns string, f *FrontEnd) error {
	want := a.frontEndDeployment(f)
	deployments := c.AppsV1().Deployments(ns)
	have, err := deployments.Get(ctx, frontEndName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = deployments.Create(ctx, want, metav1.CreateOptions{})
	} else if err == nil && !asWritten(have, want) {
		want.ResourceVersion = have.ResourceVersion
		_, err = deployments.Update(ctx, want, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("the front end's deployment: %w", err)
	}
	return nil
}

// asWritten reports whether a deployment is the one that Berth wants, and nobody changed what Berth says of it. What others
// added stays, and so do the container's CPU and memory, which Azure ML lets a cluster's owner change.
func asWritten(have, want *appsv1.Deployment) bool {
	if have.Annotations[frontEndSpec] != want.Annotations[frontEndSpec] || len(have.Spec.Template.Spec.Containers) != 1 {
		return false
	}
	spec := want.Spec.DeepCopy()
	spec.Template.Spec.Containers[0].Resources = corev1.ResourceRequirements{}
	return equality.Semantic.DeepDerivative(spec, &have.Spec)
}

func (a Attachment) frontEndDeployment(f *FrontEnd) *appsv1.Deployment {
	fromField := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	probe := func(path string, period int32) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(route.StatusPort)}}, PeriodSeconds: period, TimeoutSeconds: 2, FailureThreshold: 3, SuccessThreshold: 1}
	}
	meta := a.meta(frontEndName)
	podAnnotations := map[string]string(nil)
	if env := f.environmentSum(); env != "" {
		podAnnotations = map[string]string{envSum: env}
	}
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	requests[corev1.ResourceCPU], requests[corev1.ResourceMemory] = quantityOf("50m"), quantityOf("64Mi")
	limits[corev1.ResourceMemory] = quantityOf(memoryLimit)
	d := &appsv1.Deployment{
		ObjectMeta: meta,
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr(int32(f.Replicas)), RevisionHistoryLimit: ptr(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: frontEndPods},
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
				MaxUnavailable: ptr(intstr.FromInt32(0)), MaxSurge: ptr(intstr.FromInt32(1)),
			}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: frontEndPods, Annotations: podAnnotations},
				Spec: corev1.PodSpec{
					ServiceAccountName: frontEndName, EnableServiceLinks: ptr(false), TerminationGracePeriodSeconds: ptr(terminationPeriod),
					ImagePullSecrets: []corev1.LocalObjectReference{{Name: PullSecret}},
					SecurityContext:  &corev1.PodSecurityContext{RunAsNonRoot: ptr(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
					TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{
						MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{MatchLabels: frontEndPods},
					}},
					Containers: []corev1.Container{{
						Name: frontEndName, Image: f.Image, ImagePullPolicy: corev1.PullIfNotPresent,
						Env:   []corev1.EnvVar{fromField(route.AddressVariable, "status.podIP"), fromField(route.NamespaceVariable, "metadata.namespace"), {Name: "GOMEMLIMIT", Value: fmt.Sprintf("%dMiB", route.MemoryTarget>>20)}},
						Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: route.HTTPPort}, {Name: "https", ContainerPort: route.HTTPSPort}, {Name: "peers", ContainerPort: route.PeersPort}, {Name: "status", ContainerPort: route.StatusPort}},
						SecurityContext: &corev1.SecurityContext{
							AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
						},
						Resources:      corev1.ResourceRequirements{Requests: requests, Limits: limits},
						ReadinessProbe: probe(route.ReadyPath, 1), LivenessProbe: probe(route.LivePath, 10),
					}},
				},
			},
		},
	}
	f.addEnvironment(&d.Spec.Template.Spec)
	d.Annotations[frontEndSpec] = digest.Of(d)
	return d
}

// addEnvironment makes a pod read its environment from the secret, so that nobody sees it who only sees pods.
func (f *FrontEnd) addEnvironment(p *corev1.PodSpec) {
	k := &p.Containers[0]
	for _, name := range slices.Sorted(maps.Keys(f.Env)) {
		k.Env = append(k.Env, corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{
			SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: envSecretName}, Key: name},
		}})
	}
	if len(f.EnvFiles) == 0 {
		return
	}
	files := &corev1.SecretVolumeSource{SecretName: envSecretName}
	for _, name := range slices.Sorted(maps.Keys(f.EnvFiles)) {
		k.Env = append(k.Env, corev1.EnvVar{Name: name, Value: path.Join(envFilesDir, name)})
		files.Items = append(files.Items, corev1.KeyToPath{Key: name, Path: name})
	}
	p.Volumes = append(p.Volumes, corev1.Volume{Name: "env", VolumeSource: corev1.VolumeSource{Secret: files}})
	k.VolumeMounts = append(k.VolumeMounts, corev1.VolumeMount{Name: "env", MountPath: envFilesDir, ReadOnly: true})
}

// environmentSum tells environments apart, "" for none. The registry's password goes into it: who reads the sum
// can try no guesses at a short secret with it.
func (f *FrontEnd) environmentSum() string {
	data := f.environment()
	if len(data) == 0 {
		return ""
	}
	text, err := json.Marshal(data)
	if err != nil {
		panic(err) // bytes always marshal
	}
	mac := hmac.New(sha256.New, f.Registry)
	mac.Write(text)
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// FrontEnd reports how a workspace's front end does.
func (Kubernetes) FrontEnd(ctx context.Context, kubeconfig []byte, a Attachment) (FrontEndStatus, error) {
	c, err := client(kubeconfig)
	if err != nil {
		return FrontEndStatus{}, err
	}
	return a.frontEnd(ctx, c)
}

func (a Attachment) frontEnd(ctx context.Context, c kubernetes.Interface) (FrontEndStatus, error) {
	ns := a.Namespace()
	var s FrontEndStatus
	service, err := c.CoreV1().Services(ns).Get(ctx, frontEndName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return FrontEndStatus{Waiting: "it to be installed"}, nil
	}
	if err != nil {
		return s, fmt.Errorf("reading the front end's service: %w", err)
	}
	for _, in := range service.Status.LoadBalancer.Ingress {
		if s.Address = in.IP; s.Address == "" {
			s.Address = in.Hostname
		}
	}
	d, err := c.AppsV1().Deployments(ns).Get(ctx, frontEndName, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return s, fmt.Errorf("reading the front end's deployment: %w", err)
	}
	switch {
	case s.Address == "":
		s.Waiting = "its load balancer to get an address"
	case err != nil || d.Status.AvailableReplicas == 0:
		s.Waiting = "its first replica to serve (kubectl -n " + ns + " get pods -l app=azureml-fe)"
	}
	_, err = c.CoreV1().Secrets(ns).Get(ctx, route.CertificateSecret, metav1.GetOptions{})
	s.TLS = err == nil
	if err != nil && !apierrors.IsNotFound(err) {
		return s, fmt.Errorf("reading the front end's certificate: %w", err)
	}
	return s, nil
}
