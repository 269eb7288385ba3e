package machinelearning

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/attachment"
	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/rp/containerservice"
	"github.com/berthdev/berth/internal/store"
)

type object = resource.Object[Compute]

const (
	clusterPoll = 500 * time.Millisecond // while the cluster works; its changes also wake the compute
	leasePoll   = time.Minute            // between two looks at what attaching put into the cluster
	retryPoll   = time.Second
	// frontEndPoll is how soon a compute whose front end does not serve yet is looked at again.
	frontEndPoll = 2 * time.Second
	// reachable is how long an attach or detach tries a cluster that does not answer, or a registry that cannot be
	// used, before it fails by name, instead of hanging until its deadline.
	reachable = 90 * time.Second
)

// memory is what the reconciler remembers of a compute.
type memory struct {
	Created bool  `json:"created,omitempty"` // the managed cluster was asked for
	Asked   int64 `json:"asked,omitempty"`   // generation of the compute for which that was last
}

// target is the managed cluster of a compute as the store has it now.
type target struct {
	id     armid.ID
	row    *store.Resource // nil when it is not there
	handle store.Handle
	facts  containerservice.Facts
	owner  string // who holds the attachment's claim
}

func (s *Service) target(ctx context.Context, o *object, id armid.ID) (*target, error) {
	t := &target{id: id}
	err := o.Manager.Store.View(ctx, func(tx store.ReadTx) error {
		row, err := tx.Resource(id.Key())
		if errors.Is(err, store.ErrNotFound) {
			t.row = nil
			return nil
		}
		if err != nil {
			return err
		}
		t.row = row
		if t.facts, err = containerservice.FactsOf(row); err != nil {
			return err
		}
		if t.handle, err = tx.Handle(id.Key()); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		t.owner, err = tx.ClaimOwner(attachClaim(o.ID, id))
		return err
	})
	return t, err
}

// reconcileCompute brings a compute to where its cluster exists, is fit for its purpose
// and is prepared for the workspace; and notices when the cluster goes (C5).
func (s *Service) reconcileCompute(ctx context.Context, o *object) resource.Outcome {
	var mem memory
	if len(o.Record.Data) > 0 {
		if err := json.Unmarshal(o.Record.Data, &mem); err != nil {
			return resource.Retry(err)
		}
	}
	fresh := o.Row.Observed != o.Row.Generation // a client asked for something since the last final state
	attached := o.Spec.Properties.ResourceID != ""
	id, known := clusterIDOf(&o.Spec.Properties, &o.Status.Properties)
	if !attached && (!known || fresh && !mem.Created) {
		id = o.ID.GroupScope().Extend(containerservice.Namespace, "managedClusters", createdClusterName(o.Row, o.ID.Name()))
	}
	t, err := s.target(ctx, o, id)
	if err != nil {
		return resource.Retry(err)
	}
	if attached && t.row != nil && t.owner != o.Row.Key {
		return resource.Failed(armerr.New(armerr.CodeAttachmentSuperseded, "A later attachment took the cluster '%s' over, as the workspace allows it (attachConflict: supersede). Detach this compute.", id.Name()), 0)
	}
	if t.row == nil && !attached && (!mem.Created || fresh && o.Row.State != resource.StateCreating) {
		return s.createCluster(o, &mem, id)
	}
	if t.row == nil || t.row.DeletedAt != nil {
		mem.Created = false
		remember(o, &mem)
		return resource.Failed(armerr.New(armerr.CodeClusterNotFound, "The managed cluster '%s' was deleted, so this compute has none to run on. Create the compute again under the same name, or detach it (C5).", id), 0)
	}
	if !resource.Final(t.row.State) && fresh {
		return resource.Waiting(clusterPoll, s.clusterProgress(t))
	}
	if t.row.State == resource.StateFailed {
		if fresh && !attached && mem.Asked != o.Row.Generation {
			return s.createCluster(o, &mem, id) // a client tries again, so its cluster is tried again
		}
		return s.clusterFailed(t, attached)
	}
	if out, ok := s.scale(o, t, attached, fresh); ok {
		return out
	}
	return s.prepare(ctx, o, t, fresh)
}

func (s *Service) clusterProgress(t *target) string {
	why := fmt.Sprintf("the managed cluster '%s' (%s)", t.id.Name(), t.row.State)
	if rec, err := resource.RecordOf(t.row); err == nil && rec.Waiting != "" {
		why += ", which waits for " + rec.Waiting
	}
	return why
}

