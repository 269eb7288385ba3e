package app_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/cluster/pki"
)

// server is a running Berth with its first service principal signed in.
type server struct {
	t      *testing.T
	home   app.Home
	info   app.Info
	http   *http.Client
	token  string
	header http.Header // sent with every request
}

func start(t *testing.T, change func(*app.Config)) *server {
	t.Helper()
	cfg := app.Config{Home: app.Home(t.TempDir()), Provider: "fake", Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil))}
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan app.Info, 1)
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx, cfg, func(i app.Info) { ready <- i }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case i := <-ready:
		s := &server{t: t, home: cfg.Home, info: i}
		s.signIn()
		return s
	case err := <-done:
		done <- nil
		t.Fatalf("Run: %v", err)
	}
	return nil
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Helper()
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (s *server) signIn() {
	s.t.Helper()
	ca, err := os.ReadFile(s.info.CAFile)
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	s.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	s.t.Cleanup(s.http.CloseIdleConnections)
	c, err := s.home.ReadCredentials()
	if err != nil {
		s.t.Fatal(err)
	}
	s.token = s.tokenFor(c.ClientID, c.ClientSecret, "https://management.azure.com/.default")
}

type reply struct {
	status int
	header http.Header
	body   map[string]any
	raw    string
}

func (r reply) at(path string) any {
	var v any = r.body
	for _, k := range strings.Split(path, ".") {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

func (s *server) do(method, path, body string) reply {
	s.t.Helper()
	r, err := s.send(method, path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *server) send(method, path, body string) (reply, error) {
	if strings.HasPrefix(path, "/") {
		path = s.info.URL + path
	}
	req, err := http.NewRequest(method, path, bytes.NewBufferString(body))
	if err != nil {
		return reply{}, err
	}
	return s.roundTrip(req, body != "")
}

func (s *server) roundTrip(req *http.Request, hasBody bool) (reply, error) {
	req.Header.Set("Authorization", "Bearer "+s.token)
	if hasBody {
		req.Header.Set("Content-Type", "application/json")
	}
	for k, v := range s.header {
		req.Header[k] = v
	}
	res, err := s.http.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return reply{}, err
	}
	r := reply{status: res.StatusCode, header: res.Header, raw: string(data)}
	_ = json.Unmarshal(data, &r.body)
	return r, nil
}

func (s *server) want(status int, method, path, body string) reply {
	s.t.Helper()
	r := s.do(method, path, body)
	if r.status != status {
		s.t.Fatalf("%s %s: status %d, want %d\n%s", method, path, r.status, status, r.raw)
	}
	return r
}

// settle polls an answer's operation until it ends.
func (s *server) settle(r reply) reply {
	s.t.Helper()
	u, field := r.header.Get("Azure-AsyncOperation"), "status"
	if u == "" { // the data plane has a header and words of its own
		u, field = r.header.Get("Operation-Location"), "state"
	}
	if u == "" {
		s.t.Fatalf("no operation in the answer %d: %s", r.status, r.raw)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		op := s.want(200, "GET", u, "")
		switch op.at(field) {
		case "Succeeded", "Failed", "Canceled", "Cancelled", "TimedOut":
			return op
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the operation does not end: %s", op.raw)
		}
		time.Sleep(20 * time.Millisecond) // polling a real server: there is no clock to fake
	}
}

func (s *server) sub() string { return "/subscriptions/" + s.info.SubscriptionID }

const v = "?api-version=2022-05-01"

func (s *server) workspace() string {
	s.t.Helper()
	s.want(201, "PUT", s.sub()+"/resourceGroups/rg"+v, `{"location":"West Europe","tags":{"a":"b"}}`)
	ws := s.sub() + "/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"
	s.want(200, "PUT", ws+v, `{"location":"westeurope","properties":{"friendlyName":"f"}}`)
	return ws
}

func TestCreateAttachDetachDelete(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	ws := s.workspace()

	// C1: no argument at all makes a production cluster of three Standard_D3_v2.
	r := s.want(201, "PUT", ws+"/computes/myaks?api-version=2020-02-02", `{"location":"westeurope","properties":{"computeType":"AKS"}}`)
	if op := s.settle(r); op.at("status") != "Succeeded" {
		t.Fatalf("C1: %s", op.raw)
	}
	r = s.want(200, "GET", ws+"/computes/myaks?api-version=2020-02-02", "")
	for path, want := range map[string]any{
		"properties.provisioningState": "Succeeded", "properties.isAttachedCompute": false, "properties.provisioningErrors": nil,
		"properties.properties.agentCount": 3.0, "properties.properties.agentVmSize": "Standard_D3_v2", "properties.properties.clusterPurpose": "FastProd",
	} {
		if got := r.at(path); got != want {
			t.Errorf("C1: %s = %v, want %v", path, got, want)
		}
	}
	// A second cluster, made with AKS's own tools, is attached.
	mc := s.sub() + "/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/other"
	r = s.want(201, "PUT", mc+"?api-version=2026-06-01", `{"location":"northeurope","properties":{"agentPoolProfiles":[{"name":"nodepool1","count":3,"vmSize":"Standard_D4s_v3","mode":"System"}]}}`)
	if op := s.settle(r); op.at("status") != "Succeeded" {
		t.Fatalf("az aks create: %s", op.raw)
	}
	id := s.want(200, "GET", mc+"?api-version=2026-06-01", "").at("id").(string)
	if !strings.Contains(id, "/resourcegroups/rg/") {
		t.Errorf("A2: id %s", id)
	}
	attach := fmt.Sprintf(`{"location":"westeurope","properties":{"computeType":"AKS","resourceId":%q,"properties":{"loadBalancerType":"PublicIp","loadBalancerSubnet":null}}}`, id)
	if op := s.settle(s.want(201, "PUT", ws+"/computes/attached?api-version=2020-02-02", attach)); op.at("status") != "Succeeded" {
		t.Fatalf("A1: %s", op.raw)
	}
	if r := s.want(409, "PUT", ws+"/computes/again?api-version=2020-02-02", attach); !strings.Contains(r.raw, "attached") || !strings.Contains(r.raw, "detach") {
		t.Errorf("A5: %s", r.raw)
	}
	// A6: an attached cluster is not deleted, and detaching leaves it alone.
	s.want(400, "DELETE", ws+"/computes/attached?api-version=2020-02-02&underlyingResourceAction=delete", "")
	for range 2 { // attach, detach, attach without cleaning
		if op := s.settle(s.want(202, "DELETE", ws+"/computes/attached?api-version=2020-02-02&underlyingResourceAction=detach", "")); op.at("status") != "Succeeded" {
			t.Fatalf("A6: %s", op.raw)
		}
		if op := s.settle(s.want(201, "PUT", ws+"/computes/attached?api-version=2020-02-02", attach)); op.at("status") != "Succeeded" {
			t.Fatalf("A6: %s", op.raw)
		}
	}
	// C5: when the cluster goes, the compute says so.
	if op := s.settle(s.want(202, "DELETE", mc+"?api-version=2026-06-01", "")); op.at("status") != "Succeeded" {
		t.Fatalf("az aks delete: %s", op.raw)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		r = s.want(200, "GET", ws+"/computes/attached?api-version=2020-02-02", "")
		if r.at("properties.provisioningState") == "Failed" && strings.Contains(r.raw, "ClusterNotFound") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("C5: the compute does not notice that its cluster is gone: %s", r.raw)
		}
		time.Sleep(20 * time.Millisecond) // polling a real server
	}
	// Deleting the group deletes everything in it, in order.
	if op := s.settle(s.want(202, "DELETE", s.sub()+"/resourceGroups/rg"+v, "")); op.at("status") != "Succeeded" {
		t.Fatalf("deleting the group: %s", op.raw)
	}
	s.want(404, "GET", mc+"?api-version=2026-06-01", "")
	s.want(404, "GET", s.sub()+"/resourceGroups/rg"+v, "")
}

func TestRestart_FindsEverythingAgain(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	use := func(c *app.Config) { c.Home = app.Home(home) }
	var url string
	t.Run("first", func(t *testing.T) {
		s := start(t, use)
		s.workspace()
		url = s.info.URL
	})
	t.Run("second", func(t *testing.T) {
		s := start(t, use)
		if s.info.URL != url {
			t.Errorf("the address changed from %s to %s", url, s.info.URL)
		}
		s.want(200, "GET", s.sub()+"/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"+v, "")
	})
}

func TestAttach_A4_R3_AllThatIsUnmetAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *app.Config) {
		if err := c.Kubernetes.UnmarshalText([]byte("1.30-1.31")); err != nil {
			t.Fatal(err)
		}
	})
	ws := s.workspace()
	mc := s.expand("{mc}/small")
	if op := s.settle(s.want(201, "PUT", mc+"?api-version=2025-10-01", `{"location":"westeurope","properties":{"agentPoolProfiles":[{"name":"nodepool1","count":2,"vmSize":"Standard_D3_v2","mode":"System"}]}}`)); op.at("status") != "Succeeded" {
		t.Fatal(op.raw)
	}
	r := s.want(400, "PUT", ws+"/computes/small?api-version=2020-02-02", fmt.Sprintf(`{"location":"westeurope","properties":{"computeType":"AKS","resourceId":%q}}`, mc))
	for _, part := range []string{"1.37.2 is not supported", "[1.30 - 1.31]", "--kubernetes-versions", "it has 8", "at least 12 cores", "at least 3 nodes"} {
		if !strings.Contains(r.raw, part) {
			t.Errorf("the error does not say %q: %s", part, r.raw)
		}
	}
	s.want(404, "GET", ws+"/computes/small?api-version=2020-02-02", "")
}

