package containerservice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/arm/schema"
	"github.com/berthdev/berth/internal/store"
)

// virtualTypes are computed from managed clusters or from what the provider offers. An
// agent pool is a part of its cluster's document, seen through an address of its own:
// there is one truth, and a write to a pool is a write to the cluster.
func (s *Service) virtualTypes() []*resource.Type {
	return []*resource.Type{
		resource.NewVirtual(AgentPools, "A set of equal nodes of a cluster.", Versions, resource.InGroup, resource.Virtual{
			Get: s.getPool, List: s.listPools, Put: s.putPool, Delete: s.deletePool,
		}),
		resource.NewVirtual(ManagedClusters+"/upgradeProfiles", "The versions that a cluster can be upgraded to.", Versions, resource.InGroup, resource.Virtual{Get: s.upgradeProfile}),
		resource.NewVirtual(ManagedClusters+"/availableAgentPoolVersions", "The versions that a pool can have.", Versions, resource.InGroup, resource.Virtual{List: s.poolVersions}),
		resource.NewVirtual(Namespace+"/locations/kubernetesVersions", "The Kubernetes versions on offer.", Versions, resource.InSubscription, resource.Virtual{List: s.kubernetesVersions}),
		resource.NewVirtual(Namespace+"/locations/orchestrators", "The Kubernetes versions on offer, in an older form.", Versions, resource.InSubscription, resource.Virtual{List: s.orchestrators}),
	}
}

var poolSchema = schema.From[poolDocument]()

// poolDocument is an agent pool as a resource of its own.
type poolDocument struct {
	ID         string         `json:"id,omitempty" arm:"readonly"`
	Name       string         `json:"name,omitempty" arm:"readonly"`
	Type       string         `json:"type,omitempty" arm:"readonly"`
	Properties PoolProperties `json:"properties" arm:"required"`
}

// readCluster loads the cluster of a pool, as ARM's errors have it.
func readCluster(tx store.ReadTx, m *resource.Manager, id armid.ID) (*store.Resource, *resource.Document[ManagedCluster], error) {
	row, err := tx.Resource(id.Key())
	if errors.Is(err, store.ErrNotFound) {
		t, err := m.Registry.Find(ManagedClusters)
		if err != nil {
			return nil, nil, err
		}
		if err := m.CheckPlace(tx, t, id, false); err != nil {
			return nil, nil, err
		}
		return nil, nil, armerr.NotFound(ManagedClusters, id.Name(), id.GroupName())
	}
	if err != nil {
		return nil, nil, err
	}
	doc, err := resource.ReadDocument[ManagedCluster](row)
	return row, doc, err
}

// poolETag is the etag of every pool of a cluster, as bodies show it: the cluster's own,
// because a pool is a part of its document.
func poolETag(row *store.Resource) string { return strings.Trim(resource.ETag(row), `"`) }

// presentPools shows the pools' etags in the cluster.
func presentPools(p *resource.Presentation[ManagedCluster]) {
	for i := range p.Doc.Properties.AgentPoolProfiles {
		p.Doc.Properties.AgentPoolProfiles[i].ETag = poolETag(p.Row)
	}
}

// poolBody is what a GET of a pool shows.
func poolBody(row *store.Resource, version string, p *PoolProfile) (any, error) {
	props := p.PoolProperties
	if !resource.Final(row.State) {
		props.ProvisioningState = row.State
	}
	if props.ProvisioningState == "" {
		props.ProvisioningState = row.State
	}
	props.ETag = poolETag(row)
	data, err := json.Marshal(poolDocument{
		ID: lowerGroups(row.ID) + "/agentPools/" + p.Name, Name: p.Name, Type: AgentPools, Properties: props,
	})
	if err != nil {
		return nil, err
	}
	doc, err := schema.Decode(data)
	if err != nil {
		return nil, err
	}
	return poolSchema.Shape(doc, version), nil
}

func (s *Service) getPool(ctx context.Context, c *resource.Call) (*resource.Answer, error) {
	a := &resource.Answer{}
	err := c.Manager.Store.View(ctx, func(tx store.ReadTx) error {
		row, doc, err := readCluster(tx, c.Manager, c.ID.Parent())
		if err != nil {
			return err
		}
		p, ok := doc.Properties.Pool(strings.ToLower(c.ID.Name()))
		if !ok {
			return poolNotFound(c.ID)
		}
		a.ETag = resource.ETag(row)
		a.Body, err = poolBody(row, c.Version, p)
		return err
	})
	return a, err
}

func poolNotFound(id armid.ID) error {
	return armerr.New(armerr.CodeResourceNotFound, "The agent pool '%s' was not found in the managed cluster '%s'.", id.Name(), id.Parent().Name())
}

func (s *Service) listPools(ctx context.Context, c *resource.Call) (*resource.Answer, error) {
	value := []any{}
	err := c.Manager.Store.View(ctx, func(tx store.ReadTx) error {
		row, doc, err := readCluster(tx, c.Manager, c.ID)
		if err != nil {
			return err
		}
		value = value[:0]
		for i := range doc.Properties.AgentPoolProfiles {
			body, err := poolBody(row, c.Version, &doc.Properties.AgentPoolProfiles[i])
			if err != nil {
				return err
			}
			value = append(value, body)
		}
		return nil
	})
	return &resource.Answer{Body: map[string]any{"value": value}}, err
}

