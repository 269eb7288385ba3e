package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	foreign "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// The registry that is asked for a base image follows from the image's name and the registry's address together.
func TestBaseRegistry(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ image, address, want string }{
		{"", "", ""}, {" ", "r.test", ""}, {sdkImages + "base:1", "", ""}, {sdkImages + "base:1", "r.test", ""},
		{"python:3.11", "", "index.docker.io"}, {"library/python", "", "index.docker.io"}, {"docker.io/library/python", "", "index.docker.io"}, {"python", "docker.io", "index.docker.io"},
		{"r.test/base:1", "", "r.test"}, {" r.test/base:1 ", "", "r.test"}, {"base:1", "r.test", "r.test"}, {"base:1", "r.test/team", "r.test"}, {"r.test/base:1", "r.test", "r.test"}, {"R.test/base:1", "", "r.test"},
		{"evil.test/base:1", "r.test", "r.test"}, {"r.test.evil.test/base:1", "r.test", "r.test"}, {"r.test/base:1", "evil.test", "evil.test"}, {"r.test/base:1", "evil", "index.docker.io"},
		{"r.test:5000/base", "", "r.test:5000"}, {"base", "localhost:5000", "localhost:5000"}, {"base", "localhost", "localhost"},
		{"base", "https://r.test", ""}, {"base:1", "me@r.test", ""}, {"Base", "r.test", ""},
	} {
		if got := BaseRegistry(c.image, c.address); got != c.want {
			t.Errorf("%q with the address %q is asked of %q, want %q", c.image, c.address, got, c.want)
		}
	}
}

// A name that a caller chooses leads to no address of this machine, and to none where a cloud tells its secrets.
func TestClosedTo(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]*closedError{
		"127.0.0.1": {own: true}, "127.9.9.9": {own: true}, "::1": {own: true}, "0.0.0.0": {own: true}, "::": {own: true}, "::ffff:127.0.0.1": {own: true},
		"169.254.169.254": {}, "::ffff:169.254.169.254": {}, "fe80::1": {}, "fe80::1%lo": {}, "febf::1": {}, "224.0.0.1": {}, "ff02::1": {}, "168.63.129.16": {}, "::ffff:168.63.129.16": {}, "fd00:ec2::254": {}, "100.100.100.200": {},
		"10.0.0.1": nil, "172.16.0.1": nil, "192.168.1.1": nil, "fd00::1": nil, "100.64.0.1": nil, "8.8.8.8": nil, "2001:db8::1": nil, "169.253.0.1": nil,
	} {
		got := closedTo(netip.MustParseAddr(address))
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
}

// wants is the environment of a base image that brings its own packages.
func wants(image, user, password string) json.RawMessage {
	data, err := json.Marshal(map[string]any{"name": "e", "python": map[string]any{"userManagedDependencies": true}, "docker": map[string]any{
		"baseImage": image, "baseImageRegistry": map[string]any{"username": user, "password": password},
	}})
	if err != nil {
		panic(err)
	}
	return data
}

// unreachable makes an environment of a base image in vain, and returns what is said of it.
func unreachable(t *testing.T, b *Builder, definition json.RawMessage) string {
	t.Helper()
	_, err := b.Environment(t.Context(), definition, func(string) {})
	var user *UserError
	if !errors.As(err, &user) || user.Code != BaseImageNotReachable {
		t.Fatalf("%s: %v", definition, err)
	}
	return user.Message
}

