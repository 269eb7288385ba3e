package app

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/edge"
	"github.com/berthdev/berth/internal/rp/dependencies"
	"github.com/berthdev/berth/internal/store"
)

// discoveryServices are the names that azureml-core looks up in a discovery document; a missing one
// is an error there.
var discoveryServices = []string{"api", "experimentation", "history", "hyperdrive", "modelmanagement", "pipelines", "catalog", "studio"}

// dataPlane answers on the regional hosts of workspaces: discovery, which needs no token,
// and the reading of workspaces and computes under the prefix that azureml-core uses.
func dataPlane(arm http.Handler) http.Handler {
	const twin = "/rp/workspaces"
	mux := http.NewServeMux()
	mux.HandleFunc("GET /discovery", discovery)
	mux.HandleFunc("GET /discovery/", discovery)
	mux.Handle(twin+"/", http.StripPrefix(twin, arm))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		e := armerr.New(armerr.CodeNotSupported, "Berth does not have the data-plane service '/%s' yet: models, environments and web services are to come.", first(r.URL.Path))
		e.Status = http.StatusNotFound
		armerr.Write(w, e)
	})
	return mux
}

func first(path string) string {
	s, _, _ := strings.Cut(strings.TrimLeft(path, "/"), "/")
	return s
}

func discovery(w http.ResponseWriter, r *http.Request) {
	services := make(map[string]string, len(discoveryServices))
	for _, name := range discoveryServices {
		services[name] = "https://" + r.Host
	}
	services["studio"] = "https://ml.azure.com"
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(services) // the client is gone when this fails
}

// dependencyHosts are the hosts of the key vaults, storage accounts and registries that exist
// here at the time of a request.
func dependencyHosts(ctx context.Context, st store.Store, log *slog.Logger) []edge.Route {
	var routes []edge.Route
	for _, h := range dependencies.Hosts() {
		routes = append(routes, edge.Route{Pattern: "*." + h.Domain, Handler: h, Owns: func(name string) bool {
			var owned bool
			err := st.View(ctx, func(tx store.ReadTx) (err error) {
				owned, err = h.Owned(tx, name)
				return err
			})
			if err != nil {
				log.Error("finding out whose host this is", "host", name, "error", err)
			}
			return owned
		}})
	}
	return routes
}
