// Package registry is the embedded OCI registry: environments, code and models travel
// to nodes through it. It is the reference implementation of the distribution
// specification, kept in a folder, behind one user and password. It knows nothing of what is in
// images. Uploads become visible when they are complete, so a crash leaves nothing that a
// pull could see; Collect removes what nobody needs any more.
package registry

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
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
	Dir      string // made when missing
	Username string
	Password string // also signs the state of uploads, so that they go on after a restart
	Logger   *slog.Logger
}

// Registry answers the OCI distribution API below /v2/.
type Registry struct {
	app            http.Handler
	user, password [sha256.Size]byte

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
	c.HTTP.Secret = cfg.Password
	c.Catalog.MaxEntries = 1000
	c.Log.AccessLog.Disabled = true
	files := filesystem.New(filesystem.DriverParameters{RootDirectory: cfg.Dir, MaxThreads: 100})
	images, err := storage.NewRegistry(ctx, files, storage.EnableDelete) // for Collect; clients have an app of their own, which refuses
	if err != nil {
		return nil, fmt.Errorf("opening the registry: %w", err)
	}
	return &Registry{
		app: handlers.NewApp(ctx, c), dir: cfg.Dir, files: files, images: images,
		user: sha256.Sum256([]byte(cfg.Username)), password: sha256.Sum256([]byte(cfg.Password)),
	}, nil
}

func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !admitted(w, req, r.user, r.password) {
		return
	}
	if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/") {
		r.naming.RLock()
		defer r.naming.RUnlock()
	}
	r.app.ServeHTTP(w, req)
}

// Lock lets only those through to a handler who know a user and password, as the registry itself does.
func Lock(username, password string, h http.Handler) http.Handler {
	u, p := sha256.Sum256([]byte(username)), sha256.Sum256([]byte(password))
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if admitted(w, req, u, p) {
			h.ServeHTTP(w, req)
		}
	})
}

// admitted reports whether a request has the user and password with these sums. Unless it has, it is answered.
func admitted(w http.ResponseWriter, req *http.Request, user, password [sha256.Size]byte) bool {
	u, p, _ := req.BasicAuth()
	us, ps := sha256.Sum256([]byte(u)), sha256.Sum256([]byte(p))
	if subtle.ConstantTimeCompare(us[:], user[:])&subtle.ConstantTimeCompare(ps[:], password[:]) == 1 {
		return true
	}
	h := w.Header()
	h.Set("Www-Authenticate", `Basic realm="Berth"`)
	h.Set("Docker-Distribution-Api-Version", "registry/2.0")
	h.Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"The registry needs Berth's own user and password; nodes have them in the pull secret of the workspace's namespace."}]}`)
	return false
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
