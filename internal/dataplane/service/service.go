// Package service serves a workspace's web services: AksWebservice, and AksEndpoint with
// its versions. A web service is a resource of the kernel like any other: a write is one
// transaction, a reconciler makes the cluster have it, and an operation reports what the
// reconciler found. What it does in a cluster is package serving's.
package service

import (
	"context"
	"encoding/json"
	"regexp"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/dataplane/build"
	"github.com/berthdev/berth/internal/dataplane/model"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/serving"
	"github.com/berthdev/berth/internal/store"
)

const (
	workspaces = "Microsoft.MachineLearningServices/workspaces"
	computes   = workspaces + "/computes"
	// Type is the type of a web service's row.
	Type = workspaces + "/services"

	kindService  = "AKS"
	kindEndpoint = "AKSENDPOINT"

	onlyDeployment = "HttpRealtimeEndpoint" // what deploymentType says
)

var versions = []string{"2018-11-19"}

// Place is where a web service goes: a workspace's part of a cluster.
type Place struct {
	Kubeconfig []byte
	Namespace  string
	PullSecret string // name of the Secret with the registry's password
	Address    string // of the front end, as scoring URIs begin: http://10.0.0.1:80
	Waiting    string // what the front end waits for, "" when it serves
}

// Service serves web services.
type Service struct {
	Manager   *resource.Manager
	Models    *model.Service
	Artifacts *artifact.Service
	Images    Images
	Registry  Registry
	// Place finds a compute's cluster and the front end in it. Errors: *armerr.Error when the compute is not there or
	// not usable; anything else may pass.
	Place func(ctx context.Context, compute armid.ID) (Place, error)
	// Open leads to a workspace's part of a cluster; nil means serving.Open.
	Open func(kubeconfig []byte, namespace string) (*serving.Cluster, error)
	// ScheduleWait is how long pods may find no room before a deployment fails, for clusters that add nodes
	// by themselves.
	ScheduleWait time.Duration
	// Builds makes the images.
	Builds *build.Builds
}

// Images makes the image of an environment's definition. Errors: *image.UserError when the definition cannot be met.
type Images interface {
	Environment(ctx context.Context, definition json.RawMessage, log func(line string)) (image.Reference, error)
}

// Registry makes images of files; key says what they are, so that the same are not read again.
type Registry interface {
	Files(ctx context.Context, repo, key string, files []image.File) (image.Reference, error)
}

// open leads to the cluster of a place.
func (s *Service) open(p Place) (*serving.Cluster, error) {
	if s.Open != nil {
		return s.Open(p.Kubeconfig, p.Namespace)
	}
	return serving.Open(p.Kubeconfig, p.Namespace)
}

// TagMaxSurge is a tag of web services that says how many pods an update may start beyond those that a version has:
// 1, which it does without the tag, or 0. With 0 an old pod ends before a new one starts, so that an update needs no
// room on the nodes that the web service does not have already; a version with one replica does not answer
// meanwhile. Every later update follows the tag, too, until it is taken away.
const TagMaxSurge = "berth.maxSurge"

// WebService is the properties of a web service.
type WebService struct {
	ProvisioningState string             `json:"provisioningState,omitempty" arm:"readonly"`
	ComputeType       string             `json:"computeType,omitempty" arm:"required,immutable,enum=AKS|AKSENDPOINT"`
	ComputeName       string             `json:"computeName,omitempty" arm:"required,immutable,maxlen=64"`
	DeploymentType    string             `json:"deploymentType,omitempty" arm:"enum=HttpRealtimeEndpoint"`
	Namespace         string             `json:"namespace,omitempty" arm:"unsupported"` // a workspace has its own
	Keys              *Keys              `json:"keys,omitempty"`
	AuthEnabled       *bool              `json:"authEnabled,omitempty"`
	AADAuthEnabled    *bool              `json:"aadAuthEnabled,omitempty"`
	Versions          map[string]Version `json:"versions,omitempty"`
	RegistryAccess    string             `json:"registryAccess,omitempty" arm:"secret,maxlen=262144"` // accesses, as JSON
	Version

	// What Berth found.
	State      string               `json:"state,omitempty" arm:"readonly"`
	ScoringURI string               `json:"scoringUri,omitempty" arm:"readonly"`
	Deployed   map[string]*Deployed `json:"deployed,omitempty" arm:"readonly"`
}

// Keys are a web service's keys.
type Keys struct {
	Primary   string `json:"primaryKey,omitempty" arm:"secret,maxlen=256"`
	Secondary string `json:"secondaryKey,omitempty" arm:"secret,maxlen=256"`
}

// Version is what runs: the whole of a web service, or one version of an endpoint.
type Version struct {
	Description       string            `json:"description,omitempty"`
	Tags              map[string]string `json:"kvTags,omitempty"` // of a version; a web service's are its row's
	Properties        map[string]string `json:"properties,omitempty"`
	Image             *ImageRequest     `json:"environmentImageRequest,omitempty"`
	ImageID           string            `json:"imageId,omitempty" arm:"unsupported"`
	NumReplicas       *int              `json:"numReplicas,omitempty" arm:"min=1,max=1000"`
	AutoScaler        *AutoScaler       `json:"autoScaler,omitempty"`
	Resources         *Resources        `json:"containerResourceRequirements,omitempty"`
	DataCollection    *DataCollection   `json:"dataCollection,omitempty"`
	AppInsights       *bool             `json:"appInsightsEnabled,omitempty"`
	MaxConcurrent     *int              `json:"maxConcurrentRequestsPerContainer,omitempty" arm:"min=1,max=10000"`
	MaxQueueWaitMS    *int              `json:"maxQueueWaitMs,omitempty" arm:"min=0,max=3600000"`
	ScoringTimeoutMS  *int              `json:"scoringTimeoutMs,omitempty" arm:"min=1,max=3600000"`
	Liveness          *Liveness         `json:"livenessProbeRequirements,omitempty"`
	StorageInit       *bool             `json:"storageInitEnabled,omitempty"`
	TrafficPercentile *int              `json:"trafficPercentile,omitempty" arm:"min=0,max=100"`
	IsDefault         *bool             `json:"isDefault,omitempty"`
	VersionType       string            `json:"type,omitempty" arm:"enum=Control|Treatment"`
}

