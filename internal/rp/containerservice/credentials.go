package containerservice

import (
	"reflect"
	"sync"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/berthdev/berth/internal/cluster"
)

// renewAfter is how long a kubeconfig is given out again. They last for years.
const renewAfter = 30 * 24 * time.Hour

// issued remembers the kubeconfigs that were given out, so that who asks again gets the same, as
// in AKS: Terraform takes another one for a change that somebody made. It forgets when
// Berth ends. The zero value is ready, and safe for concurrent use.
type issued struct {
	mu    sync.Mutex
	given map[issuedFor]cluster.Kubeconfig
}

type issuedFor struct {
	key  string // of the managed cluster
	role cluster.Role
}

// same returns what was given out before, unless it is old or the cluster's address or
// authority is another than in fresh; then that is remembered and returned.
func (i *issued) same(to issuedFor, fresh cluster.Kubeconfig) cluster.Kubeconfig {
	i.mu.Lock()
	defer i.mu.Unlock()
	if old, ok := i.given[to]; ok && fresh.Expires.Sub(old.Expires).Abs() < renewAfter && sameCluster(old.Data, fresh.Data) {
		return old
	}
	if i.given == nil {
		i.given = map[issuedFor]cluster.Kubeconfig{}
	}
	i.given[to] = fresh
	return fresh
}

// forget drops what was given out for a cluster that is gone.
func (i *issued) forget(to issuedFor) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.given, to)
}

// sameCluster reports whether two kubeconfigs lead to the same API server with the same authority.
func sameCluster(a, b []byte) bool {
	one, err1 := clientcmd.Load(a)
	other, err2 := clientcmd.Load(b)
	return err1 == nil && err2 == nil && reflect.DeepEqual(one.Clusters, other.Clusters)
}
