package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	foreign "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/berthdev/berth/internal/memtest"
	"github.com/berthdev/berth/internal/registry"
)

// hosted is a registry as clouds have them: a token server that signs in for one repository at a time, and blobs on a
// server of their own, to which it redirects.
type hosted struct {
	t        *testing.T
	host     string
	password atomic.Value
	blobs    string // the other server's

	mu     sync.Mutex
	tokens map[string]string // scope by token
	asked  int               // for tokens
}

func startHosted(t *testing.T) *hosted {
	t.Helper()
	h := &hosted{t: t, tokens: map[string]string{}}
	h.password.Store("hunter-one")
	inner := foreign.New(quiet)
	h.blobs = serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "" {
			t.Error("credentials went to the server of blobs")
		}
		rec := httptest.NewRecorder()
		inner.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, req.URL.Path, nil))
		if rec.Code != http.StatusOK {
			w.WriteHeader(rec.Code)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(rec.Body.Bytes()))
	}))
	h.host = serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/token" {
			h.token(w, req)
			return
		}
		token := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
		h.mu.Lock()
		scope := h.tokens[token]
		h.mu.Unlock()
		repo, _, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/v2/"), "/blobs/")
		repo, _, _ = strings.Cut(repo, "/manifests/")
		if scope == "" || req.URL.Path != "/v2/" && !strings.HasPrefix(scope, "repository:"+repo+":") {
			w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, h.host))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/sha256:") {
			http.Redirect(w, req, "http://"+h.blobs+req.URL.Path+"?signature=hunter", http.StatusTemporaryRedirect)
			return
		}
		inner.ServeHTTP(w, req)
	}))
	return h
}

