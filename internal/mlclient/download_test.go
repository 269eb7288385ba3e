package mlclient

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/armclient"
)

// storage gives out files, and breaks off as it is told.
type storage struct {
	*httptest.Server
	mu     sync.Mutex
	files  map[string][]byte
	sum    func([]byte) string          // its Content-MD5
	limit  func(path string, n int) int // bytes of an answer, the n-th for the path, before the connection breaks; -1 for all
	status int                          // of every answer, 0 for the right one
	asked  map[string]int
	pages  [][]string // paths of the list of what is below a prefix
}

func newStorage(t *testing.T) (*storage, *Client) {
	t.Helper()
	s := &storage{
		files: map[string][]byte{}, asked: map[string]int{}, limit: func(string, int) int { return -1 },
		sum: func(data []byte) string { sum := md5.Sum(data); return base64.StdEncoding.EncodeToString(sum[:]) },
	}
	mux := http.NewServeMux()
	s.Server = httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	answer := func(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }
	mux.HandleFunc("GET /modelmanagement/v1.0/ws/assets/{id}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, map[string]any{"artifacts": []any{map[string]string{"prefix": "LocalUpload/c/" + r.PathValue("id")}}})
	})
	mux.HandleFunc("GET /artifact/v2.0/ws/artifacts/prefix/contentinfo/LocalUpload/c/{path...}", func(w http.ResponseWriter, r *http.Request) {
		n := 0
		_, _ = fmt.Sscan(r.URL.Query().Get("continuationToken"), &n) // 0 for none
		value, next := []any{}, any(nil)
		for _, file := range s.pages[n] {
			value = append(value, map[string]string{"path": file, "contentUri": s.URL + "/blob/" + file + "?sig=hidden"})
		}
		if n+1 < len(s.pages) {
			next = fmt.Sprint(n + 1)
		}
		answer(w, map[string]any{"value": value, "continuationToken": next})
	})
	mux.HandleFunc("GET /blob/{path...}", func(w http.ResponseWriter, r *http.Request) {
		file := r.PathValue("path")
		s.mu.Lock()
		s.asked[file]++
		n, data := s.asked[file], s.files[file]
		s.mu.Unlock()
		if r.Header.Get("Authorization") != "" {
			t.Error("storage got a token")
		}
		if s.status != 0 {
			w.WriteHeader(s.status)
			return
		}
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("Range") == "" {
			w.Header().Set("Content-MD5", s.sum(data))
		} else if r.Header.Get("If-Match") != `"1"` {
			t.Errorf("the rest of %s was asked for without saying of what", file)
		}
		if limit := s.limit(file, n); limit >= 0 {
			w = &breaking{ResponseWriter: w, left: limit}
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(data)))
	})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	pemOf(t, s.Server, ca)
	arm, err := armclient.New(armclient.Config{URL: s.URL, CAFile: ca, Tenant: "tenant", ClientID: "id", ClientSecret: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(arm.Close)
	mux.HandleFunc("GET /tenant/v2.0/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"issuer": s.URL + "/tenant/v2.0", "authorization_endpoint": s.URL + "/a", "token_endpoint": s.URL + "/token"})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"access_token": "secret", "expires_in": 3600, "token_type": "Bearer"})
	})
	return s, &Client{arm: arm, scope: "/ws", services: map[string]string{"modelmanagement": s.URL, "history": s.URL}, pause: time.Microsecond}
}

// breaking ends the connection after some bytes.
type breaking struct {
	http.ResponseWriter
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	if len(p) <= b.left {
		b.left -= len(p)
		return b.ResponseWriter.Write(p)
	}
	_, _ = b.ResponseWriter.Write(p[:b.left])
	b.ResponseWriter.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func noise(n int) []byte {
	r := rand.NewChaCha8([32]byte{1})
	out := make([]byte, n)
	_, _ = r.Read(out) // it never fails
	return out
}

// What breaks off goes on where it was, however often, and what is there has the right content.
func TestDownload(t *testing.T) {
	t.Parallel()
	s, c := newStorage(t)
	s.files = map[string][]byte{"folder/a": noise(300_000), "folder/in/b": []byte("b"), "folder/empty": {}}
	s.pages = [][]string{{"folder/a"}, {"folder/in/b", "folder/empty"}}
	s.limit = func(file string, n int) int {
		if file == "folder/a" && n <= 9 { // more often than a piece that does not go on is asked for
			return 20_000
		}
		return -1
	}
	files, err := c.Stored(t.Context(), "folder")
	if err != nil || len(files) != 3 {
		t.Fatal(files, err)
	}
	dir := filepath.Join(t.TempDir(), "new")
	var mu sync.Mutex
	most := int64(0)
	if err := c.Download(t.Context(), files, dir, false, func(n int64) { mu.Lock(); most = max(most, n); mu.Unlock() }); err != nil {
		t.Fatal(err)
	}
	for path, want := range s.files {
		got, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s has %d bytes, want %d (%v)", path, len(got), len(want), err)
		}
	}
	if most != 300_001 || s.asked["folder/a"] != 10 {
		t.Errorf("%d bytes were counted; folder/a was asked for %d times", most, s.asked["folder/a"])
	}
	// What is there is replaced only where that was asked for.
	s.files["folder/in/b"] = []byte("c")
	if err := c.Download(t.Context(), files, dir, false, func(int64) {}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over files that are there: %v", err)
	}
	if err := c.Download(t.Context(), files, dir, true, func(int64) {}); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "folder/in/b")); string(got) != "c" {
		t.Errorf("replaced, the file is %q", got)
	}
}

// What cannot be had in full leaves nothing behind, and says why without the signature.
func TestDownload_Fails(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(s *storage)
		says   string
		asked  int
	}{
		"damaged": {func(s *storage) {
			s.sum = func([]byte) string { return base64.StdEncoding.EncodeToString(make([]byte, 16)) }
		}, "checksum", 1},
		"gone":          {func(s *storage) { s.status = 404 }, "404", 1},
		"out of order":  {func(s *storage) { s.status = 503 }, "503", attempts},
		"never goes on": {func(s *storage) { s.limit = func(string, int) int { return 0 } }, "EOF", attempts},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, c := newStorage(t)
			s.files["f"] = noise(1000)
			tt.change(s)
			dir := t.TempDir()
			err := c.Download(t.Context(), []Stored{{Path: "f", URL: s.URL + "/blob/f?sig=hidden"}}, dir, false, func(int64) {})
			if err == nil || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "f") || strings.Contains(err.Error(), "hidden") {
				t.Errorf("the error is %v", err)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 || s.asked["f"] != tt.asked {
				t.Errorf("%v is left; it was asked for %d times, want %d", left, s.asked["f"], tt.asked)
			}
		})
	}
}

// Nothing is written outside of the folder, whatever the workspace's paths are.
func TestStored_Refused(t *testing.T) {
	t.Parallel()
	s, c := newStorage(t)
	for _, path := range []string{"../x", "a/../../x", "/x", ""} {
		s.pages = [][]string{{path}}
		if files, err := c.Stored(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "leads out") {
			t.Errorf("%q: %v %v", path, files, err)
		}
	}
	s.pages = [][]string{{}}
	if _, err := c.Stored(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "no files") {
		t.Errorf("without files: %v", err)
	}
}
