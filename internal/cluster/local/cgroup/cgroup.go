// Package cgroup makes, limits and removes control groups under both kernel interfaces:
// version 1 with one hierarchy per controller, and version 2 with one for all. It knows
// nothing about clusters.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// period is the CPU scheduler's accounting period in microseconds, the kernel's default.
const period = 100_000

// Host is the machine's control groups. Paths of groups are relative, like "berth/x".
type Host struct {
	root        string   // where the hierarchies are mounted
	hierarchies []string // version 1: a folder for each; empty means version 2
}

// Open finds out what is mounted at root, which is /sys/fs/cgroup except in tests.
// Its error says what is missing.
func Open(root string) (Host, error) {
	if exists(filepath.Join(root, "cgroup.controllers")) {
		return Host{root: root}, nil
	}
	h := Host{root: root}
	entries, err := os.ReadDir(root)
	if err != nil {
		return Host{}, fmt.Errorf("no control groups are mounted at %s: %w", root, err)
	}
	for _, entry := range entries {
		// cpu -> cpu,cpuacct are links to a hierarchy that is listed itself. A mixed machine
		// also has a version 2 hierarchy, without controllers, where runc makes groups, too.
		if entry.IsDir() && exists(filepath.Join(root, entry.Name(), "cgroup.procs")) {
			h.hierarchies = append(h.hierarchies, entry.Name())
		}
	}
	for _, controller := range []string{"cpu", "memory"} {
		if !slices.ContainsFunc(h.hierarchies, func(name string) bool { return slices.Contains(strings.Split(name, ","), controller) }) {
			return Host{}, fmt.Errorf("the kernel's control groups at %s have no %s controller", root, controller)
		}
	}
	return h, nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// folders are where a group is in each hierarchy.
func (h Host) folders(group string) []string {
	if len(h.hierarchies) == 0 {
		return []string{filepath.Join(h.root, group)}
	}
	var folders []string
	for _, hierarchy := range h.hierarchies {
		folders = append(folders, filepath.Join(h.root, hierarchy, group))
	}
	return folders
}

// Create makes a group and its parents, with every controller available in it.
func (h Host) Create(group string) error {
	var path string
	for name := range strings.SplitSeq(group, "/") {
		parent := path
		path = filepath.Join(path, name)
		for i, folder := range h.folders(path) {
			if len(h.hierarchies) == 0 {
				if err := enableControllers(h.folders(parent)[i]); err != nil {
					return err
				}
			}
			if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("make control group %s: %w", path, err)
			}
			if err := inheritCPUSet(h.folders(parent)[i], folder); err != nil {
				return err
			}
		}
	}
	return nil
}

// enableControllers passes all controllers of a version 2 group on to its children.
func enableControllers(folder string) error {
	controllers, err := os.ReadFile(filepath.Join(folder, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read the controllers of %s: %w", folder, err)
	}
	for controller := range strings.FieldsSeq(string(controllers)) {
		if err := write(folder, "cgroup.subtree_control", "+"+controller); err != nil {
			return err
		}
	}
	return nil
}

// inheritCPUSet fills a version 1 cpuset group, which takes no process while it is empty.
func inheritCPUSet(parent, folder string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		current, err := os.ReadFile(filepath.Join(folder, file))
		if err != nil || strings.TrimSpace(string(current)) != "" || exists(filepath.Join(folder, "cgroup.controllers")) {
			continue // another hierarchy, filled already, or version 2
		}
		value, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		if err := write(folder, file, strings.TrimSpace(string(value))); err != nil {
			return err
		}
	}
	return nil
}

// Limit holds everything in a group together to a number of CPUs and an amount of memory.
func (h Host) Limit(group string, cpus int, memoryMiB int64) error {
	quota, bytes := strconv.Itoa(cpus*period), strconv.FormatInt(memoryMiB<<20, 10)
	for _, folder := range h.folders(group) {
		for file, value := range map[string]string{
			"cpu.cfs_period_us":     strconv.Itoa(period),
			"cpu.cfs_quota_us":      quota,
			"memory.limit_in_bytes": bytes,
			"cpu.max":               quota + " " + strconv.Itoa(period),
			"memory.max":            bytes,
		} {
			if !exists(filepath.Join(folder, file)) {
				continue // another version's or controller's file
			}
			if err := write(folder, file, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// Add moves a process into a group.
func (h Host) Add(group string, pid int) error {
	for _, folder := range h.folders(group) {
		if err := write(folder, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return err
		}
	}
	return nil
}

// Processes lists the processes in a group and in all groups below it.
func (h Host) Processes(group string) ([]int, error) {
	var pids []int
	err := h.walk(group, func(folder string) error {
		data, err := os.ReadFile(filepath.Join(folder, "cgroup.procs"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("list the processes of %s: %w", folder, err)
		}
		for field := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil && !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}

// Exists says whether a group is there in any hierarchy.
func (h Host) Exists(group string) bool {
	return slices.ContainsFunc(h.folders(group), exists)
}

// Remove removes a group and all groups below it. They must hold no process any more.
func (h Host) Remove(group string) error {
	return h.walk(group, func(folder string) error {
		if err := os.Remove(folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove control group %s: %w", folder, err)
		}
		return nil
	})
}

// walk visits a group's folders in all hierarchies, children first.
func (h Host) walk(group string, visit func(folder string) error) error {
	for _, top := range h.folders(group) {
		var folders []string
		err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && entry.IsDir() {
				folders = append(folders, path)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("look into control group %s: %w", top, err)
		}
		for _, folder := range slices.Backward(folders) {
			if err := visit(folder); err != nil {
				return err
			}
		}
	}
	return nil
}

func write(folder, file, value string) error {
	if err := os.WriteFile(filepath.Join(folder, file), []byte(value), 0o644); err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	return nil
}
