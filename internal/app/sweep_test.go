package app_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/fake"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

// counting is a provider whose k-th call fails; onFault, if set, is called then.
type counting struct {
	cluster.Provider
	at      int64
	after   bool // fail after the call did its work
	onFault func()
	calls   atomic.Int64
}

var errProvider = errors.New("this call of the provider was made to fail")

func (c *counting) fault(did func()) error {
	hit := c.calls.Add(1) == c.at
	if hit && !c.after {
		if c.onFault != nil {
			c.onFault()
		}
		return errProvider
	}
	did()
	if hit {
		if c.onFault != nil {
			c.onFault()
		}
		return errProvider
	}
	return nil
}

func (c *counting) Ensure(ctx context.Context, spec cluster.Spec, h cluster.Handle) (out cluster.Handle, obs cluster.Observation, err error) {
	if e := c.fault(func() { out, obs, err = c.Provider.Ensure(ctx, spec, h) }); e != nil {
		return cluster.Handle{}, cluster.Observation{}, e
	}
	return out, obs, err
}

func (c *counting) Delete(ctx context.Context, id string, h cluster.Handle) (done bool, err error) {
	if e := c.fault(func() { done, err = c.Provider.Delete(ctx, id, h) }); e != nil {
		return false, e
	}
	return done, err
}

func (c *counting) Credentials(ctx context.Context, id string, h cluster.Handle, r cluster.Role) (k cluster.Kubeconfig, err error) {
	if e := c.fault(func() { k, err = c.Provider.Credentials(ctx, id, h, r) }); e != nil {
		return cluster.Kubeconfig{}, e
	}
	return k, err
}

// sweep is one run of the scenario with one fault in it.
type sweep struct {
	t     *testing.T
	home  app.Home
	world *fake.World
	kind  string
	k     int64
	stop  func() error
	kill  func() // what a crash does
	s     *server
	crash atomic.Bool // the next start is due
	store *storetest.Faulty
	prov  *counting

	cleanup time.Duration // between two looks for what nobody needs; 0 for the usual
}

// start starts Berth on the same home and the same world of clusters. The fault is in the
// first start after arm only, so that what follows can converge.
func (w *sweep) start(armed bool) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	crash := func() {
		if strings.Contains(w.kind, "crash") {
			w.crash.Store(true)
			cancel()
		}
	}
	w.kill = crash
	inStore, after := strings.HasPrefix(w.kind, "store"), strings.Contains(w.kind, "after")
	w.prov = &counting{Provider: fake.New(w.world, fake.Options{}), onFault: crash, after: after}
	if armed && !inStore {
		w.prov.at = w.k
	}
	cfg := app.Config{Home: w.home, Provider: "fake", UseProvider: w.prov, Lease: time.Second, Cleanup: w.cleanup, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	var faulty *storetest.Faulty
	cfg.WrapStore = func(s store.Store) store.Store {
		faulty = &storetest.Faulty{Store: s}
		return faulty
	}
	ready := make(chan app.Info, 1)
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx, cfg, func(i app.Info) { ready <- i }) }()
	w.stop = func() error { cancel(); return <-done }
	select {
	case i := <-ready:
		w.s = &server{t: w.t, home: w.home, info: i}
		w.s.signIn()
	case err := <-done:
		w.t.Fatalf("Run: %v", err)
	}
	w.store = faulty
	if armed && inStore {
		mode := storetest.FailBefore
		if after {
			mode = storetest.FailAfter
		}
		faulty.Arm(storetest.Fault{In: w.k, Mode: mode, OnFault: crash})
	}
}

// try repeats a request until it is answered with one of the statuses; a server that
// crashed is started again first. A request that a fault cut off was carried out or was
// not: both must be fine when it is sent again.
func (w *sweep) try(method, path, body string, want ...int) reply {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		if w.crash.Swap(false) {
			_ = w.stop() // its error is the fault
			w.start(false)
		}
		r, err := w.s.send(method, path, body)
		if err == nil {
			for _, status := range want {
				if r.status == status {
					return r
				}
			}
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s, call %d: %s %s: %v, status %d: %s", w.kind, w.k, method, path, err, r.status, r.raw)
		}
		time.Sleep(10 * time.Millisecond) // polling a real server
	}
}

// until waits for a state of a resource, or for its absence ("").
func (w *sweep) until(path, state string) {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		r := w.try("GET", path, "", 200, 404)
		if r.status == 404 && state == "" || r.at("properties.provisioningState") == state && state != "" {
			return
		}
		if r.at("properties.provisioningState") == "Failed" {
			w.t.Fatalf("%s, call %d: %s failed: %s", w.kind, w.k, path, r.raw)
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s, call %d: %s is not %q: %s", w.kind, w.k, path, state, r.raw)
		}
		time.Sleep(10 * time.Millisecond) // polling a real server
	}
}

// fails waits for a deployment to end in an error.
func (w *sweep) fails(path, code string) {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		r := w.try("GET", path, "", 200)
		if r.at("state") == "Failed" && r.at("error.code") == code {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s, call %d: %s does not fail with %s: %s", w.kind, w.k, path, code, r.raw)
		}
		time.Sleep(10 * time.Millisecond) // polling a real server
	}
}

