package cgroup

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// layout makes a folder that looks like /sys/fs/cgroup.
func layout(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for file, content := range files {
		path := filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func content(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestVersion1(t *testing.T) {
	t.Parallel()
	root := layout(t, map[string]string{
		"cpu/cgroup.procs": "", "memory/cgroup.procs": "", "unified/cgroup.procs": "",
		"cpuset/cgroup.procs": "", "cpuset/cpuset.cpus": "0-1\n", "cpuset/cpuset.mems": "0\n",
		// What the kernel makes in a new group.
		"cpu/berth/n0/cpu.cfs_quota_us": "-1", "cpu/berth/n0/cpu.cfs_period_us": "100000",
		"memory/berth/n0/memory.limit_in_bytes": "max", "cpuset/berth/cpuset.cpus": "", "cpuset/berth/cpuset.mems": "",
	})
	h, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Create("berth/n0"); err != nil {
		t.Fatal(err)
	}
	if got := content(t, root, "cpuset/berth/cpuset.cpus"); got != "0-1" {
		t.Errorf("the new group's CPUs are %q, want the parent's", got)
	}
	if err := h.Limit("berth/n0", 4, 14336); err != nil {
		t.Fatal(err)
	}
	if quota, limit := content(t, root, "cpu/berth/n0/cpu.cfs_quota_us"), content(t, root, "memory/berth/n0/memory.limit_in_bytes"); quota != "400000" || limit != "15032385536" {
		t.Errorf("CPU quota %s and memory limit %s, want 400000 and 15032385536", quota, limit)
	}
	if err := h.Add("berth/n0", 42); err != nil {
		t.Fatal(err)
	}
	if pids, err := h.Processes("berth"); err != nil || len(pids) != 1 || pids[0] != 42 {
		t.Errorf("processes %v, error %v; want 42 once", pids, err)
	}
	if _, err := os.Stat(filepath.Join(root, "unified/berth/n0")); err != nil {
		t.Errorf("the mixed machine's other hierarchy has no group: %v", err)
	}
}

func TestVersion2(t *testing.T) {
	t.Parallel()
	root := layout(t, map[string]string{
		"cgroup.controllers": "cpu memory", "cgroup.subtree_control": "",
		"berth/cgroup.controllers": "cpu memory", "berth/cgroup.subtree_control": "",
		"berth/n0/cpu.max": "max 100000", "berth/n0/memory.max": "max",
	})
	h, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Create("berth/n0"); err != nil {
		t.Fatal(err)
	}
	if got := content(t, root, "berth/cgroup.subtree_control"); !strings.HasPrefix(got, "+") {
		t.Errorf("controllers passed on: %q", got)
	}
	if err := h.Limit("berth/n0", 2, 4096); err != nil {
		t.Fatal(err)
	}
	if cpu, memory := content(t, root, "berth/n0/cpu.max"), content(t, root, "berth/n0/memory.max"); cpu != "200000 100000" || memory != "4294967296" {
		t.Errorf("cpu.max %q and memory.max %q", cpu, memory)
	}
}

func TestOpenSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	if _, err := Open(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing folder was opened")
	}
	root := layout(t, map[string]string{"cpu/cgroup.procs": ""})
	if _, err := Open(root); err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("error %v, want one that names the memory controller", err)
	}
}

// TestRemove works on the machine's own hierarchies, where removing a folder removes a group.
func TestRemove(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("control groups need root")
	}
	h, err := Open("/sys/fs/cgroup")
	if err != nil {
		t.Skip(err)
	}
	top := "berth-test-" + rand.Text()
	for range 2 {
		if err := h.Create(top + "/a/b"); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Limit(top+"/a", 1, 512); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := h.Remove(top); err != nil {
			t.Fatal(err)
		}
	}
	if h.Exists(top) {
		t.Error("the group is still there")
	}
}
