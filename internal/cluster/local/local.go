// Package local is the cluster provider that runs real Kubernetes on this machine,
// without Docker: upstream components and containerd as ordinary processes, a node
// being a network namespace, a mount namespace and a control group. It must not know
// ARM, HTTP or the store.
//
// What a cluster consists of, all of it found again by the cluster's ID alone:
//
//	<state>/clusters/<key>/    record, certificates, etcd's data, logs, nodes' files
//	/run/berth/<key>/          network namespaces, containerd's sockets and state
//	control groups berth/<key> a group for the control plane and one per node
//	link bth-<key>, routes     the host's way into the cluster's network
//	processes                  marked with the installation's and the cluster's ID
//
// The life of a cluster; every arrow may be interrupted and is then walked again:
//
//	(nothing) ── Ensure ──▶ recorded ──▶ processes run ──▶ API answers ──▶ Ready
//	     ▲                     │               │               │             │
//	     └───────────────────── Delete ◀───────┴───────────────┴─────────────┘
//
// The one invariant: the record is the first thing made and the last thing removed, so
// that whatever exists can be found and removed.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/local/cgroup"
	"github.com/berthdev/berth/internal/cluster/local/network"
	"github.com/berthdev/berth/internal/cluster/local/proc"
)

// Name is the provider's name.
const Name = "local"

// KubernetesVersion is the version that kube/go.mod builds.
const KubernetesVersion = "1.37.2"

// Config configures a Provider. Fields are required unless they say otherwise.
type Config struct {
	StateDir     string // absolute; clusters' files go below it
	LibexecDir   string // what "make libexec" built
	Installation string // ID of this Berth installation; other installations' clusters are never touched
	Logger       *slog.Logger
	Now          func() time.Time

	Registries []Registry // optional; what nodes reach to fetch images
}

// Provider implements cluster.Provider.
type Provider struct {
	config Config
	open   registries
}

var _ cluster.Provider = (*Provider)(nil)

// New opens the provider. It does no I/O: what the machine lacks, Ensure says.
func New(c Config) *Provider {
	return &Provider{config: c, open: registries{servers: map[listener]*http.Server{}}}
}

// Name implements cluster.Provider.
func (p *Provider) Name() string { return Name }

// Capabilities implements cluster.Provider.
func (p *Provider) Capabilities() cluster.Capabilities {
	return cluster.Capabilities{
		KubernetesVersions: []string{KubernetesVersion},
		MaxNodes:           network.MaxNodes,
		GPU:                true,
	}
}

// handleVersion is the format of a handle: the cluster's key. Nothing reads it back,
// because the ID leads to the same key.
const handleVersion = 1

func (c *localCluster) handle() cluster.Handle {
	return cluster.Handle{Version: handleVersion, Data: []byte(`{"key":"` + c.key + `"}`)}
}

// Ensure implements cluster.Provider. It starts everything that is not running and then
// waits up to stepTime for the cluster to become ready.
func (p *Provider) Ensure(ctx context.Context, spec cluster.Spec, prior cluster.Handle) (cluster.Handle, cluster.Observation, error) {
	if err := ctx.Err(); err != nil {
		return prior, cluster.Observation{}, err
	}
	if _, err := cluster.ResolveVersion(p.Capabilities().KubernetesVersions, spec.KubernetesVersion); err != nil {
		return prior, cluster.Observation{}, err
	}
	c := p.cluster(spec.ID)
	err := c.load()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return prior, cluster.Observation{}, err
	}
	exists := err == nil
	if c.groups, err = p.preflight(exists); err != nil {
		return prior, cluster.Observation{}, err
	}
	if err := c.recordSpec(spec, exists); err != nil {
		return prior, cluster.Observation{}, err
	}
	if err := c.start(ctx); err != nil {
		return c.handle(), cluster.Observation{Exists: true}, err
	}
	if err := c.serveRegistries(); err != nil {
		return c.handle(), cluster.Observation{Exists: true}, err
	}
	o, err := c.converge(ctx)
	return c.handle(), o, err
}

// Observe implements cluster.Provider.
func (p *Provider) Observe(ctx context.Context, id string, _ cluster.Handle) (cluster.Observation, error) {
	c := p.cluster(id)
	switch err := c.load(); {
	case errors.Is(err, fs.ErrNotExist):
		return cluster.Observation{}, nil
	case err != nil:
		return cluster.Observation{}, err
	}
	if err := c.serveRegistries(); err != nil {
		return cluster.Observation{}, err
	}
	return c.observe(ctx)
}

// Credentials implements cluster.Provider.
func (p *Provider) Credentials(_ context.Context, id string, _ cluster.Handle, role cluster.Role) (cluster.Kubeconfig, error) {
	c := p.cluster(id)
	if err := c.load(); errors.Is(err, fs.ErrNotExist) {
		return cluster.Kubeconfig{}, fmt.Errorf("credentials of %s: %w", id, cluster.ErrNotFound)
	} else if err != nil {
		return cluster.Kubeconfig{}, err
	}
	authority, err := c.authority(clusterAuthority)
	if err != nil {
		return cluster.Kubeconfig{}, err
	}
	return authority.Credentials(c.record.Name, c.endpoint(), role, p.config.Now())
}

// List implements cluster.Provider. It finds clusters by their records, and by processes
// whose records somebody removed.
func (p *Provider) List(context.Context) ([]cluster.Owned, error) {
	var ids []string
	files, err := filepath.Glob(filepath.Join(p.config.StateDir, "clusters", "*", recordFile))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		var r record
		if err := readJSON(file, &r); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		ids = append(ids, r.ID)
	}
	processes, err := proc.List(p.config.Installation)
	if err != nil {
		return nil, err
	}
	for _, process := range processes {
		ids = append(ids, process.Cluster)
	}
	slices.Sort(ids)
	var owned []cluster.Owned
	for _, id := range slices.Compact(ids) {
		owned = append(owned, cluster.Owned{ID: id, Handle: p.cluster(id).handle()})
	}
	return owned, nil
}

// Delete implements cluster.Provider.
func (p *Provider) Delete(ctx context.Context, id string, _ cluster.Handle) (bool, error) {
	c := p.cluster(id)
	// No record is needed, so it may be missing or damaged.
	var err error
	if c.groups, err = cgroup.Open(cgroupRoot); err != nil {
		return false, err
	}
	if err := errors.Join(c.closeRegistries(), c.remove(ctx)); err != nil {
		return false, fmt.Errorf("delete cluster %s: %w", id, err)
	}
	return true, nil
}

// readablePath shortens a path for messages to people.
func readablePath(path string) string {
	if home, err := os.UserHomeDir(); err == nil && strings.HasPrefix(path, home+"/") {
		return "~" + strings.TrimPrefix(path, home)
	}
	return path
}
