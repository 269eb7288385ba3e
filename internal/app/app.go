// Package app puts an installation together: store, identity, resource providers,
// reconcilers and the edge. It is the only package that may import everything; tests start
// the real server through it too.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"golang.org/x/sync/errgroup"

	"github.com/berthdev/berth/internal/arm/armhttp"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/attachment"
	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/fake"
	"github.com/berthdev/berth/internal/cluster/local"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/dataplane/collect"
	"github.com/berthdev/berth/internal/dataplane/service"
	"github.com/berthdev/berth/internal/edge"
	"github.com/berthdev/berth/internal/edge/clientenv"
	"github.com/berthdev/berth/internal/identity"
	"github.com/berthdev/berth/internal/identity/graph"
	"github.com/berthdev/berth/internal/reconcile"
	"github.com/berthdev/berth/internal/region"
	"github.com/berthdev/berth/internal/rp/authorization"
	"github.com/berthdev/berth/internal/rp/containerservice"
	"github.com/berthdev/berth/internal/rp/dependencies"
	"github.com/berthdev/berth/internal/rp/machinelearning"
	"github.com/berthdev/berth/internal/rp/resources"
	"github.com/berthdev/berth/internal/seal"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/sqlite"
	"github.com/berthdev/berth/internal/tracing"
	"github.com/berthdev/berth/internal/vmsize"
)

// Version is Berth's own version; releases set it when they link the binary.
var Version = "0.1.0-dev"

// Config says what to run.
type Config struct {
	Home     Home
	Listen   string // host:port; port 0 means the one it had last, or a free one
	Provider string // local or fake
	Region   string // the region this Berth calls itself in request IDs
	Libexec  string // folder with the programs of the local provider
	Faults   string // what goes wrong in the fake provider, see fake.ParseFaults
	Blobs    string // URL of the bucket for files, see blob.ValidURL; empty means the one it had last, or a folder in the home
	Registry string // where images go: an address, see image.Remote, or EmbeddedRegistry; empty means the one it had last, at first the embedded one
	Logger   *slog.Logger

	// Kubernetes is the supported range for attaching (A4); zero means the client library's.
	Kubernetes machinelearning.VersionRange

	// ScheduleWait is how long the pods of a deployment may find no room before it fails; zero means the
	// original's five minutes. Raise it for clusters that take longer to add nodes.
	ScheduleWait time.Duration

	// KeepImages is how long images of code and models that no web service needs stay after their last use, at least
	// collect.MinKeepImages; zero means a week. Images of environments stay four times as long.
	KeepImages time.Duration

	// Seams for tests: a provider to use instead, and a wrapper around the store.
	UseProvider cluster.Provider
	WrapStore   func(store.Store) store.Store
	Now         func() time.Time
	Lease       time.Duration // how long a pass may take
	Cleanup     time.Duration // between two looks for what nobody needs
}

// Info says where a running installation is and what it is called.
type Info struct {
	URL             string `json:"url"`
	ProxyURL        string `json:"proxyUrl"`
	CAFile          string `json:"caFile"`
	BundleFile      string `json:"bundleFile"`
	CredentialsFile string `json:"credentialsFile"`
	InstallationID  string `json:"installationId"`
	TenantID        string `json:"tenantId"`
	SubscriptionID  string `json:"subscriptionId"`
	ClientID        string `json:"clientId"`
	Provider        string `json:"provider"`
	Version         string `json:"version"`
}

// DefaultScheduleWait is the original's limit.
const DefaultScheduleWait = service.DefaultScheduleWait

// DefaultKeepImages and MinKeepImages are the default and the least of Config.KeepImages.
const (
	DefaultKeepImages = collect.DefaultKeepImages
	MinKeepImages     = collect.MinKeepImages
)

// DefaultKubernetes is what the Kubernetes client library, client-go 0.37, supports: its
// own minor version and one on either side, plus the skew that its API discovery tolerates. It begins
// with 1.35, the first that has image volumes, in which models reach their pods.
var DefaultKubernetes = machinelearning.VersionRange{MinMinor: 35, MaxMinor: 38}

const (
	workers          = 16
	lease            = 30 * time.Second // a pass takes seconds; what a dead one held is free after this
	operationsKept   = 7 * 24 * time.Hour
	cleanup          = time.Hour
	subscriptionName = "Berth"
)

