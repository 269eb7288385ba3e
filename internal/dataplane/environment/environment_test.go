package environment_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/dataplane/build"
	"github.com/berthdev/berth/internal/dataplane/dataplanetest"
	"github.com/berthdev/berth/internal/dataplane/environment"
	"github.com/berthdev/berth/internal/image"
	"github.com/berthdev/berth/internal/store"
)

const (
	v1 = dataplane.Environments
	v2 = dataplane.EnvironmentsV2
)

// images makes images of nothing: each build waits for an answer of the test.
type images struct {
	answers chan error
	news    chan struct{} // capacity 1: a build has begun
	mu      sync.Mutex
	asked   []string // definitions
	gone    atomic.Bool
}

func (i *images) Environment(ctx context.Context, definition json.RawMessage, log func(string)) (image.Reference, error) {
	i.mu.Lock()
	i.asked = append(i.asked, string(definition))
	i.mu.Unlock()
	select {
	case i.news <- struct{}{}:
	default:
	}
	log("Resolving.")
	select {
	case err := <-i.answers:
		return "registry.example/berth/environments@sha256:1", err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (i *images) Has(_ context.Context, ref image.Reference) (bool, error) {
	return !i.gone.Load() && ref == "registry.example/berth/environments@sha256:1", nil
}

func (i *images) begun() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.asked)
}

// workspaces declares the type of workspaces, so that they can be deleted.
type workspaces struct{}

func (workspaces) Register(*dataplane.Server) {}

func (workspaces) Types() []*resource.Type {
	return []*resource.Type{resource.New(resource.Definition[struct{}]{Type: "Microsoft.MachineLearningServices/workspaces", Versions: []string{"2018-11-19"}})}
}

type server struct {
	*dataplanetest.Server
	images *images
	builds *build.Builds
}

func start(t *testing.T) *server {
	t.Helper()
	out := &server{images: &images{answers: make(chan error), news: make(chan struct{}, 1)}}
	out.Server = dataplanetest.Start(t, func(s *dataplanetest.Server) []dataplanetest.Noun {
		out.builds = &build.Builds{Manager: s.Manager}
		return []dataplanetest.Noun{workspaces{}, out.environments(s)}
	})
	t.Cleanup(func() { out.end() })
	return out
}

func (s *server) environments(d *dataplanetest.Server) *environment.Service {
	return &environment.Service{Manager: d.Manager, Artifacts: &artifact.Service{Blobs: d.Blobs}, Images: s.images, Builds: s.builds, Logger: slog.New(slog.DiscardHandler)}
}

// end ends all builds, as the end of Berth does.
func (s *server) end() {
	s.T.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.builds.Run(ctx); err != nil {
		s.T.Fatal(err)
	}
}

// restart gives what follows to a Berth that remembers only what is stored.
func (s *server) restart() {
	s.T.Helper()
	s.end()
	s.builds = &build.Builds{Manager: s.Manager}
	registry, err := resource.NewRegistry(append(workspaces{}.Types(), s.environments(s.Server).Types()...)...)
	if err != nil {
		s.T.Fatal(err)
	}
	s.Manager.Registry = registry
}

// await waits until so many builds were begun.
func (s *server) await(n int) {
	s.T.Helper()
	for s.images.begun() < n {
		select {
		case <-s.images.news:
		case <-time.After(30 * time.Second):
			s.T.Fatalf("%d builds were begun, want %d", s.images.begun(), n)
		}
	}
}

// answer has a build that is under way end, and the reconciler see it.
func (s *server) answer(err error) {
	s.T.Helper()
	select {
	case s.images.answers <- err:
	case <-time.After(30 * time.Second):
		s.T.Fatal("no build is under way")
	}
	s.builds.Wait()
	s.Due()
}

// is insists on a build's status, at an address below the workspace or an absolute one.
func (s *server) is(location, status string) dataplanetest.Reply {
	s.T.Helper()
	r := s.Want(200, "GET", v2, location, "")
	if r.At("status") != status {
		s.T.Fatalf("the build is %s, want %s", r.Raw, status)
	}
	return r
}

