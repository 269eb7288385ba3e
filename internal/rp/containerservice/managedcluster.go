package containerservice

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/store"
)

// Defaults of Azure's own, where it documents one.
const (
	defaultVMSize      = "Standard_DS2_v2"
	defaultPodCIDR     = "10.244.0.0/16"
	defaultServiceCIDR = "10.0.0.0/16"
	defaultDNSOffset   = 10
	defaultMaxPods     = 110
	defaultOSDiskGB    = 128
	maxAgentPools      = 100
	nodePrefixBits     = 24 // each node takes a /24 of the pod range
)

// Service is the provider. Its fields do not change once it is in use.
type Service struct {
	Provider cluster.Provider
	// Size finds a VM size by name without regard to case; Suggest names a similar one.
	Size    func(name string) (cluster.VMSize, bool)
	Suggest func(name string) string
	// Dependents lists the keys of resources to wake when a cluster's state changes or
	// it goes: those that were attached to it.
	Dependents func(tx store.ReadTx, clusterKey string) ([]string, error)

	issued issued
}

type (
	draft  = resource.Draft[ManagedCluster]
	object = resource.Object[ManagedCluster]
)

// memory is what the reconciler remembers of a cluster.
type memory struct {
	Made     bool           `json:"made,omitempty"` // it was ready once
	Nodes    []cluster.Node `json:"nodes,omitempty"`
	Endpoint string         `json:"endpoint,omitempty"`
	Version  string         `json:"version,omitempty"`
}

// Types are the declarations of the provider's types.
func (s *Service) Types() []*resource.Type {
	return append([]*resource.Type{resource.New(resource.Definition[ManagedCluster]{
		Type:           ManagedClusters,
		Summary:        "A Kubernetes cluster.",
		BodyType:       Namespace + "/ManagedClusters", // AKS spells it so
		Versions:       Versions,
		Tracked:        true,
		ETagInBody:     "eTag",
		LowerGroups:    true,
		OperationsPath: "operations",
		TagsOnlyPatch:  true,
		DeleteOrder:    20, // after the workspaces whose computes use it
		Deadline:       5 * time.Minute,
		DeleteDeadline: 5 * time.Minute,
		Names: resource.NameRule{
			Pattern:     regexp.MustCompile(`^[a-zA-Z0-9]([-_a-zA-Z0-9]{0,61}[a-zA-Z0-9])?$`),
			Description: "has 1 to 63 letters, digits, dashes and underscores, and begins and ends with a letter or digit",
		},
		Admit:     s.admit,
		Present:   presentPools,
		Reconcile: s.reconcile,
		Finalize:  s.finalize,
		Actions: []resource.Action[ManagedCluster]{
			{Name: "listClusterAdminCredential", Summary: "Issue a kubeconfig with all rights.", Do: s.credential(cluster.RoleAdmin)},
			{Name: "listClusterUserCredential", Summary: "Issue a kubeconfig.", Do: s.credential(cluster.RoleUser)},
			{Name: "listClusterMonitoringUserCredential", Summary: "Issue a kubeconfig for monitoring.", Do: s.credential(cluster.RoleUser)},
		},
	})}, s.virtualTypes()...)
}

var poolName = regexp.MustCompile(`^[a-z][a-z0-9]{0,11}$`)

const poolNameRule = "it has 1 to 12 lower-case letters and digits and begins with a letter"