// Run serves until ctx ends, then lets what is under way finish. It calls ready once,
// when requests are answered.
func Run(ctx context.Context, cfg Config, ready func(Info)) (err error) {
	cfg = withDefaults(cfg)
	traces, err := tracing.Start(ctx, "berth", cfg.Logger, semconv.ServiceVersion(Version))
	if err != nil {
		return err
	}
	defer traces.Stop()
	in, err := cfg.Home.LoadInstallation()
	if err != nil {
		return err
	}
	st, err := openStore(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	listener, in, err := listen(cfg, in)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }() // the edge closes it, too, once it runs
	work, err := newWorkloads(ctx, cfg, in, st)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, work.blobs.Close()) }()
	provider, err := newProvider(cfg, in, work.registries(cfg.Logger))
	if err != nil {
		return err
	}
	ids, err := identity.New(identity.Config{Store: st, Tenant: in.Tenant, BaseURLs: edge.OwnURLs(listener.Addr(), nil), Clock: cfg.Now, Logger: cfg.Logger})
	if err != nil {
		return err
	}
	manager, access, nouns, err := kernel(cfg, in, st, provider, work, traces)
	if err != nil {
		return err
	}
	creds, err := bootstrap(ctx, cfg, in, manager, ids)
	if err != nil {
		return fmt.Errorf("preparing the installation: %w", err)
	}
	arm := &armhttp.Server{Manager: manager, Access: &gate{ids: ids, roles: access}, Logger: cfg.Logger, Region: cfg.Region}
	data := &dataplane.Server{Manager: manager, Access: arm.Access, Logger: cfg.Logger}
	nouns.register(data)
	front, err := edge.New(edge.Config{
		Listener: listener, Dir: cfg.Home.CA(), Clock: cfg.Now, Logger: cfg.Logger,
		Backends: edge.Backends{
			ARM: traces.Handler(arm), Login: traces.Handler(ids.Handler()), DataPlane: traces.Handler(dataPlane(arm, data)),
			Graph: traces.Handler(graph.Handler(ids, directoryOwners(access, in), cfg.Logger)),
		},
		Routes: dependencyHosts(ctx, st, traces.Handler(work.blobs.Handler(cfg.Logger)), cfg.Logger),
	})
	if err != nil {
		return err
	}
	if _, err := clientenv.WriteBundle(cfg.Home.Bundle(), front.CA(), os.Getenv); err != nil {
		return fmt.Errorf("writing the bundle of certificate authorities: %w", err)
	}
	runner := &reconcile.Runner{Store: st, Worker: manager, Owner: in.ID, Workers: workers, Lease: cfg.Lease, Now: cfg.Now, Logger: cfg.Logger}
	unneeded := &collect.Collector{
		Store: st, Models: nouns.models, Blobs: work.blobs, Images: work.registry, KeepImages: cfg.KeepImages, Now: cfg.Now, Logger: cfg.Logger,
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return front.Run(ctx) })
	group.Go(func() error { return runner.Run(ctx) })
	group.Go(func() error { return forget(ctx, cfg, st, unneeded) })
	group.Go(func() error { return nouns.builds.Run(ctx) })
	ready(info(cfg, in, listener.Addr(), creds))
	return group.Wait()
}

