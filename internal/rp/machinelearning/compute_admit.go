package machinelearning

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/rp/containerservice"
	"github.com/berthdev/berth/internal/store"
)

type draft = resource.Draft[Compute]

// admitCompute completes and checks a compute that is created, attached or updated.
func (s *Service) admitCompute(_ context.Context, d *draft) error {
	ws, err := d.Tx.Resource(d.ID.Parent().Key())
	if err != nil {
		return err
	}
	c := &d.New.Properties
	if d.New.Location == "" {
		d.New.Location = ws.Location
	}
	if d.New.Location != ws.Location {
		d.Fail("location", "a compute has the location of its workspace, %s; where the cluster is goes into properties.computeLocation (A3).", ws.Location)
	}
	if c.ComputeLocation != "" {
		canonical, ok := d.Manager.Locate(c.ComputeLocation)
		if !ok {
			d.Fail("properties.computeLocation", "%q is not an Azure region.", c.ComputeLocation)
		}
		c.ComputeLocation = canonical
	}
	if err := claimName(d, ws.Location); err != nil {
		return err
	}
	if err := s.settleTarget(d); err != nil {
		return err
	}
	if c.Properties == nil {
		c.Properties = &AKS{}
	}
	p := c.Properties
	if d.Old != nil {
		keep(d, p)
	}
	p.ClusterFQDN = "" // the cluster's own; clients echo it
	if p.ClusterPurpose == "" {
		p.ClusterPurpose = FastProd
	}
	if p.LoadBalancerType == "" {
		p.LoadBalancerType = "PublicIp"
	}
	admitTLS(d, p)
	admitNetworking(d, p)
	if c.ResourceID != "" {
		return s.admitAttach(d, ws, p)
	}
	s.admitCreate(d, p)
	return nil
}

// claimName makes the name unique among all computes in the region (R1).
func claimName(d *draft, region string) error {
	err := d.Tx.Claim("compute:"+region+":"+strings.ToLower(d.ID.Name()), d.ID.Key())
	var taken *store.ClaimedError
	if errors.As(err, &taken) {
		e := armerr.New(armerr.CodeNameTaken, "Compute with this name already exists. Compute name needs to be unique across all existing computes within an Azure region: %q is taken in %s. Choose another name.", d.ID.Name(), region)
		e.Target = "name"
		return e
	}
	return err
}

// settleTarget decides whether the compute is attached or created. What an update leaves out
// is kept; a client that sends back what it read may name the cluster that the compute
// created. Once the cluster is gone, the same name can be used for a new one (C5).
func (s *Service) settleTarget(d *draft) error {
	if d.Old == nil {
		return nil
	}
	c, old := &d.New.Properties, &d.Old.Properties
	present, lost := clusterIDOf(old, &d.Status.Properties)
	if lost = lost && d.Failed; lost {
		_, err := d.Tx.Resource(present.Key())
		if lost = errors.Is(err, store.ErrNotFound); !lost && err != nil {
			return err
		}
	}
	switch {
	case lost && !strings.EqualFold(c.ResourceID, old.ResourceID):
		if old.ResourceID != "" {
			return d.Tx.Unclaim(attachClaim(d.ID, present), d.ID.Key())
		}
	case c.ResourceID == "":
		c.ResourceID = old.ResourceID
	case old.ResourceID == "" && strings.EqualFold(c.ResourceID, present.String()):
		c.ResourceID = ""
	case !strings.EqualFold(c.ResourceID, old.ResourceID):
		e := armerr.Field("properties.resourceId", "the compute stands for the cluster '%s'. To point it at another one, detach it first, then attach the other.", present)
		e.Code = armerr.CodePropertyChangeNotAllowed
		d.FailWith(e)
	}
	return nil
}

// keep fills in what an update leaves out. The number of nodes is the cluster's own, because
// AKS can scale it without the workspace (R4).
func keep(d *draft, p *AKS) {
	old := d.Old.Properties.Properties
	if old == nil {
		return
	}
	inherit := func(field *string, from string) {
		if *field == "" {
			*field = from
		}
	}
	inherit(&p.ClusterPurpose, old.ClusterPurpose)
	inherit(&p.AgentVMSize, old.AgentVMSize)
	inherit(&p.LoadBalancerType, old.LoadBalancerType)
	inherit(&p.LoadBalancerSubnet, old.LoadBalancerSubnet)
	inherit(&d.New.Properties.Description, d.Old.Properties.Description)
	inherit(&d.New.Properties.ComputeLocation, d.Old.Properties.ComputeLocation)
	if p.SSLConfiguration == nil {
		p.SSLConfiguration = old.SSLConfiguration
	}
	if p.Networking == nil {
		p.Networking = old.Networking
	}
	if p.AgentCount == nil {
		p.AgentCount = old.AgentCount
		if found := d.Status.Properties.Properties; found != nil && found.AgentCount != nil && p.AgentCount != nil {
			p.AgentCount = found.AgentCount
		}
	}
}

