package image

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	foreign "github.com/google/go-containerregistry/pkg/registry"

	"github.com/berthdev/berth/internal/registry"
)

var quiet = foreign.Logger(log.New(io.Discard, "", 0))

// serve runs a handler, and returns its host and port.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func remoteAt(t *testing.T, address string, keys authn.Keychain) *Registry {
	t.Helper()
	r, err := Remote(address, keys)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRemote(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ address, host, server, refused string }{
		{"registry.example.com", "registry.example.com", "registry.example.com", ""},
		{"registry.example.com/team/ml", "registry.example.com/team/ml", "registry.example.com", ""},
		{"https://registry.example.com:5000/team/", "registry.example.com:5000/team", "registry.example.com:5000", ""},
		{"http://127.0.0.1:5000", "127.0.0.1:5000", "127.0.0.1:5000", ""},
		{"localhost/team", "localhost/team", "localhost", ""},
		{"[::1]:5000/team", "[::1]:5000/team", "[::1]:5000", ""},
		{"team/ml", "", "", "its host has a dot or a port"},
		{"", "", "", "its host has a dot or a port"},
		{"registry.example.com/Team", "", "", "small letters"},
		{"registry.example.com/a b", "", "", "small letters"},
		{"registry.example.com/..", "", "", "small letters"},
		{"ftp://registry.example.com", "", "", "is no registry"},
		{"registry.example.com/team?x=1", "", "", "small letters"},
		{"docker.io/team", "", "", "Docker Hub"},
		{"https://user:hunter2@registry.example.com", "", "", "docker login"},
	} {
		r, err := Remote(c.address, nil)
		if c.refused != "" {
			if err == nil || !strings.Contains(err.Error(), c.refused) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q: %v", c.address, err)
			}
			continue
		}
		if err != nil || r.Host != c.host || r.Server() != c.server || r.Insecure != strings.HasPrefix(c.address, "http://") || r.Own {
			t.Errorf("%q: %+v, %v", c.address, r, err)
		}
	}
}