// admit completes a managed cluster with AKS's defaults and checks it.
func (s *Service) admit(_ context.Context, d *draft) error {
	c := &d.New.Properties
	caps := s.Provider.Capabilities()
	s.admitRegion(d, caps)
	s.admitVersion(d, caps)
	s.admitPools(d, caps)
	admitNetwork(d)
	admitAccess(d, caps)
	if c.DNSPrefix == "" {
		if d.Old != nil {
			c.DNSPrefix = d.Old.Properties.DNSPrefix
		} else {
			c.DNSPrefix = strings.Trim(d.ID.Name()[:min(10, len(d.ID.Name()))]+"-"+hash(d.ID.Key())[:6], "-")
		}
	}
	if c.NodeResourceGroup == "" {
		if d.Old != nil {
			c.NodeResourceGroup = d.Old.Properties.NodeResourceGroup
		} else {
			name := fmt.Sprintf("MC_%s_%s_%s", d.ID.GroupName(), d.ID.Name(), d.New.Location)
			c.NodeResourceGroup = name[:min(80, len(name))]
		}
	}
	if c.EnableRBAC == nil {
		c.EnableRBAC = ptr(true)
	} else if !*c.EnableRBAC {
		d.Fail("properties.enableRBAC", "clusters without RBAC are not offered. Remove it, or set it to true.")
	}
	if c.SupportPlan == "" {
		c.SupportPlan = "KubernetesOfficial"
	}
	if d.New.SKU == nil {
		d.New.SKU = &resource.SKU{Name: "Base", Tier: "Free"}
	}
	if c.DisableLocalAccounts != nil && *c.DisableLocalAccounts {
		d.Fail("properties.disableLocalAccounts", "Berth issues certificates only, so local accounts cannot be disabled. Remove it, or set it to false.")
	}
	return nil
}

func (s *Service) admitRegion(d *draft, caps cluster.Capabilities) {
	if caps.Regions != nil && d.New.Location != "" && !slices.Contains(caps.Regions, d.New.Location) {
		d.Fail("location", "the cluster provider %s has no region %q. It has: %s.", s.Provider.Name(), d.New.Location, strings.Join(caps.Regions, ", "))
	}
}

// admitVersion resolves the Kubernetes version to an exact one that the provider has.
func (s *Service) admitVersion(d *draft, caps cluster.Capabilities) {
	c := &d.New.Properties
	versions := caps.KubernetesVersions
	asked := strings.TrimPrefix(c.KubernetesVersion, "v")
	switch {
	case asked == "" && d.Old != nil:
		c.KubernetesVersion = d.Old.Properties.KubernetesVersion
	case asked == "":
		c.KubernetesVersion = versions[len(versions)-1]
	default:
		if exact := resolveVersion(asked, versions); exact != "" {
			c.KubernetesVersion = exact
		} else {
			e := armerr.New(armerr.CodeKubernetesVersion, "properties.kubernetesVersion: Kubernetes %q is not offered. The cluster provider %s has %s; leave the field out for the newest.", asked, s.Provider.Name(), strings.Join(versions, ", "))
			e.Target = "properties.kubernetesVersion"
			d.FailWith(e)
			return
		}
	}
	if d.Old != nil && d.Old.Properties.KubernetesVersion != c.KubernetesVersion {
		d.Fail("properties.kubernetesVersion", "the cluster runs %s; upgrading it in place is not supported. Create a new cluster with %s.", d.Old.Properties.KubernetesVersion, c.KubernetesVersion)
	}
	for i, p := range c.AgentPoolProfiles {
		if v := p.OrchestratorVersion; v != "" && resolveVersion(v, []string{c.KubernetesVersion}) == "" {
			d.Fail(fmt.Sprintf("properties.agentPoolProfiles[%d].orchestratorVersion", i), "nodes run the cluster's version, %s. Remove it.", c.KubernetesVersion)
		}
		c.AgentPoolProfiles[i].OrchestratorVersion = c.KubernetesVersion
	}
}

// resolveVersion finds the newest version that asked (1.37 or 1.37.2) names, "" for none.
func resolveVersion(asked string, versions []string) string {
	for _, v := range slices.Backward(versions) {
		if v == asked || strings.HasPrefix(v, asked+".") && strings.Count(asked, ".") == 1 {
			return v
		}
	}
	return ""
}

