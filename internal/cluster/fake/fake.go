// Package fake is a cluster provider without machines: each cluster is an HTTPS
// listener in this process that answers like an API server from memory. It is for tests
// and for trying Berth where there is no root. It must not know ARM or the store.
//
// The one invariant: a World outlives the Providers opened on it, as a machine outlives
// the program, so a test can crash Berth and find its clusters again.
package fake

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/pki"
)

// Name is the provider's name.
const Name = "fake"

const handleVersion = 1

// World is where fake clusters live.
type World struct {
	mu       sync.Mutex
	clusters map[string]*fakeCluster
}

// NewWorld makes an empty world. Close it to stop its listeners.
func NewWorld() *World { return &World{clusters: map[string]*fakeCluster{}} }

// Close stops every cluster's listener.
func (w *World) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, c := range w.clusters {
		c.api.close()
		delete(w.clusters, id)
	}
}

// Vanish makes a cluster disappear as if somebody had deleted it behind Berth's back.
func (w *World) Vanish(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.remove(id)
}

// remove expects w.mu to be held.
func (w *World) remove(id string) {
	if c := w.clusters[id]; c != nil {
		c.api.close()
		delete(w.clusters, id)
	}
}

// Options configure a Provider. The zero value is useful.
type Options struct {
	// Versions are the Kubernetes versions on offer, newest last. Default: 1.36.4, 1.37.2.
	Versions []string
	// Capacity says what a pool's nodes report. Default: the pool's VM size.
	Capacity func(cluster.Pool) cluster.VMSize
	// Capabilities replaces the default ones, except for the versions. Default: everything but no limits.
	Capabilities *cluster.Capabilities
	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// Faults is what goes wrong.
	Faults Faults
}

// Provider implements cluster.Provider.
type Provider struct {
	world   *World
	options Options

	mu      sync.Mutex
	faults  Faults
	ensures int
}

var _ cluster.Provider = (*Provider)(nil)

type fakeCluster struct {
	spec    cluster.Spec
	version string
	created time.Time
	ca      *pki.Authority
	api     *apiServer
}