// body is what azureml-core sends for an environment with a package.
func body(name, pkg string) string {
	return fmt.Sprintf(`{"Name":%q,"python":{"userManagedDependencies":false,"interpreterPath":"python","condaDependenciesFile":null,
		"condaDependencies":{"name":"project_environment","dependencies":["python=3.11",{"pip":[%q]}],"channels":["conda-forge"]}},
		"EnvironmentVariables":{"A":"1"},"Docker":{"enabled":false,"baseImage":"b","baseDockerfile":null,"arguments":[],"baseImageRegistry":{"address":null,"username":null,"password":null},"platform":{"os":"Linux"}},
		"Spark":{"packages":[]},"InferencingStackVersion":null,"r":null}`, name, pkg)
}

// What Environment.register sends comes back from it and from Environment.get as it was.
func TestRegisterAndGet(t *testing.T) {
	t.Parallel()
	s := start(t)
	r := s.Want(200, "PUT", v1, "/environments/my.Env", body("my.Env", "numpy"))
	var sent map[string]any
	if err := json.Unmarshal([]byte(body("my.Env", "numpy")), &sent); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"name": "my.Env", "version": "1", "python": sent["python"], "docker": sent["Docker"], "spark": sent["Spark"], "environmentVariables": sent["EnvironmentVariables"],
		"inferencingStackVersion": nil, "r": nil, "assetId": nil,
	}
	if diff := cmp.Diff(want, r.Body); diff != "" {
		t.Errorf("registered (-want +got):\n%s", diff)
	}
	for _, path := range []string{"/environments/my.Env", "/environments/my.Env/versions/1", "/environments/MY.ENV", "/environments/my.Env/labels/latest"} {
		if diff := cmp.Diff(want, s.Want(200, "GET", v1, path, "").Body); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	s := start(t)
	register := func(path, pkg string) any {
		t.Helper()
		s.Advance(time.Second)
		return s.Want(200, "PUT", v1, "/environments/e"+path, body("e", pkg)).At("version")
	}
	for _, step := range []struct{ path, pkg, want string }{
		{"", "one", "1"},
		{"", "one", "1"}, // the same again is the same version
		{"", "two", "2"},
		{"", "one", "3"}, // the same as an earlier one is new again
		{"/versions/mine", "mine", "mine"},
		{"/versions/mine", "mine", "mine"},
		{"", "mine", "mine"}, // it is the latest
		{"", "four", "4"},
		{"/versions/10", "ten", "10"},
		{"", "eleven", "11"},
		{"/versions/2", "two", "2"},
	} {
		if got := register(step.path, step.pkg); got != step.want {
			t.Errorf("%s of %s is the version %v, want %s", step.path, step.pkg, got, step.want)
		}
	}
	if got := s.Want(200, "GET", v1, "/environments/e", "").At("version"); got != "11" {
		t.Errorf("the latest is %v", got)
	}
	s.Refused(409, "Conflict", "PUT", v1, "/environments/e/versions/2", body("e", "other"), "'2'", "another definition", "version to None")
	if r := s.Want(200, "GET", v1, "/environments/e/versions/2", ""); !strings.Contains(r.Raw, `"two"`) {
		t.Errorf("what was refused left %s", r.Raw)
	}
}

