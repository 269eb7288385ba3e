package terraform

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// working is a folder with a configuration and its state.
type working struct {
	t   *testing.T
	dir string
}

// use copies one of testdata's files into the folder.
func (w working) use(name string) {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err == nil {
		err = os.WriteFile(filepath.Join(w.dir, name), data, 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// terraform runs a command of Terraform's through berth run, so the provider is as if on its way to Azure.
func (w working) terraform(args ...string) (string, error) {
	return cli(append([]string{"run", "--", "terraform", "-chdir=" + w.dir}, args...)...)
}

func (w working) apply(t *testing.T, vars ...string) {
	t.Helper()
	if out, err := w.terraform(withVars(vars, "apply", "-auto-approve", "-no-color")...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// refused expects that apply or destroy fails and returns why, without the line breaks that
// Terraform puts into messages.
func (w working) refused(t *testing.T, command string, vars ...string) string {
	t.Helper()
	_, err := w.terraform(withVars(vars, command, "-auto-approve", "-no-color")...)
	if err == nil {
		t.Fatal("it was done")
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

// changes says whether a plan has any: exit code 2 against 0.
func (w working) changes(t *testing.T, vars ...string) bool {
	t.Helper()
	out, err := w.terraform(withVars(vars, "plan", "-detailed-exitcode", "-no-color")...)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 2 {
		t.Log(out)
		return true
	} else if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// output is one of the configuration's outputs, an object.
func (w working) output(t *testing.T, name string) map[string]any {
	t.Helper()
	out, err := w.terraform("output", "-json", name)
	if err != nil {
		t.Fatal(err)
	}
	var value map[string]any
	if err := json.Unmarshal([]byte(out), &value); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	return value
}

func withVars(vars []string, args ...string) []string {
	for _, v := range vars {
		args = append(args, "-var", v)
	}
	return args
}

// berthSays holds what berth's own commands say against what is wanted.
func berthSays(t *testing.T, want string, args ...string) {
	t.Helper()
	if got, err := cli(args...); err != nil || strings.TrimSpace(got) != want {
		t.Errorf("berth %s: %q, want %q, %v", strings.Join(args, " "), got, want, err)
	}
}

func TestWorkspaceAndClusters(t *testing.T) {
	if providers == "" {
		t.Skip("there is no terraform in PATH. Install Terraform 1.11 or newer.")
	}
	forgetProofs(t)
	w := working{t, t.TempDir()}
	w.use("main.tf")
	inRG := func(args ...string) []string { return append(args, "-g", "tf-rg", "-o", "tsv") }

	proves(t, "apply: group, storage account, key vault, insights, workspace, managed cluster, computes created and attached", []string{"P1", "A1", "A8", "C1", "C3", "C4"}, func(t *testing.T) {
		start := time.Now()
		w.apply(t)
		t.Logf("in %v", time.Since(start))
		berthSays(t, "Made by Terraform", inRG("ml", "workspace", "show", "-w", "tf-ws", "--query", "friendlyName")...)
		berthSays(t, "DevTest", inRG("ml", "computetarget", "show", "-w", "tf-ws", "-n", "tf-attached", "--query", "properties.properties.clusterPurpose")...)
		berthSays(t, "3", inRG("ml", "computetarget", "show", "-w", "tf-ws", "-n", "tf-created", "--query", "properties.properties.agentCount")...)
		if id, _ := w.output(t, "workspace")["workspaceId"].(string); len(id) != 36 {
			t.Errorf("the workspace's ID is %q", id)
		}
		if fqdn, _ := w.output(t, "cluster")["fqdn"].(string); !strings.Contains(fqdn, ".hcp.westeurope.") {
			t.Errorf("the cluster's name is %q", fqdn)
		}
	})
	proves(t, "data source: an attached compute", []string{"A1", "A2"}, func(t *testing.T) {
		if p := w.output(t, "attached"); p["isAttachedCompute"] != true || !strings.HasSuffix(p["resourceId"].(string), "/tf-aks") {
			t.Errorf("got %v", p)
		}
	})
	proves(t, "plan after apply: no changes", []string{"P1", "A8"}, func(t *testing.T) {
		if w.changes(t) {
			t.Error("there are changes")
		}
	})
	proves(t, "apply: tags and number of nodes changed in place, then no changes", []string{"P1", "R4"}, func(t *testing.T) {
		before := w.output(t, "workspace")["workspaceId"]
		w.apply(t, "stage=two", "nodes=3")
		if after := w.output(t, "workspace")["workspaceId"]; after != before {
			t.Errorf("the workspace %v was replaced by %v", before, after)
		}
		berthSays(t, "3", inRG("aks", "show", "-n", "tf-aks", "--query", "agentPoolProfiles[0].count")...)
		berthSays(t, "two", inRG("aks", "show", "-n", "tf-aks", "--query", "tags.stage")...)
		berthSays(t, "two", inRG("ml", "workspace", "show", "-w", "tf-ws", "--query", "tags.stage")...)
		if w.changes(t, "stage=two", "nodes=3") {
			t.Error("there are changes")
		}
	})
	proves(t, "plan: sees what others changed", []string{"C3", "R4"}, func(t *testing.T) {
		if _, err := cli("aks", "scale", "-g", "tf-rg", "-n", "tf-aks", "--node-count", "2"); err != nil {
			t.Fatal(err)
		}
		if !w.changes(t, "stage=two", "nodes=3") {
			t.Error("there are no changes")
		}
		if w.changes(t, "stage=two", "nodes=2") {
			t.Error("there are changes although the number is right")
		}
	})
	proves(t, "apply: another size of nodes refused by name", []string{"R4"}, func(t *testing.T) {
		if why := w.refused(t, "apply", "stage=two", "nodes=2", "size=Standard_D8s_v3"); !strings.Contains(why, "vmSize") {
			t.Error(why)
		}
	})
	proves(t, "import: a compute", []string{"P1"}, func(t *testing.T) {
		id, err := cli("ml", "computetarget", "show", "-w", "tf-ws", "-n", "tf-attached", "-g", "tf-rg", "--query", "id", "-o", "tsv")
		if err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{"state", "rm", "azapi_resource.attached"},
			{"import", "-no-color", "azapi_resource.attached", strings.TrimSpace(id) + "?api-version=2024-04-01"},
		} {
			if out, err := w.terraform(args...); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
	})
	proves(t, "destroy: a compute without underlyingResourceAction refused by name", []string{"A6"}, func(t *testing.T) {
		if why := w.refused(t, "destroy", "stage=two", "nodes=2"); !strings.Contains(why, "underlyingResourceAction") {
			t.Error(why)
		}
	})
	proves(t, "destroy: computes deleted and detached, and all the rest", []string{"A6", "P1"}, func(t *testing.T) {
		w.use("deletion.tf")
		w.apply(t, "stage=two", "nodes=2")
		if out, err := w.terraform("destroy", "-auto-approve", "-no-color"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		berthSays(t, "false", "group", "exists", "-n", "tf-rg")
		berthSays(t, "[]", "aks", "list", "-o", "json")
	})
}
