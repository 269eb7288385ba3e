// Package cluster is the contract between Berth's resource providers and whatever
// really runs Kubernetes: this machine (local), nothing at all (fake), an imported
// cluster, or a cloud. It knows Kubernetes and machines; it must not know ARM, HTTP
// or the store.
//
// The one invariant: every method is idempotent and may be repeated after a crash at
// any point, because a cluster is found again by its owner's ID alone. The rules that
// every provider obeys are in docs/contracts/cluster-provider.md, and clustertest has
// one test for each.
package cluster

import (
	"context"
	"time"
)

// Provider creates, observes and deletes Kubernetes clusters.
//
// All methods are safe for concurrent use; calls for one ID are never concurrent
// (the reconciler works on one resource at a time), calls for different IDs are.
// An error that is not an *Error is transient: the caller retries with back-off.
type Provider interface {
	// Name is the provider's short, stable name, stored beside the handle.
	Name() string

	// Capabilities says what Ensure can honour. It does no I/O and never changes
	// while the process lives.
	Capabilities() Capabilities

	// Ensure moves the cluster one bounded step (a few seconds at most) towards spec,
	// creating it if it does not exist, restarting what died, adding nodes and removing
	// surplus ones (cordoned and drained first). It may return before the cluster is
	// ready: the caller calls again until Observation.Ready. prior is the handle that an
	// earlier call returned, or nil; a nil handle must still find a cluster that an
	// interrupted call began.
	//
	// Errors: *Error with KindTerminal (give up, name the reason), KindUser (the spec
	// cannot be met; say what to change), KindUnsupported (this provider or machine can
	// not do it; say what is missing). Anything else is transient.
	Ensure(ctx context.Context, spec Spec, prior Handle) (Handle, Observation, error)

	// Observe reports what is there now. It changes nothing and does not wait.
	// A cluster that is not there is Observation{Exists: false}, not an error.
	Observe(ctx context.Context, id string, h Handle) (Observation, error)

	// Delete removes everything that the cluster consists of: processes, namespaces,
	// mounts, rules, cgroups, files. It returns done=false while something is left; the
	// caller calls again. Deleting what is not there is done=true.
	Delete(ctx context.Context, id string, h Handle) (done bool, err error)

	// Credentials issues a kubeconfig. Every call may return different credentials; all
	// stay valid until they expire or the cluster is deleted.
	// Errors: ErrNotFound when there is no such cluster.
	Credentials(ctx context.Context, id string, h Handle, role Role) (Kubeconfig, error)

	// List names everything of this installation that exists, also half-made or
	// half-deleted clusters, so that orphans can be found.
	List(ctx context.Context) ([]Owned, error)
}

// Spec is the desired state of a cluster, complete and already validated.
type Spec struct {
	ID                string            // owner: the ARM ID of the managed cluster, lower-cased; the cluster's identity
	Name              string            // for names of nodes and contexts; the managed cluster's name as the user wrote it
	Location          string            // Azure region, reported as the nodes' topology.kubernetes.io/region
	KubernetesVersion string            // "1.37" or "1.37.2"; empty means the provider's default
	FQDN              string            // host name of the API server, put into its certificate
	Network           Network           // address ranges inside the cluster
	Pools             []Pool            // at least one; names unique
	Tags              map[string]string // owner's tags, informational
}

// Network holds a cluster's inner address ranges (CIDR notation, IPv4).
type Network struct {
	PodCIDR      string // e.g. 10.244.0.0/16; each node takes a /24 of it
	ServiceCIDR  string // e.g. 10.0.0.0/16
	DNSServiceIP string // inside ServiceCIDR, e.g. 10.0.0.10
}

// Pool is a set of equal nodes.
type Pool struct {
	Name    string            // AKS rules: 1-12 lower-case letters and digits
	VMSize  VMSize            // what each node has; never changes for an existing pool
	Count   int               // desired number of nodes, >= 0
	Mode    string            // "System" or "User"
	MaxPods int               // kubelet's limit; 0 means 110
	Labels  map[string]string // extra node labels
	Taints  []string          // key=value:Effect
}

// VMSize is the part of an Azure VM size that a node shows to Kubernetes.
type VMSize struct {
	Name      string // e.g. Standard_D3_v2
	VCPUs     int
	MemoryMiB int64
	GPUs      int
}

// Handle is a provider's own note about a cluster: opaque to everyone else, and
// never a secret. Version is the provider's format version.
type Handle struct {
	Version int
	Data    []byte
}

// IsZero reports whether the handle was never set.
func (h Handle) IsZero() bool { return h.Version == 0 && len(h.Data) == 0 }

// Observation is what a provider saw. Ready means that the API server answers, every
// node of the spec is Ready, no surplus node is left, and cluster DNS answers.
type Observation struct {
	Exists            bool
	Ready             bool
	Reason            string // a CamelCase word when not Ready, e.g. WaitingForNodes
	Message           string // a sentence for people when not Ready
	KubernetesVersion string // what the API server says, e.g. 1.37.2
	Endpoint          string // https://host:port of the API server
	Nodes             []Node // sorted by name
	PublicIPs         []string
}

// Node is one node as Kubernetes reports it.
type Node struct {
	Name      string
	Pool      string
	VMSize    string
	Ready     bool
	MilliCPU  int64 // capacity, not allocatable
	MemoryMiB int64
	GPUs      int
	Version   string // kubelet version, without the v
}

// Capabilities is what a provider can do, checked before anything is stored.
type Capabilities struct {
	KubernetesVersions []string // exact versions offered, newest last
	Regions            []string // nil means every region
	MaxNodes           int      // over all pools of one cluster; 0 means no limit
	PrivateCluster     bool
	AuthorizedIPRanges bool
	CustomVNet         bool
	GPU                bool
}

// Role selects whose credentials to issue.
type Role string

// Roles, named as AKS names its credential lists.
const (
	RoleAdmin Role = "clusterAdmin"
	RoleUser  Role = "clusterUser"
)

// Kubeconfig is a kubeconfig file. It is a secret.
type Kubeconfig struct {
	Data    []byte
	Expires time.Time
}

// Owned is one entry of List.
type Owned struct {
	ID     string
	Handle Handle
}
