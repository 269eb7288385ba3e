package local_test

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/clustertest"
	"github.com/berthdev/berth/internal/cluster/local"
	"github.com/berthdev/berth/internal/cluster/local/proc"
)

// libexec is where the tests find what "make libexec" built.
func libexec(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("real clusters need root")
	}
	folder := os.Getenv("BERTH_LIBEXEC")
	if folder != "" {
		return folder // what it lacks, the test fails with
	}
	folder, err := filepath.Abs("../../../bin/libexec")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(folder, "berth-kube")); err != nil {
		t.Skip("real clusters need make libexec")
	}
	return folder
}

// machine is a state folder and an installation of its own, which outlive a provider.
type machine struct {
	config local.Config
}

func newMachine(t *testing.T) machine {
	return machine{local.Config{
		StateDir: t.TempDir(), LibexecDir: libexec(t), Installation: "test-" + rand.Text(),
		Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	}}
}

func (m machine) harness(t *testing.T) clustertest.Harness {
	t.Cleanup(func() { m.showLogs(t) })
	return clustertest.Harness{
		Provider:  local.New(m.config),
		Reopen:    func(*testing.T) cluster.Provider { return local.New(m.config) },
		Leftovers: m.leftovers,
	}
}

// leftovers looks for what belongs to the installation's clusters without asking the
// provider.
func (m machine) leftovers(t *testing.T) []string {
	t.Helper()
	var left []string
	processes, err := proc.List(m.config.Installation)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		left = append(left, "process "+p.Name+" "+p.Program)
	}
	var keys []string
	for _, name := range clustertest.Names {
		keys = append(keys, local.Key(m.config, clustertest.NewSpec(name).ID))
	}
	for _, key := range keys {
		for _, pattern := range []string{"/sys/fs/cgroup/berth/" + key, "/sys/fs/cgroup/*/berth/" + key, "/run/berth/" + key} {
			found, err := filepath.Glob(pattern)
			if err != nil {
				t.Fatal(err)
			}
			left = append(left, found...)
		}
		if _, err := netlink.LinkByName("bth-" + key); err == nil {
			left = append(left, "link bth-"+key)
		}
	}
	claims, err := filepath.Glob("/run/berth/networks/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, claim := range claims {
		if owner, err := os.ReadFile(claim); err == nil && slices.Contains(keys, string(owner)) {
			left = append(left, claim)
		}
	}
	files, err := filepath.Glob(filepath.Join(m.config.StateDir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, m.config.StateDir) {
			left = append(left, "mount "+line)
		}
	}
	return append(left, files...)
}

// showLogs prints the ends of the clusters' logs after a failure.
func (m machine) showLogs(t *testing.T) {
	if !t.Failed() {
		return
	}
	files, _ := filepath.Glob(filepath.Join(m.config.StateDir, "clusters", "*", "logs", "*"))
	for _, file := range files {
		data, _ := os.ReadFile(file)
		t.Logf("the end of %s:\n%s", filepath.Base(file), data[max(0, len(data)-2000):])
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	libexec(t)
	clustertest.Run(t, func(t *testing.T) clustertest.Harness { return newMachine(t).harness(t) })
}

// TestEnsureSaysWhatTheMachineLacks needs no cluster: all that is missing is in one error.
func TestEnsureSaysWhatTheMachineLacks(t *testing.T) {
	t.Parallel()
	p := local.New(local.Config{
		StateDir: t.TempDir(), LibexecDir: t.TempDir(), Installation: "none",
		Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	_, _, err := p.Ensure(context.Background(), clustertest.NewSpec("lacking"), cluster.Handle{})
	var e *cluster.Error
	if !errors.As(err, &e) || e.Kind != cluster.KindUnsupported {
		t.Fatalf("error %v, want KindUnsupported", err)
	}
	for _, want := range []string{"berth-kube", "cni/bridge", "images/coredns.tar", "make libexec"} {
		if !strings.Contains(e.Message, want) {
			t.Errorf("the error does not name %s: %s", want, e.Message)
		}
	}
}

// TestVersionIsWhatIsBuilt keeps the version on offer and the one in kube/go.mod together.
func TestVersionIsWhatIsBuilt(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../../kube/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), "\tk8s.io/kubernetes v"+local.KubernetesVersion+"\n") {
		t.Errorf("kube/go.mod does not build Kubernetes %s", local.KubernetesVersion)
	}
}

func readAll(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(data)
	}
	return all.String()
}
