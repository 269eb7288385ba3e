package artifact_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/internal/blob"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/dataplane/artifact"
	"github.com/berthdev/berth/internal/dataplane/dataplanetest"
	"github.com/berthdev/berth/internal/store"
)

func start(t *testing.T) (*dataplanetest.Server, *artifact.Service) {
	t.Helper()
	var service *artifact.Service
	s := dataplanetest.Start(t, func(s *dataplanetest.Server) []dataplanetest.Noun {
		service = &artifact.Service{Blobs: s.Blobs}
		return []dataplanetest.Noun{service}
	})
	return s, service
}

const at = dataplane.Artifacts

// What azureml-core does to upload a file and to get it back.
func TestUploadAndDownload(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	r := s.Want(200, "POST", at, "/artifacts/batch/metadata/LocalUpload/c1", `{"paths":[{"path":"model/a b.txt"},{"path":"x"}]}`)
	var made struct {
		Artifacts map[string]struct{ ArtifactID, Origin, Container, Path, CreatedTime string }
		Infos     map[string]struct{ ContentURI, Origin, Container, Path string } `json:"artifactContentInformation"`
		Errors    map[string]any
	}
	if err := json.Unmarshal([]byte(r.Raw), &made); err != nil {
		t.Fatal(err)
	}
	a, info := made.Artifacts["model/a b.txt"], made.Infos["model/a b.txt"]
	if a.ArtifactID != "LocalUpload/c1/model/a b.txt" || a.Origin != "LocalUpload" || a.Container != "c1" || a.Path != "model/a b.txt" || a.CreatedTime == "" || info.Path != a.Path || len(made.Artifacts) != 2 || len(made.Infos) != 2 || made.Errors == nil {
		t.Errorf("made %s", r.Raw)
	}
	u, err := url.Parse(info.ContentURI)
	if err != nil || u.Scheme != "https" || !strings.HasSuffix(u.Host, ".blob.core.windows.net") || u.Path != "/azureml/LocalUpload/c1/model/a b.txt" {
		t.Errorf("the content goes to %s (%v)", info.ContentURI, err)
	}
	const path = "/LocalUpload/c1/model/a%20b.txt"
	s.Refused(404, "ResourceNotFound", "GET", at, "/artifacts/contentinfo"+path, "", "LocalUpload/c1/model/a b.txt", "'ws'")
	if put := s.Blob("PUT", info.ContentURI, "hello"); put.Status != 201 {
		t.Fatalf("PUT: %d %s", put.Status, put.Raw)
	}
	if head := s.Blob("HEAD", info.ContentURI, ""); head.Status != 200 || head.Header.Get("Content-Length") != "5" {
		t.Errorf("azureml-core looks with the URL it wrote with: %d %v", head.Status, head.Header)
	}
	reading := s.Want(200, "GET", at, "/artifacts/contentinfo"+path, "").At("contentUri").(string)
	if get := s.Blob("GET", reading, ""); get.Raw != "hello" {
		t.Errorf("GET: %d %q", get.Status, get.Raw)
	}
	if put := s.Blob("PUT", reading, "changed"); put.Status != 403 {
		t.Errorf("a URL for reading writes: %d", put.Status)
	}
	if m := s.Want(200, "GET", at, "/artifacts/metadata"+path, ""); m.At("size") != 5.0 || m.At("artifactId") != a.ArtifactID || m.At("createdTime") == nil {
		t.Errorf("metadata: %s", m.Raw)
	}
	moved := s.Want(302, "GET", at, "/artifacts/content"+path, "")
	if get := s.Blob("GET", moved.Header.Get("Location"), ""); get.Raw != "hello" {
		t.Errorf("content leads to %s: %d", moved.Header.Get("Location"), get.Status)
	}
	again := s.Want(200, "GET", at, "/artifacts/write"+path, "").At("contentUri").(string)
	if put := s.Blob("PUT", again, "changed"); put.Status != 201 {
		t.Errorf("PUT: %d", put.Status)
	}
	s.Advance(13 * time.Hour)
	if get := s.Blob("GET", reading, ""); get.Status != 403 {
		t.Errorf("after half a day the URL still works: %d", get.Status)
	}
	s.Want(200, "DELETE", at, "/artifacts/metadata"+path, "")
	for method, path := range map[string]string{"GET": "/artifacts/metadata" + path, "DELETE": "/artifacts/metadata" + path} {
		s.Refused(404, "ResourceNotFound", method, at, path, "")
	}
}

