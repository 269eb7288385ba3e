package serving

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/berthdev/berth/internal/digest"
	"github.com/berthdev/berth/internal/route"
)

// Paths in a model container, as the original has them.
const (
	AppRoot    = "/var/azureml-app"
	ModelsRoot = AppRoot + "/azureml-models"
)

const (
	container = "model"
	// specAnnotation holds a digest of what Berth wants, on each object and on pods: it tells without comparing field by
	// field whether they are of the present spec, and of the present Berth.
	specAnnotation = "berth.dev/spec"
	// modelUser is the user that model containers run as.
	modelUser = 1000
	// propagation is how long a pod that is to stop goes on serving, so that every front end
	// has learned of it before it refuses connections.
	propagation = 2 // seconds
	// tmpLimit is how much a pod may have in /tmp, in bytes; the kubelet ends one that has more, before it fills the
	// node's disk.
	tmpLimit = 10 << 30
)

// Workload is one version of a web service: a Deployment with its Kubernetes Service and disruption budget, all named
// Name.
type Workload struct {
	Name       string            `json:"name"`
	Service    string            `json:"service"`
	Version    string            `json:"version"` // "" for a web service that is no endpoint
	Image      string            `json:"image"`
	Command    []string          `json:"command"`
	Env        map[string]string `json:"env"`
	Mounts     []Mount           `json:"mounts"`
	CPU        float64           `json:"cpu"` // cores; limits of 0 are none
	CPULimit   float64           `json:"cpuLimit"`
	Memory     float64           `json:"memory"` // gigabytes
	MemoryMax  float64           `json:"memoryMax"`
	GPU        int               `json:"gpu"`
	Liveness   Liveness          `json:"liveness"`
	Timeout    time.Duration     `json:"timeout"` // of scoring: so long may a pod that stops finish its requests
	PullSecret string            `json:"pullSecret"`
	Scale      route.Scale       `json:"scale"`
	InPlace    bool              `json:"inPlace"` // an update ends an old pod before it starts a new one, for clusters without room for one more
}

// Mount is the content of an OCI image at a path of the container. The kubelet fetches it once for
// all pods of a node, and pods can only read it.
type Mount struct {
	Path  string `json:"path"`
	Image string `json:"image"`
}

// Liveness is a web service's livenessProbeRequirements, in seconds and counts.
type Liveness struct {
	InitialDelay int `json:"initialDelay"`
	Period       int `json:"period"`
	Timeout      int `json:"timeout"`
	Success      int `json:"success"`
	Failure      int `json:"failure"`
}

func (w *Workload) labels() map[string]string {
	l := map[string]string{route.ServiceLabel: w.Service, "app.kubernetes.io/managed-by": "berth", "app.kubernetes.io/name": w.Name}
	if w.Version != "" {
		l[route.VersionLabel] = w.Version
	}
	return l
}

func (w *Workload) podSelector() map[string]string {
	return map[string]string{route.ServiceLabel: w.Service, "app.kubernetes.io/name": w.Name}
}

// service is headless: front ends connect to pods. It names pods before they are ready, because
// front ends ask them themselves and so know earlier than the kubelet's next probe.
func (w *Workload) service() *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: w.Name, Labels: w.labels()},
		Spec: corev1.ServiceSpec{
			ClusterIP: corev1.ClusterIPNone, Selector: w.podSelector(), PublishNotReadyAddresses: true,
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(route.ContainerPort)}},
		},
	}
	s.Annotations = map[string]string{specAnnotation: digest.Of(s)}
	return s
}

// budget lets a drain of nodes take one replica at a time. It never holds up a drain for a pod that does not serve.
func (w *Workload) budget() *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: w.Name, Labels: w.labels()},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: ptr(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: w.podSelector()}, UnhealthyPodEvictionPolicy: ptr(policyv1.AlwaysAllow),
		},
	}
	b.Annotations = map[string]string{specAnnotation: digest.Of(b)}
	return b
}

func (w *Workload) deployment() *appsv1.Deployment {
	unavailable, surge, history := intstr.FromInt32(0), intstr.FromInt32(1), int32(1)
	if w.InPlace {
		unavailable, surge = surge, unavailable
	}
	pods := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: w.labels()}, Spec: w.pod()}
	pods.Annotations = map[string]string{specAnnotation: digest.Of(pods)}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: w.Name, Labels: w.labels()},
		Spec: appsv1.DeploymentSpec{
			RevisionHistoryLimit: &history,
			Selector:             &metav1.LabelSelector{MatchLabels: w.podSelector()},
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: &unavailable, MaxSurge: &surge},
			},
			Template: pods,
		},
	}
	d.Annotations = map[string]string{specAnnotation: digest.Of(d)}
	d.Spec.Replicas = ptr(int32(w.Scale.Min))
	return d
}

