package gosdk

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// interceptedVar marks the run of this test binary that berth run started.
const interceptedVar = "BERTH_GOSDK_INTERCEPTED"

var intercepted = os.Getenv(interceptedVar) != ""

// berth is what the tests talk to.
var berth struct {
	home         string
	subscription string
	tenant       string
	client       string // the ID of the service principal that signs in
	credential   azcore.TokenCredential
	options      *arm.ClientOptions // nil when intercepted: the SDKs' defaults
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if intercepted {
		berth.subscription, berth.tenant = os.Getenv("AZURE_SUBSCRIPTION_ID"), os.Getenv("AZURE_TENANT_ID")
		if berth.credential, err = azidentity.NewDefaultAzureCredential(nil); err != nil {
			return 1, err
		}
		return m.Run(), nil
	}
	if err := forgetProofs(); err != nil {
		return 1, err
	}
	if berth.home, err = os.MkdirTemp("", "berth-gosdk-"); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(berth.home)) }()
	if _, err := cli("up", "--detach", "--provider", "fake"); err != nil {
		return 1, err
	}
	defer func() {
		_, e := cli("down", "--delete", "--yes")
		err = errors.Join(err, e)
	}()
	if err := useCustomCloud(); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// program is the berth under test.
func program() string {
	if p := os.Getenv("BERTH_BIN"); p != "" {
		return p
	}
	return filepath.Join("..", "..", "..", "bin", "berth")
}

// cli runs berth and returns what it prints.
func cli(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := command(ctx, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("berth %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return string(out), nil
}

func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program(), args...)
	cmd.Env = append(os.Environ(), "BERTH_HOME="+berth.home)
	return cmd
}

// useCustomCloud signs in the way a private cloud is used: with a cloud.Configuration made of
// what its metadata endpoint says.
func useCustomCloud() error {
	printed, err := cli("run", "--", "env", "-0")
	if err != nil {
		return err
	}
	env := map[string]string{}
	for kv := range strings.SplitSeq(printed, "\x00") {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = value
	}
	ca, err := os.ReadFile(env["NODE_EXTRA_CA_CERTS"])
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return fmt.Errorf("%s holds no certificate", env["NODE_EXTRA_CA_CERTS"])
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 16}}
	berth.subscription, berth.tenant, berth.client = env["AZURE_SUBSCRIPTION_ID"], env["AZURE_TENANT_ID"], env["AZURE_CLIENT_ID"]
	var metadata struct {
		ResourceManager string
		Authentication  struct {
			LoginEndpoint string
			Audiences     []string
		}
	}
	resp, err := client.Get("https://" + env["ARM_METADATA_HOSTNAME"] + "/metadata/endpoints?api-version=2022-09-01")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, &metadata); err != nil {
		return fmt.Errorf("the metadata %q: %w", body, err)
	}
	options := policy.ClientOptions{Transport: client, Cloud: cloud.Configuration{
		ActiveDirectoryAuthorityHost: metadata.Authentication.LoginEndpoint,
		Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Endpoint: metadata.ResourceManager, Audience: metadata.Authentication.Audiences[0]},
		},
	}}
	berth.options = &arm.ClientOptions{ClientOptions: options}
	berth.credential, err = azidentity.NewClientSecretCredential(env["AZURE_TENANT_ID"], env["AZURE_CLIENT_ID"], env["AZURE_CLIENT_SECRET"],
		&azidentity.ClientSecretCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true}) // as every private cloud needs it
	return err
}