// New opens a provider on a world.
func New(w *World, o Options) *Provider {
	if len(o.Versions) == 0 {
		o.Versions = []string{"1.36.4", "1.37.2"}
	}
	if o.Capacity == nil {
		o.Capacity = func(p cluster.Pool) cluster.VMSize { return p.VMSize }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Provider{world: w, options: o, faults: o.Faults}
}

// SetFaults changes what goes wrong from now on and starts counting Ensure calls anew.
func (p *Provider) SetFaults(f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults, p.ensures = f, 0
}

func (p *Provider) currentFaults() Faults {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults
}

// Name implements cluster.Provider.
func (p *Provider) Name() string { return Name }

// Capabilities implements cluster.Provider.
func (p *Provider) Capabilities() cluster.Capabilities {
	c := cluster.Capabilities{PrivateCluster: true, AuthorizedIPRanges: true, CustomVNet: true, GPU: true}
	if p.options.Capabilities != nil {
		c = *p.options.Capabilities
	}
	c.KubernetesVersions = slices.Clone(p.options.Versions)
	return c
}

// Ensure implements cluster.Provider.
func (p *Provider) Ensure(ctx context.Context, spec cluster.Spec, prior cluster.Handle) (cluster.Handle, cluster.Observation, error) {
	p.mu.Lock()
	p.ensures++
	faults, n := p.faults, p.ensures
	p.mu.Unlock()
	if err := faults.beforeEnsure(ctx, n); err != nil {
		return prior, cluster.Observation{}, err
	}
	version, err := cluster.ResolveVersion(p.options.Versions, spec.KubernetesVersion)
	if err != nil {
		return prior, cluster.Observation{}, err
	}

	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	c := p.find(spec.ID)
	if c == nil {
		if c, err = p.create(spec, version); err != nil {
			return prior, cluster.Observation{}, err
		}
	}
	for _, pool := range spec.Pools {
		if size, exists := c.poolSize(pool.Name); exists {
			if err := cluster.CheckVMSize(pool, size); err != nil {
				return c.handle(), p.observe(c), err
			}
		}
	}
	c.spec = spec
	p.syncNodes(c)
	return c.handle(), p.observe(c), nil
}

// find expects the world to be locked.
func (p *Provider) find(id string) *fakeCluster {
	c := p.world.clusters[id]
	if c == nil {
		return nil
	}
	if after := p.currentFaults().VanishAfter; after > 0 && p.options.Now().Sub(c.created) >= after {
		p.world.remove(id)
		return nil
	}
	return c
}

func (p *Provider) create(spec cluster.Spec, version string) (*fakeCluster, error) {
	now := p.options.Now()
	ca, err := pki.NewAuthority("berth-fake-"+spec.Name, now)
	if err != nil {
		return nil, err
	}
	api, err := newAPIServer(ca, version, spec.FQDN, p.options.Now)
	if err != nil {
		return nil, err
	}
	c := &fakeCluster{spec: spec, version: version, created: now, ca: ca, api: api}
	p.world.clusters[spec.ID] = c
	return c, nil
}

// syncNodes makes the Node objects match the spec: surplus ones go, missing ones come.
func (p *Provider) syncNodes(c *fakeCluster) {
	wanted := map[string]bool{}
	for _, pool := range c.spec.Pools {
		size := p.options.Capacity(pool)
		for n := range pool.Count {
			name := cluster.NodeName(c.spec.ID, pool.Name, n)
			wanted[name] = true
			c.api.objects.createIfMissing(nodesResource, "", nodeObject(name, c.spec, pool, size, c.version))
		}
	}
	for _, node := range c.api.objects.list(nodesResource, "") {
		if name := nameOf(node); !wanted[name] {
			c.api.objects.delete(nodesResource, "", name)
		}
	}
}

func (c *fakeCluster) poolSize(pool string) (size string, exists bool) {
	for _, node := range c.api.objects.list(nodesResource, "") {
		if labelsOf(node)[cluster.LabelAgentPool] == pool {
			return labelsOf(node)[cluster.LabelInstanceType], true
		}
	}
	return "", false
}

// handle records where the cluster listens, which is all that a real provider might need.
func (c *fakeCluster) handle() cluster.Handle {
	data, err := json.Marshal(map[string]string{"endpoint": c.api.endpoint})
	if err != nil {
		panic(err) // a map of strings always encodes
	}
	return cluster.Handle{Version: handleVersion, Data: data}
}

// observe expects the world to be locked.
func (p *Provider) observe(c *fakeCluster) cluster.Observation {
	o := cluster.Observation{
		Exists:            true,
		KubernetesVersion: c.version,
		Endpoint:          c.api.endpoint,
		Nodes:             []cluster.Node{},
	}
	o.Ready = p.options.Now().Sub(c.created) >= p.currentFaults().ReadyAfter
	if !o.Ready {
		o.Reason, o.Message = "WaitingForNodes", "The fake cluster becomes ready after the configured time."
	}
	for _, node := range c.api.objects.list(nodesResource, "") {
		o.Nodes = append(o.Nodes, nodeOf(node, o.Ready))
	}
	slices.SortFunc(o.Nodes, func(a, b cluster.Node) int { return strings.Compare(a.Name, b.Name) })
	return o
}

// Observe implements cluster.Provider.
func (p *Provider) Observe(ctx context.Context, id string, _ cluster.Handle) (cluster.Observation, error) {
	if err := ctx.Err(); err != nil {
		return cluster.Observation{}, err
	}
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	c := p.find(id)
	if c == nil {
		return cluster.Observation{}, nil
	}
	return p.observe(c), nil
}

// Delete implements cluster.Provider.
func (p *Provider) Delete(ctx context.Context, id string, _ cluster.Handle) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	p.world.remove(id)
	return true, nil
}

// Credentials implements cluster.Provider. With the staleCredentials fault, another
// authority than the cluster's issues them.
func (p *Provider) Credentials(ctx context.Context, id string, _ cluster.Handle, role cluster.Role) (cluster.Kubeconfig, error) {
	if err := ctx.Err(); err != nil {
		return cluster.Kubeconfig{}, err
	}
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	c := p.find(id)
	if c == nil {
		return cluster.Kubeconfig{}, fmt.Errorf("credentials of %s: %w", id, cluster.ErrNotFound)
	}
	issuer := c.ca
	if p.currentFaults().StaleCredentials {
		stale, err := pki.NewAuthority("berth-fake-stale", p.options.Now())
		if err != nil {
			return cluster.Kubeconfig{}, err
		}
		stale.Cert = c.ca.Cert // so that the client trusts the server, but not the server the client
		issuer = stale
	}
	return issuer.Credentials(c.spec.Name, c.api.endpoint, role, p.options.Now())
}

// List implements cluster.Provider.
func (p *Provider) List(ctx context.Context) ([]cluster.Owned, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	var owned []cluster.Owned
	for id, c := range p.world.clusters {
		owned = append(owned, cluster.Owned{ID: id, Handle: c.handle()})
	}
	slices.SortFunc(owned, func(a, b cluster.Owned) int { return strings.Compare(a.ID, b.ID) })
	return owned, nil
}
