package dependencies

import (
	"net/http"
	"strings"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/store"
)

// Host is a domain in which every resource of a kind has a host of its own: its data plane.
// Berth answers for the hosts of its own resources, because in Azure the same name may be
// somebody else's, who must not get what clients send here. All it says is that there is no
// such service.
type Host struct {
	Domain string // without the resource's name and the dot after it
	kind   string // as the resource claims its name
}

// Hosts are the domains.
func Hosts() []Host {
	hosts := []Host{{"vault.azure.net", kindVault}, {"azurecr.io", kindRegistry}}
	for _, service := range storageServices {
		hosts = append(hosts, Host{service + ".core.windows.net", kindStorage})
	}
	return hosts
}

// Owned says whether host is that of a resource of this installation.
func (h Host) Owned(tx store.ReadTx, host string) (bool, error) {
	name, ok := strings.CutSuffix(strings.ToLower(host), "."+h.Domain)
	if !ok {
		return false, nil
	}
	owner, err := tx.ClaimOwner(h.kind + ":" + name)
	return owner != "", err
}

// ServeHTTP refuses every request by name.
func (h Host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e := armerr.New(armerr.CodeNotSupported, "The %s at %s can be created, shown and referred to, but Berth keeps nothing in it: %s %s is not offered.", h.kind, r.Host, r.Method, r.URL.EscapedPath())
	e.Status = http.StatusNotFound
	armerr.Write(w, e)
}
