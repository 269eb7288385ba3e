package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// running is an edge on a port of its own whose backends answer with their name, the
// host and the path.
type running struct {
	*Edge
	port   string
	proxy  *url.URL
	pool   *x509.CertPool
	cancel context.CancelFunc
	ended  chan error
}

func backend(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s%s", name, r.Host, r.URL.EscapedPath())
	})
}

func start(t *testing.T, change func(*Config)) *running {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := Config{
		Listener: l, Dir: t.TempDir(),
		Backends: Backends{ARM: backend("arm"), Login: backend("login"), Graph: backend("graph"), DataPlane: backend("data"), Portal: backend("portal")},
		Routes: []Route{{
			Pattern: "*.blob.core.windows.net", Handler: backend("blob"),
			Owns: func(name string) bool { return name == "mine.blob.core.windows.net" },
		}},
	}
	if change != nil {
		change(&c)
	}
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Edge: e, proxy: &url.URL{Scheme: "http", Host: l.Addr().String()}, pool: x509.NewCertPool(), cancel: cancel, ended: make(chan error, 1)}
	_, r.port, _ = net.SplitHostPort(l.Addr().String())
	r.pool.AppendCertsFromPEM(e.CA())
	go func() { r.ended <- e.Run(ctx) }()
	t.Cleanup(r.end(t))
	return r
}

// end stops the edge and fails if that takes unreasonably long.
func (r *running) end(t *testing.T) func() {
	return func() {
		r.cancel()
		select {
		case err := <-r.ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(shutdownTimeout + 5*time.Second):
			t.Error("Run did not end")
		}
		r.ended <- nil // for a second call
	}
}

// client trusts the installation's CA and uses its proxy for everything but loopback.
func (r *running) client(t *testing.T) *http.Client {
	tr := &http.Transport{
		Proxy: http.ProxyURL(r.proxy), TLSClientConfig: &tls.Config{RootCAs: r.pool}, ForceAttemptHTTP2: true,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// direct is client without the proxy.
func (r *running) direct(t *testing.T) *http.Client {
	c := r.client(t)
	c.Transport.(*http.Transport).Proxy = nil
	return c
}

func get(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	return res.StatusCode, string(body)
}

func TestEdge_RoutesByHostThroughTheProxy(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	c := r.client(t)
	for url, want := range map[string]string{
		"https://management.azure.com/subscriptions":                   "arm management.azure.com/subscriptions",
		"https://MANAGEMENT.azure.com:443/a/../%2f//b":                 "arm management.azure.com/a/../%2f//b",
		"https://login.microsoftonline.com/t/oauth2/v2.0/token":        "login login.microsoftonline.com/t/oauth2/v2.0/token",
		"https://graph.microsoft.com/v1.0/me":                          "graph graph.microsoft.com/v1.0/me",
		"https://westeurope.api.azureml.ms/discovery":                  "data westeurope.api.azureml.ms/discovery",
		"https://1f.workspace.westeurope.api.azureml.ms/rp/workspaces": "data 1f.workspace.westeurope.api.azureml.ms/rp/workspaces",
		"https://mine.blob.core.windows.net/c/b":                       "blob mine.blob.core.windows.net/c/b",
		"https://localhost:" + r.port + "/subscriptions":               "arm localhost:" + r.port + "/subscriptions",
	} {
		if status, body := get(t, c, url); status != http.StatusOK || body != want {
			t.Errorf("%s: %d %q, want %q", url, status, body, want)
		}
	}
}

func TestEdge_RoutesByPathAtItsOwnAddress(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *Config) { c.Paths = map[string]http.Handler{"healthz": backend("health")} })
	c := r.direct(t)
	for _, host := range []string{"localhost:" + r.port, "127.0.0.1:" + r.port} {
		for path, want := range map[string]string{
			"/subscriptions/x": "arm", "/Providers": "arm", "/tenants": "arm",
			"/common/discovery/instance": "login", "/devicelogin": "login", "/5f0c1e1e-8a0b-4a3c-9d57-0f5f3b9c2a11/oauth2/v2.0/token": "login",
			"/nobody/v2.0/.well-known/openid-configuration": "login", "/nobody/.well-known/openid-configuration": "login",
			"/rp/workspaces/x": "data", "/discovery": "data", "/modelmanagement/v1.0": "data",
			"/": "portal", "/assets/app.js": "portal", "/healthz": "health",
		} {
			if status, body := get(t, c, "https://"+host+path); status != http.StatusOK || body != want+" "+host+path {
				t.Errorf("%s%s: %d %q, want %s", host, path, status, body, want)
			}
		}
		if _, body := get(t, c, "https://"+host+"/graph/v1.0/me"); body != "graph "+host+"/v1.0/me" {
			t.Errorf("/graph: %q", body)
		}
	}
}