// admitCreate checks a compute that creates its cluster.
func (s *Service) admitCreate(d *draft, p *AKS) {
	const at = "properties.properties."
	if p.AgentVMSize == "" {
		p.AgentVMSize = defaultVMSize
	}
	if p.AgentCount == nil {
		p.AgentCount = ptr(productionNodes)
		if !production(p.ClusterPurpose) {
			p.AgentCount = ptr(devTestNodes)
		}
	}
	size, ok := s.Clusters.Size(p.AgentVMSize)
	if !ok {
		hint := ""
		if near := s.Clusters.Suggest(p.AgentVMSize); near != "" {
			hint = " Did you mean " + near + "?"
		}
		d.Fail(at+"agentVmSize", "%q is not a VM size that Berth knows.%s", p.AgentVMSize, hint)
		return
	}
	p.AgentVMSize = size.Name
	if d.Old != nil && d.Old.Properties.Properties != nil && d.Old.Properties.ResourceID == "" {
		if was := d.Old.Properties.Properties.AgentVMSize; !strings.EqualFold(was, size.Name) && !d.Failed {
			e := armerr.Field(at+"agentVmSize", "the VM size of a cluster never changes (R4); it is %s. Create another compute with %s.", was, size.Name)
			e.Code = armerr.CodePropertyChangeNotAllowed
			d.FailWith(e)
		}
	}
	if have, need := *p.AgentCount*size.VCPUs, minCores(p.ClusterPurpose); have < need {
		d.FailWith(notEnoughCores(p.ClusterPurpose, have, fmt.Sprintf("%d x %s with %d vCPUs each", *p.AgentCount, size.Name, size.VCPUs), size.VCPUs, at+"agentCount"))
	}
}

// notEnoughCores states the sum, the minimum and the smallest node count that would do (R3).
func notEnoughCores(purpose string, have int, nodes string, perNode int, target string) *armerr.Error {
	need := minCores(purpose)
	smallest := (need + perNode - 1) / max(perNode, 1)
	advice := ""
	if production(purpose) {
		advice = fmt.Sprintf(", or use the purpose %s for a cluster that is not for production", DevTest)
	}
	e := armerr.New(armerr.CodeNotEnoughCores, "%s: Cluster should have at least %d cores to operate with purpose '%s'; it has %d (%s). Use at least %d nodes of that size%s.", target, need, purpose, have, nodes, smallest, advice)
	e.Target = target
	return e
}

// admitAttach checks a compute that attaches a cluster. Whatever is known without asking
// the cluster is checked here, all of it together, so that a client learns it at once;
// the reconciler asks the cluster itself.
func (s *Service) admitAttach(d *draft, ws *store.Resource, p *AKS) error {
	c := &d.New.Properties
	const at = "properties.resourceId"
	id, err := armid.Parse(c.ResourceID)
	if err != nil || !strings.EqualFold(id.Type(), containerservice.ManagedClusters) {
		d.Fail(at, "%q is not the ID of a managed cluster, /subscriptions/…/resourceGroups/…/providers/Microsoft.ContainerService/managedClusters/…. Find it with: az aks show -g GROUP -n NAME --query id", c.ResourceID)
		return nil
	}
	row, err := d.Tx.Resource(id.Key())
	if errors.Is(err, store.ErrNotFound) {
		e := armerr.New(armerr.CodeClusterNotFound, "%s: the managed cluster '%s' does not exist. List clusters with: az aks list -o table", at, id)
		e.Target = at
		return e
	}
	if err != nil {
		return err
	}
	if row.DeletedAt != nil {
		return armerr.New(armerr.CodeConflict, "The managed cluster '%s' is being deleted. Create another one, then attach that.", id)
	}
	if err := d.Allowed(containerservice.ManagedClusters+"/listClusterAdminCredential/action", id); err != nil {
		return err
	}
	if err := claimCluster(d, ws, id); err != nil {
		return err
	}
	facts, err := containerservice.FactsOf(row)
	if err != nil {
		return err
	}
	if row.State == resource.StateSucceeded {
		for _, f := range s.unmet(p.ClusterPurpose, facts.Version, facts.Nodes) {
			d.FailWith(f)
		}
	}
	attachedSize(d, p, facts.Nodes)
	return nil
}

