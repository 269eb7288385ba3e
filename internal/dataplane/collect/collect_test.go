package collect_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/blob"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/dataplane/collect"
	"github.com/berthdev/berth/internal/dataplane/dataplanetest"
	"github.com/berthdev/berth/internal/dataplane/environment"
	"github.com/berthdev/berth/internal/dataplane/model"
	"github.com/berthdev/berth/internal/dataplane/service"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/registry"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

const (
	mms = dataplane.ModelManagement
	day = 24 * time.Hour
)

// server is a data plane whose clusters cannot be reached, and what collects behind it.
type server struct {
	*dataplanetest.Server
	collector *collect.Collector
	bucket    *blob.Store
	registry  *registry.Registry
	images    *image.Registry
	dir       string // the registry's
}

type noImages struct{}

func (noImages) Environment(context.Context, json.RawMessage, func(string)) (image.Reference, error) {
	return "", errors.New("no image is made here")
}
func (noImages) Has(context.Context, image.Reference) (bool, error) { return false, nil }

// transport leads to a handler.
type transport struct{ http.Handler }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	r.RequestURI = r.URL.RequestURI()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	t.ServeHTTP(w, r)
	res := w.Result()
	res.Request = r
	return res, nil
}

// start starts all on a bucket, nil for a folder. The clock begins with that of the machine, which dates files.
func start(t *testing.T, bucket *blob.Store) *server {
	t.Helper()
	s := &server{bucket: bucket, dir: t.TempDir()}
	var models *model.Service
	s.Server = dataplanetest.Start(t, func(d *dataplanetest.Server) []dataplanetest.Noun {
		if s.bucket == nil {
			s.bucket = d.Blobs
		}
		artifacts := &artifact.Service{Blobs: s.bucket}
		models = &model.Service{Manager: d.Manager, Artifacts: artifacts}
		services := &service.Service{
			Manager: d.Manager, Models: models, Artifacts: artifacts, Images: noImages{},
			Place: func(context.Context, armid.ID) (service.Place, error) {
				return service.Place{}, armerr.New(armerr.CodeConflict, "There is no cluster.")
			},
		}
		models.UsedBy = services.UsedBy
		return []dataplanetest.Noun{artifacts, models, &environment.Service{Manager: d.Manager, Artifacts: artifacts, Images: noImages{}}, services}
	})
	s.Advance(time.Since(s.Now()))
	var err error
	s.registry, err = registry.Open(registry.Config{Dir: s.dir, Access: registry.Access{User: "berth", Password: "secret"}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	s.check(err)
	s.images = &image.Registry{Host: "registry.test", Keychain: image.Password{User: "berth", Password: "secret"}, Insecure: true, Own: true, Transport: transport{s.registry}}
	s.collector = &collect.Collector{
		Store: s.Manager.Store, Models: models, Blobs: s.bucket, Images: s.registry, KeepImages: 7 * day, Now: s.Now, Logger: s.Manager.Logger,
	}
	return s
}

func (s *server) check(err error) {
	s.T.Helper()
	if err != nil {
		s.T.Fatal(err)
	}
}

func (s *server) pass() {
	s.T.Helper()
	s.check(s.collector.Pass(s.T.Context()))
}

func (s *server) row() *store.Resource {
	s.T.Helper()
	var row *store.Resource
	s.check(s.Manager.Store.View(s.T.Context(), func(tx store.ReadTx) (err error) {
		row, err = tx.Resource(s.Workspace.Key())
		return err
	}))
	return row
}

func (s *server) update(fn func(tx store.Tx) error) {
	s.T.Helper()
	s.check(s.Manager.Store.Update(s.T.Context(), fn))
}

// upload makes artifacts, as they are when their upload is complete.
func (s *server) upload(ids ...string) {
	s.T.Helper()
	for _, id := range ids {
		s.check(s.bucket.Write(s.T.Context(), blob.Name{Account: artifact.Account(s.row()), Container: artifact.Container, Path: id}, blob.Upload{}, strings.NewReader("content of "+id)))
	}
}

// files are the paths of all files, with their containers.
func (s *server) files() []string {
	s.T.Helper()
	out := []string{}
	s.check(s.bucket.Walk(s.T.Context(), func(i blob.Info) error {
		out = append(out, i.Name.Container+"/"+i.Name.Path)
		return nil
	}))
	slices.Sort(out)
	return out
}

func (s *server) left(want ...string) {
	s.T.Helper()
	slices.Sort(want)
	if got := s.files(); !slices.Equal(got, want) {
		s.T.Errorf("the files are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func (s *server) asset(prefix string) string {
	s.T.Helper()
	return s.Want(200, "POST", mms, "/assets", fmt.Sprintf(`{"name":"a","artifacts":[{"prefix":%q}]}`, prefix)).At("id").(string)
}

// register makes the next version of a model of files.
func (s *server) register(name, prefix string) (id string) {
	s.T.Helper()
	return s.Want(200, "POST", mms, "/models", fmt.Sprintf(`{"name":%q,"url":"aml://asset/%s"}`, name, s.asset(prefix))).At("id").(string)
}

// deploy stores a web service with a script, and what its cluster runs.
func (s *server) deploy(name, script string, images ...image.Reference) {
	s.T.Helper()
	compute := s.Workspace.Child("computes", "aks")
	s.update(func(tx store.Tx) error {
		err := tx.Create(&store.Resource{Key: compute.Key(), ID: compute.String(), Type: strings.ToLower(compute.Type()), Parent: s.Workspace.Key(), Spec: json.RawMessage(`{}`), State: resource.StateSucceeded})
		if errors.Is(err, store.ErrExists) {
			err = nil
		}
		return err
	})
	s.Want(202, "POST", mms, "/services", fmt.Sprintf(`{"name":%q,"computeType":"AKS","computeName":"aks","environmentImageRequest":{"driverProgram":"d","assets":[{"id":"score.py","url":"aml://artifact/%s"}],"modelIds":[],"environment":{"name":"e"}}}`, name, script))
	key := s.Workspace.Child("services", name).Key()
	s.update(func(tx store.Tx) error {
		row, err := tx.Resource(key)
		if err != nil {
			return err
		}
		good := map[string]any{"Image": images[0], "Mounts": []any{}}
		if len(images) > 1 {
			good["Mounts"] = []any{map[string]any{"Path": "/m", "Image": images[1]}}
		}
		memory := map[string]any{"good": map[string]any{"workloads": []any{good}}}
		if len(images) > 2 {
			var next []any
			for _, ref := range images[2:] {
				next = append(next, map[string]any{"Image": ref})
			}
			memory["next"] = map[string]any{"workloads": next}
		}
		data, err := json.Marshal(memory)
		if err != nil {
			return err
		}
		row.Conditions, err = json.Marshal(resource.Record{Data: data})
		if err != nil {
			return err
		}
		return tx.PutStatus(row)
	})
}

func (s *server) remove(noun, name string) {
	s.T.Helper()
	s.update(func(tx store.Tx) error { return tx.Remove(s.Workspace.Child(noun, name).Key()) })
}

func s3Bucket(t *testing.T) *blob.Store {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("models"); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(srv.Close)
	b, err := blob.Open(t.Context(), "s3://models?region=eu-west-1&anonymous=true&use_path_style=true&endpoint="+url.QueryEscape(srv.URL), []byte(strings.Repeat("k", 32)), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// each runs a test with the files in a folder and in a cloud's bucket.
func each(t *testing.T, test func(t *testing.T, s *server)) {
	t.Run("folder", func(t *testing.T) { t.Parallel(); test(t, start(t, nil)) })
	t.Run("s3", func(t *testing.T) { t.Parallel(); test(t, start(t, s3Bucket(t))) })
}

// What a model, an asset on its way to one, or a web service refers to stays. The rest goes a day after its upload.
func TestFiles(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *server) {
		model, model2, code, log := "LocalUpload/m/model", "LocalUpload/m2/model.pkl", "LocalUpload/c/score.py", "ExperimentRun/r/out"
		s.upload(model+"/a", model+"/b/c", model+"s/other", model2, code, "LocalUpload/c/driver.py", "LocalUpload/given-up/f", log)
		first := s.register("iris", model)
		s.register("iris", model2)
		s.deploy("svc", code, "registry.test/berth/environments@sha256:1")
		all := s.files()
		s.Advance(day - time.Minute)
		s.pass()
		s.left(all...) // an upload that began a day ago may go on
		s.Advance(2 * time.Minute)
		s.pass()
		in := func(ids ...string) (out []string) {
			for _, id := range ids {
				out = append(out, artifact.Container+"/"+id)
			}
			return out
		}
		s.left(in(model+"/a", model+"/b/c", model2, code, log)...)

		s.Want(200, "DELETE", mms, "/models/"+first, "")
		s.pass()
		s.left(in(model2, code, log)...)
		if got := s.Want(200, "GET", mms, "/assets", "").Strings("id"); len(got) != 1 {
			t.Errorf("the assets are %v, want that of the other model", got)
		}
		if got := s.Want(200, "GET", mms, "/models", "").Strings("id"); !slices.Equal(got, []string{"iris:2"}) {
			t.Errorf("the models are %v", got)
		}
		s.Want(200, "PATCH", mms, "/models/iris:2", `[{"op":"replace","path":"/description","value":"still there"}]`)
		s.remove("services", "svc")
		s.pass()
		s.left(in(model2, log)...)
	})
}

// Two models may have the same files, by one asset or by two, and one upload may be many models'.
func TestSharedFiles(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.upload("LocalUpload/all/a", "LocalUpload/all/b", "LocalUpload/all/c")
	asset := s.asset("LocalUpload/all/a")
	for _, name := range []string{"x", "y"} {
		s.Want(200, "POST", mms, "/models", fmt.Sprintf(`{"name":%q,"url":"aml://asset/%s"}`, name, asset))
	}
	s.register("z", "LocalUpload/all/b/")
	s.Advance(2 * day)
	s.Want(200, "DELETE", mms, "/models/x:1", "")
	s.pass()
	s.left("azureml/LocalUpload/all/a", "azureml/LocalUpload/all/b")
	s.Want(200, "DELETE", mms, "/models/y:1", "")
	s.pass()
	s.left("azureml/LocalUpload/all/b")
}

// An upload whose first files are old stays as long as files come: a folder of many gigabytes takes its time.
func TestLongUpload(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.upload("LocalUpload/long/first", "LocalUpload/long/last", "LocalUpload/short/x")
	s.Advance(3 * day)
	account := artifact.Account(s.row())
	young := s.Now().Add(-day + time.Minute)
	s.check(os.Chtimes(filepath.Join(s.BlobsDir, "blobs", account, "azureml/LocalUpload/long/last~"), young, young))
	s.pass()
	s.left("azureml/LocalUpload/long/first", "azureml/LocalUpload/long/last")
	s.register("long", "LocalUpload/long")
	s.Advance(2 * day)
	s.pass()
	s.left("azureml/LocalUpload/long/first", "azureml/LocalUpload/long/last")
}

// A listing that breaks off says nothing of the files that it did not come to.
func TestListingBreaksOff(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.upload("LocalUpload/long/first", "LocalUpload/long/last")
	all := s.files()
	s.Advance(2 * day)
	young := s.Now()
	s.check(os.Chtimes(filepath.Join(s.BlobsDir, "blobs", artifact.Account(s.row()), "azureml/LocalUpload/long/last~"), young, young))
	s.collector.Blobs = breaking{s.bucket}
	if err := s.collector.Pass(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the pass ended in %v", err)
	}
	s.left(all...)
}

// breaking breaks a listing off after its first file.
type breaking struct{ collect.Blobs }

func (b breaking) Walk(ctx context.Context, fn func(blob.Info) error) error {
	first := true
	return b.Blobs.Walk(ctx, func(i blob.Info) error {
		if !first {
			return io.ErrUnexpectedEOF
		}
		first = false
		return fn(i)
	})
}

// An upload of more files than one transaction condemns goes as a whole.
func TestManyFiles(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for i := range 2300 {
		s.upload(fmt.Sprintf("LocalUpload/many/%d/%04d", i%7, i))
	}
	s.upload("LocalUpload/needed/f")
	s.register("m", "LocalUpload/needed")
	s.Advance(2 * day)
	s.pass()
	s.left("azureml/LocalUpload/needed/f")
}

// hooks are files whose listing and removal a test interrupts.
type hooks struct {
	collect.Blobs
	listed  func(blob.Info)
	removal func(blob.Name) error
}

func (h *hooks) Walk(ctx context.Context, fn func(blob.Info) error) error {
	return h.Blobs.Walk(ctx, func(i blob.Info) error {
		if h.listed != nil {
			h.listed(i)
		}
		return fn(i)
	})
}

func (h *hooks) Reap(ctx context.Context, n blob.Name, before time.Time) (int64, bool, error) {
	if h.removal != nil {
		if err := h.removal(n); err != nil {
			return 0, false, err
		}
	}
	return h.Blobs.Reap(ctx, n, before)
}

// Whoever registers old files while they are being listed keeps them.
func TestRegisterDuringListing(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.upload("LocalUpload/late/f", "LocalUpload/later/f", "LocalUpload/latest/f")
	s.Advance(2 * day)
	s.collector.Blobs = &hooks{Blobs: s.bucket, listed: func(i blob.Info) {
		switch i.Name.Path {
		case "LocalUpload/late/f":
			s.register("m", "LocalUpload/late/f")
		case "LocalUpload/later/f":
			s.deploy("svc", "LocalUpload/later/f", "registry.test/berth/environments@sha256:1")
		}
	}}
	s.pass()
	s.left("azureml/LocalUpload/late/f", "azureml/LocalUpload/later/f")
}

// Whoever registers files that are being removed is refused, and does not get a model without them; others are not.
func TestRegisterDuringRemoval(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.upload("LocalUpload/u/old/f", "LocalUpload/u/kept", "LocalUpload/v/x")
	s.register("kept", "LocalUpload/u/kept")
	s.Advance(2 * day)
	asked := 0
	s.collector.Blobs = &hooks{Blobs: s.bucket, removal: func(n blob.Name) error {
		if n.Path != "LocalUpload/u/old/f" {
			return nil
		}
		asked++
		for _, prefix := range []string{"LocalUpload/u/old/f", "LocalUpload/u/old", "LocalUpload/u/", "LocalUpload"} {
			r := s.Refused(409, "Conflict", "POST", mms, "/assets", fmt.Sprintf(`{"name":"a","artifacts":[{"prefix":%q}]}`, prefix), "is being removed", "Upload it again")
			if r.Header.Get("Retry-After") == "" {
				t.Errorf("the refusal has no Retry-After: %v", r.Header)
			}
		}
		s.deploy("svc", "LocalUpload/u/kept", "registry.test/berth/environments@sha256:1")
		s.Refused(409, "Conflict", "POST", mms, "/services", `{"name":"other","computeType":"AKS","computeName":"aks","environmentImageRequest":{"assets":[{"id":"score.py","url":"aml://artifact/LocalUpload/u/old/f"}],"environment":{"name":"e"}}}`, "is being removed")
		s.register("same", "LocalUpload/u/kept")
		return nil
	}}
	s.pass()
	if asked != 1 {
		t.Fatalf("the removal was met %d times", asked)
	}
	s.left("azureml/LocalUpload/u/kept")
	s.upload("LocalUpload/u/old/f") // the name is free again
	s.register("again", "LocalUpload/u/old")
	s.pass()
	s.left("azureml/LocalUpload/u/kept", "azureml/LocalUpload/u/old/f")
}

// Wherever a pass is killed, the next one finishes what it began, and removes nothing that is needed.
func TestKilled(t *testing.T) {
	t.Parallel()
	killed := errors.New("killed")
	scenario := func(t *testing.T, call, reap int64, mode storetest.Mode) (calls, reaps int64) {
		s := start(t, nil)
		s.upload("LocalUpload/a/1", "LocalUpload/a/2", "LocalUpload/b/1", "LocalUpload/needed/1", "LocalUpload/model/1", "LocalUpload/late/1")
		s.check(s.bucket.Write(t.Context(), blob.Name{Account: "deleted", Container: artifact.Container, Path: "LocalUpload/x"}, blob.Upload{}, strings.NewReader("x")))
		s.register("kept", "LocalUpload/needed")
		gone := s.register("gone", "LocalUpload/model")
		s.Advance(2 * day)
		s.Want(200, "DELETE", mms, "/models/"+gone, "")
		s.asset("LocalUpload/late/1")
		faulty := &storetest.Faulty{Store: s.Manager.Store}
		s.collector.Store, s.Manager.Store = faulty, faulty
		if call > 0 {
			faulty.Arm(storetest.Fault{In: call, Mode: mode})
		}
		s.collector.Blobs = &hooks{Blobs: s.bucket, removal: func(blob.Name) error {
			if reaps++; reaps == reap {
				return killed
			}
			return nil
		}}
		if err := s.collector.Pass(t.Context()); (err != nil) != (call > 0 || reap > 0) {
			t.Errorf("the pass ended in %v", err)
		}
		calls = faulty.Calls()
		s.collector.Blobs = s.bucket
		s.pass()
		s.left("azureml/LocalUpload/needed/1", "azureml/LocalUpload/late/1")
		s.upload("LocalUpload/a/1", "LocalUpload/model/1")
		s.register("again", "LocalUpload/a/1") // nothing is condemned any more
		s.register("again", "LocalUpload/model")
		if got := s.Want(200, "GET", mms, "/assets", "").Strings("id"); len(got) != 4 {
			t.Errorf("the assets are %v, want 4", got)
		}
		return calls, reaps
	}
	calls, reaps := scenario(t, 0, 0, 0)
	if calls < 5 || reaps != 5 {
		t.Fatalf("the scenario made %d writes and %d removals; that is too few to prove anything", calls, reaps)
	}
	for call := range calls {
		for _, mode := range []storetest.Mode{storetest.FailBefore, storetest.FailAfter} {
			t.Run(fmt.Sprintf("write %d, %d", call+1, mode), func(t *testing.T) { t.Parallel(); scenario(t, call+1, 0, mode) })
		}
	}
	for reap := range reaps {
		t.Run(fmt.Sprintf("removal %d", reap+1), func(t *testing.T) { t.Parallel(); scenario(t, 0, reap+1, 0) })
	}
}

// With a workspace goes everything that is in its account, at once; other workspaces' files stay.
func TestWorkspaceGone(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *server) {
		other := s.row()
		other.Created.At = other.Created.At.Add(time.Hour)
		other.Key, other.ID = other.Key+"2", other.ID+"2"
		s.update(func(tx store.Tx) error { return tx.Create(other) })
		s.upload("LocalUpload/m/f", "ExperimentRun/r/out")
		s.check(s.bucket.Write(t.Context(), blob.Name{Account: artifact.Account(s.row()), Container: artifact.Logs, Path: "environments/e/1/build.log"}, blob.Upload{}, strings.NewReader("log")))
		s.check(s.bucket.Write(t.Context(), blob.Name{Account: artifact.Account(other), Container: artifact.Container, Path: "LocalUpload/other/f"}, blob.Upload{}, strings.NewReader("x")))
		s.Advance(time.Minute)
		s.pass()
		if got := s.files(); len(got) != 4 {
			t.Fatalf("the files are %v", got)
		}
		s.update(func(tx store.Tx) error { return tx.Remove(s.Workspace.Key()) })
		s.pass()
		s.left("azureml/LocalUpload/other/f")
	})
}

// A storage account that a workspace refers to outlives it, as in Azure: what was uploaded for registration goes in a
// day, and the rest stays until the account itself is deleted.
func TestStorageAccountOutlivesWorkspace(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	account := armid.MustParse(s.Workspace.GroupScope().String() + "/providers/Microsoft.Storage/storageAccounts/Mine")
	s.update(func(tx store.Tx) error {
		row, err := tx.Resource(s.Workspace.Key())
		if err != nil {
			return err
		}
		row.Spec = json.RawMessage(fmt.Sprintf(`{"properties":{"storageAccount":%q}}`, account))
		if err := tx.PutSpec(row); err != nil {
			return err
		}
		return tx.Create(&store.Resource{Key: account.Key(), ID: account.String(), Type: strings.ToLower(account.Type()), Spec: json.RawMessage(`{}`)})
	})
	s.upload("LocalUpload/m/f", "ExperimentRun/r/out")
	s.register("m", "LocalUpload/m")
	s.Advance(2 * day)
	s.pass()
	s.left("azureml/LocalUpload/m/f", "azureml/ExperimentRun/r/out")
	s.update(func(tx store.Tx) error {
		for _, typ := range []string{model.Models, model.Assets} {
			if err := store.Each(tx, store.Query{Type: strings.ToLower(typ)}, func(row *store.Resource) error { return tx.Remove(row.Key) }); err != nil {
				return err
			}
		}
		return tx.Remove(s.Workspace.Key())
	})
	s.pass()
	s.left("azureml/ExperimentRun/r/out")
	s.update(func(tx store.Tx) error { return tx.Remove(account.Key()) })
	s.pass()
	s.left()
}