// scenario creates, attaches, deploys, detaches and deletes, and checks that nothing is left. It
// returns how many calls of the store and of the provider there were.
func (w *sweep) scenario() (stores, providers int64) {
	w.t.Helper()
	w.start(true)
	defer func() { _ = w.stop() }()
	group := w.s.sub() + "/resourceGroups/rg"
	ws := group + "/providers/Microsoft.MachineLearningServices/workspaces/ws"
	mc := group + "/providers/Microsoft.ContainerService/managedClusters/mc"
	const aks, ml = "?api-version=2024-05-01", "?api-version=2024-04-01"
	base := w.store.Calls()
	first, prov := w.store, w.prov
	w.try("PUT", group+v, `{"location":"westeurope"}`, 200, 201)
	w.try("PUT", ws+ml, `{"location":"westeurope"}`, 200)
	w.try("PUT", ws+"/computes/made"+ml, `{"properties":{"computeType":"AKS","properties":{"clusterPurpose":"DevTest"}}}`, 200, 201)
	w.try("PUT", mc+aks, `{"location":"westeurope","properties":{"agentPoolProfiles":[{"name":"p","count":1,"vmSize":"Standard_D2s_v3","mode":"System"}]}}`, 200, 201)
	w.until(ws+"/computes/made"+ml, "Succeeded")
	w.until(mc+aks, "Succeeded")
	w.try("PUT", ws+"/computes/att"+ml, fmt.Sprintf(`{"properties":{"computeType":"AKS","resourceId":%q,"properties":{"clusterPurpose":"DevTest"}}}`, mc), 200, 201)
	w.until(ws+"/computes/att"+ml, "Succeeded")
	// A model and a web service. No fake cluster runs pods, so the deployment ends in a failure that says so; until it is
	// deleted, it holds the model and the compute.
	data := "/modelmanagement/v1.0" + ws
	asset := w.try("POST", data+"/assets", `{"name":"iris","artifacts":[{"prefix":"LocalUpload/1/model.pkl"}]}`, 200).at("id")
	model := w.try("POST", data+"/models", fmt.Sprintf(`{"name":"iris","url":"aml://asset/%s"}`, asset), 200).at("id").(string)
	w.try("POST", data+"/services", strings.ReplaceAll(deployment("svc"), "iris:1", model), 202, 409)
	w.fails(data+"/services/svc", "NotSupported")
	w.try("PATCH", data+"/services/svc", `[{"op":"replace","path":"/kvTags","value":{"a":"b"}}]`, 202)
	w.fails(data+"/services/svc", "NotSupported")
	w.try("DELETE", data+"/models/"+model, "", 412)
	w.try("DELETE", ws+"/computes/made"+ml+"&underlyingResourceAction=Delete", "", 409)
	w.try("DELETE", data+"/services/svc", "", 202, 204)
	w.until(data+"/services/svc", "")
	w.try("DELETE", data+"/models/"+model, "", 200, 204)
	w.try("POST", data+"/models", fmt.Sprintf(`{"name":"left","url":"aml://asset/%s"}`, asset), 200) // goes with the group
	w.try("DELETE", ws+"/computes/att"+ml+"&underlyingResourceAction=Detach", "", 200, 202, 204)
	w.until(ws+"/computes/att"+ml, "")
	w.try("DELETE", ws+"/computes/made"+ml+"&underlyingResourceAction=Delete", "", 200, 202, 204)
	w.until(ws+"/computes/made"+ml, "")
	w.try("DELETE", group+v, "", 200, 202, 404)
	w.until(group+v, "")
	owned, err := fake.New(w.world, fake.Options{}).List(context.Background())
	if err != nil || len(owned) != 0 {
		w.t.Fatalf("%s, call %d: clusters are left: %v %v", w.kind, w.k, owned, err)
	}
	// The names are free again: every claim went with its resource.
	w.try("PUT", group+v, `{"location":"westeurope"}`, 200, 201)
	w.try("PUT", ws+ml, `{"location":"westeurope"}`, 200)
	for _, list := range []string{"models", "assets", "services"} {
		if r := w.try("GET", data+"/"+list, "", 200); len(r.at("value").([]any)) > 0 {
			w.t.Fatalf("%s, call %d: a new workspace has %s of the old one: %s", w.kind, w.k, list, r.raw)
		}
	}
	w.try("PUT", ws+"/computes/made"+ml, `{"properties":{"computeType":"AKS","properties":{"clusterPurpose":"DevTest"}}}`, 200, 201)
	w.until(ws+"/computes/made"+ml, "Succeeded")
	return first.Calls() - base, prov.calls.Load()
}

// TestSweep fails each call of the store and of the provider in turn, before and after it
// did its work, once as an error and once as a crash of the whole server, which is then
// started again. Whatever happens, the scenario converges and leaves nothing behind.
func TestSweep(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, kind string, k int64) (int64, int64) {
		world := fake.NewWorld()
		defer world.Close()
		w := &sweep{t: t, home: app.Home(t.TempDir()), world: world, kind: kind, k: k}
		return w.scenario()
	}
	stores, providers := run(t, "no fault", 0)
	if stores < 20 || providers < 5 {
		t.Fatalf("the scenario made %d calls of the store and %d of the provider; that is too few to prove anything", stores, providers)
	}
	t.Logf("%d calls of the store and %d of the provider", stores, providers)
	const most = 48 // runs of a kind; a longer scenario is sampled
	for target, calls := range map[string]int64{"store": stores, "provider": providers} {
		for _, how := range []string{"error before", "error after", "crash before", "crash after"} {
			kind := target + ", " + how
			t.Run(kind, func(t *testing.T) {
				t.Parallel()
				for k := int64(1); k <= calls; k += max(1, calls/most) {
					run(t, kind, k)
				}
			})
		}
	}
}
