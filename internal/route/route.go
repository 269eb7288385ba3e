// Package route is the contract between the control plane, which writes routes, and the
// front ends, which follow them. A route is all that a front end needs to know of a web service, so
// that it serves, scales and authenticates with the control plane away. It travels as a
// Kubernetes Secret of the workspace's namespace; one object for each service, so
// that every change of a service is one event.
package route

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	"github.com/go-jose/go-jose/v4"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// SecretType is the type of the Secrets that hold routes.
	SecretType corev1.SecretType = "berth.dev/route"
	// dataKey is the Secret's only entry.
	dataKey = "route.json"
	// ServiceLabel, on every object of a web service, names the service, and VersionLabel, on the objects of an
	// endpoint's version, that version.
	ServiceLabel = "berth.dev/service"
	VersionLabel = "berth.dev/version"
	// ContainerPort is where azureml-inference-server-http listens in model pods.
	ContainerPort = 5001
)

// Defaults and limits, from Azure's documents.
const (
	DefaultTimeout     = 60 * time.Second
	DefaultQueueWait   = 500 * time.Millisecond
	DefaultUtilization = 70
	DefaultMaxReplicas = 10
	MaxBody            = 100 << 20 // bytes
	MaxVersions        = 6         // of an endpoint
)

// Route is a web service (AksWebservice, one version) or an endpoint (AksEndpoint, up to
// MaxVersions) as front ends see it.
type Route struct {
	Service    string    `json:"service"`
	ID         string    `json:"id"` // of this incarnation of the service: a service made anew under the name has another
	Generation int64     `json:"generation"`
	Auth       Auth      `json:"auth"`
	Versions   []Version `json:"versions"`
}

// AuthMode says what a caller must show.
type AuthMode string

// The modes. Keys and tokens exclude each other, as in Azure.
const (
	AuthNone  AuthMode = "none"
	AuthKey   AuthMode = "key"
	AuthToken AuthMode = "token"
)

// Auth is how callers of a service are recognised, without anything that would let a reader of the
// route call it.
type Auth struct {
	Mode AuthMode `json:"mode"`
	// Keys are the SHA-256 sums, in hex, of the primary and the secondary key.
	Keys []string `json:"keys,omitempty"`
	// TokenKeys verify tokens; Audience and Issuer are what their claims must say.
	TokenKeys *jose.JSONWebKeySet `json:"tokenKeys,omitempty"`
	Issuer    string              `json:"issuer,omitempty"`
	Audience  string              `json:"audience,omitempty"`
}