// putPool writes a pool into its cluster's document.
func (s *Service) putPool(ctx context.Context, c *resource.Call) (*resource.Answer, error) {
	raw, err := schema.Decode(c.Body)
	if err != nil {
		return nil, err
	}
	checked, findings := poolSchema.Check(raw, c.Version, "", true)
	if err := armerr.Join(armerr.CodeInvalidParameter, findings); err != nil {
		return nil, err
	}
	props, err := json.Marshal(checked.(map[string]any)["properties"])
	if err != nil {
		return nil, err
	}
	p := PoolProfile{Name: strings.ToLower(c.ID.Name())}
	if err := json.Unmarshal(props, &p.PoolProperties); err != nil {
		return nil, err
	}
	if !poolName.MatchString(p.Name) {
		return nil, armerr.New(armerr.CodeInvalidResourceName, "The agent pool's name '%s' is not allowed: %s.", c.ID.Name(), poolNameRule)
	}
	place := 0
	created := false
	a, err := s.changePools(ctx, c, func(pools []PoolProfile) ([]PoolProfile, error) {
		place = slices.IndexFunc(pools, func(q PoolProfile) bool { return q.Name == p.Name })
		created = place < 0
		if created {
			place = len(pools)
			return append(pools, p), nil
		}
		pools[place] = p
		return pools, nil
	}, func(row *store.Resource, op *store.Operation) (*resource.Answer, error) {
		doc, err := resource.ReadDocument[ManagedCluster](row)
		if err != nil {
			return nil, err
		}
		q, ok := doc.Properties.Pool(p.Name)
		if !ok {
			return nil, poolNotFound(c.ID)
		}
		a := &resource.Answer{Operation: op, ETag: resource.ETag(row)}
		if created {
			a.Status = http.StatusCreated
		}
		a.Body, err = poolBody(row, c.Version, q)
		return a, err
	})
	var refused *armerr.Error
	if errors.As(err, &refused) { // the client wrote a pool, not a cluster's list of them
		err = refused.Moved(fmt.Sprintf("properties.agentPoolProfiles[%d].", place), "properties.")
	}
	return a, err
}

// errNoPool ends a deletion that has nothing to do.
var errNoPool = errors.New("there is no such pool")

func (s *Service) deletePool(ctx context.Context, c *resource.Call) (*resource.Answer, error) {
	name := strings.ToLower(c.ID.Name())
	a, err := s.changePools(ctx, c, func(pools []PoolProfile) ([]PoolProfile, error) {
		left := slices.DeleteFunc(slices.Clone(pools), func(q PoolProfile) bool { return q.Name == name })
		if len(left) == len(pools) {
			return nil, errNoPool
		}
		if !slices.ContainsFunc(left, func(q PoolProfile) bool { return q.Mode == "System" }) {
			return nil, armerr.New(armerr.CodeOperationNotAllowed, "The agent pool '%s' is the last System pool of its cluster, and a cluster needs one. Add another System pool first, or delete the cluster.", name)
		}
		return left, nil
	}, func(_ *store.Resource, op *store.Operation) (*resource.Answer, error) {
		return &resource.Answer{Status: http.StatusAccepted, Operation: op}, nil
	})
	if errors.Is(err, errNoPool) {
		return &resource.Answer{Status: http.StatusNoContent}, nil
	}
	return a, err
}

// changePools reads the cluster, changes its pools and writes it back, in one
// transaction; the answer is made of what was stored.
func (s *Service) changePools(ctx context.Context, c *resource.Call, change func([]PoolProfile) ([]PoolProfile, error), answer func(*store.Resource, *store.Operation) (*resource.Answer, error)) (*resource.Answer, error) {
	var a *resource.Answer
	t, err := c.Manager.Registry.Find(ManagedClusters)
	if err != nil {
		return nil, err
	}
	err = c.Manager.Store.Update(ctx, func(tx store.Tx) error {
		row, _, err := readCluster(tx, c.Manager, c.ID.Parent())
		if err != nil {
			return err
		}
		spec, err := resource.ReadSpec[ManagedCluster](row)
		if err != nil {
			return err
		}
		ifMatch, ifNoneMatch := c.Header.Get("If-Match"), c.Header.Get("If-None-Match")
		if _, exists := spec.Properties.Pool(strings.ToLower(c.ID.Name())); !exists {
			if ifMatch != "" {
				return armerr.New(armerr.CodePreconditionFailed, "If-Match was given, and the agent pool '%s' does not exist. Create it without If-Match.", c.ID.Name())
			}
			ifNoneMatch = "" // it is about the pool, and Put would hold it against the cluster
		}
		if spec.Properties.AgentPoolProfiles, err = change(spec.Properties.AgentPoolProfiles); err != nil {
			return err
		}
		doc, err := resource.Encode(spec)
		if err != nil {
			return err
		}
		out, err := c.Manager.Put(ctx, tx, resource.Write{
			ID: armid.MustParse(row.ID), Type: t, Version: Versions[len(Versions)-1], Doc: doc, By: c.By,
			IfMatch: ifMatch, IfNoneMatch: ifNoneMatch,
		})
		if err != nil {
			return err
		}
		a, err = answer(out.Row, out.Operation)
		return err
	})
	return a, err
}

// lowerGroups spells IDs as AKS does, with resourcegroups in lower case (A2).
func lowerGroups(id string) string {
	return strings.Replace(id, "/resourceGroups/", "/resourcegroups/", 1)
}