func (s *Service) clusterFailed(t *target, attached bool) resource.Outcome {
	code, what := armerr.CodeClusterCreationFailed, "could not be created"
	if attached {
		code, what = armerr.CodeClusterNotFound, "is in state Failed"
	}
	e := armerr.New(code, "The managed cluster '%s' %s.", t.id, what)
	if rec, err := resource.RecordOf(t.row); err == nil && rec.Error != nil {
		e.Message = fmt.Sprintf("The managed cluster '%s' %s: %s", t.id, what, rec.Error.Message)
		e.Details = []*armerr.Error{rec.Error}
	}
	return resource.Failed(e, 0)
}

// createCluster asks for the compute's managed cluster, through the same door as any
// client, in the transaction that remembers having asked.
func (s *Service) createCluster(o *object, mem *memory, id armid.ID) resource.Outcome {
	p := o.Spec.Properties.Properties
	location := o.Spec.Properties.ComputeLocation
	if location == "" {
		location = o.Row.Location
	}
	pool := containerservice.PoolProfile{Name: "agentpool", PoolProperties: containerservice.PoolProperties{Count: p.AgentCount, VMSize: p.AgentVMSize, Mode: "System"}}
	doc := &resource.Document[containerservice.ManagedCluster]{Location: location, Tags: o.Spec.Tags}
	doc.Identity = &resource.Identity{Type: "SystemAssigned"}
	doc.Properties.AgentPoolProfiles = []containerservice.PoolProfile{pool}
	// A cluster that the ML side creates has a Basic load balancer (R6).
	doc.Properties.NetworkProfile = &containerservice.NetworkProfile{LoadBalancerSKU: "basic"}
	if n := p.Networking; n != nil {
		doc.Properties.NetworkProfile.ServiceCIDR, doc.Properties.NetworkProfile.DNSServiceIP = n.ServiceCIDR, n.DNSServiceIP
	}
	mem.Created, mem.Asked = true, o.Row.Generation
	remember(o, mem)
	o.Status.Properties = Compute{ResourceID: id.String(), IsAttachedCompute: ptr(false), ComputeLocation: location}
	o.Then(func(ctx context.Context, tx store.Tx) error { return s.putCluster(ctx, tx, o, id, doc) })
	return resource.Waiting(clusterPoll, fmt.Sprintf("the managed cluster '%s' to be created", id.Name()))
}

func (s *Service) putCluster(ctx context.Context, tx store.Tx, o *object, id armid.ID, doc *resource.Document[containerservice.ManagedCluster]) error {
	t, err := o.Manager.Registry.Find(containerservice.ManagedClusters)
	if err != nil {
		return err
	}
	raw, err := resource.Encode(doc)
	if err != nil {
		return err
	}
	_, err = o.Manager.Put(ctx, tx, resource.Write{
		ID: id, Type: t, Version: containerservice.Versions[len(containerservice.Versions)-1], Doc: raw, By: o.Row.Modified,
	})
	return err
}

// scale changes the number of nodes of a created cluster where a client asked for it. The
// count that AKS's own tools set is otherwise left alone (R4).
func (s *Service) scale(o *object, t *target, attached, fresh bool) (resource.Outcome, bool) {
	want := o.Spec.Properties.Properties.AgentCount
	if attached || !fresh || want == nil {
		return resource.Outcome{}, false
	}
	doc, err := resource.ReadSpec[containerservice.ManagedCluster](t.row)
	if err != nil {
		return resource.Retry(err), true
	}
	pools := doc.Properties.AgentPoolProfiles
	if len(pools) != 1 || *pools[0].Count == *want {
		return resource.Outcome{}, false
	}
	pools[0].Count = want
	o.Then(func(ctx context.Context, tx store.Tx) error { return s.putCluster(ctx, tx, o, t.id, doc) })
	return resource.Waiting(clusterPoll, fmt.Sprintf("the managed cluster '%s' to have %d nodes", t.id.Name(), *want)), true
}

