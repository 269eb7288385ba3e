package registry

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	foreign "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

const (
	mine, others, shared = "team/mine/code", "team/others/code", "shared"
	secret               = "a password of this test"
)

var access = Access{
	User: "berth", Password: secret, Readable: func(reader string) []string { return []string{"team/" + reader + "/", shared} },
}

// guarded is a server with an image in each repository.
type guarded struct {
	t         *testing.T
	url       string
	manifests map[string]string // digests, by repository
	layers    map[string]string
}

func serveGuarded(t *testing.T, h http.Handler) *guarded {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	g := &guarded{t, srv.URL, map[string]string{}, map[string]string{}}
	for _, repo := range []string{mine, others, shared, "team/mine", "sharedtoo", "shared/deeper", "mine/team/mine/code"} {
		img, err := random.Image(100, 1)
		if err != nil {
			t.Fatal(err)
		}
		tag, err := name.NewTag(strings.TrimPrefix(srv.URL, "http://")+"/"+repo+":latest", name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(tag, img, remote.WithAuth(&authn.Basic{Username: access.User, Password: access.Password})); err != nil {
			t.Fatal(err)
		}
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		layer, err := layers[0].Digest()
		if err != nil {
			t.Fatal(err)
		}
		g.manifests[repo], g.layers[repo] = manifest.String(), layer.String()
	}
	return g
}

// do sends a request as it is written. An empty user means that nobody signs in.
func (g *guarded) do(method, path, user, password string) (status int, header http.Header, body string) {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), method, g.url+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	res, err := http.DefaultTransport.RoundTrip(req) // no redirect is followed
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	text, err := io.ReadAll(res.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(text)
}

// code is that of the distribution API's errors.
func code(body string) string {
	var all struct{ Errors []struct{ Code string } }
	if json.Unmarshal([]byte(body), &all) != nil || len(all.Errors) != 1 {
		return "no error of the distribution API: " + body
	}
	return all.Errors[0].Code
}

// Whoever runs the registry may do everything. A reader fetches by digest what is his or everybody's, and may do nothing else
// whatever the path looks like; nobody else may do anything.
func TestAccess(t *testing.T) {
	t.Parallel()
	r, err := Open(Config{Dir: t.TempDir(), Access: access})
	if err != nil {
		t.Fatal(err)
	}
	// The same rules stand before handlers that read paths in other ways.
	for kind, h := range map[string]http.Handler{"the registry": r, "another handler": access.Guard(foreign.New(foreign.Logger(log.New(io.Discard, "", 0))))} {
		g := serveGuarded(t, h)
		manifest := func(repo string) string { return "/v2/" + repo + "/manifests/" + g.manifests[repo] }
		blob := func(repo string) string { return "/v2/" + repo + "/blobs/" + g.layers[repo] }
		for _, c := range []struct{ method, path string }{
			{"GET", "/v2/"}, {"HEAD", "/v2/"},
			{"GET", manifest(mine)}, {"HEAD", manifest(mine)}, {"GET", blob(mine)}, {"HEAD", blob(mine)}, {"GET", manifest(mine) + "?ns=registry.test"},
			{"GET", manifest(shared)}, {"HEAD", manifest(shared)}, {"GET", blob(shared)}, {"HEAD", blob(shared)},
		} {
			if status, _, body := g.do(c.method, c.path, "mine", access.ReaderPassword("mine")); status != http.StatusOK {
				t.Errorf("%s: a reader's %s %s: %d %s", kind, c.method, c.path, status, body)
			}
		}
		denied := []struct{ method, path string }{
			{"GET", manifest(others)}, {"HEAD", manifest(others)}, {"GET", blob(others)}, {"HEAD", blob(others)},
			{"GET", manifest("team/mine")}, {"GET", manifest("sharedtoo")}, {"GET", manifest("shared/deeper")}, {"GET", manifest("mine/team/mine/code")},
			// Lists and names that move.
			{"GET", "/v2/_catalog"}, {"GET", "/v2/_catalog?n=1"}, {"GET", "/v2/" + mine + "/tags/list"}, {"GET", "/v2/" + shared + "/tags/list"}, {"GET", "/v2/" + others + "/tags/list"},
			{"GET", "/v2/" + shared + "/manifests/latest"}, {"GET", "/v2/" + mine + "/manifests/latest"}, {"GET", "/v2/" + mine + "/referrers/" + g.manifests[mine]},
			// Changes, also of what is his.
			{"PUT", "/v2/" + mine + "/manifests/latest"}, {"PUT", manifest(mine)}, {"PUT", "/v2/" + shared + "/manifests/latest"}, {"DELETE", manifest(mine)}, {"DELETE", blob(mine)}, {"DELETE", manifest(shared)},
			{"POST", "/v2/" + mine + "/blobs/uploads/"}, {"POST", "/v2/" + mine + "/blobs/uploads/?from=" + others + "&mount=" + g.layers[others]}, {"PATCH", "/v2/" + mine + "/blobs/uploads/1"},
			{"PUT", "/v2/" + mine + "/blobs/uploads/1?digest=" + g.layers[others]}, {"GET", "/v2/" + mine + "/blobs/uploads/1"}, {"OPTIONS", manifest(mine)}, {"POST", "/v2/"}, {"get", manifest(mine)},
			// Paths with another reading.
			{"GET", "/v2/team/mine/../others/code/manifests/" + g.manifests[others]}, {"GET", "/v2/team/mine/%2e%2e/others/code/manifests/" + g.manifests[others]},
			{"GET", "/v2/team/mine%2f..%2fothers%2fcode/manifests/" + g.manifests[others]}, {"GET", "/v2/team/mine/..%2fothers/code/blobs/" + g.layers[others]},
			{"GET", "/v2/team%2fothers%2fcode/manifests/" + g.manifests[others]}, {"GET", "/v2/" + strings.Replace(mine, "/", "%2f", 1) + "/manifests/" + g.manifests[mine]},
			{"GET", "/v2//team/mine/code/manifests/" + g.manifests[mine]}, {"GET", "//v2/" + mine + "/manifests/" + g.manifests[mine]}, {"GET", "/v2/" + mine + "//manifests/" + g.manifests[mine]},
			{"GET", "/v2/" + mine + "/manifests/" + g.manifests[mine] + "/"}, {"GET", "/v2/../v2/" + others + "/manifests/" + g.manifests[others]}, {"GET", manifest(others) + "/../../" + g.manifests[others]},
			{"GET", "/v2/team/mine//others/code/manifests/" + g.manifests[others]}, {"GET", "/v2/TEAM/mine/code/manifests/" + g.manifests[mine]},
			{"GET", "/v2/" + others + "/manifests/" + g.manifests[others] + "?" + mine}, {"GET", "/v2/" + mine + "/" + g.manifests[mine]}, {"GET", "/v2"}, {"GET", "/"}, {"GET", "/debug/pprof"},
		}
		for _, c := range denied {
			status, header, body := g.do(c.method, c.path, "mine", access.ReaderPassword("mine"))
			if status != http.StatusForbidden || c.method != "HEAD" && code(body) != "DENIED" || header.Get("Www-Authenticate") != "" {
				t.Errorf("%s: a reader's %s %s: %d %s", kind, c.method, c.path, status, body)
			}
			if c.method != "HEAD" && !strings.Contains(body, "mine may only fetch images, by their digests, and only from team/mine/…, shared.") {
				t.Errorf("%s: it is not said what a reader may do: %s", kind, body)
			}
		}
		// By a path of his own a reader gets nothing that is in another repository.
		if status, _, body := g.do("GET", "/v2/"+mine+"/blobs/"+g.layers[others], "mine", access.ReaderPassword("mine")); kind == "the registry" && (status != http.StatusNotFound || code(body) != "BLOB_UNKNOWN") {
			t.Errorf("another repository's layer: %d %s", status, body)
		}
		for _, path := range []string{"/v2/_catalog", "/v2/" + others + "/tags/list", manifest(others), "/v2/" + shared + "/manifests/latest"} {
			if status, _, body := g.do("GET", path, access.User, access.Password); status != http.StatusOK {
				t.Errorf("%s: who may do everything may not GET %s: %d %s", kind, path, status, body)
			}
		}
		for what, c := range map[string][2]string{
			"nobody": {}, "no password": {"mine", ""}, "a guess": {"mine", "guess"}, "another reader's password": {"mine", access.ReaderPassword("others")}, "the password of who may do everything": {"mine", secret},
			"a reader's password for everything": {"berth", access.ReaderPassword("berth")}, "no password for everything": {"berth", ""}, "another name's case": {"Mine", access.ReaderPassword("mine")},
		} {
			for _, path := range []string{"/v2/", manifest(mine), "/v2/_catalog"} {
				status, header, body := g.do("GET", path, c[0], c[1])
				if status != http.StatusUnauthorized || code(body) != "UNAUTHORIZED" || header.Get("Www-Authenticate") == "" || strings.Contains(body, secret) {
					t.Errorf("%s: %s: GET %s: %d %s", kind, what, path, status, body)
				}
			}
		}
		for _, repo := range []string{mine, shared, others} { // nothing of it changed anything
			if status, header, _ := g.do("HEAD", "/v2/"+repo+"/manifests/latest", access.User, access.Password); status != http.StatusOK || header.Get("Docker-Content-Digest") != g.manifests[repo] {
				t.Errorf("%s: %s:latest is %d %s, and was %s", kind, repo, status, header.Get("Docker-Content-Digest"), g.manifests[repo])
			}
		}
	}
}

// Without a password nobody gets in, and without a list of repositories no reader does.
func TestAccessWithout(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		a              Access
		user, password string
	}{
		"a password":                      {Access{User: "berth"}, "berth", ""},
		"a user and a password":           {Access{}, "", ""},
		"a password, as a reader":         {Access{User: "berth", Readable: access.Readable}, "mine", Access{User: "berth"}.ReaderPassword("mine")},
		"a list, as a reader":             {Access{User: "berth", Password: secret}, "mine", access.ReaderPassword("mine")},
		"a user, as nobody in particular": {Access{Password: secret}, "", ""},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			h := c.a.Guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request came through") }))
			req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/", nil)
			req.SetBasicAuth(c.user, c.password)
			w := httptest.NewRecorder()
			if h.ServeHTTP(w, req); w.Code != http.StatusUnauthorized {
				t.Errorf("status %d", w.Code)
			}
		})
	}
}

// Passwords of readers differ from one reader and one registry to the next, and stay as they are.
func TestReaderPassword(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, a := range []Access{{Password: secret}, {Password: secret + "!"}} {
		for _, reader := range []string{"a", "b", ""} {
			who := fmt.Sprintf("%s of %s", reader, a.Password)
			p := a.ReaderPassword(reader)
			if other, is := seen[p]; is || len(p) != 64 || p != a.ReaderPassword(reader) {
				t.Errorf("%s has %q, as %q has", who, p, other)
			}
			seen[p] = who
		}
	}
}