// KeySum is how a route refers to a key.
func KeySum(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// HasKey reports whether key is one of the service's, in constant time.
func (a *Auth) HasKey(key string) bool {
	sum := sha256.Sum256([]byte(key))
	var text [2 * sha256.Size]byte // on the stack, for it is made for every request
	hex.Encode(text[:], sum[:])
	found := 0
	for _, k := range a.Keys {
		found |= subtle.ConstantTimeCompare(text[:], []byte(k))
	}
	return found == 1
}

// Version is one Deployment behind a route.
type Version struct {
	Name     string `json:"name"`     // "" for the only version of a web service
	Workload string `json:"workload"` // name of its Deployment and of the Kubernetes Service whose EndpointSlices name its pods
	// Percent of the requests to the endpoint, 0 to 100. What the versions leave over goes to the default one.
	Percent int  `json:"percent"`
	Default bool `json:"default"`

	MaxConcurrent int           `json:"maxConcurrent"` // requests in one container at a time, at least 1
	QueueWait     time.Duration `json:"queueWait"`     // then 503
	Timeout       time.Duration `json:"timeout"`       // of scoring; then 504
	MaxBody       int64         `json:"maxBody"`       // bytes; then 413
	Scale         Scale         `json:"scale"`
}

// Scale is how a version's replicas are chosen.
type Scale struct {
	Auto bool `json:"auto"`
	// Min and Max bound the replicas; Min 0 lets the version sleep (Berth's own). When Auto is false, Min is their number.
	Min int `json:"min"`
	Max int `json:"max"`
	// Utilization is the target, in percent, of (busy containers + queued requests) / containers.
	Utilization int           `json:"utilization"`
	Refresh     time.Duration `json:"refresh"` // between two decisions
}

// DefaultVersion returns the version that gets what the percentages leave over.
func (r *Route) DefaultVersion() *Version {
	for i := range r.Versions {
		if r.Versions[i].Default {
			return &r.Versions[i]
		}
	}
	if len(r.Versions) == 0 {
		return nil
	}
	return &r.Versions[0]
}

var serviceName = regexp.MustCompile(`^[a-z]([-a-z0-9]*[a-z0-9])?$`)

// Validate reports the first rule that a route breaks. Front ends ignore a route that breaks one and
// keep the last one that did not.
func (r *Route) Validate() error {
	if !serviceName.MatchString(r.Service) {
		return fmt.Errorf("route: %q is no service name", r.Service)
	}
	if n := len(r.Versions); n > MaxVersions {
		return fmt.Errorf("route %s: %d versions, at most %d are allowed", r.Service, n, MaxVersions)
	}
	switch r.Auth.Mode {
	case AuthNone:
	case AuthKey:
		if len(r.Auth.Keys) == 0 {
			return fmt.Errorf("route %s: key authentication without keys", r.Service)
		}
	case AuthToken:
		if r.Auth.TokenKeys == nil || r.Auth.Audience == "" {
			return fmt.Errorf("route %s: token authentication without keys or audience", r.Service)
		}
	default:
		return fmt.Errorf("route %s: unknown authentication %q", r.Service, r.Auth.Mode)
	}
	total, names := 0, map[string]bool{}
	for _, v := range r.Versions {
		total += v.Percent
		switch {
		case names[v.Name]:
			return fmt.Errorf("route %s: two versions are named %q", r.Service, v.Name)
		case v.Workload == "":
			return fmt.Errorf("route %s: version %q has no workload", r.Service, v.Name)
		case v.Percent < 0 || v.Percent > 100 || total > 100:
			return fmt.Errorf("route %s: the percentages are outside 0 to 100 or add up to more than 100", r.Service)
		case v.MaxConcurrent < 1 || v.Timeout <= 0 || v.MaxBody <= 0 || v.QueueWait < 0:
			return fmt.Errorf("route %s: version %q has a limit that is not positive", r.Service, v.Name)
		case v.Scale.Min < 0 || v.Scale.Auto && (v.Scale.Max < max(1, v.Scale.Min) || v.Scale.Utilization < 1 || v.Scale.Utilization > 100 || v.Scale.Refresh <= 0):
			return fmt.Errorf("route %s: version %q has scaling bounds that contradict each other", r.Service, v.Name)
		}
		names[v.Name] = true
	}
	return nil
}

// SecretName is the name of the Secret that holds a service's route.
func SecretName(service string) string { return "route-" + service }

// Secret is the route as a Kubernetes object, without a namespace.
func (r *Route) Secret() (*corev1.Secret, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Name: SecretName(r.Service), Labels: map[string]string{ServiceLabel: r.Service}},
		Type:       SecretType,
		Data:       map[string][]byte{dataKey: data},
	}, nil
}

// FromSecret reads a route. Errors: the Secret is no route, or breaks a rule.
func FromSecret(s *corev1.Secret) (*Route, error) {
	data, ok := s.Data[dataKey]
	if !ok {
		return nil, fmt.Errorf("the secret %s has no %s", s.Name, dataKey)
	}
	var r Route
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("the secret %s holds no route", s.Name) // without the cause: it may quote the content
	}
	return &r, r.Validate()
}

// Equal reports whether two routes say the same.
func (r *Route) Equal(other *Route) bool {
	a, errA := json.Marshal(r)
	b, errB := json.Marshal(other)
	return errA == nil && errB == nil && string(a) == string(b)
}