// prepare asks the cluster itself whether it is fit, and puts the workspace's part into it.
func (s *Service) prepare(ctx context.Context, o *object, t *target, fresh bool) resource.Outcome {
	kubeconfig, err := s.Clusters.Kubeconfig(ctx, t.row, t.handle, cluster.RoleAdmin)
	if err != nil {
		return s.unreachable(o, t, err)
	}
	found, err := s.Attach.Inspect(ctx, kubeconfig)
	if err != nil {
		return s.unreachable(o, t, err)
	}
	attached := o.Spec.Properties.ResourceID != ""
	p := o.Spec.Properties.Properties
	if fresh {
		if err := armerr.Join(armerr.CodeClusterPreconditions, s.unmet(p.ClusterPurpose, found.Version, found.Nodes)); err != nil {
			return resource.Failed(armerr.Of(err), 0)
		}
	}
	front, err := s.frontEnd(ctx, o)
	var refused *armerr.Error
	if errors.As(err, &refused) && s.late(o) {
		return resource.Failed(refused, leasePoll)
	}
	if err != nil {
		return resource.Retry(err)
	}
	if err := s.Attach.Prepare(ctx, kubeconfig, s.attachmentOf(o), front); err != nil {
		var held *attachment.HeldError
		if errors.As(err, &held) {
			return resource.Failed(armerr.New(armerr.CodeClusterAlreadyAttached, "The cluster '%s' is held for this workspace by '%s'. Detach it there first.", t.id.Name(), held.Holder), 0)
		}
		return s.unreachable(o, t, err)
	}
	st := Compute{ResourceID: t.id.String(), IsAttachedCompute: &attached, ComputeLocation: t.row.Location}
	st.Properties = &AKS{AgentCount: ptr(len(found.Nodes)), ClusterFQDN: t.facts.FQDN, SystemServices: []SystemService{}}
	if len(found.Nodes) > 0 {
		st.Properties.AgentVMSize = found.Nodes[0].VMSize
	}
	next := leasePoll
	if front != nil {
		seen, err := s.Attach.FrontEnd(ctx, kubeconfig, s.attachmentOf(o))
		if err != nil {
			return s.unreachable(o, t, err)
		}
		if seen.Address != "" {
			st.Properties.SystemServices = []SystemService{{SystemServiceType: "ScoringFrontEnd", PublicIPAddress: seen.Address, Version: front.Version}}
		}
		if seen.Waiting != "" {
			next = frontEndPoll
		}
	}
	o.Status.Properties = st
	return resource.Done(next)
}

// frontEnd is the front end that the workspace is to have in the cluster: three replicas for production, one for
// dev-test. nil where there is none.
func (s *Service) frontEnd(ctx context.Context, o *object) (*attachment.FrontEnd, error) {
	if s.FrontEnd == nil {
		return nil, nil
	}
	f, err := s.FrontEnd(ctx, o.ID.Parent())
	if err != nil {
		return nil, err
	}
	p := o.Spec.Properties.Properties
	f.Replicas = 1
	if production(p.ClusterPurpose) {
		f.Replicas = 3
	}
	f.Internal = p.LoadBalancerType == "InternalLoadBalancer"
	if t := p.SSLConfiguration; t != nil && t.Status == "Enabled" {
		key, err := o.Secret("properties.properties.sslConfiguration.key")
		if err != nil {
			return nil, fmt.Errorf("reading the key of the TLS certificate: %w", err)
		}
		f.Certificate, f.Key = []byte(t.Cert), []byte(key)
	}
	return &f, nil
}

// unreachable waits for a cluster that does not answer, and after a while fails by name.
func (s *Service) unreachable(o *object, t *target, err error) resource.Outcome {
	var refused *armerr.Error
	if errors.As(err, &refused) && refused.Code == armerr.CodeClusterNotFound {
		return resource.Failed(refused, leasePoll)
	}
	if s.late(o) {
		return resource.Failed(armerr.New(armerr.CodeClusterNotReachable, "The API server of '%s' does not answer; it was tried for %s. Check that the cluster runs (az aks show), then send the request again.", t.id, reachable).Because(err), leasePoll)
	}
	return resource.Retry(fmt.Errorf("speaking to the cluster %s: %w", t.id, err))
}

// late reports whether an operation has tried long enough what may pass.
func (s *Service) late(o *object) bool {
	return o.Operation != nil && !resource.Final(o.Operation.Status) && o.Now.Sub(o.Operation.Start) > reachable
}

func (s *Service) attachmentOf(o *object) attachment.Attachment {
	return attachment.Attachment{Installation: s.Installation, Workspace: o.ID.Parent().String(), Compute: o.ID.String()}
}

