package proc

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func start(t *testing.T, mark Mark, args ...string) Process {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("processes are found by their environment, which needs root")
	}
	log := filepath.Join(t.TempDir(), "log")
	pid, err := Start(Spec{Mark: mark, Args: args, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	p, found := find(t, mark.Installation, pid)
	if !found {
		t.Fatalf("process %d is not listed", pid)
	}
	t.Cleanup(func() {
		if err := Kill(context.Background(), []Process{p}); err != nil {
			t.Error(err)
		}
	})
	return p
}

func find(t *testing.T, installation string, pid int) (Process, bool) {
	t.Helper()
	all, err := List(installation)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(p Process) bool { return p.PID == pid })
	if i < 0 {
		return Process{}, false
	}
	return all[i], true
}

func TestStartListKill(t *testing.T) {
	t.Parallel()
	mark := Mark{Installation: rand.Text(), Cluster: "/subscriptions/x/c", Name: "waiter"}
	p := start(t, mark, "/bin/sleep", "3600")
	if p.Mark != mark || p.Program != "sleep" {
		t.Errorf("listed as %+v, want the mark %+v and the program sleep", p, mark)
	}
	if others, err := List(mark.Installation + "x"); err != nil || len(others) > 0 {
		t.Errorf("another installation sees %v, error %v", others, err)
	}
	if err := Kill(t.Context(), []Process{p}); err != nil {
		t.Fatal(err)
	}
	if _, found := find(t, mark.Installation, p.PID); found {
		t.Error("a killed process is still there")
	}
	if err := Kill(t.Context(), []Process{p}); err != nil {
		t.Errorf("killing it again: %v", err)
	}
}

// TestKillLeavesOthersAlone gives Kill a process ID that is now another's.
func TestKillLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	mark := Mark{Installation: rand.Text(), Cluster: "c", Name: "waiter"}
	p := start(t, mark, "/bin/sleep", "3600")
	stale := p
	stale.Name = "somebody-else"
	if err := Kill(t.Context(), []Process{stale}); err != nil {
		t.Fatal(err)
	}
	if _, found := find(t, mark.Installation, p.PID); !found {
		t.Error("Kill ended a process whose mark was not the one it was told")
	}
}

func TestStartSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "log")
	_, err := Start(Spec{Mark: Mark{Name: "etcd"}, Args: []string{"/nowhere/etcd"}, Log: log})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/etcd") {
		t.Errorf("error %v, want one that names the program", err)
	}
	_, err = Start(Spec{Mark: Mark{Name: "etcd"}, Args: []string{"/bin/true"}, Log: log, Network: "/nowhere/net"})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/net") {
		t.Errorf("error %v, want one that names the namespace", err)
	}
}

// TestMountsAreTheNodesOwn proves that a process sees its bind mounts, that a second one
// shares them, and that the host does not.
func TestMountsAreTheNodesOwn(t *testing.T) {
	t.Parallel()
	folder, own := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(own, "inside"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	mark := Mark{Installation: rand.Text(), Cluster: "c", Name: "node/one"}
	log := filepath.Join(t.TempDir(), "log")
	run := func(mounts Mounts) Process {
		pid, err := Start(Spec{Mark: mark, Args: []string{"/bin/sleep", "3600"}, Log: log, Mounts: &mounts})
		if err != nil {
			t.Fatal(err)
		}
		p, _ := find(t, mark.Installation, pid)
		t.Cleanup(func() { _ = Kill(context.Background(), []Process{p}) })
		return p
	}
	first := run(Mounts{Binds: map[string]string{folder: own}})
	second := run(Mounts{Join: first.PID})
	for _, p := range []Process{first, second} {
		table, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID), "mountinfo"))
		if err != nil || !strings.Contains(string(table), " "+folder+" ") {
			t.Errorf("process %d does not have the mount (error %v)", p.PID, err)
		}
	}
	if _, err := os.Stat(filepath.Join(folder, "inside")); err == nil {
		t.Error("the host sees the node's mount")
	}
}