func TestEdge_AnswersForNoOtherName(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	for _, name := range []string{"example.com", "other.blob.core.windows.net", "api.azureml.ms", "management.azure.com.example.com", "a.management.azure.com"} {
		conn, err := tls.Dial("tcp", r.proxy.Host, &tls.Config{ServerName: name, RootCAs: r.pool})
		if err == nil {
			conn.Close()
			t.Errorf("a certificate for %s was presented", name)
		}
		req, _ := http.NewRequest("GET", "https://localhost:"+r.port+"/subscriptions", nil)
		req.Host = name
		res, err := r.direct(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("Host %s: %d", name, res.StatusCode)
		}
	}
}

func TestRoute_WildcardsNeedALabel(t *testing.T) {
	t.Parallel()
	r := Route{Pattern: "*.example.com"}
	for name, want := range map[string]bool{"a.example.com": true, "a.b.example.com": true, "example.com": false, ".example.com": false, "aexample.com": false} {
		if got := r.matches(name); got != want {
			t.Errorf("*.example.com matches %q: %v, want %v", name, got, want)
		}
	}
}

func TestProxy_TunnelsOtherHostsUntouched(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	other := httptest.NewTLSServer(backend("other"))
	defer other.Close()
	// Its certificate is its own: the proxy's CA plays no part.
	r.pool.AddCert(other.Certificate())
	if _, body := get(t, r.client(t), other.URL+"/x"); !strings.HasPrefix(body, "other ") {
		t.Errorf("got %q", body)
	}
}

// connect sends a CONNECT request, with early right behind it, and returns the connection
// and the answer's status.
func connect(t *testing.T, r *running, target, early string) (net.Conn, *bufio.Reader, int) {
	t.Helper()
	conn, err := net.Dial("tcp", r.proxy.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n%s", target, target, early)
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, &http.Request{Method: "CONNECT"})
	if err != nil {
		t.Fatalf("CONNECT %s: %v", target, err)
	}
	return conn, br, res.StatusCode
}

// target is a TCP server that serves one connection.
func target(t *testing.T, serve func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		if c, err := l.Accept(); err == nil {
			defer c.Close()
			serve(c.(*net.TCPConn))
		}
	}()
	return l.Addr().String()
}

func TestProxy_HalfClosedTunnelsStillDeliver(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	to := target(t, func(c *net.TCPConn) {
		all, _ := io.ReadAll(c) // ends when the client closes its half
		fmt.Fprintf(c, "got %s", all)
	})
	conn, br, status := connect(t, r, to, "hel")
	if status != http.StatusOK {
		t.Fatalf("CONNECT: %d", status)
	}
	io.WriteString(conn, "lo")
	conn.(*net.TCPConn).CloseWrite()
	if answer, err := io.ReadAll(br); err != nil || string(answer) != "got hello" {
		t.Errorf("got %q, %v", answer, err)
	}

	got := make(chan string, 1)
	to = target(t, func(c *net.TCPConn) {
		io.WriteString(c, "bye")
		c.CloseWrite()
		all, _ := io.ReadAll(c)
		got <- string(all)
	})
	conn, br, _ = connect(t, r, to, "")
	if answer, err := io.ReadAll(br); err != nil || string(answer) != "bye" { // ends with the target's half
		t.Errorf("got %q, %v", answer, err)
	}
	io.WriteString(conn, "more")
	conn.Close()
	if all := <-got; all != "more" {
		t.Errorf("the target got %q", all)
	}
}

func TestProxy_RefusesItself(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	for _, target := range []string{"0.0.0.0:" + r.port, "[::ffff:127.0.0.1]:" + r.port} {
		if _, _, status := connect(t, r, target, ""); status != http.StatusForbidden {
			t.Errorf("CONNECT %s: %d", target, status)
		}
	}
	for _, target := range []string{"nowhere.invalid:443", "127.0.0.1:1"} {
		if _, _, status := connect(t, r, target, ""); status != http.StatusBadGateway {
			t.Errorf("CONNECT %s: %d", target, status)
		}
	}
	if _, _, status := connect(t, r, "nowhere", ""); status != http.StatusBadRequest {
		t.Errorf("CONNECT without a port: %d", status)
	}
}

