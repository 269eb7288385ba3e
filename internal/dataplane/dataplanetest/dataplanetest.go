// Package dataplanetest runs nouns of the data plane for tests: over HTTP, on a real store and real blobs, with
// one workspace and callers that may read, write or nothing.
package dataplanetest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/arm/armhttp"
	"github.com/berthdev/berth/internal/arm/armid"
	"github.com/berthdev/berth/internal/arm/resource"
	"github.com/berthdev/berth/internal/blob"
	"github.com/berthdev/berth/internal/dataplane"
	"github.com/berthdev/berth/internal/seal"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/sqlite"
)

// Tokens of callers. Without one a caller is nobody.
const (
	Writer   = "writer"
	Reader   = "reader"
	Stranger = "stranger" // is known, and may do nothing
)

// Noun is a part of the data plane.
type Noun interface{ Register(srv *dataplane.Server) }

// Typed is a Noun with rows of its own.
type Typed interface{ Types() []*resource.Type }

// Server is a data plane with one workspace.
type Server struct {
	T         *testing.T
	Workspace armid.ID
	Manager   *resource.Manager
	Blobs     *blob.Store
	BlobsDir  string // where Blobs keeps its files
	Token     string
	Header    http.Header // sent with every request

	at    *url.URL
	blobs http.Handler
	mu    *sync.Mutex
	now   *time.Time
}

// Start runs nouns, which nouns returns, until the test ends.
func Start(t *testing.T, nouns func(s *Server) []Noun) *Server {
	t.Helper()
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	s := &Server{T: t, Workspace: armid.MustParse("/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"), Token: Writer, mu: &sync.Mutex{}, now: &now}
	dir := t.TempDir()
	keys, err := seal.Open(filepath.Join(dir, "key"))
	check(t, err)
	st, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(dir, "db"), Sealer: keys})
	check(t, err)
	t.Cleanup(func() { check(t, st.Close()) })
	s.BlobsDir = filepath.Join(dir, "blobs")
	s.Blobs, err = blob.Open(t.Context(), "file://"+filepath.ToSlash(s.BlobsDir)+"?create_dir=true&no_tmp_dir=true", bytes.Repeat([]byte("k"), 32), s.Now)
	check(t, err)
	t.Cleanup(func() { check(t, s.Blobs.Close()) })
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	s.blobs = s.Blobs.Handler(log)
	s.Manager = &resource.Manager{
		Store: st, Now: s.Now, NewID: uuid.NewString, Logger: log, Jitter: func() float64 { return 0 },
		Locate: func(name string) (string, bool) { return name, true },
	}
	srv := &dataplane.Server{Manager: s.Manager, Access: access{}, Logger: log}
	var types []*resource.Type
	for _, n := range nouns(s) {
		n.Register(srv)
		if typed, ok := n.(Typed); ok {
			types = append(types, typed.Types()...)
		}
	}
	s.Manager.Registry, err = resource.NewRegistry(types...)
	check(t, err)
	check(t, st.Update(t.Context(), func(tx store.Tx) error {
		for _, id := range []armid.ID{s.Workspace.SubscriptionScope(), s.Workspace.GroupScope(), s.Workspace} {
			if err := tx.Create(&store.Resource{Key: id.Key(), ID: id.String(), Type: strings.ToLower(id.Type()), Spec: json.RawMessage(`{}`), State: resource.StateSucceeded}); err != nil {
				return err
			}
		}
		return nil
	}))
	web := httptest.NewServer(srv)
	t.Cleanup(web.Close)
	s.at, err = url.Parse(web.URL)
	check(t, err)
	return s
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Now is the server's time, which Advance moves.
func (s *Server) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.now
}

// Advance moves the server's time.
func (s *Server) Advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*s.now = s.now.Add(d)
}

// Due has the reconciler look at what is due in this millisecond, again and again until nothing is. Builds it does not wait for.
func (s *Server) Due() {
	s.T.Helper()
	for range 1000 {
		ups, err := s.Manager.Store.LeaseDue(context.Background(), s.Now().Add(time.Millisecond), "test", time.Minute, 100)
		check(s.T, err)
		if len(ups) == 0 {
			return
		}
		for _, up := range ups {
			check(s.T, s.Manager.Reconcile(context.Background(), up))
		}
	}
	s.T.Fatal("the reconciler never rests")
}

// As is the server for another caller, "" for nobody.
func (s *Server) As(token string) *Server {
	other := *s
	other.Token = token
	return &other
}

// In is the server for another workspace, which need not be there.
func (s *Server) In(workspace string) *Server {
	other := *s
	other.Workspace = armid.MustParse(workspace)
	return &other
}

// With is the server for requests that have headers.
func (s *Server) With(h http.Header) *Server {
	other := *s
	other.Header = h
	return &other
}

type access struct{}