// finalizeCompute detaches a compute, which removes what attaching put into the cluster and
// leaves the rest of it alone, or deletes the cluster that it created (A6).
func (s *Service) finalizeCompute(ctx context.Context, o *object) resource.Outcome {
	id, known := clusterIDOf(&o.Spec.Properties, &o.Status.Properties)
	if !known {
		id = o.ID.GroupScope().Extend(containerservice.Namespace, "managedClusters", createdClusterName(o.Row, o.ID.Name()))
	}
	t, err := s.target(ctx, o, id)
	if err != nil {
		return resource.Retry(err)
	}
	if t.row == nil {
		return resource.Gone()
	}
	if o.Record.Note == actionDelete {
		return s.deleteCluster(o, t)
	}
	if t.row.DeletedAt != nil || !t.facts.Made {
		return resource.Gone() // nothing was put there, or it goes with the cluster
	}
	kubeconfig, err := s.Clusters.Kubeconfig(ctx, t.row, t.handle, cluster.RoleAdmin)
	var refused *armerr.Error
	if errors.As(err, &refused) && refused.Code == armerr.CodeClusterNotFound {
		return resource.Gone()
	}
	if err != nil {
		return s.unreachable(o, t, err)
	}
	done, err := s.Attach.Remove(ctx, kubeconfig, s.attachmentOf(o))
	if err != nil {
		return s.unreachable(o, t, err)
	}
	if !done {
		return resource.Waiting(clusterPoll/2, "the workspace's namespace to leave the cluster")
	}
	return resource.Gone()
}

func (s *Service) deleteCluster(o *object, t *target) resource.Outcome {
	switch {
	case t.row.DeletedAt == nil || t.row.State == resource.StateFailed && t.row.DeletedAt.Before(o.Operation.Start):
		o.Then(func(ctx context.Context, tx store.Tx) error {
			typ, err := o.Manager.Registry.Find(containerservice.ManagedClusters)
			if err != nil {
				return err
			}
			_, err = o.Manager.Delete(ctx, tx, resource.Write{ID: t.id, Type: typ, By: o.Row.Modified})
			return err
		})
	case t.row.State == resource.StateFailed:
		return s.clusterFailed(t, true)
	}
	return resource.Waiting(clusterPoll, fmt.Sprintf("the managed cluster '%s' to be deleted", t.id.Name()))
}

func remember(o *object, mem *memory) {
	data, err := json.Marshal(mem)
	if err == nil { // a struct of booleans always marshals
		o.Record.Data = data
	}
}

// computeKeys answers with the kubeconfigs of the compute's cluster.
func (s *Service) computeKeys(ctx context.Context, a *resource.ActionCall[Compute]) (any, error) {
	id, err := armid.Parse(a.Doc.Properties.ResourceID)
	if err != nil {
		return nil, armerr.New(armerr.CodeOperationNotAllowed, "The compute '%s' has no cluster yet. Wait until its provisioningState is Succeeded.", a.ID.Name())
	}
	var row *store.Resource
	var handle store.Handle
	err = a.Manager.Store.View(ctx, func(tx store.ReadTx) error {
		if row, err = tx.Resource(id.Key()); err != nil {
			return err
		}
		if handle, err = tx.Handle(id.Key()); errors.Is(err, store.ErrNotFound) {
			err = nil
		}
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		e := armerr.New(armerr.CodeClusterNotFound, "The managed cluster '%s' was deleted.", id)
		e.Status = 404
		return nil, e
	}
	if err != nil {
		return nil, err
	}
	admin, err := s.Clusters.Kubeconfig(ctx, row, handle, cluster.RoleAdmin)
	if err != nil {
		return nil, err
	}
	user, err := s.Clusters.Kubeconfig(ctx, row, handle, cluster.RoleUser)
	if err != nil {
		return nil, err
	}
	return map[string]any{"computeType": "AKS", "userKubeConfig": string(user), "adminKubeConfig": string(admin), "imagePullSecretName": nil}, nil
}

func noNodes(_ context.Context, a *resource.ActionCall[Compute]) (any, error) {
	return nil, armerr.New(armerr.CodeNotSupported, "listNodes is about computes of type AmlCompute; '%s' is of type AKS. List its nodes with kubectl get nodes.", a.ID.Name())
}