// A newer azureml-core sends fields that an older one does not; without a value that is no other definition.
func TestNullsAreNoDifference(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.Want(200, "PUT", v1, "/environments/e", `{"Name":"e","Docker":{"baseImage":"b","buildContext":null},"python":{"interpreterPath":"python"}}`)
	if r := s.Want(200, "PUT", v1, "/environments/e", `{"name":"e","docker":{"baseImage":"b","new":null},"Python":{"interpreterPath":"python"},"r":null}`); r.At("version") != "1" {
		t.Errorf("registered again: %s", r.Raw)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.Want(200, "PUT", v1, "/environments/e", body("e", "one"))
	for path, body := range map[string]string{"/environments/a%2Fb": `{}`, "/environments/-a": `{}`, "/environments/" + strings.Repeat("a", 256): `{}`, "/environments/e/versions/a%3Ab": `{}`, "/environments/e": `{"Name":"other"}`} {
		s.Refused(400, "InvalidParameter", "PUT", v1, path, body)
	}
	s.Refused(400, "InvalidParameter", "PUT", v1, "/environments/e", `{"EnvironmentVariables":{"A":1}}`, "environmentVariables", "number")
	s.Refused(400, "InvalidParameter", "PUT", v1, "/environments/e", `{"Docker":"x"}`, "docker", "object")
	s.Refused(400, "InvalidRequestContent", "PUT", v1, "/environments/e", `x`, "JSON")
	s.Refused(404, "ResourceNotFound", "GET", v1, "/environments/none", "", "'none'", "Environment.list")
	s.Refused(404, "ResourceNotFound", "GET", v1, "/environments/e/versions/9", "", "'e' with the version '9'")
	s.Refused(404, "ResourceNotFound", "GET", v1, "/environments/e/labels/prod", "", "'e' with the label 'prod'")
	s.Refused(404, "ResourceNotFound", "GET", v1, "/environments/none/labels/latest", "", "'none'")
	s.Refused(404, "ResourceNotFound", "GET", v1, "/environments/AzureML-sklearn-1.0", "", "no curated environments")
	s.Refused(404, "ResourceNotFound", "POST", v2, "/environments/e/versions/9/image", "{}")
	s.Refused(404, "ResourceNotFound", "GET", v2, "/environments/e/versions/9/image", "")
	s.Refused(404, "ResourceNotFound", "POST", v1, "/environments/none/recipe", "{}")
	if r := s.Do("POST", v1, "/environments/e/versions/1/recipe", "{}"); r.Status < 400 || r.Status >= 500 || !strings.Contains(r.Raw, "Environment.build") {
		t.Errorf("a recipe: %d %s", r.Status, r.Raw)
	}
	reader := s.As(dataplanetest.Reader)
	reader.Want(200, "GET", v1, "/environments/e", "")
	reader.Refused(403, "AuthorizationFailed", "PUT", v1, "/environments/e", `{}`, "workspaces/environments/write")
	reader.Refused(403, "AuthorizationFailed", "POST", v2, "/environments/e/versions/1/image", `{}`)
	s.As("").Refused(401, "AuthenticationFailed", "GET", v1, "/environments/", "")
}

// A label is on one version of an environment at a time, and asks for it.
func TestLabels(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, pkg := range []string{"one", "two"} {
		s.Want(200, "PUT", v1, "/environments/e", body("e", pkg))
	}
	s.Want(200, "PUT", v1, "/environments/other", body("other", "one"))
	at := func(label string) any {
		t.Helper()
		return s.Want(200, "GET", v1, "/environments/e/labels/"+label, "").At("version")
	}
	s.Want(200, "PUT", v1, "/environments/other/versions/1/metadata", `{"Labels":["prod"]}`)
	s.Want(200, "PUT", v1, "/environments/e/versions/1/metadata", `{"Labels":["prod","old","prod"]}`)
	if got := at("prod"); got != "1" {
		t.Errorf("prod is %v", got)
	}
	s.Want(200, "PUT", v1, "/environments/e/versions/2/metadata", `{"Labels":["prod"]}`)
	if prod, old := at("prod"), at("old"); prod != "2" || old != "1" {
		t.Errorf("prod is %v, old is %v", prod, old)
	}
	if got := s.Want(200, "GET", v1, "/environments/other/labels/prod", "").At("name"); got != "other" {
		t.Errorf("the other environment's label is on %v", got)
	}
	s.Want(200, "PUT", v1, "/environments/e", body("e", "two")) // registering again keeps labels
	if got := at("prod"); got != "2" {
		t.Errorf("prod is %v", got)
	}
	s.Want(200, "PUT", v1, "/environments/e/versions/1/metadata", `{"Labels":[]}`)
	s.Refused(404, "ResourceNotFound", "GET", v1, "/environments/e/labels/old", "")
	s.Refused(404, "ResourceNotFound", "PUT", v1, "/environments/e/versions/9/metadata", `{"Labels":[]}`)
	s.Refused(400, "InvalidParameter", "PUT", v1, "/environments/e/versions/1/metadata", `{"Labels":["a b"]}`, "a b")
}

// The list has the latest version of each, on as many pages as it takes.
func TestList(t *testing.T) {
	t.Parallel()
	s := start(t)
	const many = 103
	var want []string
	for i := range many {
		name := fmt.Sprintf("E%03d", i)
		want = append(want, name)
		s.Want(200, "PUT", v1, "/environments/"+name, `{"python":{"a":1}}`)
	}
	s.Advance(time.Second)
	s.Want(200, "PUT", v1, "/environments/E000", `{"python":{"a":2}}`)
	var got []string
	pages := 0
	for token := "-"; token != "" && pages < 5; pages++ {
		r := s.Want(200, "GET", v1, "/environments/?continuation="+strings.Trim(token, "-"), "")
		if pages == 0 && r.Strings("version")[0] != "2" {
			t.Errorf("the first is %v, want its latest version", r.Body["value"].([]any)[0])
		}
		got = append(got, r.Strings("name")...)
		token, _ = r.At("continuationToken").(string)
	}
	if diff := cmp.Diff(want, got); diff != "" || pages != 2 {
		t.Errorf("on %d pages (-want +got):\n%s", pages, diff)
	}
	if r := s.Want(200, "GET", v1, "/environments", ""); len(r.Strings("name")) != 100 {
		t.Errorf("without the slash: %d", len(r.Strings("name")))
	}
}

// What Environment.build does: it registers, starts, polls, and reads the log without a token.
func TestBuild(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.Want(200, "PUT", v1, "/environments/e", body("e", "numpy"))
	const details = "/environments/e/versions/1/image"
	if r := s.Want(200, "GET", v1, details, ""); r.At("imageExistsInRegistry") != false {
		t.Errorf("before it is built: %s", r.Raw)
	}
	location := s.Want(202, "POST", v2, "/environments/e/versions/1/image", "{}").At("location").(string)
	if again := s.Want(202, "POST", v2, "/environments/e/versions/1/image", "{}").At("location"); again != location {
		t.Errorf("a second request while it is built leads to %v", again)
	}
	s.is(location, "Running")
	s.Due()
	s.answer(nil)
	done := s.is(location, "Succeeded")
	if log := s.Blob("GET", done.At("logUrl").(string), ""); log.Status != 200 || log.Raw != "Resolving.\nThe image is there.\n" {
		t.Errorf("the log: %d %q", log.Status, log.Raw)
	}
	if len(s.images.asked) != 1 || !strings.Contains(s.images.asked[0], `"numpy"`) || !strings.Contains(s.images.asked[0], `"environmentVariables":{"A":"1"}`) {
		t.Errorf("built were %q", s.images.asked)
	}
	r := s.Want(200, "GET", v1, details, "")
	for path, want := range map[string]any{
		"imageExistsInRegistry": true, "dockerImage.name": "berth/environments@sha256:1", "dockerImage.registry.address": "registry.example", "dockerImage.registry.password": nil, "pythonEnvironment.interpreterPath": "python",
	} {
		if got := r.At(path); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	s.images.gone.Store(true) // nobody used it for long
	if r := s.Want(200, "GET", v1, details, ""); r.At("imageExistsInRegistry") != false {
		t.Errorf("an image that was removed is said to be there: %s", r.Raw)
	}
	s.images.gone.Store(false)
	s.Want(200, "PUT", v1, "/environments/e/versions/1/metadata", `{"Labels":["prod"]}`)
	if r := s.Want(200, "GET", v1, details, ""); r.At("imageExistsInRegistry") != true {
		t.Errorf("a label made it forget the image: %s", r.Raw)
	}
}

func TestBuildFails(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err        error
		code, says string
		passes     bool // trying again may help
	}{
		"by the definition": {&image.UserError{Code: image.PackageNotFound, Message: "There is no package nope."}, image.PackageNotFound, "There is no package nope.", false},
		"by the registry":   {&image.RegistryError{Message: "The registry is away."}, "RegistryNotUsable", "The registry is away.", true},
		"otherwise":         {errors.New("the secret inside"), "InternalServerError", "not the definition's fault", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			s.Want(200, "PUT", v1, "/environments/e", body("e", "nope"))
			location := s.Want(202, "POST", v2, "/environments/e/versions/1/imageoncompute/cpu", "{}").At("location").(string)
			s.Due()
			s.answer(tt.err)
			if tt.passes {
				s.is(location, "Running")
				s.Advance(3 * time.Minute)
				s.Due()
				s.answer(tt.err)
			}
			r := s.is(location, "Failed")
			if log := s.Blob("GET", r.At("logUrl").(string), "").Raw; r.At("error.code") != tt.code || !strings.Contains(fmt.Sprint(r.At("error.message")), tt.says) || strings.Contains(r.Raw+log, "secret") ||
				log != "Berth makes images itself; the compute cpu is not used.\nResolving.\nIt failed: "+r.At("error.message").(string)+"\n" {
				t.Errorf("%s\n%s", r.Raw, log)
			}
			s.Want(202, "POST", v2, "/environments/e/versions/1/image", "{}") // it can be tried again
			s.is(location, "Running")
			s.Due()
			s.answer(nil)
			if log := s.Blob("GET", s.is(location, "Succeeded").At("logUrl").(string), "").Raw; log != "Resolving.\nThe image is there.\n" {
				t.Errorf("the log of the second build: %s", log)
			}
		})
	}
}

