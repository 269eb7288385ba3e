package mlclient

import (
	"context"
	"crypto/md5"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/internal/armclient"
)

const workspace = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"

const block = 1 << 10 // bytes, so that small files have several

// stub is sign-in, ARM and a data plane with storage, in one server.
type stub struct {
	*httptest.Server
	mu       sync.Mutex
	blobs    map[string][]byte
	blocks   map[string][]byte
	puts     map[string]int // by path and block
	refuse   func(path string, attempt int) *refusal
	polls    []string // answers about the operation; the last one stays
	offsets  []string
	patched  string // content type of the last PATCH
	discover map[string]string
}

func newStub(t *testing.T) (*stub, *Client) {
	t.Helper()
	s := &stub{blobs: map[string][]byte{}, blocks: map[string][]byte{}, puts: map[string]int{}, refuse: func(string, int) *refusal { return nil }}
	mux := http.NewServeMux()
	s.Server = httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	s.discover = map[string]string{"modelmanagement": s.URL, "history": s.URL + "/", "experimentation": s.URL}
	answer := func(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }
	mux.HandleFunc("GET /tenant/v2.0/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"issuer": s.URL + "/tenant/v2.0", "authorization_endpoint": s.URL + "/a", "token_endpoint": s.URL + "/token"})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"access_token": "secret", "expires_in": 3600, "token_type": "Bearer"})
	})
	mux.HandleFunc("GET "+workspace, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"properties": map[string]any{"discoveryUrl": s.URL + "/discovery"}})
	})
	mux.HandleFunc("GET /discovery", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("discovery got a token")
		}
		answer(w, s.discover)
	})
	mux.HandleFunc("POST /artifact/v2.0"+workspace+"/artifacts/batch/metadata/LocalUpload/{container}", func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Paths []struct{ Path string } }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || len(body.Paths) > perCall {
			t.Errorf("%d paths in one call, error %v", len(body.Paths), err)
		}
		infos := map[string]any{}
		for _, p := range body.Paths {
			infos[p.Path] = map[string]any{"contentUri": s.URL + (&url.URL{Path: "/blob/" + r.PathValue("container") + "/" + p.Path}).EscapedPath() + "?sig=hidden"}
		}
		answer(w, map[string]any{"artifactContentInformation": infos})
	})
	mux.HandleFunc("PUT /blob/{path...}", func(w http.ResponseWriter, r *http.Request) { s.put(t, w, r) })
	mux.HandleFunc("GET /modelmanagement/v1.0"+workspace+"/operations/{id}", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.offsets = append(s.offsets, r.URL.Query().Get("offset"))
		_, _ = io.WriteString(w, s.polls[0])
		if len(s.polls) > 1 {
			s.polls = s.polls[1:]
		}
	})
	mux.HandleFunc("PATCH /modelmanagement/v1.0"+workspace+"/services/svc", func(w http.ResponseWriter, r *http.Request) {
		s.patched = r.Header.Get("Content-Type")
		w.Header().Set("Operation-Location", "https://elsewhere/operations/op-1")
		w.WriteHeader(http.StatusAccepted)
	})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	pemOf(t, s.Server, ca)
	arm, err := armclient.New(armclient.Config{URL: s.URL, CAFile: ca, Tenant: "tenant", ClientID: "id", ClientSecret: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(arm.Close)
	c, err := Open(t.Context(), arm, workspace, "2024-04-01")
	if err != nil {
		t.Fatal(err)
	}
	c.block, c.pause, c.poll = block, time.Microsecond, time.Microsecond
	return s, c
}

// pemOf writes a server's certificate to a file.
func pemOf(t *testing.T, s *httptest.Server, file string) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// put is Put Blob, Put Block and Put Block List.
func (s *stub) put(t *testing.T, w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		t.Error("storage got a token")
	}
	data, err := io.ReadAll(r.Body)
	sum := md5.Sum(data)
	if err != nil || r.Header.Get("Content-MD5") != base64.StdEncoding.EncodeToString(sum[:]) {
		t.Errorf("%s: the checksum is not the content's, error %v", r.URL, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name, q := r.PathValue("path"), r.URL.Query()
	key := name + " " + q.Get("comp") + q.Get("blockid")
	s.puts[key]++
	if f := s.refuse(key, s.puts[key]); f != nil {
		if f.status == 0 {
			panic(http.ErrAbortHandler) // the connection breaks
		}
		w.WriteHeader(f.status)
		_ = xml.NewEncoder(w).Encode(struct {
			XMLName xml.Name `xml:"Error"`
			Code    string
			Message string
		}{Code: f.Code, Message: f.Message})
		return
	}
	switch q.Get("comp") {
	case "":
		s.blobs[name] = data
	case "block":
		s.blocks[name+" "+q.Get("blockid")] = data
	case "blocklist":
		var list struct{ Latest []string }
		if err := xml.Unmarshal(data, &list); err != nil {
			t.Error(err)
		}
		for _, id := range list.Latest {
			s.blobs[name] = append(s.blobs[name], s.blocks[name+" "+id]...)
		}
	}
	w.WriteHeader(http.StatusCreated)
}

// write makes a folder with files of random content.
func write(t *testing.T, sizes map[string]int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	for name, size := range sizes {
		data := make([]byte, size)
		_, _ = rand.Read(data)
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestUpload(t *testing.T) {
	t.Parallel()
	many := map[string]int{}
	for i := range 2*perCall + 1 {
		many[fmt.Sprintf("f%03d", i)] = i
	}
	for name, sizes := range map[string]map[string]int{
		"small, empty and with odd names": {"a": 5, "empty": 0, "sub folder/b?%#ö.txt": 7},
		"at the limit and beyond":         {"one": block, "two": block + 1, "three": 2*block + 5},
		"more than one call takes":        many,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, c := newStub(t)
			dir := write(t, sizes)
			base, files, err := Tree(dir)
			if err != nil || base != "model" || len(files) != len(sizes) {
				t.Fatalf("Tree: %q, %d files, %v", base, len(files), err)
			}
			var mu sync.Mutex
			var most int64
			err = c.Upload(t.Context(), "box", files, func(n int64) {
				mu.Lock()
				defer mu.Unlock()
				most = max(most, n)
			})
			if err != nil {
				t.Fatal(err)
			}
			var total int64
			for _, f := range files {
				want, err := os.ReadFile(f.Local)
				if err != nil {
					t.Fatal(err)
				}
				if got, ok := s.blobs["box/"+f.Path]; !ok || string(got) != string(want) {
					t.Errorf("%s arrived as %d bytes (there: %v); want the %d of the file", f.Path, len(got), ok, len(want))
				}
				total += f.Size
			}
			if most != total {
				t.Errorf("%d bytes are reported at the end; want %d", most, total)
			}
		})
	}
}

// A piece that does not arrive is sent again, alone.
func TestUpload_Again(t *testing.T) {
	t.Parallel()
	s, c := newStub(t)
	_, files, err := Tree(filepath.Join(write(t, map[string]int{"big": 3*block + 1}), "big"))
	if err != nil {
		t.Fatal(err)
	}
	broken := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%016d", 1))
	s.refuse = func(key string, attempt int) *refusal {
		switch {
		case strings.HasSuffix(key, "block"+broken) && attempt == 1:
			return &refusal{status: 503, Code: "ServerBusy"}
		case strings.HasSuffix(key, "block"+broken) && attempt == 2:
			return &refusal{status: 400, Code: "Md5Mismatch"}
		}
		return nil
	}
	if err := c.Upload(t.Context(), "box", files, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	counts := slices.Sorted(maps.Values(s.puts))
	if want := []int{1, 1, 1, 1, 3}; !slices.Equal(counts, want) { // four blocks and their list
		t.Errorf("the pieces were sent %v times; want %v", counts, want)
	}
	want, err := os.ReadFile(files[0].Local)
	if err != nil || string(s.blobs["box/big"]) != string(want) {
		t.Errorf("what arrived is not the file (%v)", err)
	}
}

func TestUpload_Refused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		refusal  refusal
		attempts int
	}{
		"for good":           {refusal{status: 403, Code: "AuthenticationFailed", Message: "The signature has expired."}, 1},
		"every time it asks": {refusal{status: 500, Code: "InternalError", Message: "Try again."}, attempts},
		"by nobody":          {refusal{Message: "EOF"}, attempts},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, c := newStub(t)
			s.refuse = func(string, int) *refusal { return &tc.refusal }
			_, files, err := Tree(filepath.Join(write(t, map[string]int{"a": 1}), "a"))
			if err != nil {
				t.Fatal(err)
			}
			err = c.Upload(t.Context(), "box", files, func(int64) {})
			if err == nil || !strings.Contains(err.Error(), files[0].Local) || !strings.Contains(err.Error(), tc.refusal.Message) || strings.Contains(err.Error(), "hidden") {
				t.Errorf("the error is %v; want the file, the reason, and no signature", err)
			}
			if n := s.puts["box/a "]; n != tc.attempts {
				t.Errorf("it was sent %d times; want %d", n, tc.attempts)
			}
		})
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	failed := `{"id":"op-1","state":"Failed","operationDetails":{"subOperationType":"DeployService"},"error":{"code":"CrashLoopBackOff","message":"It ends.","statusCode":400}}`
	for name, tc := range map[string]struct {
		polls []string
		said  []string
		code  string
	}{
		"success": {
			[]string{`{"state":"NotStarted"}`, `{"state":"Running","streamingOperationLog":"20260101000000|Registering – now.#20260101000000|Packing.#"}`, `{"state":"Succeeded","streamingOperationLog":"20260101000001|Serves.#"}`},
			[]string{"", "Registering – now.", "Packing.", "Serves."}, "",
		},
		"failure":   {[]string{failed}, nil, "CrashLoopBackOff"},
		"no reason": {[]string{`{"id":"op-1","state":"TimedOut","error":null}`}, nil, "OperationTimedOut"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, c := newStub(t)
			s.polls = tc.polls
			res, err := c.Do(t.Context(), http.MethodPatch, c.Models("/services/svc"), nil, []any{})
			if err != nil {
				t.Fatal(err)
			}
			if s.patched != "application/json-patch+json" {
				t.Errorf("the patch was sent as %q", s.patched)
			}
			var said []string
			err = c.Wait(t.Context(), res, func(line string) { said = append(said, line) })
			var failure *Failure
			var reason *armclient.Error
			switch {
			case tc.code == "" && err != nil:
				t.Fatal(err)
			case tc.code != "" && (!errors.As(err, &failure) || !errors.As(err, &reason) || reason.Code != tc.code || reason.Message == ""):
				t.Errorf("the error is %v; want one with the code %s", err, tc.code)
			}
			if diff := cmp.Diff(tc.said, said); diff != "" {
				t.Errorf("what was said (-want +got):\n%s", diff)
			}
			if name == "success" {
				if want := []string{"0", "0", "58"}; !slices.Equal(s.offsets, want) { // characters, not bytes
					t.Errorf("the offsets are %v; want %v", s.offsets, want)
				}
			}
		})
	}
}

func TestWait_Interrupted(t *testing.T) {
	t.Parallel()
	s, c := newStub(t)
	s.polls = []string{`{"state":"Running"}`}
	res, err := c.Do(t.Context(), http.MethodPatch, c.Models("/services/svc"), nil, []any{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := c.Wait(ctx, res, func(string) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v; want that of the context", err)
	}
}

func TestOpen_Errors(t *testing.T) {
	t.Parallel()
	s, c := newStub(t)
	delete(s.discover, "history")
	if _, err := Open(t.Context(), c.arm, workspace, "2024-04-01"); err == nil || !strings.Contains(err.Error(), "history") {
		t.Errorf("a discovery document without artifacts: %v", err)
	}
	var missing *armclient.Error
	if _, err := Open(t.Context(), c.arm, workspace+"2", "2024-04-01"); !errors.As(err, &missing) || missing.Status != http.StatusNotFound {
		t.Errorf("a workspace that is not there: %v", err)
	}
}
