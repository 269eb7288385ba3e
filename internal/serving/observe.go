package serving

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Observation is what a workload looks like now.
type Observation struct {
	Exists    bool
	Desired   int
	Updated   int // replicas of the present template
	Available int // replicas that serve, of any template
	RolledOut bool
	Problem   *Problem // what keeps the present template's pods from serving, nil for nothing
}

// Problem codes, as the original names them.
const (
	Unschedulable     = "Unschedulable"
	CrashLoopBackOff  = "CrashLoopBackOff"
	OutOfMemory       = "OOMKilled"
	InaccessibleImage = "InaccessibleImage"
	Refused           = "KubernetesDeploymentFailed"
)

// Problem is why pods do not serve.
type Problem struct {
	Code    string
	Message string // for people: what happened and what to do
	Times   int    // how often a container ended, or an image was not to be had
	Since   time.Time
	Events  []Event // of the pod, once Explain was asked

	pod string
}

// Event is something that happened to a pod, as clients of the original know it.
type Event struct {
	InvolvedObject, InvolvedKind, Type, Reason, Message, LastTimestamp string
}

// Observe looks at a workload. logs says whether to read what containers say that start for long, which costs a request
// for each.
func (c *Cluster) Observe(ctx context.Context, name string, logs bool) (Observation, error) {
	d, err := c.api.AppsV1().Deployments(c.namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Observation{}, nil
	}
	if err != nil {
		return Observation{}, err
	}
	o := Observation{Exists: true, Updated: int(d.Status.UpdatedReplicas), Available: int(d.Status.AvailableReplicas), RolledOut: rolledOut(d), Desired: 1}
	if d.Spec.Replicas != nil {
		o.Desired = int(*d.Spec.Replicas)
	}
	if o.RolledOut {
		return o, nil
	}
	pods, err := c.podsOf(ctx, d)
	if err != nil {
		return Observation{}, err
	}
	for i := 0; i < len(pods) && o.Problem == nil; i++ {
		o.Problem = problemOf(&pods[i])
	}
	for i := 0; i < min(len(pods), mostPods) && o.Problem == nil && logs; i++ {
		o.Problem = c.starved(ctx, &pods[i])
	}
	if o.Problem == nil {
		o.Problem = refusal(d)
	}
	return o, nil
}

// Explain adds to a problem what takes more than a look at the pod: what happened to it and, where it fits on no node, what
// room there is. It reads the nodes and pods of the whole cluster, so it is for deployments that failed.
func (c *Cluster) Explain(ctx context.Context, p *Problem) {
	if p.Code == Unschedulable {
		p.Message += c.room(ctx)
	}
	if p.pod != "" {
		p.Events = c.events(ctx, p.pod)
	}
}

// refusal is why Kubernetes makes no pods at all, for instance a quota.
func refusal(d *appsv1.Deployment) *Problem {
	for _, cond := range d.Status.Conditions {
		if cond.Type == appsv1.DeploymentReplicaFailure && cond.Status == corev1.ConditionTrue {
			return &Problem{Code: Refused, Message: "Kubernetes refuses to make the service's pods: " + cond.Message, Since: cond.LastTransitionTime.Time}
		}
	}
	return nil
}

func problemOf(p *corev1.Pod) *Problem {
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse && cond.Reason == corev1.PodReasonUnschedulable {
			return &Problem{Code: Unschedulable, Since: p.CreationTimestamp.Time, pod: p.Name,
				Message: "The pod fits on no node: " + cond.Message + " Ask for less with cpu_cores and memory_gb, add nodes, or choose a larger VM size."}
		}
	}
	for _, s := range p.Status.ContainerStatuses {
		if prob := containerProblem(p, &s); prob != nil {
			prob.pod = p.Name
			return prob
		}
	}
	return nil
}