// ImageRequest says what goes into a model container.
type ImageRequest struct {
	DriverProgram  string          `json:"driverProgram,omitempty" arm:"maxlen=255"`
	Assets         []Asset         `json:"assets,omitempty"`
	ModelIDs       []string        `json:"modelIds,omitempty" arm:"maxlen=1000"`
	Models         json.RawMessage `json:"models,omitempty" arm:"unsupported"` // modelIds name them
	Environment    json.RawMessage `json:"environment,omitempty"`
	EnvironmentRef json.RawMessage `json:"environmentReference,omitempty" arm:"unsupported"`
}

// Asset is a file of the code, or an archive of it.
type Asset struct {
	ID       string `json:"id,omitempty" arm:"maxlen=255"`
	URL      string `json:"url,omitempty" arm:"required,maxlen=2048"`
	MimeType string `json:"mimeType,omitempty" arm:"maxlen=255"`
	Unpack   *bool  `json:"unpack,omitempty"`
}

// AutoScaler bounds the replicas of a version that scales by itself.
type AutoScaler struct {
	Enabled     *bool `json:"autoscaleEnabled,omitempty"`
	MinReplicas *int  `json:"minReplicas,omitempty" arm:"min=0,max=1000"`
	MaxReplicas *int  `json:"maxReplicas,omitempty" arm:"min=1,max=1000"`
	Utilization *int  `json:"targetUtilization,omitempty" arm:"min=1,max=100"`
	Refresh     *int  `json:"refreshPeriodInSeconds,omitempty" arm:"min=1,max=3600"`
}

// Resources are what a container asks for and may use at most.
type Resources struct {
	CPU         *float64 `json:"cpu,omitempty" arm:"min=0.001,max=1000"`
	CPULimit    *float64 `json:"cpuLimit,omitempty" arm:"min=0,max=1000"`
	Memory      *float64 `json:"memoryInGB,omitempty" arm:"min=0.01,max=10000"`
	MemoryLimit *float64 `json:"memoryInGBLimit,omitempty" arm:"min=0,max=10000"`
	GPU         *int     `json:"gpu,omitempty" arm:"min=0,max=64"`
	FPGA        *int     `json:"fpga,omitempty" arm:"unsupported,default=0"`
}

// DataCollection would keep what models receive and answer.
type DataCollection struct {
	Storage  *bool `json:"storageEnabled,omitempty" arm:"unsupported,default=false"`
	EventHub *bool `json:"eventHubEnabled,omitempty" arm:"unsupported,default=false"`
}

// Liveness is a liveness probe, in seconds and counts.
type Liveness struct {
	InitialDelay *int `json:"initialDelaySeconds,omitempty" arm:"min=1,max=86400"`
	Period       *int `json:"periodSeconds,omitempty" arm:"min=1,max=86400"`
	Failure      *int `json:"failureThreshold,omitempty" arm:"min=1,max=1000"`
	Success      *int `json:"successThreshold,omitempty" arm:"min=1,max=1000"`
	Timeout      *int `json:"timeoutSeconds,omitempty" arm:"min=1,max=3600"`
}

// Deployed is what Berth found of a version.
type Deployed struct {
	Image     string          `json:"image,omitempty"`
	Desired   int             `json:"desired"`
	Updated   int             `json:"updated"`
	Available int             `json:"available"`
	Error     json.RawMessage `json:"error,omitempty"` // an *armerr.Error
}

var (
	serviceName = regexp.MustCompile(`^[a-z]([-a-z0-9]{1,30})[a-z0-9]$`)
	versionName = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,30}[a-z0-9])?$`)
)

// Types are the declarations.
func (s *Service) Types() []*resource.Type {
	return []*resource.Type{resource.New(resource.Definition[WebService]{
		Type: Type, Summary: "A web service: models that answer requests.", Versions: versions, DataPlane: true, DeleteOrder: 5,
		Names: resource.NameRule{
			Pattern: serviceName, Code: armerr.CodeBadRequest,
			Description: "has 3 to 32 lower-case letters, digits and dashes, begins with a letter, and ends with a letter or digit",
		},
		Deadline: 20 * time.Minute, DeleteDeadline: 8 * time.Minute,
		Admit: s.admit, Reconcile: s.reconcile, Finalize: s.finalize,
	})}
}

// UsedBy names the web services of a workspace that have a model.
func (s *Service) UsedBy(tx store.ReadTx, workspace armid.ID, modelID string) ([]string, error) {
	var out []string
	err := each(tx, workspace, func(row *store.Resource, doc *resource.Document[WebService]) {
		for _, v := range doc.Properties.all() {
			if v.Image != nil && contains(v.Image.ModelIDs, modelID) {
				out = append(out, armid.MustParse(row.ID).Name())
				return
			}
		}
	})
	return out, err
}

// On names the web services on a compute.
func On(tx store.ReadTx, compute armid.ID) ([]string, error) {
	var out []string
	err := each(tx, compute.Parent(), func(row *store.Resource, doc *resource.Document[WebService]) {
		if compute.Equal(compute.Parent().Child("computes", doc.Properties.ComputeName)) {
			out = append(out, armid.MustParse(row.ID).Name())
		}
	})
	return out, err
}