// An image is made because somebody who may write asked for it, and by nothing else.
func TestReadingBuildsNothing(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.Want(200, "PUT", v1, "/environments/e", body("e", "numpy"))
	const location = "/environments/e/versions/1/image"
	reader := s.As(dataplanetest.Reader)
	for range 2 {
		reader.Refused(404, "ResourceNotFound", "GET", v2, location, "", "'e'", "Environment.build")
		reader.Want(200, "GET", v1, location, "")
		s.restart()
		s.Due()
	}
	reader.Refused(403, "AuthorizationFailed", "POST", v2, location, "{}")
	s.Due()
	if n := s.images.begun(); n != 0 {
		t.Fatalf("%d builds were begun", n)
	}
	s.Want(202, "POST", v2, location, "{}")
	s.Due()
	s.answer(nil)
	s.restart()
	if r := reader.Want(200, "GET", v2, location, ""); r.At("status") != "Succeeded" {
		t.Errorf("the build is %s", r.Raw)
	}
	s.Due()
	if n := s.images.begun(); n != 1 {
		t.Errorf("%d builds were begun for one request", n)
	}
}

// A build that Berth's end interrupted goes on by itself, and its log with it; one that ended does not begin again.
func TestBuildGoesOnAfterRestart(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.Want(200, "PUT", v1, "/environments/e", body("e", "numpy"))
	location := s.Want(202, "POST", v2, "/environments/e/versions/1/image", "{}").At("location").(string)
	s.Due()
	s.await(1)
	s.restart()
	s.is(location, "Running")
	s.Advance(time.Minute)
	s.Due()
	s.answer(nil)
	if log := s.Blob("GET", s.is(location, "Succeeded").At("logUrl").(string), ""); log.Raw != "Resolving.\nThe image is there.\n" {
		t.Errorf("the log is %q", log.Raw)
	}
	s.Want(202, "POST", v2, "/environments/e/versions/1/image", "{}") // asked for, and not begun yet
	s.restart()
	s.Due()
	s.answer(nil)
	s.is(location, "Succeeded")
	s.wakeAfterRestart()
	s.is(location, "Succeeded")
	s.Want(202, "POST", v2, "/environments/e/versions/1/image", "{}")
	s.Due()
	s.answer(&image.UserError{Code: image.PackageNotFound, Message: "There is none."})
	s.wakeAfterRestart()
	if r := s.is(location, "Failed"); r.At("error.message") != "There is none." {
		t.Errorf("after a restart it says %s", r.Raw)
	}
	if n := s.images.begun(); n != 4 {
		t.Errorf("%d builds were begun, want 4", n)
	}
}