func containerProblem(p *corev1.Pod, s *corev1.ContainerStatus) *Problem {
	if s.Ready {
		return nil // whatever happened to it before, it serves now
	}
	ended := s.LastTerminationState.Terminated
	if s.State.Terminated != nil {
		ended = s.State.Terminated
	}
	w := s.State.Waiting
	switch {
	case ended != nil && ended.Reason == "OOMKilled":
		return outOfMemoryProblem(p, int(max(1, s.RestartCount)), ended.FinishedAt.Time, said(ended))
	case ended != nil && (ended.Reason == "StartError" || ended.Reason == "ContainerCannotRun"):
		return &Problem{Code: Refused, Since: p.CreationTimestamp.Time, Message: "The container cannot be started, which is the image's or the node's fault and not the model's:" + said(ended)}
	case ended != nil && s.Started != nil && !*s.Started:
		return &Problem{Code: CrashLoopBackOff, Times: int(max(1, s.RestartCount)), Since: ended.FinishedAt.Time, Message: crash(p, ended) + " Read what it said last below, or the whole log with get_logs()." + said(ended)}
	case w != nil && (w.Reason == "ErrImagePull" || w.Reason == "ImagePullBackOff" || w.Reason == "InvalidImageName"):
		return &Problem{Code: InaccessibleImage, Since: p.CreationTimestamp.Time, Message: fmt.Sprintf("The image %s cannot be fetched: %s", s.Image, w.Message)}
	case w != nil && (w.Reason == "CreateContainerConfigError" || w.Reason == "CreateContainerError" || w.Reason == "RunContainerError"):
		return &Problem{Code: Refused, Since: p.CreationTimestamp.Time, Message: fmt.Sprintf("The container cannot be started (%s): %s", w.Reason, w.Message)}
	}
	return nil
}

// crash says how a container ended before it served. The first two sentences are the original's.
func crash(p *corev1.Pod, ended *corev1.ContainerStateTerminated) string {
	text := "Your container application crashed. This may be caused by errors in your scoring file's init() function."
	// What ends by itself ends before the startup probe gives up, and what that ends takes a moment longer.
	if limit := startLimit(p); limit > 0 && !ended.StartedAt.IsZero() && ended.FinishedAt.Sub(ended.StartedAt.Time) > limit {
		return text + fmt.Sprintf(" It was ended because init() had not returned after %s (initial_delay_seconds of the liveness probe). Do less in init(), or raise that.", limit)
	}
	return text + fmt.Sprintf(" It ended with exit code %d.", ended.ExitCode)
}

// startLimit is how long a container may take until it serves, 0 for no limit.
func startLimit(p *corev1.Pod) time.Duration {
	s := p.Spec.Containers[0].StartupProbe
	if s == nil {
		return 0
	}
	return time.Duration(s.FailureThreshold*s.PeriodSeconds) * time.Second
}

// patience is how long a container may start before its log is looked at for why it does not.
const patience = 10 * time.Second

// outOfMemory is what gunicorn says when the kernel ended its worker. Where cgroups do not end all processes of a
// container together (v1), the container lives on and starts workers for ever, and only its log says why.
const outOfMemory = "Perhaps out of memory?"

// starved looks for the cause in the log of a container that runs and does not become ready.
func (c *Cluster) starved(ctx context.Context, p *corev1.Pod) *Problem {
	if len(p.Status.ContainerStatuses) == 0 {
		return nil
	}
	s := &p.Status.ContainerStatuses[0]
	if s.State.Running == nil || s.Ready || time.Since(s.State.Running.StartedAt.Time) < patience {
		return nil
	}
	var b strings.Builder
	c.log(ctx, &b, p.Name, 200, false, 1<<20)
	times := strings.Count(b.String(), outOfMemory)
	if times == 0 {
		return nil
	}
	prob := outOfMemoryProblem(p, times, s.State.Running.StartedAt.Time, "")
	prob.pod = p.Name
	return prob
}

func outOfMemoryProblem(p *corev1.Pod, times int, since time.Time, log string) *Problem {
	return &Problem{Code: OutOfMemory, Times: times, Since: since,
		Message: fmt.Sprintf("The container used more memory than its limit (%s) and was ended. Raise memory_gb and memory_gb_limit, or use less in init() or run().%s", limitOf(p), log)}
}

func said(t *corev1.ContainerStateTerminated) string {
	if t.Message == "" {
		return ""
	}
	return "\n" + strings.TrimSpace(t.Message)
}

func limitOf(p *corev1.Pod) string {
	q, ok := p.Spec.Containers[0].Resources.Limits[corev1.ResourceMemory]
	if !ok {
		return "that of the node"
	}
	return q.String()
}

