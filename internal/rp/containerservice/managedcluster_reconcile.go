package containerservice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/store"
)

const (
	stepPoll  = 100 * time.Millisecond // between two steps of a cluster in the making
	watchPoll = 5 * time.Second        // between two looks at a cluster that is ready
	gonePoll  = 30 * time.Second       // between two looks at a cluster that vanished
)

// reconcile takes a cluster one step further, or looks after one that is ready: what
// died is restarted, and a cluster that vanished altogether is reported, not silently
// replaced by an empty one (C5).
func (s *Service) reconcile(ctx context.Context, o *object) resource.Outcome {
	var mem memory
	if err := mem.load(o.Record); err != nil {
		return resource.Retry(err)
	}
	handle := cluster.Handle{Version: o.Handle.Version, Data: o.Handle.Data}
	settled := mem.Made && o.Row.Observed == o.Row.Generation
	if settled {
		obs, err := s.Provider.Observe(ctx, o.ID.Key(), handle)
		if err != nil {
			return s.trouble(err)
		}
		if !obs.Exists {
			s.wakeDependents(o)
			return resource.Failed(armerr.New(armerr.CodeClusterNotFound, "The Kubernetes cluster behind '%s' is gone: the provider %s no longer has it. Delete the managed cluster and create a new one.", o.ID.Name(), s.Provider.Name()), gonePoll)
		}
		if obs.Ready {
			return s.done(o, &mem, obs)
		}
	}
	handle, obs, err := s.Provider.Ensure(ctx, s.spec(o), handle)
	o.Handle = store.Handle{Provider: s.Provider.Name(), Version: handle.Version, Data: handle.Data}
	if err != nil {
		if out := s.trouble(err); !settled {
			return out
		}
		return resource.Retry(err)
	}
	if obs.Ready {
		mem.Made = true
		return s.done(o, &mem, obs)
	}
	if err := s.report(o, &mem, obs); err != nil {
		return resource.Retry(err)
	}
	why := obs.Message
	if why == "" {
		why = obs.Reason
	}
	return resource.Waiting(stepPoll, fmt.Sprintf("the cluster to be ready (%s)", strings.TrimSuffix(why, ".")))
}

func (s *Service) done(o *object, mem *memory, obs cluster.Observation) resource.Outcome {
	if err := s.report(o, mem, obs); err != nil {
		return resource.Retry(err)
	}
	if o.Row.State != resource.StateSucceeded {
		s.wakeDependents(o)
	}
	return resource.Done(watchPoll)
}

// trouble sorts a provider's error into what ends the work and what is tried again.
func (s *Service) trouble(err error) resource.Outcome {
	var e *cluster.Error
	if !errors.As(err, &e) {
		return resource.Retry(fmt.Errorf("the cluster provider %s: %w", s.Provider.Name(), err))
	}
	return resource.Failed((&armerr.Error{Code: e.Code, Message: e.Message}).Because(err), 0)
}

// report writes what was seen into the status.
func (s *Service) report(o *object, mem *memory, obs cluster.Observation) error {
	mem.Nodes, mem.Endpoint, mem.Version = obs.Nodes, obs.Endpoint, obs.KubernetesVersion
	data, err := json.Marshal(mem)
	if err != nil {
		return err
	}
	o.Record.Data = data
	c := &o.Spec.Properties
	st := ManagedCluster{
		PowerState:               &PowerState{Code: "Running"},
		FQDN:                     fqdn(o.ID, c, o.Spec.Location),
		CurrentKubernetesVersion: obs.KubernetesVersion,
		MaxAgentPools:            maxAgentPools,
		ResourceUID:              hash(o.Row.Key + o.Row.Created.At.String())[:24],
	}
	st.AzurePortalFQDN = st.FQDN
	for _, p := range c.AgentPoolProfiles {
		ps := PoolProfile{Name: p.Name}
		ps.CurrentOrchestratorVersion = obs.KubernetesVersion
		ps.PowerState = &PowerState{Code: "Running"}
		ps.ProvisioningState = resource.StateSucceeded
		if ready(obs.Nodes, p.Name) != *p.Count {
			ps.ProvisioningState = resource.StateUpdating
			if !mem.Made {
				ps.ProvisioningState = resource.StateCreating
			}
		}
		st.AgentPoolProfiles = append(st.AgentPoolProfiles, ps)
	}
	o.Status.Properties = st
	return nil
}

func ready(nodes []cluster.Node, pool string) int {
	n := 0
	for _, node := range nodes {
		if node.Pool == pool && node.Ready {
			n++
		}
	}
	return n
}

// wakeDependents makes those who use the cluster look at it again.
func (s *Service) wakeDependents(o *object) {
	if s.Dependents == nil {
		return
	}
	key := o.ID.Key()
	o.Then(func(_ context.Context, tx store.Tx) error {
		keys, err := s.Dependents(tx, key)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if err := tx.Wake(k, o.Now); err != nil {
				return err
			}
		}
		return nil
	})
}

// finalize deletes the cluster; its dependents learn of it in the same transaction.
func (s *Service) finalize(ctx context.Context, o *object) resource.Outcome {
	done, err := s.Provider.Delete(ctx, o.ID.Key(), cluster.Handle{Version: o.Handle.Version, Data: o.Handle.Data})
	if err != nil {
		return s.trouble(err)
	}
	if !done {
		return resource.Waiting(stepPoll, "the cluster's processes and networks to go")
	}
	s.wakeDependents(o)
	return resource.Gone()
}

// credential answers with a kubeconfig in AKS's form.
func (s *Service) credential(role cluster.Role) func(context.Context, *resource.ActionCall[ManagedCluster]) (any, error) {
	return func(ctx context.Context, a *resource.ActionCall[ManagedCluster]) (any, error) {
		kc, err := s.Kubeconfig(ctx, a.Row, a.Handle, role)
		if err != nil {
			return nil, err
		}
		return map[string]any{"kubeconfigs": []map[string]any{{"name": string(role), "value": kc}}}, nil
	}
}

// Kubeconfig issues a kubeconfig for a managed cluster, the same one for a while. Errors: *armerr.Error 409 while
// there is no API server to issue it for, 404 when the cluster is gone.
func (s *Service) Kubeconfig(ctx context.Context, row *store.Resource, h store.Handle, role cluster.Role) ([]byte, error) {
	rec, err := resource.RecordOf(row)
	if err != nil {
		return nil, err
	}
	var mem memory
	if err := mem.load(rec); err != nil {
		return nil, err
	}
	to := issuedFor{row.Key, role}
	kc, err := s.Provider.Credentials(ctx, row.Key, cluster.Handle{Version: h.Version, Data: h.Data}, role)
	if errors.Is(err, cluster.ErrNotFound) {
		s.issued.forget(to)
	}
	switch {
	case errors.Is(err, cluster.ErrNotFound) && !mem.Made && !resource.Final(row.State):
		e := armerr.New(armerr.CodeOperationNotAllowed, "The cluster '%s' is still being created; its credentials do not exist yet. Wait until its provisioningState is Succeeded.", row.ID)
		e.RetryAfter = 2 * time.Second
		return nil, e
	case errors.Is(err, cluster.ErrNotFound):
		e := armerr.New(armerr.CodeClusterNotFound, "The Kubernetes cluster behind '%s' does not exist (state %s).", row.ID, row.State)
		e.Status = 404
		return nil, e
	case err != nil:
		return nil, err
	}
	return s.issued.same(to, kc).Data, nil
}