func (s *Service) admitPools(d *draft, caps cluster.Capabilities) {
	c := &d.New.Properties
	if len(c.AgentPoolProfiles) == 0 {
		if d.Old == nil {
			d.Fail("properties.agentPoolProfiles", "a cluster needs at least one agent pool. Add one with name, count, vmSize and mode System.")
			return
		}
		c.AgentPoolProfiles = d.Old.Properties.AgentPoolProfiles
	}
	seen := map[string]bool{}
	system := false
	for i := range c.AgentPoolProfiles {
		p := &c.AgentPoolProfiles[i]
		at := fmt.Sprintf("properties.agentPoolProfiles[%d].", i)
		if !poolName.MatchString(p.Name) {
			d.Fail(at+"name", "%q is not a pool's name; %s.", p.Name, poolNameRule)
		}
		if seen[p.Name] {
			d.Fail(at+"name", "there are two pools named %q. Rename one.", p.Name)
		}
		seen[p.Name] = true
		var old *PoolProfile
		if d.Old != nil {
			old, _ = d.Old.Properties.Pool(p.Name)
		}
		s.admitPool(d, at, p, old, i == 0, caps)
		system = system || p.Mode == "System"
	}
	if !system {
		d.Fail("properties.agentPoolProfiles", "at least one pool has mode System. Set it on one.")
	}
	if n := c.Nodes(); caps.MaxNodes > 0 && n > caps.MaxNodes {
		d.Fail("properties.agentPoolProfiles", "the pools have %d nodes in all; the cluster provider %s runs at most %d in one cluster. Ask for fewer.", n, s.Provider.Name(), caps.MaxNodes)
	}
}

func (s *Service) admitPool(d *draft, at string, p, old *PoolProfile, first bool, caps cluster.Capabilities) {
	if old != nil {
		inherit(&p.VMSize, old.VMSize)
		inherit(&p.Mode, old.Mode)
		if p.Count == nil {
			p.Count = old.Count
		}
	}
	inherit(&p.VMSize, defaultVMSize)
	if p.Mode == "" {
		p.Mode = "User"
		if first {
			p.Mode = "System"
		}
	}
	if p.Count == nil {
		p.Count = ptr(1)
	}
	if *p.Count == 0 && p.Mode == "System" {
		d.Fail(at+"count", "a System pool has at least one node.")
	}
	if size, ok := s.Size(p.VMSize); !ok {
		hint := ""
		if near := s.Suggest(p.VMSize); near != "" {
			hint = fmt.Sprintf(" Did you mean %s?", near)
		}
		d.Fail(at+"vmSize", "%q is not a VM size that Berth knows.%s", p.VMSize, hint)
	} else {
		p.VMSize = size.Name
		if size.GPUs > 0 && !caps.GPU {
			d.Fail(at+"vmSize", "%s has GPUs, and the cluster provider %s has none. Choose a size without.", size.Name, s.Provider.Name())
		}
		if old != nil && !strings.EqualFold(old.VMSize, size.Name) {
			e := armerr.Field(at+"vmSize", "the VM size of a pool never changes (R4); it is %s. Add a pool with %s and delete this one.", old.VMSize, size.Name)
			e.Code = armerr.CodePropertyChangeNotAllowed
			d.FailWith(e)
		}
	}
	inherit(&p.Type, "VirtualMachineScaleSets")
	inherit(&p.OSType, "Linux")
	inherit(&p.OSSKU, "Ubuntu")
	inherit(&p.OSDiskType, "Managed")
	inherit(&p.KubeletDiskType, "OS")
	inherit(&p.ScaleDownMode, "Delete")
	if p.OSDiskSizeGB == nil || *p.OSDiskSizeGB == 0 {
		p.OSDiskSizeGB = ptr(defaultOSDiskGB)
	}
	if p.MaxPods == nil || *p.MaxPods == 0 {
		p.MaxPods = ptr(defaultMaxPods)
	} else if *p.MaxPods < 10 {
		d.Fail(at+"maxPods", "%d is too few; a node takes between 10 and 250.", *p.MaxPods)
	}
	if p.PowerState != nil && p.PowerState.Code == "Stopped" {
		d.Fail(at+"powerState.code", "stopping a pool is not supported. Scale a User pool to 0 instead.")
	}
	p.PowerState = nil
	for i, t := range p.NodeTaints {
		if !taint.MatchString(t) {
			d.Fail(fmt.Sprintf("%snodeTaints[%d]", at, i), "%q is not a taint; write key=value:NoSchedule, :PreferNoSchedule or :NoExecute.", t)
		}
	}
	for k, v := range p.NodeLabels {
		if !labelKey.MatchString(k) || !labelValue.MatchString(v) {
			d.Fail(at+"nodeLabels."+k, "%q=%q is not a Kubernetes label.", k, v)
		}
	}
}