func (h *hosted) token(w http.ResponseWriter, req *http.Request) {
	user, password, _ := req.BasicAuth()
	if user != "robot" || password != h.password.Load() {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"wrong password"}]}`)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	token := fmt.Sprint("token-", h.asked)
	h.tokens[token] = req.URL.Query().Get("scope")
	_ = json.NewEncoder(w).Encode(map[string]string{"token": token})
}

// rotate changes the password, and ends all tokens.
func (h *hosted) rotate(password string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.tokens)
	h.password.Store(password)
}

// rotating is a keychain whose password changes.
type rotating struct{ atomic.Value }

func (r *rotating) Resolve(authn.Resource) (authn.Authenticator, error) {
	return &authn.Basic{Username: "robot", Password: r.Load().(string)}, nil
}

func get(t *testing.T, method, url string, header map[string]string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("berth", testPassword)
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(body)
}

// A node that knows only Berth's password fetches an image whole, by a way that a registry with tokens and redirects does
// not notice; and gets nothing else there.
func TestThrough(t *testing.T) {
	t.Parallel()
	h := startHosted(t)
	keys := &rotating{}
	keys.Store("hunter-one")
	r := remoteAt(t, "http://"+h.host+"/team", keys)
	ref, err := r.Files(t.Context(), "berth/models", "model:1", []File{text("weights", strings.Repeat("0123456789", 1000))})
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	node := serve(t, registry.Access{User: "berth", Password: testPassword}.Guard(r.Through(slog.New(slog.NewTextHandler(&said, nil)))))
	pulled, err := name.NewDigest(node+strings.TrimPrefix(string(ref), h.host), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	as := func(password string) []remote.Option {
		return []remote.Option{remote.WithContext(t.Context()), remote.WithAuthFromKeychain(Password{"berth", password})}
	}
	img, err := remote.Image(pulled, as(testPassword)...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Image(pulled, as("guess")...); err == nil {
		t.Error("a wrong password was accepted")
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := layers[0].Compressed() // which compares the digest when it ends
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, rc); err != nil || n < 10000 {
		t.Errorf("the layer has %d bytes, %v", n, err)
	}
	_ = rc.Close() // it was only read
	at := "http://" + node + "/v2/team/berth/models/"
	blob := at + "blobs/" + digest.String()
	_, _, whole := get(t, http.MethodGet, blob, nil)
	if status, header, part := get(t, http.MethodGet, blob, map[string]string{"Range": "bytes=600-699"}); status != http.StatusPartialContent || part != whole[600:700] || header.Get("Content-Range") == "" {
		t.Errorf("a range: %d %v %q", status, header, part)
	}
	if status, header, _ := get(t, http.MethodHead, at+"manifests/"+ref.Digest(), nil); status != http.StatusOK || header.Get("Docker-Content-Digest") != ref.Digest() || header.Get("Content-Length") == "" {
		t.Errorf("HEAD: %d %v", status, header)
	}
	h.mu.Lock()
	asked := h.asked
	h.mu.Unlock()
	if asked > 5 {
		t.Errorf("%d tokens were asked for", asked)
	}
	// Not through here: what is not Berth's, what is not named by its content, and changes.
	if _, err := remoteAt(t, "http://"+h.host, keys).Files(t.Context(), "other/private", "k", []File{text("a", "b")}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"other/private/manifests/" + ref.Digest(), "team/other/manifests/" + ref.Digest(), "team/berth/../../other/private/manifests/" + ref.Digest(),
		"team/berth/models/manifests/latest", "team/berth/models/tags/list", "_catalog", "team/berth/models/manifests/sha256:12",
	} {
		if status, _, body := get(t, http.MethodGet, "http://"+node+"/v2/"+path, nil); status != http.StatusNotFound || !strings.Contains(body, "NAME_UNKNOWN") {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	for _, method := range []string{http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		if status, _, _ := get(t, method, at+"manifests/"+ref.Digest(), nil); status != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, status)
		}
	}
	absent := "sha256:" + strings.Repeat("0", 64)
	if status, _, body := get(t, http.MethodGet, at+"manifests/"+absent, nil); status != http.StatusNotFound || !strings.Contains(body, "MANIFEST_UNKNOWN") {
		t.Errorf("an absent manifest: %d %s", status, body)
	}
	if status, _, body := get(t, http.MethodGet, at+"blobs/"+absent, nil); status != http.StatusNotFound || !strings.Contains(body, "BLOB_UNKNOWN") {
		t.Errorf("an absent blob: %d %s", status, body)
	}
	// New credentials are found; without them the node is told why, and not that its own are wrong.
	h.rotate("hunter-two")
	if status, _, body := get(t, http.MethodGet, blob, nil); status != http.StatusBadGateway || !strings.Contains(body, "are wrong, or do not suffice") || strings.Contains(body, "hunter") {
		t.Errorf("with an old password: %d %s", status, body)
	}
	keys.Store("hunter-two")
	if status, _, body := get(t, http.MethodGet, blob, nil); status != http.StatusOK || body != whole {
		t.Errorf("with the new password: %d", status)
	}
	if strings.Contains(said.String(), "hunter") {
		t.Errorf("a secret is in the log: %s", said.String())
	}
}

// A pull that breaks off in the registry breaks off for the node, too, and its error does not tell the signed address.
func TestThroughBreaksOff(t *testing.T) {
	t.Parallel()
	cut := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case strings.HasSuffix(req.URL.Path, "0"):
			http.Redirect(w, req, "http://127.0.0.1:1/blob?signature=hunter", http.StatusTemporaryRedirect)
		case strings.Contains(req.URL.Path, "/blobs/"):
			w.(http.Flusher).Flush()            // so that no length is announced
			_, _ = w.Write(make([]byte, 1<<20)) // more than is buffered on the way
			panic(http.ErrAbortHandler)
		}
	}))
	var said strings.Builder
	node := serve(t, remoteAt(t, "http://"+cut, nil).Through(slog.New(slog.NewTextHandler(&said, nil))))
	blobs := "http://" + node + "/v2/berth/models/blobs/sha256:"
	res, err := http.Get(blobs + strings.Repeat("1", 64))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	if body, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("half a blob came as a whole one, of %d bytes", len(body))
	}
	status, _, body := get(t, http.MethodGet, blobs+strings.Repeat("0", 64), nil)
	if status != http.StatusBadGateway || !strings.Contains(body, "cannot be reached") || strings.Contains(body+said.String(), "hunter") {
		t.Errorf("%d %s, and the log has %s", status, body, said.String())
	}
}

// A large layer passes through in constant memory.
func TestLargeThrough(t *testing.T) { //nolint:paralleltest // it measures the process
	size := memtest.Size(t)
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.Contains(req.URL.Path, "/blobs/") {
			w.Header().Set("Content-Length", fmt.Sprint(size))
			_, _ = io.Copy(w, memtest.Content(1, size)) // the reader sees what is missing
		}
	}))
	node := serve(t, remoteAt(t, "http://"+host, nil).Through(slog.New(slog.DiscardHandler)))
	memtest.Peak(t, "pull", func() error {
		res, err := http.Get("http://" + node + "/v2/berth/models/blobs/sha256:" + strings.Repeat("0", 64))
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }() // it was only read
		n, err := io.Copy(io.Discard, res.Body)
		if err == nil && n != size {
			err = fmt.Errorf("%d bytes came, want %d", n, size)
		}
		return err
	})
}
