package app

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/berthdev/berth/internal/blob"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/edge"
	"github.com/berthdev/berth/internal/rp/dependencies"
	"github.com/berthdev/berth/internal/rp/machinelearning"
	"github.com/berthdev/berth/internal/store"
)

// discoveryServices are the names that azureml-core looks up in a discovery document; a missing one
// is an error there.
var discoveryServices = []string{"api", "experimentation", "history", "hyperdrive", "modelmanagement", "pipelines", "catalog", "studio"}

// dataPlane answers on the regional hosts of workspaces: discovery, which needs no token, the reading
// of workspaces and computes under the prefix that azureml-core uses, and the workspaces' own APIs.
func dataPlane(arm http.Handler, workspaces http.Handler) http.Handler {
	const twin = "/rp/workspaces"
	mux := http.NewServeMux()
	mux.HandleFunc("GET /discovery", discovery)
	mux.HandleFunc("GET /discovery/", discovery)
	mux.Handle(twin+"/", http.StripPrefix(twin, arm))
	mux.Handle("/", workspaces)
	return mux
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
func dependencyHosts(ctx context.Context, st store.Store, blobs http.Handler, log *slog.Logger) []edge.Route {
	routes := []edge.Route{{Pattern: "*." + blob.Domain, Handler: blobs, Owns: func(name string) bool {
		owned := false
		err := st.View(ctx, func(tx store.ReadTx) (err error) {
			owned, err = ownsAccount(tx, name)
			return err
		})
		if err != nil {
			log.Error("finding out whose host this is", "host", name, "error", err)
		}
		return owned
	}}}
	for _, h := range dependencies.Hosts() {
		if h.Domain == blob.Domain {
			continue // it has something to give
		}
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

// ownsAccount reports whether a blob host is that of a storage account, or of a workspace's storage, that exists here.
func ownsAccount(tx store.ReadTx, host string) (bool, error) {
	account, _, _ := strings.Cut(strings.ToLower(host), ".")
	for _, h := range dependencies.Hosts() {
		if h.Domain == blob.Domain {
			if owned, err := h.Owned(tx, host); owned || err != nil {
				return owned, err
			}
		}
	}
	rows, _, err := tx.Resources(store.Query{Type: strings.ToLower(machinelearning.Workspaces)})
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(rows, func(row *store.Resource) bool { return artifact.Account(row) == account }), nil
}
