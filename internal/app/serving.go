package app

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/attachment"
	"github.com/berthdev/berth/internal/blob"
	"github.com/berthdev/berth/internal/cluster/local"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/dataplane/build"
	"github.com/berthdev/berth/internal/dataplane/environment"
	"github.com/berthdev/berth/internal/dataplane/model"
	"github.com/berthdev/berth/internal/dataplane/service"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/registry"
	"github.com/berthdev/berth/internal/rp/machinelearning"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/tracing"
)

// registryHost is the embedded registry's name in image references. It is no name of the
// internet's; nodes are told where it leads.
const registryHost = "registry.berth.internal"

const (
	registryUser   = "berth"
	frontEndsAreIn = "berth/azureml-fe" // a repository, as image.Environments is
)

// workloads are the parts of Berth that models and web services need: where files, images and routes come from.
type workloads struct {
	blobs    *blob.Store
	registry *registry.Registry // Berth's own, which serves what it has also where images go to another one
	own      *image.Registry    // the same, for images
	images   *image.Registry    // where images go: own, or the one that was chosen
	builder  *image.Builder
	access   registry.Access   // to own, and for nodes also through this process to images
	frontEnd string            // the program's file
	traces   tracing.Elsewhere // of front ends
}

// secretValue is a random value that the store keeps under a name, made when it is first needed.
func secretValue(ctx context.Context, st store.Store, name string) ([]byte, error) {
	var value []byte
	err := st.Update(ctx, func(tx store.Tx) error {
		have, err := tx.Value("installation", name)
		if !errors.Is(err, store.ErrNotFound) {
			value = have
			return err
		}
		value = make([]byte, 32)
		_, _ = rand.Read(value) // it never fails
		return tx.PutValue("installation", name, value)
	})
	return value, err
}

func newWorkloads(ctx context.Context, cfg Config, in Installation, st store.Store) (*workloads, error) {
	key, err := secretValue(ctx, st, "blob-key")
	if err != nil {
		return nil, err
	}
	password, err := secretValue(ctx, st, "registry-password")
	if err != nil {
		return nil, err
	}
	w := &workloads{frontEnd: filepath.Join(cfg.Libexec, "azureml-fe")}
	if w.traces, err = frontEndTraces(ctx, cfg); err != nil {
		return nil, err
	}
	if w.blobs, err = openBlobs(ctx, cfg, in, key); err != nil {
		return nil, err
	}
	w.access = registry.Access{User: registryUser, Password: hex.EncodeToString(password), Readable: readable("")}
	w.registry, err = registry.Open(registry.Config{Dir: cfg.Home.path("registry"), Access: w.access, Logger: cfg.Logger})
	if err != nil {
		return nil, errors.Join(err, w.blobs.Close())
	}
	w.own = &image.Registry{
		Host: registryHost, Keychain: image.Password{User: w.access.User, Password: w.access.Password}, Insecure: true, Transport: inProcess(ctx, w.registry), Own: true,
	}
	if w.images, err = openImages(ctx, cfg, w.own); err != nil {
		return nil, errors.Join(err, w.blobs.Close())
	}
	w.builder = &image.Builder{
		Registry: w.images, Bases: filepath.Join(cfg.Libexec, "base"), UV: filepath.Join(cfg.Libexec, "uv"), Work: cfg.Home.path("builds"),
	}
	if err := w.builder.Clean(); err != nil { // it only takes room
		cfg.Logger.WarnContext(ctx, "what builds left behind that were interrupted could not be removed", "error", err)
	}
	return w, nil
}

// frontEndTraces is what front ends are told of the collector.
func frontEndTraces(ctx context.Context, cfg Config) (tracing.Elsewhere, error) {
	e, err := tracing.ForFrontEnds()
	if errors.Is(err, tracing.ErrLoopback) {
		if cfg.Provider != local.Name { // there are no front ends
			return tracing.Elsewhere{}, nil
		}
		cfg.Logger.WarnContext(ctx, "front ends in clusters export no traces", "why", err)
		return tracing.Elsewhere{}, nil
	}
	if e == nil || err != nil {
		return tracing.Elsewhere{}, err
	}
	return *e, nil
}

// openBlobs opens the bucket that was chosen now or last. What is registered names files in it, so that a start
// without --blobs must not look for them elsewhere.
func openBlobs(ctx context.Context, cfg Config, in Installation, key []byte) (*blob.Store, error) {
	before, chosen, folder := in.Blobs, cfg.Blobs, cfg.Home.path("blobs")
	_, err := os.Stat(folder)
	kept := before != "" || err == nil
	if before == "" {
		before = blob.Folder(folder)
	}
	if chosen == "" {
		chosen = before
	}
	blobs, err := blob.Open(ctx, chosen, key, cfg.Now)
	if err != nil {
		return nil, fmt.Errorf("--blobs: %w", err)
	}
	if chosen == before {
		return blobs, nil
	}
	if kept {
		cfg.Logger.WarnContext(ctx, "blobs are in another bucket from now on; models and environments that were registered before are incomplete until their blobs are copied there", "before", before, "now", chosen)
	}
	in.Blobs = chosen
	return blobs, cfg.Home.save(in)
}

