// Package registry is the embedded OCI registry: environments, code and models travel
// to nodes through it. It is the reference implementation of the distribution
// specification, kept in a folder, behind one user and password. Uploads become visible when
// they are complete, so a crash leaves nothing that a pull could see.
package registry

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"io"
	"net/http"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // keeps blobs in a folder
	"github.com/sirupsen/logrus"
)

// Config says where a registry keeps its content and who may use it.
type Config struct {
	Dir      string
	Username string
	Password string
}

// Registry answers the OCI distribution API below /v2/.
type Registry struct {
	app            http.Handler
	user, password [sha256.Size]byte
}

// Open makes a registry of a folder, which need not exist.
func Open(ctx context.Context, cfg Config) *Registry {
	// The library logs each request through a logger of its own; its failures reach
	// clients as errors, and these are logged where they are met.
	logrus.SetOutput(io.Discard)
	c := &configuration.Configuration{
		Storage: configuration.Storage{
			"filesystem":  configuration.Parameters{"rootdirectory": cfg.Dir},
			"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
			"delete":      configuration.Parameters{"enabled": true},
		},
	}
	c.HTTP.Secret = cfg.Password // signs the state of uploads, so that they go on after a restart
	c.Catalog.MaxEntries = 1000
	c.Log.AccessLog.Disabled = true
	return &Registry{app: handlers.NewApp(ctx, c), user: sha256.Sum256([]byte(cfg.Username)), password: sha256.Sum256([]byte(cfg.Password))}
}

func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	name, password, _ := req.BasicAuth()
	n, p := sha256.Sum256([]byte(name)), sha256.Sum256([]byte(password))
	if subtle.ConstantTimeCompare(n[:], r.user[:])&subtle.ConstantTimeCompare(p[:], r.password[:]) != 1 {
		h := w.Header()
		h.Set("Www-Authenticate", `Basic realm="Berth"`)
		h.Set("Docker-Distribution-Api-Version", "registry/2.0")
		h.Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"The registry needs Berth's own user and password; nodes have them in the pull secret of the workspace's namespace."}]}`)
		return
	}
	r.app.ServeHTTP(w, req)
}