func TestProxy_IsForClientsOnLoopback(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	open := start(t, func(c *Config) { c.ProxyFromAnywhere = true })
	for remote, want := range map[string][2]int{
		"192.0.2.7:1234":       {http.StatusForbidden, http.StatusBadGateway},
		"[2001:db8::1]:1":      {http.StatusForbidden, http.StatusBadGateway},
		"[::ffff:127.0.0.1]:1": {http.StatusBadGateway, http.StatusBadGateway},
		"127.0.0.1:1234":       {http.StatusBadGateway, http.StatusBadGateway},
	} {
		for i, e := range []*Edge{r.Edge, open.Edge} {
			req := httptest.NewRequest("CONNECT", "127.0.0.1:1", nil)
			req.RemoteAddr = remote
			w := httptest.NewRecorder()
			e.connect(w, req)
			if w.Code != want[i] {
				t.Errorf("from %s (anywhere: %v): %d, want %d", remote, i == 1, w.Code, want[i])
			}
		}
	}
}

func TestPlain(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	c := r.direct(t)
	if status, body := get(t, c, r.proxy.String()+"/ca.pem"); status != http.StatusOK || body != string(r.CA()) {
		t.Errorf("/ca.pem: %d %q", status, body)
	}
	res, err := c.Get("http://localhost:" + r.port + "/subscriptions?a=b")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if want := "https://localhost:" + r.port + "/subscriptions?a=b"; res.StatusCode != http.StatusPermanentRedirect || res.Header.Get("Location") != want {
		t.Errorf("got %d to %s, want %s", res.StatusCode, res.Header.Get("Location"), want)
	}
	if status, _ := get(t, r.client(t), "http://example.com/"); status != http.StatusBadRequest {
		t.Errorf("plain HTTP through the proxy: %d", status)
	}
}

func TestRun_EndsWithTunnelsAndSilentClientsOpen(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	to := target(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	silent, err := net.Dial("tcp", r.proxy.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	conn, _, status := connect(t, r, to, "")
	if status != http.StatusOK {
		t.Fatalf("CONNECT: %d", status)
	}
	began := time.Now()
	r.end(t)()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the end took %s", took)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the tunnel is still open")
	}
}

func TestRun_SaysThatTheListenerIsGone(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(Config{Listener: l, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := e.Run(t.Context()); err == nil {
		t.Error("no error")
	}
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	c := r.client(t)
	own := "https://localhost:" + r.port
	decode := func(url string, v any) {
		t.Helper()
		status, body := get(t, c, url)
		if err := json.Unmarshal([]byte(body), v); status != http.StatusOK || err != nil {
			t.Fatalf("%s: %d %v %s", url, status, err, body)
		}
	}
	for _, version := range []string{"2018-05-01", "2022-09-01", "2025-01-01"} {
		var got cloud
		decode(own+"/metadata/endpoints?api-version="+version, &got)
		if got.Name != "Berth" || got.ResourceManager != own+"/" || got.Authentication.LoginEndpoint != own || got.Authentication.Audiences[0] != own+"/" || got.MicrosoftGraph != own+"/graph/" {
			t.Errorf("%s: %+v", version, got)
		}
		decode("https://management.azure.com/metadata/endpoints?api-version="+version, &got)
		if got.Name != "AzureCloud" || got.ResourceManager != "https://management.azure.com/" || got.Authentication.LoginEndpoint != "https://login.microsoftonline.com" {
			t.Errorf("%s: %+v", version, got)
		}
	}
	for _, version := range []string{"2019-05-01", "2020-06-01"} {
		var got []cloud
		decode(own+"//metadata/endpoints?api-version="+version, &got)
		if len(got) != 1 || got[0].Name != "Berth" {
			t.Errorf("%s: %+v", version, got)
		}
	}
	var old map[string]any
	decode(own+"/metadata/endpoints?api-version=2015-01-01", &old)
	if old["graphEndpoint"] != own+"/graph/" || old["name"] != nil || old["authentication"].(map[string]any)["loginEndpoint"] != own {
		t.Errorf("2015-01-01: %v", old)
	}
	for _, query := range []string{"", "?api-version=yesterday"} {
		if status, _ := get(t, c, own+"/metadata/endpoints"+query); status != http.StatusBadRequest {
			t.Errorf("%q: %d", query, status)
		}
	}
}

func TestNew_RefusesBadConfiguration(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config){
		"pattern": func(c *Config) { c.Routes = []Route{{Pattern: "*"}} },
		"case":    func(c *Config) { c.Routes = []Route{{Pattern: "Example.com"}} },
		"path":    func(c *Config) { c.Paths = map[string]http.Handler{"subscriptions": backend("x")} },
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c := Config{Listener: l, Dir: t.TempDir()}
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
