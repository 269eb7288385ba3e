package machinelearning

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"regexp"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/store"
)

// Purposes of a cluster, as the API spells them.
const (
	FastProd  = "FastProd"
	DenseProd = "DenseProd"
	DevTest   = "DevTest"
)

// The rules for a cluster's size (R3) and its defaults (C1).
const (
	minProductionCores = 12
	minDevTestCores    = 2
	defaultVMSize      = "Standard_D3_v2"
	productionNodes    = 3
	devTestNodes       = 1
)

// Values of a workspace's attachConflict.
const (
	attachRefuse    = "refuse"
	attachSupersede = "supersede"
)

// Compute is the properties of a compute of type AKS.
type Compute struct {
	ComputeType        string          `json:"computeType,omitempty" arm:"required,enum=AKS,immutable"`
	ComputeLocation    string          `json:"computeLocation,omitempty" arm:"maxlen=64,always"`
	Description        string          `json:"description,omitempty" arm:"always"`
	CreatedOn          string          `json:"createdOn,omitempty" arm:"readonly"`
	ModifiedOn         string          `json:"modifiedOn,omitempty" arm:"readonly"`
	ResourceID         string          `json:"resourceId,omitempty" arm:"format=armid,always"`
	ProvisioningState  string          `json:"provisioningState,omitempty" arm:"readonly"`
	ProvisioningErrors json.RawMessage `json:"provisioningErrors,omitempty" arm:"readonly,always"`
	IsAttachedCompute  *bool           `json:"isAttachedCompute,omitempty" arm:"readonly"`
	DisableLocalAuth   *bool           `json:"disableLocalAuth,omitempty" arm:"unsupported"`
	Properties         *AKS            `json:"properties,omitempty" arm:"always"`
}

// AKS is the part of a compute that is about its cluster.
type AKS struct {
	AgentCount         *int            `json:"agentCount,omitempty" arm:"always,min=1,max=1000"`
	AgentVMSize        string          `json:"agentVmSize,omitempty" arm:"always,maxlen=64"`
	ClusterPurpose     string          `json:"clusterPurpose,omitempty" arm:"always,enum=FastProd|DenseProd|DevTest"`
	ClusterFQDN        string          `json:"clusterFqdn,omitempty" arm:"always,maxlen=255"`
	SystemServices     []SystemService `json:"systemServices,omitempty" arm:"readonly,always"`
	SSLConfiguration   *SSL            `json:"sslConfiguration,omitempty" arm:"always"`
	Networking         *Networking     `json:"aksNetworkingConfiguration,omitempty"`
	LoadBalancerType   string          `json:"loadBalancerType,omitempty" arm:"always,enum=PublicIp|InternalLoadBalancer"`
	LoadBalancerSubnet string          `json:"loadBalancerSubnet,omitempty" arm:"always,maxlen=80"`
}

// SSL is the TLS configuration of the scoring front end.
type SSL struct {
	Status                  string `json:"status,omitempty" arm:"enum=Disabled|Enabled|Auto"`
	Cert                    string `json:"cert,omitempty" arm:"format=pem,maxlen=65536"`
	Key                     string `json:"key,omitempty" arm:"format=pem,secret,maxlen=65536"`
	CName                   string `json:"cname,omitempty" arm:"format=hostname"`
	LeafDomainLabel         string `json:"leafDomainLabel,omitempty" arm:"maxlen=63"`
	OverwriteExistingDomain *bool  `json:"overwriteExistingDomain,omitempty"`
	Renew                   *bool  `json:"renew,omitempty"`
	// NotAfter is when the certificate expires. It is ours: the original does not say.
	NotAfter string `json:"notAfter,omitempty" arm:"readonly"`
}

// certificate is the server's own certificate of the chain.
func (t *SSL) certificate() (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(t.Cert))
	if block == nil {
		return nil, errors.New("there is no PEM block")
	}
	return x509.ParseCertificate(block.Bytes)
}

// Networking puts a created cluster into a virtual network.
type Networking struct {
	SubnetID         string `json:"subnetId,omitempty" arm:"maxlen=1024"`
	ServiceCIDR      string `json:"serviceCidr,omitempty" arm:"format=cidr"`
	DNSServiceIP     string `json:"dnsServiceIP,omitempty" arm:"format=ipv4"`
	DockerBridgeCIDR string `json:"dockerBridgeCidr,omitempty" arm:"format=cidr"`
}

// SystemService is a component that Berth runs in the cluster.
type SystemService struct {
	SystemServiceType string `json:"systemServiceType,omitempty"`
	PublicIPAddress   string `json:"publicIpAddress,omitempty"`
	Version           string `json:"version,omitempty"`
}

func production(purpose string) bool { return purpose != DevTest }

// minCores is the least number of vCPUs for a purpose (R3).
func minCores(purpose string) int {
	if production(purpose) {
		return minProductionCores
	}
	return minDevTestCores
}

// computeName is the original's rule (R1); the later form of it also asks for a letter
// or digit at the end.
var computeName = regexp.MustCompile(`^[a-zA-Z]([a-zA-Z0-9-]{1,22})[a-zA-Z0-9]$`)

