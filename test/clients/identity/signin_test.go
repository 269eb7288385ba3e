// Package identity holds the sign-ins of real, unmodified clients against the sign-in service
// and the edge, over HTTPS through the intercepting proxy and in custom-cloud mode.
package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/edge"
	"github.com/berthdev/berth/internal/edge/clientenv"
	"github.com/berthdev/berth/internal/identity"
	"github.com/berthdev/berth/internal/identity/graph"
	"github.com/berthdev/berth/internal/seal"
	"github.com/berthdev/berth/internal/store/sqlite"
)

const (
	tenant       = "5f0c1e1e-8a0b-4a3c-9d57-0f5f3b9c2a11"
	subscription = "0b1f6471-1bf0-4dda-aec3-cb9272f09590"
	userName     = "ada@example.com"
	password     = "correct horse battery"
)

// installation is the edge and the sign-in service in front of an ARM that tells callers
// who they are.
type installation struct {
	dir     string
	url     string
	program identity.Credentials
	pool    *x509.CertPool
	proxy   *url.URL
	env     []string
}

func start(t *testing.T) *installation {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i := &installation{dir: t.TempDir(), pool: x509.NewCertPool(), proxy: &url.URL{Scheme: "http", Host: l.Addr().String()}}
	keys, err := seal.Open(filepath.Join(i.dir, "seal.key"))
	if err != nil {
		t.Fatal(err)
	}
	state, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(i.dir, "state", "berth.db"), Sealer: keys})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := state.Close(); err != nil {
			t.Error(err)
		}
	})
	urls := edge.OwnURLs(l.Addr(), nil)
	i.url = urls[0]
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	login, err := identity.New(identity.Config{Store: state, Tenant: tenant, BaseURLs: urls, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	if i.program, err = login.CreateServicePrincipal(t.Context(), "clients"); err != nil {
		t.Fatal(err)
	}
	if _, err = login.CreateUser(t.Context(), userName, password); err != nil {
		t.Fatal(err)
	}
	e, err := edge.New(edge.Config{
		Listener: l, Dir: filepath.Join(i.dir, "tls"), Logger: logger,
		Backends: edge.Backends{ARM: whoAmI(login), Login: login.Handler(), Graph: graph.Handler(login, graph.Permission{}, logger)},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	i.pool.AppendCertsFromPEM(e.CA())

	bundle := filepath.Join(i.dir, "bundle.pem")
	if _, err := clientenv.WriteBundle(bundle, e.CA(), os.Getenv); err != nil {
		t.Fatal(err)
	}
	settings := clientenv.Settings{
		Host: strings.TrimPrefix(i.url, "https://"), CA: filepath.Join(i.dir, "tls", "ca.pem"), Bundle: bundle,
		Patterns: edge.AzurePatterns(), Getenv: func(string) string { return "" },
	}
	i.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + i.dir, "AZURE_CONFIG_DIR=" + filepath.Join(i.dir, "azure"),
		"BERTH_URL=" + i.url, "BERTH_USER=" + userName, "BERTH_PASSWORD=" + password, "BERTH_SUBSCRIPTION=" + subscription,
		"AZURE_TENANT_ID=" + tenant, "AZURE_CLIENT_ID=" + i.program.AppID, "AZURE_CLIENT_SECRET=" + i.program.Secret,
		"AZURE_CORE_COLLECT_TELEMETRY=false", "AZURE_CORE_ENABLE_BROKER_ON_WINDOWS=false", "AZURE_CORE_LOGIN_EXPERIENCE_V2=false", "PYTHONWARNINGS=ignore",
	}
	for _, v := range clientenv.Vars(settings) {
		i.env = append(i.env, v.Name+"="+v.Value)
	}
	return i
}

// whoAmI is as much of ARM as signing in touches.
func whoAmI(login *identity.Service) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := login.Authenticate(r.Context(), r)
		if err != nil {
			armerr.Write(w, err)
			return
		}
		var item map[string]any
		switch strings.TrimSuffix(r.URL.Path, "/") {
		case "/subscriptions":
			item = map[string]any{
				"id": "/subscriptions/" + subscription, "subscriptionId": subscription, "tenantId": tenant, "displayName": "Berth", "state": "Enabled",
				"authorizationSource": "RoleBased", "managedByTenants": []any{}, "subscriptionPolicies": map[string]string{"spendingLimit": "Off"},
			}
		case "/tenants":
			item = map[string]any{"id": "/tenants/" + tenant, "tenantId": tenant, "displayName": "Berth", "tenantCategory": "Home"}
		default:
			http.NotFound(w, r)
			return
		}
		w.Header().Set("X-Caller", string(p.Kind)+" "+p.Name)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"value": []any{item}})
	})
}

// python is the interpreter that has the clients installed.
func python(t *testing.T) string {
	t.Helper()
	path := os.Getenv("BERTH_PYTHON")
	switch {
	case path != "":
		return path
	case os.Getenv("CI") == "true":
		t.Fatal("BERTH_PYTHON is not set: CI has to run the real clients")
	default:
		t.Skip("set BERTH_PYTHON to a Python that has azureml-core, azure-identity and msal")
	}
	return ""
}

func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s\n%s", filepath.Base(name), strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

