package app

import (
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
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/attachment"
	"github.com/berthdev/berth/internal/blob"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/dataplane/environment"
	"github.com/berthdev/berth/internal/dataplane/model"
	"github.com/berthdev/berth/internal/dataplane/service"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/registry"
	"github.com/berthdev/berth/internal/rp/machinelearning"
	"github.com/berthdev/berth/internal/store"
)

// registryHost is the embedded registry's name in image references. It is no name of the
// internet's; nodes are told where it leads.
const registryHost = "registry.berth.internal"

const registryUser = "berth"

// workloads are the parts of Berth that models and web services need: where files, images and routes come from.
type workloads struct {
	blobs    *blob.Store
	registry *registry.Registry
	images   *image.Registry
	builder  *image.Builder
	password string
	frontEnd string // the program's file
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
	w := &workloads{password: hex.EncodeToString(password), frontEnd: filepath.Join(cfg.Libexec, "azureml-fe")}
	if w.blobs, err = openBlobs(ctx, cfg, in, key); err != nil {
		return nil, err
	}
	w.registry, err = registry.Open(registry.Config{Dir: cfg.Home.path("registry"), Username: registryUser, Password: w.password, Logger: cfg.Logger})
	if err != nil {
		return nil, errors.Join(err, w.blobs.Close())
	}
	w.images = &image.Registry{Host: registryHost, Username: registryUser, Password: w.password, Insecure: true, Transport: inProcess(ctx, w.registry)}
	w.builder = &image.Builder{
		Registry: w.images, Bases: filepath.Join(cfg.Libexec, "base"), UV: filepath.Join(cfg.Libexec, "uv"), Work: cfg.Home.path("builds"),
	}
	return w, w.builder.Clean()
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

// pullConfig is what nodes show the registry, as Kubernetes keeps it.
func (w *workloads) pullConfig() ([]byte, error) {
	auth := base64.StdEncoding.EncodeToString([]byte(registryUser + ":" + w.password))
	return json.Marshal(map[string]any{"auths": map[string]any{registryHost: map[string]string{"auth": auth}}})
}

// frontEnds returns how the front end's image is made, which happens once.
func (w *workloads) frontEnds() func(context.Context) (attachment.FrontEnd, error) {
	var mu sync.Mutex
	var made *attachment.FrontEnd
	return func(ctx context.Context) (attachment.FrontEnd, error) {
		mu.Lock()
		defer mu.Unlock()
		if made != nil {
			return *made, nil
		}
		f, err := os.Open(w.frontEnd)
		if errors.Is(err, fs.ErrNotExist) {
			return attachment.FrontEnd{}, fmt.Errorf("the front end's program is not at %s; make frontend builds it", w.frontEnd)
		}
		if err != nil {
			return attachment.FrontEnd{}, err
		}
		defer func() { _ = f.Close() }() // it was only read
		info, err := f.Stat()
		if err != nil {
			return attachment.FrontEnd{}, err
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, f); err != nil {
			return attachment.FrontEnd{}, err
		}
		ref, err := w.images.Program(ctx, "berth/azureml-fe", hex.EncodeToString(sum.Sum(nil)), image.LocalFile("azureml-fe", w.frontEnd, info))
		if err != nil {
			return attachment.FrontEnd{}, err
		}
		pull, err := w.pullConfig()
		if err != nil {
			return attachment.FrontEnd{}, err
		}
		made = &attachment.FrontEnd{Image: string(ref), Version: Version, Registry: pull}
		return *made, nil
	}
}

// nouns are the data plane's parts, which need each other.
type nouns struct {
	artifacts    *artifact.Service
	models       *model.Service
	environments *environment.Service
	services     *service.Service
}

func newNouns(cfg Config, m *resource.Manager, w *workloads, ml *machinelearning.Service) *nouns {
	n := &nouns{artifacts: &artifact.Service{Blobs: w.blobs}}
	n.models = &model.Service{Manager: m, Artifacts: n.artifacts}
	n.environments = &environment.Service{Manager: m, Artifacts: n.artifacts, Images: w.builder, Logger: cfg.Logger}
	n.services = &service.Service{
		Manager: m, Models: n.models, Artifacts: n.artifacts, Images: w.builder, Registry: w.images, Logger: cfg.Logger, ScheduleWait: cfg.ScheduleWait,
		Place: func(ctx context.Context, compute armid.ID) (service.Place, error) {
			return place(ctx, m.Store, ml, compute)
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
func place(ctx context.Context, st store.Store, ml *machinelearning.Service, compute armid.ID) (service.Place, error) {
	p, err := ml.Place(ctx, st, compute)
	if err != nil {
		return service.Place{}, err
	}
	front, err := ml.Attach.FrontEnd(ctx, p.Kubeconfig, p.Attachment)
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