// pushBase puts an image into a registry.
func pushBase(t *testing.T, to string) {
	t.Helper()
	img, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(to, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// On Berth's own machine only the registry is asked for base images that berth up --registry names, whatever name leads there
// and whoever redirects.
func TestBaseImagesOfThisMachine(t *testing.T) {
	t.Parallel()
	var reached atomic.Int32
	inner := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	_, port, _ := strings.Cut(inner, ":")
	images := foreign.New(quiet)
	chosen := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case strings.Contains(req.URL.Path, "/redirected/"):
			http.Redirect(w, req, "http://localhost:"+port+req.URL.Path, http.StatusTemporaryRedirect)
		default:
			images.ServeHTTP(w, req)
		}
	}))
	signs := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm="http://localhost:%s/token"`, port))
		w.WriteHeader(http.StatusUnauthorized)
	}))
	pushBase(t, chosen+"/base:1")
	b := &Builder{Registry: remoteAt(t, "http://"+chosen+"/team", nil), Bases: t.TempDir(), Work: t.TempDir()}
	if ref, err := b.Environment(t.Context(), wants(chosen+"/base:1", "", ""), func(string) {}); err != nil || ref == "" {
		t.Fatalf("of the registry that was chosen: %q, %v", ref, err)
	}
	for _, host := range []string{inner, "localhost:" + port, "127.0.0.2:" + port, "[::1]:" + port, "0.0.0.0:" + port, "[::ffff:127.0.0.1]:" + port, chosen + "/redirected"} {
		if said := unreachable(t, b, wants(host+"/base:1", "me", "hunter")); !strings.Contains(said, "on Berth's own machine") {
			t.Errorf("%s: %s", host, said)
		}
	}
	if said := unreachable(t, &Builder{Registry: remoteAt(t, "http://"+signs, nil), Bases: t.TempDir()}, wants(signs+"/base:1", "me", "hunter")); !strings.Contains(said, "on Berth's own machine") {
		t.Errorf("where credentials are shown: %s", said)
	}
	own := &Registry{Host: chosen, Insecure: true, Own: true}
	if said := unreachable(t, &Builder{Registry: own, Bases: t.TempDir()}, wants(chosen+"/base:1", "", "")); !strings.Contains(said, "on Berth's own machine") {
		t.Errorf("where none was chosen: %s", said)
	}
	for _, host := range []string{"169.254.169.254", "[fe80::1]:80"} {
		if said := unreachable(t, b, wants(host+"/base:1", "", "")); !strings.Contains(said, "at an address that no registry has") {
			t.Errorf("%s: %s", host, said)
		}
	}
	if n := reached.Load(); n > 0 {
		t.Errorf("the other server was asked %d times", n)
	}
}

// What is wrong with a base image is said by name, in Berth's words: whatever the server said, which may be none of the
// caller's to read.
func TestBaseImageTroubles(t *testing.T) {
	t.Parallel()
	const secret = "INNERSECRET"
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	answering := func(status int, body string) string {
		return serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path != "/v2/" {
				w.Header().Set("Content-Type", secret)
				w.WriteHeader(status)
				_, _ = fmt.Fprint(w, body)
			}
		}))
	}
	said := func(code string) string {
		return fmt.Sprintf(`{"errors":[{"code":%q,"message":%q,"detail":%q}]}`, code, secret, secret)
	}
	for what, c := range map[string]struct{ host, user, says string }{
		"denied":                     {answering(401, said("UNAUTHORIZED")), "", "gives it to nobody in particular"},
		"denied, with a password":    {answering(403, said("DENIED")), "me", "docker.base_image_registry are wrong"},
		"another server's denial":    {answering(403, secret), "me", "docker.base_image_registry are wrong"},
		"not there":                  {answering(404, said("MANIFEST_UNKNOWN")), "", "does not have it"},
		"not there, and no registry": {answering(404, secret), "", "does not have it"},
		"a status":                   {answering(418, secret), "", "answers with status 418"},
		"a code":                     {answering(400, said(secret)), "", "answers with status 400"},
		"no image":                   {answering(200, `{"`+secret+`":1}`), "", "is no image for linux/amd64"},
		"no digest":                  {answering(200, `{"schemaVersion":2,"config":{"digest":"`+secret+`"}}`), "", "is no image for linux/amd64"},
		"no JSON":                    {answering(200, secret), "", "is no image for linux/amd64"},
		"down":                       {gone.Listener.Addr().String(), "", "cannot be reached from Berth's machine: connect: connection refused"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := &Builder{Registry: remoteAt(t, "http://"+c.host, nil), Bases: t.TempDir()}
			message := unreachable(t, b, wants(c.host+"/base:1", c.user, "hunter"))
			if !strings.Contains(message, c.says) || strings.Contains(message, secret) || strings.Contains(message, "hunter") || !strings.Contains(message, c.host+"/base:1") {
				t.Errorf("it says: %s", message)
			}
		})
	}
}

// A layer of a base image that cannot be read, which shows while it is copied, is that image's trouble and not that of the
// registry that it is copied to.
func TestBaseImageLosesALayer(t *testing.T) {
	t.Parallel()
	images := foreign.New(quiet)
	var lost atomic.Bool
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if lost.Load() && req.Method == http.MethodGet && strings.HasPrefix(req.URL.Path, "/v2/base/blobs/") && req.Header.Get("Authorization") != "" {
			rec := httptest.NewRecorder()
			if images.ServeHTTP(rec, req); !strings.HasPrefix(rec.Body.String(), "{") { // the image's configuration is read before
				w.WriteHeader(http.StatusForbidden)
				_, _ = fmt.Fprint(w, `{"errors":[{"code":"DENIED","message":"INNERSECRET"}]}`)
				return
			}
			_, _ = w.Write(rec.Body.Bytes())
			return
		}
		if req.URL.Path == "/v2/" && lost.Load() && req.Header.Get("Authorization") == "" {
			w.Header().Set("Www-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if req.Method == http.MethodPost && req.URL.Query().Has("mount") { // it is to be copied
			req.URL.RawQuery = ""
		}
		if req.Method == http.MethodHead && strings.HasPrefix(req.URL.Path, "/v2/team/") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		images.ServeHTTP(w, req)
	}))
	pushBase(t, host+"/base:1")
	lost.Store(true)
	b := &Builder{Registry: remoteAt(t, "http://"+host+"/team", Password{"me", "hunter"}), Bases: t.TempDir(), Work: t.TempDir()}
	said := unreachable(t, b, wants(host+"/base:1", "me", "hunter"))
	if !strings.Contains(said, "docker.base_image_registry are wrong") || strings.Contains(said, "INNERSECRET") {
		t.Errorf("it says: %s", said)
	}
}

// A proxy that the environment names is used, wherever it is, and decides where base images come from.
func TestBaseImageThroughProxy(t *testing.T) {
	t.Parallel()
	const in = "BERTH_TEST_BASE_IMAGE"
	if host := os.Getenv(in); host != "" { // in the process that has a proxy
		ref, err := name.ParseReference(host + "/base:1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (&Builder{Registry: startRegistry(t, t.TempDir())}).fetch(t.Context(), ref, authn.Anonymous); err != nil {
			t.Error(err)
		}
		return
	}
	images := foreign.New(quiet)
	pushBase(t, serve(t, images)+"/base:1")
	var asked atomic.Int32
	proxy := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodGet && req.URL.Host == "registry.localhost:5000" { // a name that go-containerregistry asks without TLS
			asked.Add(1)
			images.ServeHTTP(w, req)
		}
	}))
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestBaseImageThroughProxy$")
	cmd.Env = append(os.Environ(), in+"=registry.localhost:5000", "HTTP_PROXY=http://"+proxy, "HTTPS_PROXY=http://"+proxy, "NO_PROXY=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if asked.Load() == 0 {
		t.Error("the proxy was not asked")
	}
}

// A build that is ended while it asks for its base image says nothing of that image, and may be begun again.
func TestBaseImageOfABuildThatEnds(t *testing.T) {
	t.Parallel()
	ctx, end := context.WithCancel(t.Context())
	host := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		end()
		<-req.Context().Done()
	}))
	b := &Builder{Registry: remoteAt(t, "http://"+host, nil), Bases: t.TempDir()}
	_, err := b.Environment(ctx, wants(host+"/base:1", "", ""), func(string) {})
	var user *UserError
	if !errors.Is(err, context.Canceled) || errors.As(err, &user) {
		t.Errorf("error %v", err)
	}
}