// Only who may write gets URLs for writing.
func TestAccess(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	s.Upload("c1", "a", "x")
	reader := s.As(dataplanetest.Reader)
	reader.Want(200, "GET", at, "/artifacts/contentinfo/LocalUpload/c1/a", "")
	for _, r := range []struct{ method, path string }{{"POST", "/artifacts/batch/metadata/LocalUpload/c1"}, {"GET", "/artifacts/write/LocalUpload/c1/a"}, {"DELETE", "/artifacts/metadata/LocalUpload/c1/a"}} {
		reader.Refused(403, "AuthorizationFailed", r.method, at, r.path, `{"paths":[{"path":"a"}]}`, "workspaces/artifacts/")
	}
	for _, path := range []string{"/artifacts/contentinfo/LocalUpload/c1/a", "/artifacts/LocalUpload/c1"} {
		s.As(dataplanetest.Stranger).Refused(403, "AuthorizationFailed", "GET", at, path, "")
		s.As("").Refused(401, "AuthenticationFailed", "GET", at, path, "")
	}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	for name, path := range map[string]string{
		"upwards": "../../key", "upwards within": "a/../../b", "on the spot": "./a", "within": "a/./b", "absolute": "/etc/passwd", "empty": "", "doubled slashes": "a//b", "a folder": "a/",
	} {
		body, err := json.Marshal(map[string]any{"paths": []any{map[string]string{"path": path}}})
		if err != nil {
			t.Fatal(err)
		}
		if r := s.Refused(400, "InvalidParameter", "POST", at, "/artifacts/batch/metadata/LocalUpload/c1", string(body), "relative"); r.At("error.target") != "path" {
			t.Errorf("%s: %s", name, r.Raw)
		}
	}
	s.Refused(400, "InvalidParameter", "POST", at, "/artifacts/batch/metadata/%2e%2e/c1", `{"paths":[{"path":"a"}]}`, "path")
	s.Refused(400, "InvalidParameter", "POST", at, "/artifacts/batch/metadata/LocalUpload/%2e%2e", `{"paths":[{"path":"a"}]}`, "path")
	s.Refused(400, "InvalidParameter", "GET", at, "/artifacts/contentinfo/LocalUpload/c1/%2e%2e/%2e%2e/key", "", "path")
	s.Refused(400, "InvalidParameter", "POST", at, "/artifacts/batch/metadata/LocalUpload/c1", `{"paths":[]}`, "1 to 50")
	many := strings.Repeat(`{"path":"a"},`, 50) + `{"path":"a"}`
	s.Refused(400, "InvalidParameter", "POST", at, "/artifacts/batch/metadata/LocalUpload/c1", `{"paths":[`+many+`]}`, "51", "1 to 50")
	s.Refused(400, "InvalidRequestContent", "POST", at, "/artifacts/batch/metadata/LocalUpload/c1", ``, "JSON")
}

