package app

import (
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	foreign "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/store"
)

// shown is what the nodes of a workspace's namespace show, as the reader and his password, by the registry's host.
func shown(t *testing.T, pull pullConfig, workspace armid.ID) map[string][2]string {
	t.Helper()
	data, err := pull(t.Context(), workspace)
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Auths map[string]struct{ Auth []byte }
	}
	if err := json.Unmarshal(data, &config); err != nil {
		t.Fatal(err)
	}
	out := map[string][2]string{}
	for host, entry := range config.Auths {
		user, password, _ := strings.Cut(string(entry.Auth), ":")
		out[host] = [2]string{user, password}
	}
	return out
}

// The pull secret of a workspace's namespace opens, in Berth's own registry and in another one through Berth, the images of
// that workspace and those that all have in common: for fetching by digest, and for nothing else.
func TestNodesFetchWhatIsTheirs(t *testing.T) { //nolint:paralleltest // of the environment
	t.Setenv("HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	other := httptest.NewServer(foreign.New(foreign.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(other.Close)
	cfg := withDefaults(Config{Home: Home(t.TempDir()), Libexec: t.TempDir(), Registry: "http://" + other.Listener.Addr().String() + "/team", Logger: slog.New(slog.DiscardHandler)})
	in, err := cfg.Home.LoadInstallation()
	if err != nil {
		t.Fatal(err)
	}
	st, err := openStore(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	w, err := newWorkloads(t.Context(), cfg, in, st)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.blobs.Close(); err != nil {
			t.Error(err)
		}
	})
	group := armid.Subscription(in.Subscription).Group("rg")
	workspaces, unique := [2]armid.ID{}, [2]string{}
	for i, called := range []string{"mine", "others"} {
		id := group.Extend("Microsoft.MachineLearningServices", "workspaces", called)
		row := &store.Resource{Key: id.Key(), ID: id.String(), Type: "microsoft.machinelearningservices/workspaces", Parent: group.Key(), Spec: []byte("{}"), Created: store.Stamp{At: time.Unix(1, 0)}}
		if err := st.Update(t.Context(), func(tx store.Tx) error { return tx.Create(row) }); err != nil {
			t.Fatal(err)
		}
		err := st.View(t.Context(), func(tx store.ReadTx) (err error) {
			row, err = tx.Resource(id.Key())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		workspaces[i], unique[i] = id, artifact.Unique(row)
	}
	pull := w.pullThrough(st)
	mine, others := shown(t, pull, workspaces[0]), shown(t, pull, workspaces[1])
	all := w.registries(cfg.Logger)
	if len(mine) != 2 || len(all) != 2 || mine[registryHost] == others[registryHost] || strings.Contains(mine[registryHost][1], w.access.Password) {
		t.Fatalf("the nodes of two workspaces show %q and %q", mine, others)
	}
	// What is pushed by whoever makes images is fetched by nodes, from the handlers that they reach.
	for i, images := range []*image.Registry{w.own, w.images} {
		nodes := httptest.NewServer(all[i].Handler)
		t.Cleanup(nodes.Close)
		who := mine[all[i].Host]
		status := func(method, path, user, password string) int {
			t.Helper()
			req, err := http.NewRequestWithContext(t.Context(), method, nodes.URL+"/v2/"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.SetBasicAuth(user, password)
			res, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close() // only the status counts
			return res.StatusCode
		}
		for repo, want := range map[string]int{
			"berth/workspaces/" + unique[0] + "/code": 200, "berth/workspaces/" + unique[0] + "/models": 200, image.Environments: 200, frontEndsAreIn: 200,
			"berth/workspaces/" + unique[1] + "/code": 403, "berth/workspaces/" + unique[1] + "/models": 403, "berth/else": 403,
		} {
			img, err := random.Image(100, 1)
			if err != nil {
				t.Fatal(err)
			}
			tag, err := name.NewTag(images.Host+"/"+repo+":latest", name.Insecure)
			if err != nil {
				t.Fatal(err)
			}
			opts := []remote.Option{remote.WithContext(t.Context()), remote.WithTransport(images.Transport)}
			if images == w.own {
				opts = append(opts, remote.WithAuth(&authn.Basic{Username: registryUser, Password: w.access.Password}))
			}
			if err := remote.Write(tag, img, opts...); err != nil {
				t.Fatal(err)
			}
			digest, err := img.Digest()
			if err != nil {
				t.Fatal(err)
			}
			at := images.Prefix() + repo
			if got := status("GET", at+"/manifests/"+digest.String(), who[0], who[1]); got != want {
				t.Errorf("%s of %s: %d, want %d", repo, all[i].Host, got, want)
			}
			for _, c := range [][2]string{{"GET", at + "/manifests/latest"}, {"GET", at + "/tags/list"}, {"PUT", at + "/manifests/latest"}, {"POST", at + "/blobs/uploads/"}, {"DELETE", at + "/manifests/" + digest.String()}, {"GET", "_catalog"}} {
				if got := status(c[0], c[1], who[0], who[1]); got != 403 {
					t.Errorf("%s %s of %s: %d", c[0], c[1], all[i].Host, got)
				}
			}
			if got := status("GET", at+"/manifests/"+digest.String(), unique[1], who[1]); got != 401 {
				t.Errorf("%s of %s with another workspace's password: %d", repo, all[i].Host, got)
			}
		}
		if got := status("GET", "", who[0], who[1]); got != 200 {
			t.Errorf("looking for the registry %s: %d", all[i].Host, got)
		}
	}
	// Nobody's password is kept; it is the same after a start.
	again, err := newWorkloads(t.Context(), cfg, in, st)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := again.blobs.Close(); err != nil {
			t.Error(err)
		}
	})
	if later := shown(t, again.pullThrough(st), workspaces[0]); later[registryHost] != mine[registryHost] {
		t.Errorf("after a start nodes show %q, and showed %q", later, mine)
	}
	if _, err := pull(t.Context(), group.Extend("Microsoft.MachineLearningServices", "workspaces", "absent")); err == nil {
		t.Error("there is a pull secret for a workspace that is not there")
	}
}
