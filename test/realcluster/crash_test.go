package realcluster

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/cluster/local/proc"
)

// installation is a Berth of the test's own.
type installation struct {
	t    *testing.T
	home string
	id   string
}

func (i *installation) berth(args ...string) (string, error) {
	i.t.Helper()
	out, err := exec.Command(os.Getenv("BERTH_BIN"), append(args, "--home", i.home)...).CombinedOutput()
	return string(out), err
}

func (i *installation) must(args ...string) string {
	i.t.Helper()
	out, err := i.berth(args...)
	if err != nil {
		i.t.Fatalf("berth %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (i *installation) up(more ...string) {
	i.t.Helper()
	i.must(append([]string{"up", "--detach", "--libexec", os.Getenv("BERTH_LIBEXEC")}, more...)...)
}

// kill ends the server as kill -9 does, and starts it again.
func (i *installation) kill() {
	i.t.Helper()
	var status struct{ PID int }
	if err := json.Unmarshal([]byte(i.must("status", "-o", "json", "--only-show-errors")), &status); err != nil || status.PID == 0 {
		i.t.Fatalf("no process in the status: %v", err)
	}
	if err := syscall.Kill(status.PID, syscall.SIGKILL); err != nil {
		i.t.Fatal(err)
	}
	i.until("the killed process to end", func() bool {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(status.PID), "stat"))
		return err != nil || strings.Contains(string(stat), ") Z ") // a zombie is for init to bury
	})
	i.up()
}

func (i *installation) until(what string, is func() bool) {
	i.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !is(); time.Sleep(10 * time.Millisecond) { // polling a real machine
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(i.home, "berth.log"))
			i.t.Fatalf("waited in vain for %s. The log's end:\n%s", what, log[max(0, len(log)-4000):])
		}
	}
}

// processes are what runs of the installation's clusters, by their IDs.
func (i *installation) processes() map[int]proc.Process {
	i.t.Helper()
	list, err := proc.List(i.id)
	if err != nil {
		i.t.Fatal(err)
	}
	running := map[int]proc.Process{}
	for _, p := range list {
		running[p.PID] = p
	}
	return running
}

// lasting reports whether a program runs for as long as its cluster does, unlike those that
// containerd and kube-proxy call for a moment. Until such a one is running its own program it has its caller's, so one
// name may have two for a moment, of which one lasts.
func lasting(p proc.Process) bool {
	return slices.Contains([]string{"berth-kube", "etcd", "containerd"}, p.Program)
}

func (i *installation) state(args ...string) func(string) func() bool {
	return func(want string) func() bool {
		return func() bool {
			out, err := i.berth(append(args, "--query", "properties.provisioningState || provisioningState", "-o", "tsv", "--only-show-errors")...)
			if want == "" {
				return err != nil && strings.Contains(out, "NotFound")
			}
			return strings.TrimSpace(out) == want
		}
	}
}

// needBerth skips a test where the program cannot be run.
func needBerth(t *testing.T) {
	t.Helper()
	if os.Getenv("BERTH_BIN") == "" || os.Getenv("BERTH_LIBEXEC") == "" || os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("this needs root, BERTH_BIN and BERTH_LIBEXEC; make test sets them")
		}
		t.Skip("needs root, BERTH_BIN and BERTH_LIBEXEC; make test sets them")
	}
}

// TestKilled kills Berth at moments of create, attach, detach and delete, from the answer
// to the request on until almost everything runs or is gone. It converges every time, what ran
// goes on, and nothing is orphaned.
func TestKilled(t *testing.T) {
	needBerth(t)
	untouched(t)
	i := &installation{t: t, home: t.TempDir()}
	i.up()
	t.Cleanup(func() { i.must("down", "--delete", "--yes") })
	i.id = strings.TrimSpace(i.must("status", "--query", "installationId", "-o", "tsv", "--only-show-errors"))
	in := []string{"-g", "rg", "-w", "ws"}
	i.must("group", "create", "-n", "rg", "-l", "westeurope")
	i.must(append([]string{"ml", "workspace", "create"}, in...)...)
	compute := func(verb string, more ...string) []string {
		return append(append(append([]string{"ml", "computetarget"}, strings.Fields(verb)...), in...), more...)
	}
	made := i.state(compute("show", "-n", "made")...)
	for _, running := range []int{0, 1, 5, 8} { // processes at the moment of the kill; a cluster with one node has more
		i.must(compute("create aks", "-n", "made", "--cluster-purpose", "DevTest", "--agent-count", "1", "--no-wait")...)
		i.until("the cluster's processes to start", func() bool { return len(i.processes()) >= running })
		i.kill()
		i.until("the compute to be made", made("Succeeded"))
		all := i.processes()
		i.kill()
		now, lasted, survived := i.processes(), 0, map[string]bool{}
		for id, p := range all {
			if _, alive := now[id]; alive {
				lasted++
				survived[p.Name] = survived[p.Name] || lasting(p)
			}
		}
		for _, p := range all {
			if lasting(p) && !survived[p.Name] {
				t.Errorf("%s ended with Berth", p.Name)
			}
		}
		if lasted < 8 { // etcd, containerd and six of Kubernetes
			t.Errorf("only %d processes run: %v", lasted, now)
		}
		i.must(compute("delete", "-n", "made", "--no-wait")...)
		i.until("the cluster's processes to end", func() bool { return len(i.processes()) <= max(0, len(all)-running) })
		i.kill()
		i.until("the compute to be gone", made(""))
		if left := i.processes(); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}

	i.must("aks", "create", "-n", "other", "-g", "rg", "-c", "1", "-s", "Standard_D3_v2")
	id := strings.TrimSpace(i.must("aks", "show", "-n", "other", "-g", "rg", "--query", "id", "-o", "tsv", "--only-show-errors"))
	attached := i.state(compute("show", "-n", "att")...)
	for range 2 {
		i.must(compute("attach aks", "-n", "att", "-i", id, "--cluster-purpose", "DevTest", "--no-wait")...)
		i.kill()
		i.until("the cluster to be attached", attached("Succeeded"))
		i.must(compute("detach", "-n", "att", "--no-wait")...)
		i.kill()
		i.until("the cluster to be detached", attached(""))
	}
	i.must("group", "delete", "-n", "rg", "--yes", "--no-wait")
	i.kill()
	i.until("the group to be gone", i.state("group", "show", "-n", "rg")(""))
	if left := i.processes(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