// scale gives want the replicas that it is to have beside what is there, and reports whether there are so many.
func (w *Workload) scale(have, want *appsv1.Deployment) bool {
	if have.Spec.Replicas == nil {
		return false
	}
	if n := int(*have.Spec.Replicas); w.Scale.Auto {
		want.Spec.Replicas = ptr(int32(min(max(n, w.Scale.Min), w.Scale.Max)))
	}
	return *have.Spec.Replicas == *want.Spec.Replicas
}

func ptr[T any](v T) *T { return &v }

// pod is a model pod under the Restricted pod security standard.
func (w *Workload) pod() corev1.PodSpec {
	p := corev1.PodSpec{
		AutomountServiceAccountToken:  ptr(false),
		EnableServiceLinks:            ptr(false),
		TerminationGracePeriodSeconds: ptr(int64(propagation + math.Ceil(w.Timeout.Seconds()) + 5)),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: ptr(true), RunAsUser: ptr(int64(modelUser)), RunAsGroup: ptr(int64(modelUser)), FSGroup: ptr(int64(modelUser)),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{w.container()},
		Volumes:    []corev1.Volume{{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: resource.NewQuantity(tmpLimit, resource.BinarySI)}}}},
	}
	if w.PullSecret != "" {
		p.ImagePullSecrets = []corev1.LocalObjectReference{{Name: w.PullSecret}}
	}
	for i, m := range w.Mounts {
		p.Volumes = append(p.Volumes, corev1.Volume{Name: volume(i), VolumeSource: corev1.VolumeSource{
			Image: &corev1.ImageVolumeSource{Reference: m.Image, PullPolicy: corev1.PullIfNotPresent},
		}})
	}
	return p
}

func volume(i int) string { return "content-" + strconv.Itoa(i) }

func (w *Workload) container() corev1.Container {
	c := corev1.Container{
		Name: container, Image: w.Image, ImagePullPolicy: corev1.PullIfNotPresent, Command: w.Command, WorkingDir: AppRoot,
		Ports:     []corev1.ContainerPort{{Name: "http", ContainerPort: route.ContainerPort}},
		Resources: w.resources(),
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
		VolumeMounts: []corev1.VolumeMount{{Name: "tmp", MountPath: "/tmp"}},
		Lifecycle:    &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: propagation}}},
		// What ended a container is in its last lines, e.g. the traceback of init().
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
	for i, m := range w.Mounts {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: volume(i), MountPath: m.Path, ReadOnly: true})
	}
	for _, name := range slices.Sorted(maps.Keys(w.Env)) {
		c.Env = append(c.Env, corev1.EnvVar{Name: name, Value: w.Env[name]})
	}
	port := intstr.FromInt32(route.ContainerPort)
	// The server answers once init() has returned. The liveness probe's initial delay is how long that
	// may take; from then on a probe does not ask for HTTP, because a worker that is busy scoring does not
	// answer, and gunicorn itself ends a worker that hangs.
	// A connection is taken before that, so a try with another timeout than its period would make the limit another one.
	c.StartupProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: port}},
		PeriodSeconds: 1, TimeoutSeconds: 1, FailureThreshold: int32(max(1, w.Liveness.InitialDelay)),
	}
	c.LivenessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: port}},
		PeriodSeconds: int32(w.Liveness.Period), TimeoutSeconds: int32(w.Liveness.Timeout),
		SuccessThreshold: 1, FailureThreshold: int32(w.Liveness.Failure), // Kubernetes allows no other success threshold here
	}
	return c
}

func (w *Workload) resources() corev1.ResourceRequirements {
	r := corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
	set := func(list corev1.ResourceList, cpu, gigabytes float64) {
		if cpu > 0 {
			list[corev1.ResourceCPU] = *resource.NewMilliQuantity(int64(math.Round(cpu*1000)), resource.DecimalSI)
		}
		if gigabytes > 0 {
			list[corev1.ResourceMemory] = *resource.NewQuantity(int64(math.Round(gigabytes*(1<<30))), resource.BinarySI)
		}
	}
	set(r.Requests, w.CPU, w.Memory)
	set(r.Limits, w.CPULimit, w.MemoryMax)
	if w.GPU > 0 {
		r.Requests["nvidia.com/gpu"] = *resource.NewQuantity(int64(w.GPU), resource.DecimalSI)
		r.Limits["nvidia.com/gpu"] = r.Requests["nvidia.com/gpu"]
	}
	return r
}