// EmbeddedRegistry chooses Berth's own registry.
const EmbeddedRegistry = "embedded"

// ValidRegistry says what is wrong with a registry's address.
func ValidRegistry(address string) error {
	if address == EmbeddedRegistry {
		return nil
	}
	_, err := image.Remote(address, nil)
	return err
}

// openImages opens the registry that was chosen now or last. It is not asked for anything yet: one that is down or
// refuses must not keep Berth from what runs, and deployments say what is wrong with it.
func openImages(ctx context.Context, cfg Config, own *image.Registry) (*image.Registry, error) {
	in, err := cfg.Home.LoadInstallation() // with what was chosen just now
	if err != nil {
		return nil, err
	}
	before, chosen := cmp.Or(in.Registry, EmbeddedRegistry), cfg.Registry
	if chosen == "" {
		chosen = before
	}
	images := own
	if chosen != EmbeddedRegistry {
		if images, err = image.Remote(chosen, authn.DefaultKeychain); err != nil {
			return nil, fmt.Errorf("--registry: %w", err)
		}
	}
	if chosen == before {
		return images, nil
	}
	cfg.Logger.InfoContext(ctx, "images go to another registry from now on; web services that run keep theirs until they are updated", "before", before, "now", chosen)
	in.Registry = chosen
	return images, cfg.Home.save(in)
}

// inProcess is a transport that leads to a handler of this process, without a port that others could use.
func inProcess(ctx context.Context, h http.Handler) http.RoundTripper {
	l := &pipes{conns: make(chan net.Conn), done: ctx.Done()}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }() // it ends with the context
	return &http.Transport{
		MaxIdleConnsPerHost: 16,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			select {
			case l.conns <- theirs:
				return ours, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-l.done:
				return nil, net.ErrClosed
			}
		},
	}
}

// pipes is a listener of connections within the process.
type pipes struct {
	conns chan net.Conn
	done  <-chan struct{}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipes) Close() error   { return nil }
func (l *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "registry", Net: "pipe"} }

// readable are the repositories below a prefix that the nodes of a workspace's namespace may fetch images from, by the
// workspace's artifact.Unique: its own ones, and those that all have in common.
func readable(prefix string) func(unique string) []string {
	return func(unique string) []string {
		return []string{prefix + service.Repositories + unique + "/", prefix + image.Environments, prefix + frontEndsAreIn}
	}
}

// registries are what nodes reach that reach nothing but this process. Whatever registry they fetch from, they show
// what Berth gave them: the password of another one stays here.
func (w *workloads) registries(log *slog.Logger) []local.Registry {
	all := []local.Registry{{Host: registryHost, Handler: w.registry}}
	if w.images != w.own {
		access := w.access
		access.Readable = readable(w.images.Prefix())
		all = append(all, local.Registry{Host: w.images.Server(), Handler: access.Guard(w.images.Through(log))})
	}
	return all
}

// pullConfig is what the nodes of a workspace's namespace show to fetch images, as Kubernetes keeps it.
type pullConfig func(ctx context.Context, workspace armid.ID) ([]byte, error)

// pullThrough is that of nodes that fetch images through this process. It opens what readable names, and nothing else.
func (w *workloads) pullThrough(st store.Store) pullConfig {
	return func(ctx context.Context, workspace armid.ID) ([]byte, error) {
		var row *store.Resource
		err := st.View(ctx, func(tx store.ReadTx) (err error) {
			row, err = tx.Resource(workspace.Key())
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("reading the workspace whose nodes fetch images: %w", err)
		}
		reader := artifact.Unique(row)
		auth := map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(reader + ":" + w.access.ReaderPassword(reader)))}
		return json.Marshal(map[string]any{"auths": map[string]any{registryHost: auth, w.images.Server(): auth}})
	}
}

// pullDirectly is that of nodes that fetch images from the registry themselves.
func (w *workloads) pullDirectly(ctx context.Context, _ armid.ID) ([]byte, error) {
	return w.images.PullConfig(ctx)
}

// frontEnds returns how a workspace's front end is run: its image, which is made once, and with what nodes fetch it, which
// is asked for each time. Errors: *armerr.Error when the registry cannot be used.
func (w *workloads) frontEnds(pull pullConfig) func(context.Context, armid.ID) (attachment.FrontEnd, error) {
	once := &making{of: w.frontEndImage}
	return func(ctx context.Context, workspace armid.ID) (attachment.FrontEnd, error) {
		ref, err := once.get(ctx)
		var show []byte
		if err == nil {
			show, err = pull(ctx, workspace)
		}
		var refused *image.RegistryError
		if errors.As(err, &refused) {
			err = armerr.New(armerr.CodeRegistryNotUsable, "%s", refused.Message)
		}
		if err != nil {
			return attachment.FrontEnd{}, err
		}
		return attachment.FrontEnd{Image: string(ref), Version: Version, Registry: show, Env: w.traces.Env, EnvFiles: w.traces.Files}, nil
	}
}

const (
	makingLimit    = time.Minute
	makingPatience = 2 * time.Second // of whoever asks, who holds up others meanwhile
)