// wakeAfterRestart has the reconciler look at a build that has ended, and that nothing remembers.
func (s *server) wakeAfterRestart() {
	s.T.Helper()
	s.restart()
	key := s.Workspace.Child("environments", "e:1").Child("builds", "image").Key()
	if err := s.Manager.Store.Update(s.T.Context(), func(tx store.Tx) error { return tx.Wake(key, s.Now()) }); err != nil {
		s.T.Fatal(err)
	}
	s.Due()
}

// A workspace that is made anew under its name knows nothing of its predecessor's builds.
func TestBuildsGoWithTheirWorkspace(t *testing.T) {
	t.Parallel()
	s := start(t)
	const location = "/environments/e/versions/1/image"
	for range 2 {
		s.Want(200, "PUT", v1, "/environments/e", body("e", "numpy"))
		s.Refused(404, "ResourceNotFound", "GET", v2, location, "")
		if r := s.Want(200, "GET", v1, location, ""); r.At("imageExistsInRegistry") != false {
			t.Errorf("a new workspace has an image: %s", r.Raw)
		}
		s.Want(202, "POST", v2, location, "{}")
		s.Due()
		s.answer(&image.UserError{Code: image.PackageNotFound, Message: "There is none."})
		s.is(location, "Failed")
		s.anew()
	}
	if n := s.images.begun(); n != 2 {
		t.Errorf("%d builds were begun, want one for each workspace", n)
	}
}

