package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/berthdev/berth/internal/identity/identitytest"
	"github.com/berthdev/berth/internal/store"
)

const (
	testTenant = "5f0c1e1e-8a0b-4a3c-9d57-0f5f3b9c2a11"
	testBase   = "https://localhost:8443"
	azClient   = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"
)

// clock is a clock that stands until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// signingKeyForTests spares every test the making of a key.
var signingKeyForTests = sync.OnceValue(func() *signingKey {
	key, err := newSigningKey(time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC))
	if err != nil {
		panic(err)
	}
	return key
})

// fixture is a service with one service principal and one user.
type fixture struct {
	*Service
	t       *testing.T
	store   *identitytest.Values
	clock   *clock
	log     *bytes.Buffer
	handler http.Handler
	program Credentials
	person  Principal
}

const personPassword = "correct horse battery"

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{
		store: new(identitytest.Values),
		clock: &clock{now: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)},
		log:   new(bytes.Buffer),
	}
	f.t, _ = t.(*testing.T)
	key := signingKeyForTests()
	if err := f.store.Update(context.Background(), func(tx store.Tx) error { return putJSON(tx, bucketKeys, key.id, key) }); err != nil {
		t.Fatal(err)
	}
	f.Service = f.reopen(t)
	f.handler = f.Handler()
	ctx := context.Background()
	var err error
	if f.program, err = f.CreateServicePrincipal(ctx, "ci"); err != nil {
		t.Fatal(err)
	}
	if f.person, err = f.CreateUser(ctx, "ada@example.com", personPassword); err != nil {
		t.Fatal(err)
	}
	return f
}

// reopen returns another service over the same store, as after a restart or in
// another replica.
func (f *fixture) reopen(t testing.TB) *Service {
	t.Helper()
	s, err := New(Config{
		Store: f.store, Tenant: testTenant, BaseURLs: []string{testBase, "https://127.0.0.1:8443"}, Clock: f.clock.Now,
		Logger: slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.hashCost = bcrypt.MinCost
	return s
}

// do sends a request to the login host and decodes the answer's JSON, if it is JSON.
func (f *fixture) do(method, path string, form url.Values, headers ...string) (*httptest.ResponseRecorder, map[string]any) {
	f.t.Helper()
	r := httptest.NewRequest(method, "https://login.microsoftonline.com"+path, strings.NewReader(form.Encode()))
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	var body map[string]any
	if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
			f.t.Fatalf("%s %s: %v in %q", method, path, err, w.Body)
		}
	}
	return w, body
}

func (f *fixture) token(form url.Values, headers ...string) (*httptest.ResponseRecorder, map[string]any) {
	f.t.Helper()
	return f.do("POST", "/"+testTenant+"/oauth2/v2.0/token", form, headers...)
}

func (f *fixture) disable(objectID string) {
	f.t.Helper()
	if err := f.Update(f.t.Context(), objectID, Change{Enabled: new(false)}); err != nil {
		f.t.Fatal(err)
	}
}

// programToken signs the service principal in for scope.
func (f *fixture) programToken(scope string) string {
	f.t.Helper()
	w, body := f.token(f.credentials(scope))
	if w.Code != http.StatusOK {
		f.t.Fatalf("token for %s: %d %s", scope, w.Code, w.Body)
	}
	return body["access_token"].(string)
}

func (f *fixture) credentials(scope string) url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "client_id": {f.program.AppID}, "client_secret": {f.program.Secret}, "scope": {scope}}
}

// wantError fails unless the answer is Entra's error with the given name and number.
func wantError(t *testing.T, w *httptest.ResponseRecorder, body map[string]any, status int, name string, aadsts int) {
	t.Helper()
	codes, _ := body["error_codes"].([]any)
	description, _ := body["error_description"].(string)
	if w.Code != status || body["error"] != name || len(codes) != 1 || codes[0] != float64(aadsts) || !strings.HasPrefix(description, "AADSTS") ||
		body["timestamp"] == "" || body["trace_id"] == "" || body["correlation_id"] == "" {
		t.Errorf("got %d %s, want %d %s %d", w.Code, w.Body, status, name, aadsts)
	}
}
