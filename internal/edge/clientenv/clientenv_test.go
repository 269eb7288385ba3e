package clientenv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func environ(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestVars_KeepsExceptionsThatLetNothingPast(t *testing.T) {
	t.Parallel()
	const loopback = "localhost,127.0.0.0/8,127.0.0.1,::1"
	for existing, want := range map[string]string{
		"":                                   loopback,
		"corp.example, 10.0.0.0/8 localhost": "corp.example,10.0.0.0/8," + loopback,
		"*":                                  loopback,
		".azure.com":                         loopback,
		"azure.com":                          loopback,
		"*.AZURE.com:443":                    loopback,
		"com":                                loopback,
		"management.azure.com":               loopback,
		"x.api.azureml.ms":                   loopback,
		"notazure.com,azure.co":              "notazure.com,azure.co," + loopback,
		"vault.azure.com":                    "vault.azure.com," + loopback,
		"2001:db8::/32,10.1.2.3":             "2001:db8::/32,10.1.2.3," + loopback,
	} {
		vars := Vars(Settings{Host: "localhost:8443", CA: "/b/ca.pem", Bundle: "/b/bundle.pem",
			Patterns: []string{"management.azure.com", "*.api.azureml.ms"}, Getenv: environ("NO_PROXY", existing)})
		got := map[string]string{}
		for _, v := range vars {
			got[v.Name] = v.Value
		}
		if got["NO_PROXY"] != want || got["no_proxy"] != want {
			t.Errorf("NO_PROXY=%q became %q, want %q", existing, got["NO_PROXY"], want)
		}
		if got["HTTPS_PROXY"] != "http://localhost:8443" || got["REQUESTS_CA_BUNDLE"] != "/b/bundle.pem" || got["NODE_EXTRA_CA_CERTS"] != "/b/ca.pem" || got["ARM_METADATA_HOSTNAME"] != "localhost:8443" {
			t.Errorf("got %v", got)
		}
	}
}

func TestSignIn_EachClientsNames(t *testing.T) {
	t.Parallel()
	got := map[string]string{}
	for _, v := range SignIn(Principal{Subscription: "sub", Tenant: "ten", Client: "cli", Secret: "sec"}) {
		got[v.Name] = v.Value
	}
	for _, prefix := range []string{"AZURE", "ARM"} {
		for name, want := range map[string]string{"SUBSCRIPTION_ID": "sub", "TENANT_ID": "ten", "CLIENT_ID": "cli", "CLIENT_SECRET": "sec"} {
			if got[prefix+"_"+name] != want {
				t.Errorf("%s_%s is %q, want %q", prefix, name, got[prefix+"_"+name], want)
			}
		}
	}
}

// nasty are values that a shell would change if they were not quoted well.
var nasty = []string{
	"", "plain", "two words", "it's", `"`, `\`, `\'`, `a\`, "$HOME", "`id`", "$(id)", "!!", "*", "~", "a;b", "a\nb", "\t", "%PATH%", "&|<>", "'; exit 1; '", "\u2018x\u2019", "é日",
}

func TestRender_ShellsReadBackWhatWasSet(t *testing.T) {
	t.Parallel()
	for shell, program := range map[string]string{"sh": "sh", "fish": "fish", "powershell": "pwsh"} {
		path, err := exec.LookPath(program)
		if err != nil {
			continue // TestRender_Quoting holds the form down where the shell is not installed
		}
		for _, value := range nasty {
			commands, err := Render(shell, []Var{{"X_TEST", value}})
			if err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(t.Context(), path, "-c", commands+"env -0").Output()
			if err != nil || !slices.Contains(strings.Split(string(out), "\x00"), "X_TEST="+value) && value != "" {
				t.Errorf("%s does not read %q back from %q: %v", shell, value, commands, err)
			}
		}
	}
}

func TestRender_Quoting(t *testing.T) {
	t.Parallel()
	for shell, want := range map[string]string{
		"sh":         `export X='it'\''s \ $x` + "\u2019'\n",
		"fish":       `set -gx X 'it\'s \\ $x` + "\u2019'\n",
		"powershell": `$env:X = 'it''s \ $x` + "\u2019\u2019'\n",
	} {
		if got, err := Render(shell, []Var{{"X", `it's \ $x` + "\u2019"}}); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", shell, got, err, want)
		}
	}
	for _, v := range []Var{{"A B", "x"}, {"", "x"}, {"1A", "x"}, {"A;id", "x"}, {"A", "x\x00"}} {
		if _, err := Render("sh", []Var{v}); err == nil {
			t.Errorf("%q was rendered", v)
		}
	}
	if _, err := Render("cmd", nil); err == nil || !strings.Contains(err.Error(), "powershell") {
		t.Errorf("an unknown shell: %v", err)
	}
}

func certificate(t *testing.T, serial int64) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestWriteBundle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bundle, company := filepath.Join(dir, "bundle.pem"), filepath.Join(dir, "company.pem")
	ours, theirs := certificate(t, 1), certificate(t, 2)
	if err := os.WriteFile(company, append(slices.Clone(theirs), ours...), 0o600); err != nil {
		t.Fatal(err)
	}
	env := environ("SSL_CERT_FILE", company, "REQUESTS_CA_BUNDLE", dir, "CURL_CA_BUNDLE", bundle, "NODE_EXTRA_CA_CERTS", filepath.Join(dir, "gone"))
	var first []byte
	for range 2 { // a second run in the environment of the first changes nothing
		sources, err := WriteBundle(bundle, ours, env)
		if err != nil || !slices.Contains(sources, company) {
			t.Fatalf("sources %v, %v", sources, err)
		}
		got, err := os.ReadFile(bundle)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = got
		}
		for _, want := range [][]byte{ours, theirs} {
			if strings.Count(string(got), string(want)) != 1 {
				t.Errorf("a certificate is there %d times", strings.Count(string(got), string(want)))
			}
		}
		if string(got) != string(first) {
			t.Error("the second run wrote another bundle")
		}
	}
	if info, err := os.Stat(bundle); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := WriteBundle(bundle, []byte("rubbish"), environ()); err == nil {
		t.Error("rubbish was taken for a certificate")
	}
}