// anew deletes the workspace, and makes one of its name.
func (s *server) anew() {
	s.T.Helper()
	write := func(do func(ctx context.Context, tx store.Tx, w resource.Write) (*resource.Written, error)) {
		s.T.Helper()
		typ, _ := s.Manager.Registry.Type("Microsoft.MachineLearningServices/workspaces")
		err := s.Manager.Store.Update(s.T.Context(), func(tx store.Tx) error {
			_, err := do(s.T.Context(), tx, resource.Write{ID: s.Workspace, Type: typ, Version: "2018-11-19", Doc: map[string]any{}})
			return err
		})
		if err != nil {
			s.T.Fatal(err)
		}
	}
	write(s.Manager.Delete)
	for range 10 { // a parent looks now and then whether its children are gone
		s.Advance(10 * time.Second)
		s.Due()
	}
	s.Want(404, "GET", v1, "/environments/e", "")
	write(s.Manager.Put)
}

// The password of a base image's registry is used for builds, and shown to nobody.
func TestPasswordIsSealed(t *testing.T) {
	t.Parallel()
	s := start(t)
	with := func(password string) string {
		return fmt.Sprintf(`{"Docker":{"baseImage":"b","baseImageRegistry":{"address":"r.example","username":"u","password":%s}}}`, password)
	}
	r := s.Want(200, "PUT", v1, "/environments/e", with(`"hunter2"`))
	for _, path := range []string{"/environments/e", "/environments/e/versions/1", "/environments/", "/environments/e/versions/1/image"} {
		if got := s.Want(200, "GET", v1, path, ""); strings.Contains(r.Raw+got.Raw, "hunter2") {
			t.Errorf("%s shows it: %s", path, got.Raw)
		}
	}
	// What Environment.get gave, without the password, is registered again by Environment.build.
	if r := s.Want(200, "PUT", v1, "/environments/e", with("null")); r.At("version") != "1" {
		t.Errorf("registered again: %s", r.Raw)
	}
	s.Want(200, "PUT", v1, "/environments/e/versions/1/metadata", `{"Labels":["prod"]}`)
	location := s.Want(202, "POST", v2, "/environments/e/versions/1/image", "{}").At("location").(string)
	s.Due()
	s.answer(nil)
	s.is(location, "Succeeded")
	if asked := s.images.asked; len(asked) != 1 || !strings.Contains(asked[0], `"password":"hunter2"`) {
		t.Errorf("built was %q", asked)
	}
}
