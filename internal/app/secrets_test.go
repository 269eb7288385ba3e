package app_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/store"
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
	credentials, err := s.home.ReadCredentials()
	if err != nil {
		t.Fatal(err)
	}
	for what, secret := range map[string]string{"the TLS key": "TOPSECRET", "a kubeconfig's key": private, "the service principal's secret": credentials.ClientSecret, "a token": s.token} {
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

// A web service's keys are told to who asks for them, a signed URL to who may read or write the file; the passwords of
// registries and the key that signs URLs are told to nobody.
func TestSecretsStayInside_WebServices(t *testing.T) {
	t.Parallel()
	var log buffer
	var st store.Store
	s := start(t, func(c *app.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c.WrapStore = func(inner store.Store) store.Store { st = inner; return inner }
	})
	s.workspace()
	s.deploy("plain")
	const chosen, base, registered = "CHOSENKEYCHOSENKEYCHOSENKEYCHOSE", "BASEIMAGEPASSWORD", "REGISTEREDPASSWORD"
	registry := func(password string) string {
		return fmt.Sprintf(`"docker":{"baseImage":"cr.example/x:1","baseImageRegistry":{"address":"cr.example","username":"u","password":%q}}`, password)
	}
	with := func(name, more string) string {
		return strings.NewReplacer(`"computeType"`, more+`,"computeType"`, `"python"`, registry(base)+`,"python"`).Replace(deployment(name))
	}
	answers := ""
	deploy := func(name, more string) {
		r := s.want(202, "POST", s.expand("{mms}/services"), with(name, more))
		answers += r.raw + s.settle(r).raw
	}
	deploy("keys", `"keys":{"primaryKey":"`+chosen+`"}`)
	answers += s.want(202, "POST", s.expand("{mms}/services"), strings.NewReplacer("docker", "DOCKER", "baseImageRegistry", "BaseImageRegistry", "password", "Password", "environmentImageRequest", "EnvironmentImageRequest").
		Replace(with("case", `"Keys":{"PrimaryKey":"`+chosen+`"}`))).raw // names have no case
	deploy("token", `"aadAuthEnabled":true,"authEnabled":false`)
	answers += s.want(400, "POST", s.expand("{mms}/services"), with("bad", `"numReplicas":0,"keys":{"primaryKey":"`+chosen+`"}`)).raw // a refusal does not quote them
	answers += s.want(200, "POST", s.expand("{mms}/services/validate"), `{"type":"Create","serviceName":"new","createRequest":`+with("new", `"keys":{"primaryKey":"`+chosen+`"}`)+`}`).raw
	s.settle(s.want(202, "POST", s.expand("{mms}/services/plain/regenerateKeys"), `{"keyType":"Secondary","keyValue":"`+chosen+`2"}`))
	answers += s.want(200, "PUT", s.expand("/environment/v1.0{ml}/ws/environments/e/versions/1"), `{"name":"e","version":"1",`+registry(registered)+`}`).raw
	answers += s.want(200, "PUT", s.expand("/environment/v1.0{ml}/ws/environments/case/versions/1"), `{"name":"case","version":"1",`+strings.NewReplacer("docker", "Docker", "baseImageR", "BASEImageR", "password", "PASSword").Replace(registry(registered))+`}`).raw

	keys := s.want(200, "POST", s.expand("{mms}/services/keys/listkeys"), "")
	if keys.at("primaryKey") != chosen {
		t.Fatalf("the keys are %s", keys.raw)
	}
	plain := s.want(200, "POST", s.expand("{mms}/services/plain/listkeys"), "")
	if plain.at("secondaryKey") != chosen+"2" {
		t.Fatalf("the keys are %s", plain.raw)
	}
	token := s.want(200, "POST", s.expand("{mms}/services/token/token"), "")
	signed := s.want(200, "GET", s.expand("{artifacts}/contentinfo/LocalUpload/1/model.pkl"), "").at("contentUri").(string)
	if r := s.blob("GET", signed, ""); r.raw != "weights" {
		t.Fatalf("reading a file: %d %s", r.status, r.raw)
	}
	if r := s.blob("DELETE", signed, ""); r.status != 403 { // it was signed for reading
		t.Errorf("deleting with what was signed for reading: %d %s", r.status, r.raw)
	}
	if r := s.blob("GET", signed+"x", ""); r.status != 403 {
		t.Errorf("reading with another signature: %d %s", r.status, r.raw)
	}
	u, err := url.Parse(signed)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"services", "services?expand=true", "services/keys", "services/keys?expand=true", "services/token", "services/plain", "services/case?expand=true", "models", "models/iris:1", "assets",
	} {
		answers += s.want(200, "GET", s.expand("{mms}/")+path, "").raw
	}
	for _, path := range []string{"environments", "environments/e", "environments/e/versions/1", "environments/case/versions/1"} {
		answers += s.want(200, "GET", s.expand("/environment/v1.0{ml}/ws/")+path, "").raw
	}
	for _, path := range []string{s.expand("{ml}/ws"), s.expand("{ml}/ws/computes"), s.sub() + "/resources"} {
		answers += s.want(200, "GET", path+"?api-version=2022-10-01", "").raw
	}
	secrets := map[string]string{
		"a chosen key": chosen, "a key": keys.at("secondaryKey").(string), "another's key": plain.at("primaryKey").(string), "a token": token.at("accessToken").(string),
		"a signature": u.Query().Get("sig"), "an encoded signature": url.QueryEscape(u.Query().Get("sig")), "a base image's password": base, "an environment's password": registered,
	}
	for _, name := range []string{"blob-key", "registry-password"} {
		value := stored(t, st, name)
		secrets["the "+name], secrets["the "+name+" in hex"], secrets["the "+name+" in base64"] = string(value), hex.EncodeToString(value), base64.StdEncoding.EncodeToString(value)
	}
	for what, secret := range secrets {
		if len(secret) < 16 {
			t.Fatalf("%s is %q", what, secret)
		}
		if strings.Contains(answers, secret) {
			t.Errorf("%s is in an answer", what)
		}
		if strings.Contains(log.String(), secret) {
			t.Errorf("%s is in the log", what)
		}
		s.search(what, secret)
	}
}

// stored is a value of the installation's own.
func stored(t *testing.T, st store.Store, name string) (value []byte) {
	t.Helper()
	err := st.View(context.Background(), func(tx store.ReadTx) (err error) {
		value, err = tx.Value("installation", name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}