func (s *Service) computeType() *resource.Type {
	return resource.New(resource.Definition[Compute]{
		Type: Computes, Summary: "A compute of type AKS: a Kubernetes cluster that was created by the workspace or attached to it.",
		Versions: Versions, Tracked: true, OperationsPath: "computeOperationsStatus", DeleteOrder: 10,
		Deadline: 8 * time.Minute, DeleteDeadline: 8 * time.Minute,
		Names: resource.NameRule{
			Pattern: computeName, Code: armerr.CodeBadRequest,
			Description: "has 3 to 24 letters, digits and dashes, begins with a letter, and ends with a letter or digit (R1)",
			Reserved:    []string{"amlcompute", "local", "containerinstance"},
		},
		Discriminate: onlyAKS,
		Admit:        s.admitCompute,
		Removable:    s.removable,
		Present:      presentCompute,
		Reconcile:    s.reconcileCompute,
		Finalize:     s.finalizeCompute,
		Actions: []resource.Action[Compute]{
			{Name: "listKeys", Summary: "Issue the kubeconfigs of the compute's cluster.", Do: s.computeKeys},
			{Name: "listNodes", Summary: "List the nodes of an AmlCompute; an AKS compute has none to list.", Do: noNodes},
		},
	})
}

// onlyAKS refuses the other kinds of compute by name, before their fields are looked at.
func onlyAKS(doc map[string]any) error {
	var kind any
	for k, v := range doc {
		if props, ok := v.(map[string]any); ok && strings.EqualFold(k, "properties") {
			for pk, pv := range props {
				if strings.EqualFold(pk, "computeType") {
					kind = pv
				}
			}
		}
	}
	name, ok := kind.(string)
	if !ok || strings.EqualFold(name, "AKS") {
		return nil // missing or of the wrong type: the schema says so
	}
	for _, other := range []string{"Kubernetes", "AmlCompute", "ComputeInstance", "DataFactory", "VirtualMachine", "HDInsight", "Databricks", "DataLakeAnalytics", "SynapseSpark"} {
		if strings.EqualFold(name, other) {
			e := armerr.New(armerr.CodeNotSupported, "properties.computeType: Berth does not support computes of type %s, only AKS. Attach a Kubernetes cluster with computeType AKS and its resourceId instead.", other)
			e.Target = "properties.computeType"
			return e
		}
	}
	return nil // unknown: the schema names the valid ones
}

// presentCompute adds what follows from the row: times, the end of the certificate and the errors of a failure.
func presentCompute(p *resource.Presentation[Compute]) {
	c := &p.Doc.Properties
	const format = "2006-01-02T15:04:05.0000000+00:00"
	c.CreatedOn, c.ModifiedOn = p.Row.Created.At.UTC().Format(format), p.Row.Modified.At.UTC().Format(format)
	if c.IsAttachedCompute == nil { // before the first pass; azureml-core insists on the key
		spec, err := resource.ReadSpec[Compute](p.Row)
		c.IsAttachedCompute = ptr(err == nil && spec.Properties.ResourceID != "")
	}
	if c.Properties != nil && c.Properties.SSLConfiguration != nil {
		if leaf, err := c.Properties.SSLConfiguration.certificate(); err == nil {
			c.Properties.SSLConfiguration.NotAfter = leaf.NotAfter.UTC().Format(time.RFC3339)
		}
	}
	if p.Row.State != resource.StateFailed {
		return
	}
	rec, err := resource.RecordOf(p.Row)
	if err != nil || rec.Error == nil {
		return
	}
	if data, err := json.Marshal([]any{map[string]any{"error": rec.Error}}); err == nil {
		c.ProvisioningErrors = data
	}
}

// clusterIDOf is the managed cluster that a compute stands for: the one it was attached
// to, or the one it created. The zero ID means none yet.
func clusterIDOf(spec, status *Compute) (armid.ID, bool) {
	id := spec.ResourceID
	if id == "" {
		id = status.ResourceID
	}
	if id == "" {
		return armid.ID{}, false
	}
	parsed, err := armid.Parse(id)
	return parsed, err == nil
}

// createdClusterName names the managed cluster of a created compute, as the original does:
// the compute's name and some hexadecimal digits. It follows from the row alone, so
// that a pass that was interrupted finds the same cluster.
func createdClusterName(row *store.Resource, name string) string {
	sum := sha256.Sum256([]byte(row.Key + row.Created.At.String()))
	return strings.ToLower(name) + hex.EncodeToString(sum[:])[:10]
}

// Dependents lists the computes that stand for a managed cluster.
func Dependents(tx store.ReadTx, clusterKey string) ([]string, error) {
	rows, _, err := tx.Resources(store.Query{Type: strings.ToLower(Computes)})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, row := range rows {
		doc, err := resource.ReadDocument[Compute](row)
		if err != nil {
			return nil, err
		}
		if id, err := armid.Parse(doc.Properties.ResourceID); err == nil && id.Key() == clusterKey {
			out = append(out, row.Key)
		}
	}
	return out, nil
}