func (access) Authenticate(r *http.Request) (armhttp.Caller, error) {
	name, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || name == "" {
		return armhttp.Caller{}, &armerr.Error{Status: http.StatusUnauthorized, Code: armerr.CodeAuthenticationFailed, Message: "Authentication failed. Send a token."}
	}
	return armhttp.Caller{ObjectID: "oid-of-" + name, Name: name, Kind: "User"}, nil
}

func (access) Allowed(_ context.Context, c armhttp.Caller, action string, _ armid.ID) (bool, error) {
	return c.Name == Writer || c.Name == Reader && strings.HasSuffix(action, "/read"), nil
}

// Reply is an answer.
type Reply struct {
	Status int
	Header http.Header
	Body   map[string]any
	Raw    string
}

// At is the value at a path of the body, such as error.details.0.code.
func (r Reply) At(path string) any {
	var v any = r.Body
	for key := range strings.SplitSeq(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[key]
		case []any:
			v = nil
			if i := strings.Index("0123456789", key); len(key) == 1 && i >= 0 && i < len(at) {
				v = at[i]
			}
		default:
			return nil
		}
	}
	return v
}

// Strings are the values of a field in the items of the list value.
func (r Reply) Strings(field string) []string {
	out := []string{}
	items, _ := r.Body["value"].([]any)
	for _, item := range items {
		text, _ := item.(map[string]any)[field].(string)
		out = append(out, text)
	}
	return out
}

// Do sends a request to a path below {prefix}{workspace}, or to an absolute URL of the server's.
func (s *Server) Do(method, prefix, path, body string) Reply {
	s.T.Helper()
	target := s.at.String() + prefix + s.Workspace.String() + path
	if strings.HasPrefix(path, "https://") {
		target = s.at.String() + strings.TrimPrefix(path, "https://"+s.at.Host)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, target, strings.NewReader(body))
	check(s.T, err)
	for k, v := range s.Header {
		req.Header[k] = v
	}
	if s.Token != "" {
		req.Header.Set("Authorization", "Bearer "+s.Token)
	}
	res, err := http.DefaultTransport.RoundTrip(req) // without following redirects
	check(s.T, err)
	defer func() { _ = res.Body.Close() }() // it was only read
	data, err := io.ReadAll(res.Body)
	check(s.T, err)
	r := Reply{Status: res.StatusCode, Header: res.Header, Raw: string(data)}
	_ = json.Unmarshal(data, &r.Body) // what is no object has no fields
	return r
}

// Want is Do for an answer that has to have a status.
func (s *Server) Want(status int, method, prefix, path, body string) Reply {
	s.T.Helper()
	r := s.Do(method, prefix, path, body)
	if r.Status != status {
		s.T.Fatalf("%s %s: status %d, want %d\n%s", method, path, r.Status, status, r.Raw)
	}
	return r
}

// Refused is Want for an error, which has to be told as these APIs do, with the code and all of the texts.
func (s *Server) Refused(status int, code, method, prefix, path, body string, texts ...string) Reply {
	s.T.Helper()
	r := s.Want(status, method, prefix, path, body)
	message, _ := r.At("message").(string)
	id, _ := r.At("correlation.RequestId").(string)
	if r.At("error.code") != code || r.Header.Get("x-ms-error-code") != code || r.At("statusCode") != float64(status) ||
		message == "" || r.At("error.message") != message || r.At("details.0.code") == nil || id == "" || id != r.Header.Get("x-ms-request-id") {
		s.T.Errorf("%s %s: the error is not as these APIs tell it, with the code %s: %s", method, path, code, r.Raw)
	}
	for _, text := range texts {
		if !strings.Contains(message, text) {
			s.T.Errorf("%s %s: the message lacks %q: %s", method, path, text, message)
		}
	}
	return r
}

// Blob sends a request to a signed URL.
func (s *Server) Blob(method, signed, body string) Reply {
	s.T.Helper()
	u, err := url.Parse(signed)
	check(s.T, err)
	req := httptest.NewRequestWithContext(context.Background(), method, signed, strings.NewReader(body))
	req.Host = u.Host
	req.Header.Set("x-ms-blob-type", "BlockBlob")
	w := httptest.NewRecorder()
	s.blobs.ServeHTTP(w, req)
	return Reply{Status: w.Code, Header: w.Header(), Raw: w.Body.String()}
}

// Upload makes artifacts, as azureml-core does: files are pairs of paths in the container and content.
func (s *Server) Upload(container string, files ...string) {
	s.T.Helper()
	for i := 0; i < len(files); i += 2 {
		body, err := json.Marshal(map[string]any{"paths": []any{map[string]string{"path": files[i]}}})
		check(s.T, err)
		r := s.Want(200, "POST", dataplane.Artifacts, "/artifacts/batch/metadata/LocalUpload/"+container, string(body))
		infos, _ := r.Body["artifactContentInformation"].(map[string]any)
		info, _ := infos[files[i]].(map[string]any)
		at, _ := info["contentUri"].(string)
		if put := s.Blob("PUT", at, files[i+1]); put.Status != 201 {
			s.T.Fatalf("uploading %s to %q: %d %s", files[i], at, put.Status, put.Raw)
		}
	}
}