// room says what is free on the nodes, because a user cannot see it.
func (c *Cluster) room(ctx context.Context) string {
	nodes, err := c.api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return ""
	}
	pods, err := c.api.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "status.phase!=Succeeded,status.phase!=Failed"})
	if err != nil {
		return ""
	}
	type use struct{ cpu, memory int64 }
	used := map[string]use{}
	for _, p := range pods.Items {
		u := used[p.Spec.NodeName]
		for _, k := range p.Spec.Containers {
			u.cpu += k.Resources.Requests.Cpu().MilliValue()
			u.memory += k.Resources.Requests.Memory().Value()
		}
		used[p.Spec.NodeName] = u
	}
	var out []string
	for _, n := range nodes.Items {
		u := used[n.Name]
		out = append(out, fmt.Sprintf("%s %.2f CPU cores and %.1f GB", n.Name,
			float64(n.Status.Allocatable.Cpu().MilliValue()-u.cpu)/1000, float64(n.Status.Allocatable.Memory().Value()-u.memory)/(1<<30)))
	}
	return " Free are: " + strings.Join(out, "; ") + "."
}

func (c *Cluster) events(ctx context.Context, pod string) []Event {
	list, err := c.api.CoreV1().Events(c.namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod, Limit: 20})
	if err != nil {
		return nil
	}
	var out []Event
	for _, e := range list.Items {
		last := e.LastTimestamp.Time
		if last.IsZero() { // an event of the newer API
			last = e.EventTime.Time
		}
		out = append(out, Event{e.InvolvedObject.Name, e.InvolvedObject.Kind, e.Type, e.Reason, e.Message, last.UTC().Format(time.RFC3339)})
	}
	return out
}

// mostPods is of how many pods of a workload the logs are read.
const mostPods = 5

// Logs returns the last lines of a workload's containers, those that have trouble first, and of a container that was
// restarted also what the last one said. tail is a number of lines of each, most the bytes of all together; it reads
// at most mostPods pods, and says so where there are more.
func (c *Cluster) Logs(ctx context.Context, name string, tail int64, most int) (string, error) {
	d, err := c.api.AppsV1().Deployments(c.namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	pods, err := c.podsOf(ctx, d)
	if err != nil {
		return "", err
	}
	all := len(pods)
	slices.SortStableFunc(pods, func(a, b corev1.Pod) int { return urgency(&a) - urgency(&b) })
	var b strings.Builder
	for i := range pods[:min(all, mostPods)] {
		p := &pods[i]
		if all > 1 {
			fmt.Fprintf(&b, "==> %s <==\n", p.Name)
		}
		if restarts(p) > 0 {
			c.log(ctx, &b, p.Name, tail, true, most-b.Len())
			fmt.Fprintf(&b, "--- the container was started again (%d times) ---\n", restarts(p))
		}
		c.log(ctx, &b, p.Name, tail, false, most-b.Len())
	}
	if all > mostPods {
		fmt.Fprintf(&b, "==> %d more pods of %s are not shown <==\n", all-mostPods, name)
	}
	return b.String(), nil
}

// urgency orders pods by how much their logs tell: trouble now, trouble before, none.
func urgency(p *corev1.Pod) int {
	switch {
	case problemOf(p) != nil:
		return 0
	case restarts(p) > 0:
		return 1
	}
	return 2
}

func restarts(p *corev1.Pod) int32 {
	if len(p.Status.ContainerStatuses) == 0 {
		return 0
	}
	return p.Status.ContainerStatuses[0].RestartCount
}

// log copies at most so many bytes of what a container said. A container that has not started yet has said nothing.
func (c *Cluster) log(ctx context.Context, w *strings.Builder, pod string, tail int64, previous bool, most int) {
	if most <= 0 {
		return
	}
	stream, err := c.api.CoreV1().Pods(c.namespace).GetLogs(pod, &corev1.PodLogOptions{Container: container, TailLines: &tail, Previous: previous}).Stream(ctx)
	if err != nil {
		return
	}
	defer func() { _ = stream.Close() }()                  // nothing was written through it
	_, _ = io.Copy(w, io.LimitReader(stream, int64(most))) // what came before an interruption is still worth showing
}