func withDefaults(cfg Config) Config {
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.Provider == "" {
		cfg.Provider = "local"
	}
	if cfg.Region == "" {
		cfg.Region = "westeurope"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Lease == 0 {
		cfg.Lease = lease
	}
	if cfg.Cleanup == 0 {
		cfg.Cleanup = cleanup
	}
	if cfg.KeepImages == 0 {
		cfg.KeepImages = DefaultKeepImages
	}
	if cfg.ScheduleWait == 0 {
		cfg.ScheduleWait = DefaultScheduleWait
	}
	if cfg.Kubernetes == (machinelearning.VersionRange{}) {
		cfg.Kubernetes = DefaultKubernetes
	}
	return cfg
}

func openStore(ctx context.Context, cfg Config) (store.Store, error) {
	keys, err := seal.Open(cfg.Home.Key())
	if err != nil {
		return nil, err
	}
	st, err := sqlite.Open(ctx, sqlite.Config{Path: cfg.Home.Store(), Sealer: keys})
	if err != nil {
		return nil, err
	}
	if cfg.WrapStore != nil {
		return cfg.WrapStore(st), nil
	}
	return st, nil
}

// listen takes the port that the installation had last, so that the environments of
// clients stay valid, or another one if that is taken.
func listen(cfg Config, in Installation) (net.Listener, Installation, error) {
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, in, fmt.Errorf("the address %q is not host:port", cfg.Listen)
	}
	chosen := port != "0" && port != ""
	if !chosen && in.Port != 0 {
		port = strconv.Itoa(in.Port)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil && !chosen {
		l, err = net.Listen("tcp", net.JoinHostPort(host, "0"))
	}
	if err != nil {
		return nil, in, fmt.Errorf("listening on %s: %w. Choose another address with --listen", cfg.Listen, err)
	}
	if p := l.Addr().(*net.TCPAddr).Port; p != in.Port {
		in.Port = p
		if err := cfg.Home.save(in); err != nil {
			return nil, in, errors.Join(err, l.Close())
		}
	}
	return l, in, nil
}

// kernel declares the resource types and makes their manager.
func kernel(cfg Config, in Installation, st store.Store, provider cluster.Provider, work *workloads, traces *tracing.Tracer) (*resource.Manager, *authorization.Service, *nouns, error) {
	m := &resource.Manager{
		Logger: cfg.Logger, Tracer: traces,
		Store: st, Tenant: in.Tenant, Now: cfg.Now, NewID: uuid.NewString, Jitter: rand.Float64,
		Locate: func(name string) (string, bool) { r, ok := region.Lookup(name); return r.Name, ok },
	}
	clusters := &containerservice.Service{Provider: provider, Size: size, Suggest: vmsize.Suggest, Dependents: machinelearning.Dependents}
	ml := &machinelearning.Service{
		Tenant: in.Tenant, Installation: in.ID, Clusters: clusters, Attach: attachment.Kubernetes{}, Kubernetes: cfg.Kubernetes,
		DataPlane: func(location string) string { return "https://" + location + ".api.azureml.ms" },
	}
	switch provider.Name() {
	case fake.Name: // its clusters run no pods
	case local.Name:
		ml.FrontEnd = work.frontEnds(work.pullThrough(st))
	default:
		ml.FrontEnd = work.frontEnds(work.pullDirectly)
	}
	nouns := newNouns(cfg, m, work, ml)
	access := &authorization.Service{Store: st, Now: cfg.Now}
	base := &resources.Service{Tenant: in.Tenant, Registry: func() *resource.Registry { return m.Registry }}
	var types []*resource.Type
	for _, p := range []interface{ Types() []*resource.Type }{base, access, clusters, ml, &dependencies.Service{Tenant: in.Tenant}, nouns.models, nouns.environments, nouns.services} {
		types = append(types, p.Types()...)
	}
	var err error
	m.Registry, err = resource.NewRegistry(types...)
	return m, access, nouns, err
}

func size(name string) (cluster.VMSize, bool) {
	s, ok := vmsize.Lookup(name)
	return cluster.VMSize{Name: s.Name, VCPUs: s.VCPUs, MemoryMiB: s.MemoryMiB, GPUs: s.GPUs}, ok
}

// bootstrap makes what a first start needs: the subscription, a service principal and a
// user that own it.
func bootstrap(ctx context.Context, cfg Config, in Installation, m *resource.Manager, ids *identity.Service) (Credentials, error) {
	sub := armid.Subscription(in.Subscription)
	by := store.Stamp{At: cfg.Now(), By: "berth", Kind: "Application"}
	if err := m.Store.Update(ctx, func(tx store.Tx) error { return resources.EnsureSubscription(tx, sub, subscriptionName, by) }); err != nil {
		return Credentials{}, err
	}
	creds, err := cfg.Home.ensurePrincipals(ctx, ids, in)
	if err != nil {
		return creds, err
	}
	if err := authorization.EnsureAssignment(ctx, m, sub, authorization.Owner, creds.ObjectID, "ServicePrincipal"); err != nil {
		return creds, err
	}
	return creds, authorization.EnsureAssignment(ctx, m, sub, authorization.Owner, creds.UserObjectID, "User")
}

// forget removes operations that ended long ago and what nobody needs any more.
func forget(ctx context.Context, cfg Config, st store.Store, unneeded *collect.Collector) error {
	tick := time.NewTicker(cfg.Cleanup)
	defer tick.Stop()
	for {
		err := st.Update(ctx, func(tx store.Tx) error {
			_, err := tx.RemoveOperations(cfg.Now().Add(-operationsKept))
			return err
		})
		if err != nil && ctx.Err() == nil {
			cfg.Logger.ErrorContext(ctx, "removing old operations failed; trying again later", "error", err)
		}
		if err := unneeded.Pass(ctx); err != nil && ctx.Err() == nil {
			cfg.Logger.ErrorContext(ctx, "removing what nobody needs failed; trying again later", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func info(cfg Config, in Installation, addr net.Addr, c Credentials) Info {
	return Info{
		URL: edge.OwnURLs(addr, nil)[0], ProxyURL: "http://" + addr.String(), CAFile: cfg.Home.path("ca", "ca.pem"), BundleFile: cfg.Home.Bundle(),
		CredentialsFile: cfg.Home.Credentials(), InstallationID: in.ID, TenantID: in.Tenant, SubscriptionID: in.Subscription, ClientID: c.ClientID,
		Provider: cfg.Provider, Version: Version,
	}
}

// directoryOwners lets those change the directory who may grant roles on everything.
func directoryOwners(access *authorization.Service, in Installation) graph.Permission {
	sub := armid.Subscription(in.Subscription)
	return graph.Permission{Scope: sub.String(), Allowed: func(ctx context.Context, objectID string) (bool, error) {
		return access.Allowed(ctx, objectID, "Microsoft.Authorization/roleAssignments/write", sub)
	}}
}

// gate answers the ARM server's questions about callers.
type gate struct {
	ids   *identity.Service
	roles *authorization.Service
}

func (g *gate) Authenticate(r *http.Request) (armhttp.Caller, error) {
	p, err := g.ids.Authenticate(r.Context(), r)
	kind := "Application"
	if p.Kind == identity.User {
		kind = "User"
	}
	name := p.Name
	if p.Kind == identity.ServicePrincipal {
		name = p.AppID
	}
	return armhttp.Caller{ObjectID: p.ObjectID, Name: name, Kind: kind}, err
}

func (g *gate) Allowed(ctx context.Context, c armhttp.Caller, action string, scope armid.ID) (bool, error) {
	return g.roles.Allowed(ctx, c.ObjectID, action, scope)
}