var (
	taint      = regexp.MustCompile(`^[A-Za-z0-9./_-]{1,316}(=[A-Za-z0-9._-]{0,63})?:(NoSchedule|PreferNoSchedule|NoExecute)$`)
	labelKey   = regexp.MustCompile(`^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
	labelValue = regexp.MustCompile(`^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$`)
)

// admitNetwork fills in and checks the inner address ranges: they do not overlap, DNS is
// inside the services', and there is a /24 of pod addresses for each node.
func admitNetwork(d *draft) {
	if d.New.Properties.NetworkProfile == nil {
		d.New.Properties.NetworkProfile = &NetworkProfile{}
	}
	n := d.New.Properties.NetworkProfile
	if d.Old != nil && d.Old.Properties.NetworkProfile != nil {
		o := d.Old.Properties.NetworkProfile
		inherit(&n.NetworkPlugin, o.NetworkPlugin)
		inherit(&n.PodCIDR, o.PodCIDR)
		inherit(&n.ServiceCIDR, o.ServiceCIDR)
		inherit(&n.DNSServiceIP, o.DNSServiceIP)
		inherit(&n.LoadBalancerSKU, o.LoadBalancerSKU)
		inherit(&n.OutboundType, o.OutboundType)
	}
	const at = "properties.networkProfile."
	for _, f := range []struct {
		one  *string
		many []string
		name string
	}{{&n.PodCIDR, n.PodCIDRs, "podCidr"}, {&n.ServiceCIDR, n.ServiceCIDRs, "serviceCidr"}} {
		if len(f.many) == 1 {
			inherit(f.one, f.many[0])
			if *f.one != f.many[0] {
				d.Fail(at+f.name, "it differs from %ss. Give one of them.", f.name)
			}
		}
	}
	inherit(&n.NetworkPlugin, "kubenet")
	inherit(&n.PodCIDR, defaultPodCIDR)
	inherit(&n.ServiceCIDR, defaultServiceCIDR)
	inherit(&n.LoadBalancerSKU, "standard")
	inherit(&n.OutboundType, "loadBalancer")
	n.IPFamilies = []string{"IPv4"}
	pods, err1 := netip.ParsePrefix(n.PodCIDR)
	services, err2 := netip.ParsePrefix(n.ServiceCIDR)
	if err1 != nil || err2 != nil {
		return // reported as a broken format already
	}
	pods, services = pods.Masked(), services.Masked()
	n.PodCIDR, n.ServiceCIDR = pods.String(), services.String()
	n.PodCIDRs, n.ServiceCIDRs = []string{n.PodCIDR}, []string{n.ServiceCIDR}
	if n.DNSServiceIP == "" {
		ip := services.Addr()
		for range defaultDNSOffset {
			ip = ip.Next()
		}
		n.DNSServiceIP = ip.String()
	}
	if ip, err := netip.ParseAddr(n.DNSServiceIP); err == nil {
		CheckServices(pods, services, ip, func(field, format string, args ...any) { d.Fail(at+field, format, args...) })
	}
	if room := 1 << max(0, nodePrefixBits-pods.Bits()); pods.Bits() > nodePrefixBits || d.New.Properties.Nodes() > room {
		d.Fail(at+"podCidr", "%s has room for %d nodes, a /%d each; the pools ask for %d. Choose a larger range.", pods, room, nodePrefixBits, d.New.Properties.Nodes())
	}
}

// DefaultPods is the range that pods get when nobody says otherwise.
var DefaultPods = netip.MustParsePrefix(defaultPodCIDR)

// CheckServices reports what is wrong with a range for services beside that of the pods, and
// with the address of cluster DNS in it.
func CheckServices(pods, services netip.Prefix, dns netip.Addr, fail func(field, format string, args ...any)) {
	if pods.Overlaps(services) {
		fail("serviceCidr", "the ranges for services (%s) and pods (%s) overlap. Choose ranges apart.", services, pods)
	}
	if services.Bits() < 12 || services.Bits() > 28 {
		fail("serviceCidr", "%s has a prefix length outside 12 to 28.", services)
	}
	if first := services.Addr().Next(); !services.Contains(dns) || dns == services.Addr() || dns == first {
		fail("dnsServiceIP", "%s is not inside the range for services, %s, beyond its first address. %s would do.", dns, services, first.Next())
	}
}

func admitAccess(d *draft, caps cluster.Capabilities) {
	a := d.New.Properties.APIServerAccess
	if a == nil {
		return
	}
	const at = "properties.apiServerAccessProfile."
	if a.EnablePrivateCluster != nil && *a.EnablePrivateCluster && !caps.PrivateCluster {
		d.Fail(at+"enablePrivateCluster", "the cluster provider has no private clusters. Remove it, or set it to false.")
	}
	if len(a.AuthorizedIPRanges) > 0 && !caps.AuthorizedIPRanges {
		d.Fail(at+"authorizedIPRanges", "the cluster provider cannot restrict who reaches the API server. Remove it.")
	}
	if len(a.AuthorizedIPRanges) > 0 && d.New.Properties.NetworkProfile.LoadBalancerSKU != "standard" {
		d.Fail(at+"authorizedIPRanges", "authorized IP ranges work only with a Standard load balancer (R8). Set networkProfile.loadBalancerSku to standard.")
	}
	for i, r := range a.AuthorizedIPRanges {
		if _, err := netip.ParsePrefix(r); err != nil {
			if _, err := netip.ParseAddr(r); err != nil {
				d.Fail(fmt.Sprintf("%sauthorizedIPRanges[%d]", at, i), "%q is not an address range in CIDR notation.", r)
			}
		}
	}
}

// Spec is what a managed cluster asks of its provider.
func (s *Service) spec(o *object) cluster.Spec {
	c := o.Spec.Properties
	spec := cluster.Spec{
		ID: o.ID.Key(), Name: o.ID.Name(), Location: o.Spec.Location, KubernetesVersion: c.KubernetesVersion,
		FQDN: fqdn(o.ID, &c, o.Spec.Location), Tags: o.Spec.Tags,
		Network: cluster.Network{PodCIDR: c.NetworkProfile.PodCIDR, ServiceCIDR: c.NetworkProfile.ServiceCIDR, DNSServiceIP: c.NetworkProfile.DNSServiceIP},
	}
	for _, p := range c.AgentPoolProfiles {
		size, _ := s.Size(p.VMSize)
		spec.Pools = append(spec.Pools, cluster.Pool{
			Name: p.Name, VMSize: size, Count: *p.Count, Mode: p.Mode, MaxPods: *p.MaxPods, Labels: p.NodeLabels, Taints: p.NodeTaints,
		})
	}
	return spec
}

func fqdn(id armid.ID, c *ManagedCluster, location string) string {
	return fmt.Sprintf("%s-%s.hcp.%s.azmk8s.io", strings.ToLower(c.DNSPrefix), hash(id.Key())[:8], location)
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// Facts is what is known of a cluster without asking it.
type Facts struct {
	Made    bool // it was ready once
	Version string
	FQDN    string
	Nodes   []cluster.Node
}

// FactsOf reads the facts of a managed cluster from its row.
func FactsOf(row *store.Resource) (Facts, error) {
	rec, err := resource.RecordOf(row)
	if err != nil {
		return Facts{}, err
	}
	var mem memory
	if err := mem.load(rec); err != nil {
		return Facts{}, err
	}
	doc, err := resource.ReadDocument[ManagedCluster](row)
	if err != nil {
		return Facts{}, err
	}
	return Facts{Made: mem.Made, Version: mem.Version, FQDN: doc.Properties.FQDN, Nodes: mem.Nodes}, nil
}

func (m *memory) load(r resource.Record) error {
	if len(r.Data) == 0 {
		return nil
	}
	return json.Unmarshal(r.Data, m)
}

func inherit(field *string, from string) {
	if *field == "" {
		*field = from
	}
}

func ptr[T any](v T) *T { return &v }