// attachedSize refuses a node count or VM size that is not the attached cluster's, and
// stores neither: they are read from the cluster.
func attachedSize(d *draft, p *AKS, nodes []cluster.Node) {
	const at = "properties.properties."
	if p.AgentCount != nil && len(nodes) > 0 && *p.AgentCount != len(nodes) {
		d.Fail(at+"agentCount", "an attached cluster is scaled where it was made; it has %d nodes. Leave the field out, and use: az aks scale", len(nodes))
	}
	if p.AgentVMSize != "" && len(nodes) > 0 && !strings.EqualFold(p.AgentVMSize, nodes[0].VMSize) {
		d.Fail(at+"agentVmSize", "the attached cluster has nodes of %s. Leave the field out.", nodes[0].VMSize)
	}
	p.AgentCount, p.AgentVMSize = nil, ""
}

// attachClaim is the name that makes a cluster attachable once per workspace (A5).
func attachClaim(compute, clusterID armid.ID) string {
	return "attach:" + compute.Parent().Key() + ":" + clusterID.Key()
}

func claimCluster(d *draft, ws *store.Resource, id armid.ID) error {
	name := attachClaim(d.ID, id)
	err := d.Tx.Claim(name, d.ID.Key())
	var taken *store.ClaimedError
	if !errors.As(err, &taken) {
		return err
	}
	other, err := d.Tx.Resource(taken.Owner)
	if err != nil {
		return err
	}
	wsDoc, err := resource.ReadSpec[Workspace](ws)
	if err != nil {
		return err
	}
	otherName := armid.MustParse(other.ID).Name()
	if wsDoc.Properties.AttachConflict != attachSupersede {
		e := armerr.New(armerr.CodeClusterAlreadyAttached, "The cluster '%s' is attached to this workspace already, as the compute '%s'. A second attachment would break the first (A5). Use '%s', or detach it first: ComputeTarget(workspace, '%s').detach(), or az ml computetarget detach -n %s -g %s -w %s", id.Name(), otherName, otherName, otherName, otherName, d.ID.GroupName(), d.ID.Parent().Name())
		e.Target = "properties.resourceId"
		return e
	}
	if err := d.Tx.Unclaim(name, taken.Owner); err != nil {
		return err
	}
	if err := d.Tx.Claim(name, d.ID.Key()); err != nil {
		return err
	}
	// The earlier compute finds that the claim is no longer its own, and says so.
	return d.Tx.Wake(taken.Owner, d.Manager.Now())
}

// admitTLS checks the TLS settings completely. They take effect with the scoring front
// end, which comes to the cluster with the first deployment.
func admitTLS(d *draft, p *AKS) {
	t := p.SSLConfiguration
	if t == nil {
		return
	}
	const at = "properties.properties.sslConfiguration."
	const keyPath = "properties.properties.sslConfiguration.key"
	key := d.Secrets[keyPath]
	if t.Status == "" {
		t.Status = "Disabled"
	}
	if t.LeafDomainLabel != "" || t.Status == "Auto" {
		d.Fail(at+"leafDomainLabel", "certificates for a leaf domain label are issued by Microsoft for its own domain; Berth has none to give. Use status Enabled with cname, cert and key of your own.")
		return
	}
	if t.Renew != nil && *t.Renew {
		d.Fail(at+"renew", "only certificates for a leaf domain label are renewed. Send a new cert and key instead.")
	}
	if t.Status == "Disabled" {
		if d.Given(keyPath) || t.Cert != "" {
			d.Fail(at+"status", "cert and key are given, but TLS is disabled. Set status to Enabled, or leave them out.")
		}
		delete(d.Secrets, keyPath)
		t.Cert, t.CName = "", ""
		return
	}
	missing := false
	for _, f := range []struct{ name, value string }{{"cname", t.CName}, {"cert", t.Cert}, {"key", key}} {
		if f.value == "" {
			d.Fail(at+f.name, "TLS with a certificate of your own needs cname, cert and key. Add it.")
			missing = true
		}
	}
	if missing {
		return
	}
	if _, err := tls.X509KeyPair([]byte(t.Cert), []byte(key)); err != nil {
		d.Fail(at+"cert", "the certificate and the key do not make a pair. Send the whole chain in PEM, the server's certificate first, and its unencrypted key.")
		return
	}
	leaf, err := t.certificate()
	switch {
	case err != nil:
		d.Fail(at+"cert", "the first certificate of the chain cannot be read.")
	case leaf.NotAfter.Before(d.Manager.Now()):
		d.Fail(at+"cert", "the certificate expired on %s. Send a valid one.", leaf.NotAfter.UTC().Format(time.DateOnly))
	case leaf.VerifyHostname(t.CName) != nil:
		d.Fail(at+"cname", "the certificate is not for %s; it is for %s.", t.CName, strings.Join(append(leaf.DNSNames, leaf.Subject.CommonName), ", "))
	}
}