// signIn writes what docker login writes.
func signIn(t *testing.T, host, user, password string) {
	t.Helper()
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	data := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, auth)
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Images go below the prefix with the credentials of docker login, and new ones are found at the next use: by pushes, and
// by what nodes show.
func TestRemoteCredentials(t *testing.T) { //nolint:paralleltest // of the environment
	t.Setenv("HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	inner := foreign.New(quiet)
	var password atomic.Value
	password.Store("hunter-one")
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		registry.Access{User: "robot", Password: password.Load().(string)}.Guard(inner).ServeHTTP(w, req)
	}))
	r := remoteAt(t, "http://"+host+"/team", authn.DefaultKeychain)
	push := func() (Reference, error) {
		return r.Files(t.Context(), "berth/models", "model:1", []File{text("a", "b")})
	}
	refused := func(what, with string) {
		t.Helper()
		_, err := push()
		var e *RegistryError
		if !errors.As(err, &e) || !strings.Contains(e.Message, with) || !strings.Contains(e.Message, "docker login "+host) || !strings.Contains(e.Message, "team/berth/models") {
			t.Errorf("%s: %v", what, err)
		}
		if strings.Contains(fmt.Sprint(err), "hunter") {
			t.Errorf("%s: a password is in %v", what, err)
		}
	}
	shown := func(want string) {
		t.Helper()
		got, err := r.PullConfig(t.Context())
		if err != nil || string(got) != want {
			t.Errorf("nodes show %s, %v; want %s", got, err, want)
		}
	}
	entry := func(password string) string {
		return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte("robot:"+password)))
	}
	refused("nobody", "Berth has no credentials for it")
	shown(`{"auths":{}}`)
	signIn(t, host, "robot", "hunter-one")
	ref, err := push()
	if err != nil || !strings.HasPrefix(string(ref), host+"/team/berth/models@sha256:") {
		t.Fatalf("pushed %s, %v", ref, err)
	}
	shown(entry("hunter-one"))
	password.Store("hunter-two")
	refused("an old password", "are wrong, or do not suffice")
	signIn(t, host, "robot", "hunter-two")
	if again, err := push(); err != nil || again != ref {
		t.Errorf("with the new password: %s, %v; want %s", again, err, ref)
	}
	shown(entry("hunter-two"))
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(`{"auths":"hunter-two"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := push(); err == nil || !strings.Contains(err.Error(), "cannot be read") || strings.Contains(err.Error(), "hunter") {
		t.Errorf("a damaged file: %v", err)
	}
	token := remoteAt(t, "http://"+host, fixed{authn.AuthConfig{IdentityToken: "hunter-token"}})
	if _, err := token.PullConfig(t.Context()); err == nil || !strings.Contains(err.Error(), "access token as the password") || strings.Contains(err.Error(), "hunter") {
		t.Errorf("a token for nodes: %v", err)
	}
}

type fixed struct{ is authn.AuthConfig }

func (f fixed) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(f.is), nil
}

// An image that is there is found without storing anything: tags may be immutable.
func TestRemoteTagsAreWrittenOnce(t *testing.T) {
	t.Parallel()
	inner := foreign.New(quiet)
	var stored atomic.Int32
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/") {
			stored.Add(1)
		}
		inner.ServeHTTP(w, req)
	}))
	r := remoteAt(t, "http://"+host+"/team", nil)
	for range 2 {
		if _, err := r.Files(t.Context(), "berth/models", "model:1", []File{text("a", "b")}); err != nil {
			t.Fatal(err)
		}
	}
	if n := stored.Load(); n != 1 {
		t.Errorf("the manifest was stored %d times", n)
	}
}

// What is wrong with a registry is said by name, with what to do about it.
func TestRemoteTroubles(t *testing.T) {
	t.Parallel()
	refusing := func(status int, code, message string) string {
		return serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/v2/" {
				return
			}
			if req.Method == http.MethodGet || req.Method == http.MethodHead { // it is not there yet
				status, code := http.StatusNotFound, "MANIFEST_UNKNOWN"
				w.WriteHeader(status)
				_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]any{"code": code}}})
				return
			}
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]any{"code": code, "message": message}}})
		}))
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	selfSigned := httptest.NewUnstartedServer(foreign.New(quiet))
	selfSigned.Config.ErrorLog = log.New(io.Discard, "", 0)
	selfSigned.StartTLS()
	t.Cleanup(selfSigned.Close)
	plain := serve(t, foreign.New(quiet))
	for name, c := range map[string]struct {
		address string
		says    []string
	}{
		"down":               {"http://" + gone.Listener.Addr().String(), []string{"cannot be reached from Berth's machine", "connection refused", "Check that it runs"}},
		"down, with TLS":     {gone.Listener.Addr().String(), []string{"cannot be reached"}},
		"no such host":       {"registry.invalid/team", []string{"cannot be found", "registry.invalid", "berth up --registry"}},
		"plain HTTP":         {plain + "/team", []string{"does not speak TLS", "berth up --registry http://" + plain + "/team"}},
		"untrusted":          {selfSigned.Listener.Addr().String(), []string{"certificate of the registry", "is not trusted", "SSL_CERT_FILE"}},
		"denied":             {"http://" + refusing(403, "DENIED", "robots may not push"), []string{"denies access to the repository berth/models (DENIED: robots may not push)", "docker login"}},
		"no such repository": {"http://" + refusing(404, "NAME_UNKNOWN", "no repository") + "/team", []string{"The repository team/berth/models does not exist", "Create it there"}},
		"too large":          {"http://" + refusing(413, "SIZE_INVALID", "quota exceeded"), []string{"answers with status 413", "quota exceeded"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := remoteAt(t, c.address, nil).Files(t.Context(), "berth/models", "model:1", []File{text("a", "b")})
			var e *RegistryError
			if !errors.As(err, &e) {
				t.Fatalf("error %v", err)
			}
			for _, text := range c.says {
				if !strings.Contains(e.Message, text) {
					t.Errorf("it does not say %q: %s", text, e.Message)
				}
			}
		})
	}
}

// A file that cannot be read is no fault of the registry's.
func TestRemoteSourceFails(t *testing.T) {
	t.Parallel()
	r := remoteAt(t, "http://"+serve(t, foreign.New(quiet)), nil)
	broken, reads := errors.New("the file is gone"), 0
	file := File{Path: "a", Size: 1, Open: func(context.Context) (io.ReadCloser, error) {
		if reads++; reads > 1 { // it names the layer, and goes before it is sent
			return nil, broken
		}
		return io.NopCloser(strings.NewReader("x")), nil
	}}
	_, err := r.Files(t.Context(), "berth/models", "model:1", []File{file})
	var e *RegistryError
	if !errors.Is(err, broken) || errors.As(err, &e) {
		t.Errorf("error %v", err)
	}
}
