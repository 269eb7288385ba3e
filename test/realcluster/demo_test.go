package realcluster

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// proof is a line that the demo prints only when what it says is so.
type proof struct {
	line       string
	client     string // with the operation, for the conformance page; "" for none
	operation  string
	behaviours []string
}

var proofs = []proof{
	{`myaks: Succeeded, 3 x Standard_D3_v2`, "azureml-core", "ComputeTarget.create with the default configuration, three nodes", []string{"C1", "C3", "C6"}},
	{`(?m)( +\S+-vmss\d+ +Ready .*\n){3}`, "", "", nil},
	{`(?m)( +\S+ +Standard_D3_v2 +4 +14Gi\n){3}`, "", "", nil},
	{`It answers: hello from`, "", "", nil},
	{`myexistingcluster +Succeeded`, "azure-cli", "az aks create", []string{"A8"}},
	{`/resourcegroups/demo-rg/.*/myexistingcluster"`, "azure-cli", "az aks show --query id", []string{"A2"}},
	{`attached: Succeeded`, "azureml-core", "ComputeTarget.attach", []string{"A1", "A7"}},
	{`attached: AKS, Succeeded\n +myaks: AKS, Succeeded`, "azureml-core", "ComputeTarget.list", []string{"C4"}},
	{`registered wine:1`, "azureml-core", "Model.register of a scikit-learn model", []string{"D1"}},
	{`Resolving and installing 2 requirements: azureml-defaults`, "", "", nil},
	{`wine-service: Healthy, http://`, "azureml-core", "Model.deploy with a new environment, two replicas", []string{"D1", "D4"}},
	{`service\.run: \{'classes': \[0, 1, 2\], 'trees': 10\}`, "azureml-core", "AksWebservice.run", []string{"D1"}},
	{`HTTP with a key: 200 .*\n +HTTP with a wrong key: 401`, "", "", nil},
	{`[1-9]\d+ requests during the update, 0 lost; now 200 from 20 trees`, "azureml-core", "AksWebservice.update under load, no request lost", []string{"D1"}},
	{`logs: .*model loaded`, "azureml-core", "AksWebservice.get_logs", []string{"D1"}},
	{`the old key gets 401 and the new one 200`, "azureml-core", "AksWebservice.regen_key", []string{"D1"}},
	{`the token gets 200`, "azureml-core", "AksWebservice.get_token", []string{"D1"}},
	{`wine-service: gone`, "azureml-core", "AksWebservice.delete", []string{"D1"}},
	{`attached: gone`, "azureml-core", "AksCompute.detach", []string{"A6"}},
	{`myaks: gone`, "azureml-core", "AksCompute.delete", []string{"A6"}},
	{`nothing is left behind`, "", "", nil},
}

func TestDemo_C1_C3_C4_A1_A2_A6_A8_D1_D4(t *testing.T) {
	python, az, libexec := os.Getenv("BERTH_PYTHON"), os.Getenv("BERTH_AZ"), os.Getenv("BERTH_LIBEXEC")
	if python == "" || az == "" || libexec == "" || os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("the demo needs root, BERTH_PYTHON, BERTH_AZ and BERTH_LIBEXEC; make test sets them")
		}
		t.Skip("needs root, BERTH_PYTHON, BERTH_AZ and BERTH_LIBEXEC; make test sets them")
	}
	script, err := filepath.Abs("../../demo/demo.sh")
	if err != nil {
		t.Fatal(err)
	}
	untouched(t)
	var out strings.Builder
	cmd := exec.Command(script)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		for lines := bufio.NewScanner(r); lines.Scan(); {
			t.Log(lines.Text())
			out.WriteString(lines.Text() + "\n")
		}
	}()
	err = cmd.Run()
	_ = w.Close() // a pipe's never fails
	<-copied
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{"azureml-core": version(t, python, "azureml-core"), "azure-cli": version(t, filepath.Join(filepath.Dir(az), "python"), "azure-cli")}
	var results bytes.Buffer
	for _, p := range proofs {
		result := "pass"
		if !regexp.MustCompile(p.line).MatchString(out.String()) {
			result = "fail"
			t.Errorf("the demo did not show %s", p.line)
		}
		if p.client == "" {
			continue
		}
		if err := json.NewEncoder(&results).Encode(map[string]any{"client": p.client, "version": versions[p.client], "operation": p.operation + ", real clusters", "behaviours": p.behaviours, "result": result}); err != nil {
			t.Fatal(err)
		}
	}
	if folder := os.Getenv("BERTH_CONFORMANCE"); folder != "" {
		if err := os.WriteFile(filepath.Join(folder, "demo.jsonl"), results.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// version asks a Python what version of a package it has.
func version(t *testing.T, python, name string) string {
	t.Helper()
	out, err := exec.Command(python, "-c", "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
