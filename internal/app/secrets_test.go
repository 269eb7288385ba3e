package app_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/berthdev/berth/internal/app"
)

// buffer is a log that may be written and read at once.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	var log buffer
	s := start(t, func(c *app.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	ws := s.workspace()
	cert := "-----BEGIN CERTIFICATE-----\nTm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n"
	key := "-----BEGIN PRIVATE KEY-----\nTOPSECRETTOPSECRETTOPSECRET\n-----END PRIVATE KEY-----\n"
	r := s.do("PUT", ws+"/computes/secret?api-version=2020-02-02", fmt.Sprintf(`{"location":"westeurope","properties":{"computeType":"AKS","properties":{"sslConfiguration":{"status":"Enabled","cert":%q,"key":%q,"cname":"a.example.com"}}}}`, cert, key))
	answers := r.raw
	if op := s.settle(s.want(201, "PUT", ws+"/computes/plain?api-version=2020-02-02", `{"location":"westeurope","properties":{"computeType":"AKS"}}`)); op.at("status") != "Succeeded" {
		t.Fatal(op.raw)
	}
	keys := s.want(200, "POST", ws+"/computes/plain/listKeys?api-version=2020-02-02", "")
	_, private, found := strings.Cut(fmt.Sprint(keys.body["adminKubeConfig"]), "client-key-data: ")
	if private, _, _ = strings.Cut(private, "\n"); !found || len(private) < 100 {
		t.Fatalf("no key in %.100s", keys.raw)
	}
	for _, path := range []string{ws, ws + "/computes", ws + "/computes/plain", s.expand("{mc}"), s.sub() + "/resources"} {
		answers += s.want(200, "GET", path+"?api-version=2022-10-01", "").raw
	}
	services := "/modelmanagement/v1.0" + ws + "/services"
	answers += s.want(202, "POST", services, `{"name":"svc","computeType":"AKS","computeName":"plain","numReplicas":1,"keys":{"primaryKey":"PRIMARYPRIMARY","secondaryKey":"SECONDARYSECONDARY"},
		"environmentImageRequest":{"assets":[{"id":"score.py","url":"aml://artifact/LocalUpload/x/score.py"}],"environment":{"name":"e","docker":{"baseImageRegistry":{"address":"r.example","username":"u","password":"BASEIMAGEPASSWORD"}}}}}`).raw
	if got := s.want(200, "POST", services+"/svc/listkeys", ""); got.at("primaryKey") != "PRIMARYPRIMARY" {
		t.Errorf("listkeys: %s", got.raw)
	}
	for _, path := range []string{services, services + "/svc", services + "/svc?expand=true", services + "?expand=true"} {
		answers += s.want(200, "GET", path, "").raw
	}
	credentials, err := s.home.ReadCredentials()
	if err != nil {
		t.Fatal(err)
	}
	for what, secret := range map[string]string{"the TLS key": "TOPSECRET", "a kubeconfig's key": private, "the service principal's secret": credentials.ClientSecret, "a token": s.token,
		"a web service's key": "PRIMARYPRIMARY", "its second key": "SECONDARYSECONDARY", "a base image's registry password": "BASEIMAGEPASSWORD"} {
		if strings.Contains(answers, secret) {
			t.Errorf("%s is in an answer", what)
		}
		if strings.Contains(log.String(), secret) {
			t.Errorf("%s is in the log", what)
		}
		s.search(what, secret)
	}
}

// search looks for a secret in clear in every file of the installation. The file that is
// meant to have it is for its owner alone.
func (s *server) search(what, secret string) {
	s.t.Helper()
	err := filepath.WalkDir(string(s.home), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(data, []byte(secret)) {
			return err
		}
		if path != s.home.Credentials() {
			s.t.Errorf("%s is in %s", what, path)
		}
		if info, err := d.Info(); err != nil || info.Mode().Perm() != 0o600 {
			s.t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		s.t.Error(err)
	}
}
