package gosdk

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/modfile"
)

const azure = "github.com/Azure/azure-sdk-for-go/sdk/"

// modules are the SDKs that this suite proves.
var modules = []string{
	identityModule, resourcesModule, subscriptionsModule, aksV5, aksV6, mlV1, mlV3, mlV4,
}

const (
	identityModule      = azure + "azidentity"
	resourcesModule     = azure + "resourcemanager/resources/armresources"
	subscriptionsModule = azure + "resourcemanager/resources/armsubscriptions"
	aksV5               = azure + "resourcemanager/containerservice/armcontainerservice/v5"
	aksV6               = azure + "resourcemanager/containerservice/armcontainerservice/v6"
	mlV1                = azure + "resourcemanager/machinelearning/armmachinelearning"
	mlV3                = mlV1 + "/v3"
	mlV4                = mlV1 + "/v4"
)

// required is go.mod: a test binary's build information does not list modules.
var required = sync.OnceValue(func() *modfile.File {
	data, err := os.ReadFile("go.mod")
	if err != nil {
		panic(err)
	}
	f, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		panic(err)
	}
	if len(f.Replace) > 0 {
		panic("go.mod replaces modules, so this would not be about published ones")
	}
	return f
})

// released finds an SDK's name, as its users say it, and its version.
func released(module string) (client, version string) {
	for _, r := range required().Require {
		if r.Mod.Path == module {
			name := strings.TrimPrefix(module, azure)
			if _, arm, ok := strings.Cut(name, "/arm"); ok {
				name, _, _ = strings.Cut("arm"+arm, "/")
			}
			return name, r.Mod.Version
		}
	}
	panic("go.mod does not require " + module)
}

var proofs sync.Mutex

func proofFile(client string) string {
	return filepath.Join(os.Getenv("BERTH_CONFORMANCE"), client+".jsonl")
}

// forgetProofs removes what an earlier run wrote.
func forgetProofs() error {
	if os.Getenv("BERTH_CONFORMANCE") == "" {
		return nil
	}
	for _, m := range modules {
		client, _ := released(m)
		if err := os.Remove(proofFile(client)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// proves runs one operation of an SDK as a subtest. When it passes, the operation is
// recorded; the intercepted run leaves that to TestIntercepted.
func proves(t *testing.T, module, operation string, behaviours []string, f func(*testing.T)) bool {
	t.Helper()
	passed := t.Run(operation, f)
	if passed && !intercepted {
		record(t, module, operation, behaviours)
	}
	return passed
}

// record adds a line of JSON to $BERTH_CONFORMANCE, in the form that the Python suites
// write: an operation, and the numbers of the mission's behaviours.
func record(t *testing.T, module, operation string, behaviours []string) {
	t.Helper()
	if os.Getenv("BERTH_CONFORMANCE") == "" {
		return
	}
	client, version := released(module)
	line, err := json.Marshal(struct {
		Client     string   `json:"client"`
		Version    string   `json:"version"`
		Operation  string   `json:"operation"`
		Behaviours []string `json:"behaviours"`
		Result     string   `json:"result"`
	}{client, version, operation, behaviours, "pass"})
	if err != nil {
		t.Fatal(err)
	}
	proofs.Lock()
	defer proofs.Unlock()
	f, err := os.OpenFile(proofFile(client), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(append(line, '\n'))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}
