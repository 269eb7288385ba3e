// Package registry is the embedded OCI registry: environments, code and models travel
// to nodes through it. It is the reference implementation of the distribution
// specification, kept in a folder, behind passwords that say who may do what. It knows nothing of what is
// in images. Uploads become visible when they are complete, so a crash leaves nothing that a
// pull could see; Collect removes what nobody needs any more.
package registry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/sirupsen/logrus"
)

// Config says where a registry keeps its content and who may use it.
type Config struct {
	Dir    string // made when missing
	Access Access // its password also signs the state of uploads, so that they go on after a restart
	Logger *slog.Logger
}

// Registry answers the OCI distribution API below /v2/.
type Registry struct {
	app    http.Handler
	access Access

	dir    string
	files  driver.StorageDriver
	images distribution.Namespace
	// naming is held shared while a manifest is stored and alone while content is collected. A
	// manifest is stored only if its blobs are there, so none ever names a blob that went meanwhile.
	naming sync.RWMutex
	swept  bool // by this process, since it removed images last; under naming
}

// Open makes a registry of a folder. Only one process may have it open. Errors: the folder cannot be used.
func Open(cfg Config) (*Registry, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("the registry's folder cannot be used: %w", err)
	}
	logTo(cfg.Logger)
	ctx := context.Background() // the library keeps it for its background work, of which none is configured
	c := &configuration.Configuration{
		Storage: configuration.Storage{
			"filesystem":  configuration.Parameters{"rootdirectory": cfg.Dir},
			"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}}, // Collect does it
		},
	}
	c.HTTP.Secret = cfg.Access.Password
	c.Catalog.MaxEntries = 1000
	c.Log.AccessLog.Disabled = true
	files := filesystem.New(filesystem.DriverParameters{RootDirectory: cfg.Dir, MaxThreads: 100})
	images, err := storage.NewRegistry(ctx, files, storage.EnableDelete) // for Collect; clients have an app of their own, which refuses
	if err != nil {
		return nil, fmt.Errorf("opening the registry: %w", err)
	}
	return &Registry{app: handlers.NewApp(ctx, c), access: cfg.Access, dir: cfg.Dir, files: files, images: images}, nil
}

func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !r.access.admits(w, req) {
		return
	}
	if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/") {
		r.naming.RLock()
		defer r.naming.RUnlock()
	}
	r.app.ServeHTTP(w, req)
}

// logTo sends what the library says to a logger. It has one logger for the process; what it calls
// information is of every request, and is not passed on.
func logTo(logger *slog.Logger) {
	logrus.SetOutput(io.Discard)
	logrus.SetLevel(logrus.WarnLevel)
	if logger != nil {
		logrus.StandardLogger().ReplaceHooks(logrus.LevelHooks{})
		logrus.AddHook(hook{logger})
	}
}

type hook struct{ to *slog.Logger }

func (hook) Levels() []logrus.Level {
	return []logrus.Level{logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel, logrus.WarnLevel}
}

func (h hook) Fire(e *logrus.Entry) error {
	level := slog.LevelError
	switch {
	case strings.HasSuffix(strings.ToUpper(fmt.Sprint(e.Data["err.code"])), "UNKNOWN"):
		level = slog.LevelDebug // somebody asked whether it is there
	case e.Level == logrus.WarnLevel:
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{slog.String("component", "registry")}
	for _, k := range []string{"http.request.method", "http.request.uri", "err.code", "err.detail"} {
		if v, ok := e.Data[k]; ok {
			attrs = append(attrs, slog.Any(k, v))
		}
	}
	h.to.LogAttrs(context.Background(), level, e.Message, attrs...)
	return nil
}