func TestPython(t *testing.T) {
	t.Parallel()
	interpreter := python(t)
	i := start(t)
	for _, name := range []string{
		"msal_client_secret", "msal_wrong_secret", "msal_password_and_refresh", "msal_device_code", "msal_interactive",
		"azure_identity_client_secret", "azure_identity_device_code", "azure_identity_interactive", "azure_identity_custom_cloud",
		"azureml_core_service_principal",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Log(strings.TrimSpace(run(t, i.env, interpreter, "signin.py", name)))
		})
	}
}

// az returns a function that runs the Azure CLI with a configuration of its own.
func (i *installation) az(t *testing.T) func(args ...string) string {
	t.Helper()
	path := os.Getenv("BERTH_AZ")
	if path == "" {
		path = filepath.Join(filepath.Dir(python(t)), "az")
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no az beside BERTH_PYTHON and BERTH_AZ is not set: CI has to run the real clients")
		}
		t.Skip("set BERTH_AZ to the path of az, or install azure-cli beside BERTH_PYTHON")
	}
	browser, err := filepath.Abs("signin.py")
	if err != nil {
		t.Fatal(err)
	}
	// The ampersand makes Python start it in the background, as a real browser would be.
	env := append([]string{"BROWSER=" + python(t) + " " + browser + " browser %s &"}, i.env...)
	env = append(env, "AZURE_CONFIG_DIR="+t.TempDir())
	return func(args ...string) string { return run(t, env, path, args...) }
}

func wantAccount(t *testing.T, az func(...string) string, kind, name string) {
	t.Helper()
	if got := strings.Fields(az("account", "show", "--query", "[id, tenantId, user.type, user.name]", "-o", "tsv")); len(got) != 4 || got[0] != subscription || got[1] != tenant || got[2] != kind || got[3] != name {
		t.Errorf("az account show: %v", got)
	}
	// Role assignments name principals that az looks up in Graph first.
	if got := az("ad", "sp", "list", "--display-name", "clients", "--query", "[].displayName", "-o", "tsv"); strings.TrimSpace(got) != "clients" {
		t.Errorf("az ad sp list: %q", got)
	}
	if got := az("account", "get-access-token", "--query", "tenant", "-o", "tsv"); strings.TrimSpace(got) != tenant {
		t.Errorf("az account get-access-token: %q", got)
	}
}

func TestAzureCLI(t *testing.T) {
	t.Parallel()
	i := start(t)
	t.Run("service principal", func(t *testing.T) {
		t.Parallel()
		az := i.az(t)
		az("login", "--service-principal", "-u", i.program.AppID, "-p", i.program.Secret, "--tenant", tenant)
		wantAccount(t, az, "servicePrincipal", i.program.AppID)
	})
	t.Run("user name and password", func(t *testing.T) {
		t.Parallel()
		az := i.az(t)
		az("login", "-u", userName, "-p", password)
		wantAccount(t, az, "user", userName)
		if got := az("ad", "signed-in-user", "show", "--query", "userPrincipalName", "-o", "tsv"); strings.TrimSpace(got) != userName {
			t.Errorf("az ad signed-in-user show: %q", got)
		}
		if got := az("ad", "sp", "show", "--id", i.program.AppID, "--query", "id", "-o", "tsv"); strings.TrimSpace(got) != i.program.ObjectID {
			t.Errorf("az ad sp show: %q", got)
		}
	})
	t.Run("browser", func(t *testing.T) {
		t.Parallel()
		az := i.az(t)
		az("login")
		wantAccount(t, az, "user", userName)
	})
	t.Run("custom cloud", func(t *testing.T) {
		t.Parallel()
		az := i.az(t)
		az("cloud", "register", "-n", "Berth", "--endpoint-resource-manager", i.url)
		az("cloud", "set", "-n", "Berth")
		az("login", "--service-principal", "-u", i.program.AppID, "-p", i.program.Secret, "--tenant", tenant)
		wantAccount(t, az, "servicePrincipal", i.program.AppID)
		if got := az("rest", "--url", i.url+"/subscriptions?api-version=2022-12-01", "--query", "value[0].subscriptionId", "-o", "tsv"); strings.TrimSpace(got) != subscription {
			t.Errorf("az rest: %q", got)
		}
	})
}

func TestAzidentity(t *testing.T) {
	t.Parallel()
	i := start(t)
	tr := &http.Transport{Proxy: http.ProxyURL(i.proxy), TLSClientConfig: &tls.Config{RootCAs: i.pool, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	client := &http.Client{Transport: tr}
	for name, c := range map[string]struct {
		authority, scope, arm string
		options               azidentity.ClientSecretCredentialOptions
	}{
		"intercepted":  {"https://login.microsoftonline.com/", "https://management.azure.com/.default", "https://management.azure.com", azidentity.ClientSecretCredentialOptions{}},
		"custom cloud": {i.url, i.url + "/.default", i.url, azidentity.ClientSecretCredentialOptions{DisableInstanceDiscovery: true}},
	} {
		t.Run(name, func(t *testing.T) {
			c.options.ClientOptions = policy.ClientOptions{Transport: client, Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: c.authority}}
			credential, err := azidentity.NewClientSecretCredential(tenant, i.program.AppID, i.program.Secret, &c.options)
			if err != nil {
				t.Fatal(err)
			}
			token, err := credential.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{c.scope}, EnableCAE: true})
			if err != nil {
				t.Fatal(err)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.arm+"/subscriptions?api-version=2022-12-01", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+token.Token)
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != http.StatusOK || res.Header.Get("X-Caller") != "ServicePrincipal clients" {
				t.Errorf("ARM answered %d to %q", res.StatusCode, res.Header.Get("X-Caller"))
			}
		})
	}
}