// Lists below a prefix, and of a container, come in pages that together are whole.
func TestLists(t *testing.T) {
	t.Parallel()
	s, service := start(t)
	const files = 1103 // three pages; also more than a bucket lists at once
	var want []string
	for i := range files {
		want = append(want, fmt.Sprintf("model/%04d", i))
	}
	want = append(want, "model/sub/x", "model")
	workspace := row(t, s)
	for _, f := range append(want, "model.txt", "model2/x") {
		name := blob.Name{Account: artifact.Account(workspace), Container: "azureml", Path: "LocalUpload/c1/" + f}
		if err := s.Blobs.Write(t.Context(), name, blob.Upload{}, strings.NewReader("content")); err != nil {
			t.Fatal(err)
		}
	}
	s.Upload("c10", "model/other", "x")
	slices.Sort(want)
	all := func(path, field string) []string {
		var out []string
		for token, pages := "", 0; pages == 0 || token != ""; pages++ {
			r := s.Want(200, "GET", at, path+"?continuationToken="+url.QueryEscape(token), "")
			page := r.Strings(field)
			if len(page) > 500 || pages > 5 {
				t.Fatalf("page %d of %s has %d", pages, path, len(page))
			}
			out = append(out, page...)
			token, _ = r.At("continuationToken").(string)
		}
		return out
	}
	for _, path := range []string{"/LocalUpload/c1/model", "/LocalUpload/c1/model/", "/LocalUpload/c1/model//", "/LocalUpload/c1/model%2F"} {
		if diff := cmp.Diff(want, all("/artifacts/prefix/contentinfo"+path, "path")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	want = append(want, "model.txt", "model2/x")
	slices.Sort(want)
	for _, path := range []string{"/artifacts/LocalUpload/c1", "/artifacts/prefix/contentinfo/LocalUpload/c1/"} {
		if diff := cmp.Diff(want, all(path, "path")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	if got := all("/artifacts/prefix/contentinfo/LocalUpload/c1/absent", "path"); len(got) != 0 {
		t.Errorf("below a prefix that is not there: %q", got)
	}
	first := s.Want(200, "GET", at, "/artifacts/prefix/contentinfo/LocalUpload/c1/model.txt", "").Body["value"].([]any)[0].(map[string]any)
	if get := s.Blob("GET", first["contentUri"].(string), ""); get.Raw != "content" {
		t.Errorf("GET: %d %s", get.Status, get.Raw)
	}

	found, err := service.Under(t.Context(), workspace, "LocalUpload/c1/model2/x")
	if err != nil || len(found) != 1 || found[0].ID != "LocalUpload/c1/model2/x" || found[0].Size != 7 {
		t.Fatalf("Under a file: %v, %v", found, err)
	}
	sum, err := service.Sum(t.Context(), workspace, found[0])
	if err != nil {
		t.Fatal(err)
	}
	content, err := service.Open(t.Context(), workspace, found[0].ID, sum)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	if data, err := io.ReadAll(content); err != nil || string(data) != "content" {
		t.Errorf("Open: %q %v", data, err)
	}
	s.Upload("c1", "model2/x", "another")
	if _, err := service.Open(t.Context(), workspace, found[0].ID, sum); !errors.Is(err, blob.ErrChecksum) {
		t.Errorf("Open of what was replaced since it was listed: %v", err)
	}
	// A bucket without checksums has ETags.
	found[0].MD5 = nil
	if other, err := service.Sum(t.Context(), workspace, found[0]); err != nil || other == "" || other == sum {
		t.Errorf("the sum of another content is %q, %v", other, err)
	}
}

func row(t *testing.T, s *dataplanetest.Server) (row *store.Resource) {
	t.Helper()
	err := s.Manager.Store.View(t.Context(), func(tx store.ReadTx) (err error) {
		row, err = tx.Resource(s.Workspace.Key())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return row
}

// The account is the workspace's own, in the letters that an account may have.
func TestAccount(t *testing.T) {
	t.Parallel()
	of := func(key, spec string, at time.Time) string {
		return artifact.Account(&store.Resource{Key: key, Spec: json.RawMessage(spec), Created: store.Stamp{At: at}})
	}
	now := time.Now()
	if got := of("k", `{"properties":{"storageAccount":"/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/MyAccount"}}`, now); got != "myaccount" {
		t.Errorf("the account that the workspace names: %q", got)
	}
	own := of("k", `{}`, now)
	if !strings.HasPrefix(own, "berth") || len(own) < 3 || len(own) > 24 || own != of("k", `{"properties":{}}`, now) {
		t.Errorf("the account of a workspace without one: %q", own)
	}
	for name, other := range map[string]string{"another workspace": of("k2", `{}`, now), "one of the same name, made later": of("k", `{}`, now.Add(time.Second))} {
		if other == own {
			t.Errorf("%s has the same account", name)
		}
	}
}