// making makes an image that is the same for all, beside those who ask for it: a registry may be slow, or silent.
type making struct {
	of func(context.Context) (image.Reference, error)

	mu   sync.Mutex
	ref  image.Reference
	err  error         // of the last attempt
	done chan struct{} // closed when the present attempt ends; nil when there is none
}

// get returns the image, or why it is not there yet.
func (m *making) get(ctx context.Context) (image.Reference, error) {
	m.mu.Lock()
	if m.ref != "" {
		defer m.mu.Unlock()
		return m.ref, nil
	}
	if m.done == nil {
		m.done = make(chan struct{})
		go m.try(context.WithoutCancel(ctx))
	}
	done := m.done
	m.mu.Unlock()
	patience := time.NewTimer(makingPatience)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
	case <-ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ref == "" && m.err == nil {
		return "", errors.New("the front end's image is being made")
	}
	return m.ref, m.err
}

func (m *making) try(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, makingLimit)
	defer cancel()
	ref, err := m.of(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ref, m.err = ref, err
	close(m.done)
	m.done = nil
}

// frontEndImage finds or makes the image of the front end's program.
func (w *workloads) frontEndImage(ctx context.Context) (image.Reference, error) {
	f, err := os.Open(w.frontEnd)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the front end's program is not at %s; make frontend builds it", w.frontEnd)
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return w.images.Program(ctx, frontEndsAreIn, hex.EncodeToString(sum.Sum(nil)), image.LocalFile("azureml-fe", w.frontEnd, info))
}

// nouns are the data plane's parts, which need each other.
type nouns struct {
	artifacts    *artifact.Service
	models       *model.Service
	environments *environment.Service
	services     *service.Service
	builds       *build.Builds
}

func newNouns(cfg Config, m *resource.Manager, w *workloads, ml *machinelearning.Service) *nouns {
	n := &nouns{artifacts: &artifact.Service{Blobs: w.blobs}, builds: &build.Builds{Manager: m}}
	n.models = &model.Service{Manager: m, Artifacts: n.artifacts, Work: w.builder.Work}
	seen := &fronts{now: cfg.Now, ask: ml.Attach.FrontEnd}
	n.environments = &environment.Service{Manager: m, Artifacts: n.artifacts, Images: w.builder, Builds: n.builds, Logger: cfg.Logger}
	n.services = &service.Service{
		Manager: m, Models: n.models, Artifacts: n.artifacts, Images: w.builder, Registry: w.images, ScheduleWait: cfg.ScheduleWait, Builds: n.builds,
		Place: func(ctx context.Context, compute armid.ID) (service.Place, error) {
			return place(ctx, m.Store, ml, seen, compute)
		},
	}
	n.models.UsedBy = n.services.UsedBy
	ml.ServicesOn = service.On
	return n
}

// register adds the parts' handlers to the data plane.
func (n *nouns) register(srv *dataplane.Server) {
	n.artifacts.Register(srv)
	n.models.Register(srv)
	n.environments.Register(srv)
	n.services.Register(srv)
}

// place finds a compute's cluster and the front end in it.
func place(ctx context.Context, st store.Store, ml *machinelearning.Service, seen *fronts, compute armid.ID) (service.Place, error) {
	p, err := ml.Place(ctx, st, compute)
	if err != nil {
		return service.Place{}, err
	}
	front, err := seen.status(ctx, p.Kubeconfig, p.Attachment)
	if err != nil {
		return service.Place{}, err
	}
	out := service.Place{Kubeconfig: p.Kubeconfig, Namespace: p.Attachment.Namespace(), PullSecret: attachment.PullSecret, Waiting: front.Waiting}
	switch {
	case p.CName != "":
		out.Address = "https://" + p.CName
	case front.Address != "":
		out.Address = "http://" + front.Address + ":80" // clients of the original know it with its port
	}
	return out, nil
}

// frontAge is for how long it is taken for true how a front end does.
const frontAge = time.Second

// fronts remember for a moment how front ends do, because all web services of a compute have one, and each looks at it
// several times a second while it starts.
type fronts struct {
	now func() time.Time
	ask func(ctx context.Context, kubeconfig []byte, a attachment.Attachment) (attachment.FrontEndStatus, error)

	mu   sync.Mutex
	seen map[attachment.Attachment]frontSeen
}

type frontSeen struct {
	status attachment.FrontEndStatus
	at     time.Time
}

func (f *fronts) status(ctx context.Context, kubeconfig []byte, a attachment.Attachment) (attachment.FrontEndStatus, error) {
	f.mu.Lock()
	last, ok := f.seen[a]
	f.mu.Unlock()
	if age := f.now().Sub(last.at); ok && age >= 0 && age < frontAge {
		return last.status, nil
	}
	status, err := f.ask(ctx, kubeconfig, a)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen == nil {
		f.seen = map[attachment.Attachment]frontSeen{}
	}
	now := f.now()
	maps.DeleteFunc(f.seen, func(_ attachment.Attachment, s frontSeen) bool { return now.Sub(s.at) >= frontAge })
	if err == nil {
		f.seen[a] = frontSeen{status, now}
	}
	return status, err
}