// admitNetworking checks C2's network options, and refuses by name what no cluster
// provider here can do yet.
func admitNetworking(d *draft, p *AKS) {
	const at = "properties.properties."
	if p.LoadBalancerSubnet != "" {
		if p.LoadBalancerType != "InternalLoadBalancer" {
			d.Fail(at+"loadBalancerSubnet", "only an InternalLoadBalancer has a subnet. Set loadBalancerType, or leave the subnet out.")
		} else if p.LoadBalancerSubnet != "aks-subnet" {
			d.Fail(at+"loadBalancerSubnet", "there are no virtual networks yet, so the load balancer cannot be put into subnet %q. Leave it out.", p.LoadBalancerSubnet)
		}
	}
	n := p.Networking
	if n == nil {
		return
	}
	if d.New.Properties.ResourceID != "" {
		d.Fail(at+"aksNetworkingConfiguration", "an attached cluster has its network already. Leave the field out.")
		return
	}
	if n.SubnetID != "" {
		d.Fail(at+"aksNetworkingConfiguration.subnetId", "there are no virtual networks yet, so the cluster cannot be put into '%s'. Leave the virtual network out; the cluster gets a network of its own.", n.SubnetID)
	}
	if n.DockerBridgeCIDR != "" {
		d.Fail(at+"aksNetworkingConfiguration.dockerBridgeCidr", "nodes run containerd and have no Docker bridge. Leave it out.")
	}
	services, err := netip.ParsePrefix(n.ServiceCIDR)
	dns, err2 := netip.ParseAddr(n.DNSServiceIP)
	if err == nil && err2 == nil {
		containerservice.CheckServices(containerservice.DefaultPods, services.Masked(), dns, func(field, format string, args ...any) {
			d.Fail(at+"aksNetworkingConfiguration."+field, format, args...)
		})
	}
	if (n.ServiceCIDR == "") != (n.DNSServiceIP == "") {
		d.Fail(at+"aksNetworkingConfiguration", "serviceCidr and dnsServiceIP belong together. Give both or none.")
	}
}

// Ways in which a compute goes, as the query parameter underlyingResourceAction spells them.
const (
	actionDelete = "delete"
	actionDetach = "detach"
)

// removable checks a DELETE: it says what happens to the cluster, and a cluster that was
// attached is never deleted (A6). A workspace that goes takes along what it created.
func (s *Service) removable(_ context.Context, r *resource.Removal[Compute]) error {
	if r.Query(resource.CascadeParameter) == "" && s.ServicesOn != nil {
		names, err := s.ServicesOn(r.Tx, r.ID)
		if err != nil {
			return err
		}
		if len(names) > 0 {
			return armerr.New(armerr.CodeConflict, "The compute '%s' has the web services %s. Delete them first: they would stop without a word.", r.ID.Name(), strings.Join(names, ", "))
		}
	}
	attached := r.Doc.Properties.ResourceID != ""
	action := strings.ToLower(r.Query("underlyingResourceAction"))
	if r.Query(resource.CascadeParameter) != "" {
		action = actionDelete
		if attached {
			action = actionDetach
		}
	}
	switch {
	case action == actionDelete && attached:
		e := armerr.New(armerr.CodeDeleteOfAttached, "The compute '%s' was attached, so deleting it would delete a cluster that the workspace did not create (A6). Detach it instead: detach(), or underlyingResourceAction=Detach; then delete the cluster with: az aks delete", r.ID.Name())
		e.Target = "underlyingResourceAction"
		return e
	case action == actionDelete || action == actionDetach:
		r.Note = action
		return nil
	}
	return armerr.Field("underlyingResourceAction", "the query parameter is required: Delete also deletes the cluster that the compute created, Detach leaves it alone. It is %q.", action)
}