// A compute says when its certificate expires, so that nobody learns it from an outage; what a client sends back of that
// changes nothing.
func TestCompute_C2_SaysWhenItsCertificateExpires(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	compute := s.workspace() + "/computes/tls?api-version=2020-02-02"
	authority, err := pki.NewAuthority("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, days := range []int{30, 60} {
		end := time.Now().UTC().Truncate(time.Second).AddDate(0, 0, days)
		pair, err := authority.Issue(pki.Request{CommonName: "a.example.com", Hosts: []string{"a.example.com"}, NotAfter: end}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		body := fmt.Sprintf(`{"location":"westeurope","properties":{"computeType":"AKS","properties":{"sslConfiguration":{"status":"Enabled","cname":"a.example.com","cert":%q,"key":%q,"notAfter":"2001-01-01T00:00:00Z"}}}}`, pair.Cert, pair.Key)
		if op := s.settle(s.do("PUT", compute, body)); op.at("status") != "Succeeded" {
			t.Fatal(op.raw)
		}
		if got := s.want(200, "GET", compute, "").at("properties.properties.sslConfiguration.notAfter"); got != end.Format(time.RFC3339) {
			t.Errorf("the certificate's end is %v, want %v", got, end.Format(time.RFC3339))
		}
	}
	s.settle(s.want(200, "PUT", compute, `{"location":"westeurope","properties":{"computeType":"AKS","properties":{"sslConfiguration":{"status":"Disabled"}}}}`))
	if got := s.want(200, "GET", compute, "").at("properties.properties.sslConfiguration.notAfter"); got != nil {
		t.Errorf("without TLS the certificate's end is %v", got)
	}
}

// Deleting a group takes the web services in it, too, and the compute that they are on; a workspace of the same name has none
// of them.
func TestDeleteGroup_WithWebServices(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	ws := s.workspace()
	s.deploy("iris")
	s.want(409, "DELETE", ws+"/computes/made?api-version=2020-02-02&underlyingResourceAction=Detach", "") // R: they would stop without a word
	if op := s.settle(s.want(202, "DELETE", s.sub()+"/resourceGroups/rg"+v, "")); op.at("status") != "Succeeded" {
		t.Fatalf("deleting the group: %s", op.raw)
	}
	s.want(404, "GET", s.expand("{mms}/services"), "")
	s.workspace()
	for _, list := range []string{"{mms}/services", "{mms}/models", "{mms}/assets", "{artifacts}/LocalUpload/1"} {
		if r := s.want(200, "GET", s.expand(list), ""); len(r.at("value").([]any)) > 0 {
			t.Errorf("%s: the new workspace has %s", list, r.raw)
		}
	}
	s.deploy("iris")
}

// What deletes an installation deletes Files, so that a file that is not among them would be left behind.
func TestHome_FilesAreAll(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.workspace()
	s.deploy("iris")
	entries, err := os.ReadDir(string(s.home))
	if err != nil || len(entries) == 0 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	for _, e := range entries {
		if !slices.Contains(s.home.Files(), filepath.Join(string(s.home), e.Name())) {
			t.Errorf("%s is not among the files of an installation", e.Name())
		}
	}
}
