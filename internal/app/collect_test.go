package app_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/cluster/fake"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/registry"
	"github.com/berthdev/berth/internal/store/storetest"
)

// below are the files below a folder of an installation.
func below(t *testing.T, home app.Home, folder string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(filepath.Join(string(home), folder), func(path string, e fs.DirEntry, err error) error {
		if os.IsNotExist(err) { // it goes while we look
			return nil
		}
		if err == nil && !e.IsDir() {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// account is the name that the workspace ws has in the bucket and in the registry, as it refers to no storage account.
func (s *server) account() string {
	s.t.Helper()
	info := s.want(200, "GET", s.expand("{artifacts}/write/ExperimentRun/r/out.txt"), "")
	name, _, _ := strings.Cut(strings.TrimPrefix(info.at("contentUri").(string), "https://"), ".")
	return name
}

// fill makes a workspace with all that one can have: a compute, files, a model, an environment, a web service, and an
// image of code, which is pushed to the registry's folder, because the fake provider's clusters run none. It returns the
// names that are the workspace's in the bucket and in the registry.
func fill(t *testing.T, s *server) (account, repo string) {
	t.Helper()
	s.workspace()
	s.deploy("iris")
	s.want(200, "PUT", s.expand("/environment/v1.0{ml}/ws/environments/e/versions/1"), `{"name":"e","version":"1"}`)
	info := s.want(200, "GET", s.expand("{artifacts}/write/ExperimentRun/r/out.txt"), "")
	if r := s.blob("PUT", info.at("contentUri").(string), "output"); r.status != 201 {
		t.Fatalf("uploading: %d %s", r.status, r.raw)
	}
	account = s.account()
	r, err := registry.Open(registry.Config{Dir: filepath.Join(string(s.home), "registry"), Access: registry.Access{User: "u", Password: "p"}})
	if err != nil {
		t.Fatal(err)
	}
	repo = "berth/workspaces/" + account + "/code"
	images := &image.Registry{Host: "registry.test", Keychain: image.Password{User: "u", Password: "p"}, Insecure: true, Own: true, Transport: handled{r}}
	file := image.File{Path: "f", Size: 4, Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("code")), nil }}
	// Berth's first look after its start takes this for a push that broke off when it falls between layers and manifest.
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, err := images.Files(t.Context(), repo, "key", []image.File{file})
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if !slices.ContainsFunc(below(t, s.home, "blobs"), func(f string) bool { return strings.Contains(f, account) }) {
		t.Fatalf("the files of %s are not in the folder", account)
	}
	return account, repo
}

// handled is a transport that leads to a handler.
type handled struct{ http.Handler }

func (h handled) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	h.ServeHTTP(w, r)
	res := w.Result()
	res.Request = r
	return res, nil
}

// left is what is there of a workspace that was deleted.
func left(t *testing.T, home app.Home, account string) []string {
	t.Helper()
	return slices.DeleteFunc(slices.Concat(below(t, home, "blobs"), below(t, home, "registry")), func(f string) bool {
		return !strings.Contains(f, account) && !strings.Contains(f, "registry/v2/blobs")
	})
}

// DELETE of a workspace takes its web services, computes, models, environments, files and images with it, and no other
// workspace's. One that is made under its name has nothing of it.
func TestDeleteWorkspace_LeavesNothing(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *app.Config) { c.Cleanup = 20 * time.Millisecond })
	account, _ := fill(t, s)
	s.want(200, "PUT", s.expand("{ml}/other"+v), `{"location":"westeurope"}`)
	other := s.want(200, "GET", strings.ReplaceAll(s.expand("{artifacts}/write/LocalUpload/1/model.pkl"), "/workspaces/ws/", "/workspaces/other/"), "").at("contentUri").(string)
	if r := s.blob("PUT", other, "other weights"); r.status != 201 {
		t.Fatalf("uploading: %d %s", r.status, r.raw)
	}
	if op := s.settle(s.want(202, "DELETE", s.expand("{ml}/ws"+v), "")); op.at("status") != "Succeeded" {
		t.Fatalf("deleting the workspace: %s", op.raw)
	}
	s.want(404, "GET", s.expand("{ml}/ws"+v), "")
	s.want(404, "GET", s.expand("{mms}/services"), "")
	if r := s.want(200, "GET", s.sub()+"/providers/Microsoft.ContainerService/managedClusters?api-version=2024-05-01", ""); len(r.at("value").([]any)) > 0 {
		t.Errorf("the workspace's cluster is left: %s", r.raw)
	}
	deadline := time.Now().Add(20 * time.Second)
	for len(left(t, s.home, account)) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("of the workspace there is still %q", left(t, s.home, account))
		}
		time.Sleep(10 * time.Millisecond) // polling a real server
	}
	if r := s.blob("GET", other, ""); r.raw != "other weights" {
		t.Errorf("the other workspace's file: %d %s", r.status, r.raw)
	}
	s.want(200, "PUT", s.expand("{ml}/ws"+v), `{"location":"westeurope"}`)
	for _, list := range []string{"{mms}/services", "{mms}/models", "{mms}/assets", "{artifacts}/LocalUpload/1", "{artifacts}/ExperimentRun/r", "/environment/v1.0{ml}/ws/environments"} {
		if r := s.want(200, "GET", s.expand(list), ""); len(r.at("value").([]any)) > 0 {
			t.Errorf("%s: the new workspace has %s", list, r.raw)
		}
	}
}

// Wherever Berth is killed after the DELETE, the next start goes on until nothing is left.
func TestDeleteWorkspace_Killed(t *testing.T) {
	t.Parallel()
	for _, k := range []int64{1, 2, 3, 5, 8, 13, 21} {
		for _, mode := range []storetest.Mode{storetest.FailBefore, storetest.FailAfter} {
			t.Run(fmt.Sprintf("at write %d, %d", k, mode), func(t *testing.T) {
				t.Parallel()
				world := fake.NewWorld()
				defer world.Close()
				w := &sweep{t: t, home: app.Home(t.TempDir()), world: world, kind: "crash", k: k, cleanup: 20 * time.Millisecond}
				w.start(false)
				defer func() { _ = w.stop() }()
				account, _ := fill(t, w.s)
				w.store.Arm(storetest.Fault{In: k, Mode: mode, OnFault: w.kill})
				ws := w.s.expand("{ml}/ws" + v)
				w.try("DELETE", ws, "", 200, 202, 204)
				w.until(ws, "")
				deadline := time.Now().Add(20 * time.Second)
				for len(left(t, w.home, account)) > 0 {
					if time.Now().After(deadline) {
						t.Fatalf("of the workspace there is still %q", left(t, w.home, account))
					}
					w.try("GET", ws, "", 404) // it starts Berth again
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
	}
}
