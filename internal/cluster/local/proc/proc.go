// Package proc starts the processes of local clusters, finds them again and ends them.
// It knows nothing about clusters.
//
// The one invariant: a process is ours if and only if its environment carries our
// marker. No file remembers process IDs, so none can be wrong: after a crash, a restart
// or a reused ID, what runs is what /proc says.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The environment variables that mark a process.
const (
	envInstallation = "BERTH_INSTALLATION"
	envCluster      = "BERTH_CLUSTER"
	envName         = "BERTH_PROCESS"
)

// Mark says whose a process is. Children inherit it, so containerd's shims carry
// containerd's mark, and the program tells them apart.
type Mark struct {
	Installation string // ID of the Berth installation
	Cluster      string // ID of the cluster
	Name         string // the process's name in the cluster, e.g. etcd
}

func (m Mark) environment() []string {
	return []string{envInstallation + "=" + m.Installation, envCluster + "=" + m.Cluster, envName + "=" + m.Name}
}

// Process is a running process with a mark.
type Process struct {
	Mark
	PID     int
	Program string // base name of its executable
}

// List returns all running processes of an installation. Those of other users cannot be
// seen without root.
func List(installation string) ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if p, ok := read(pid); ok && p.Installation == installation {
			found = append(found, p)
		}
	}
	return found, nil
}

// read fails for processes that have no mark or are gone; a zombie has no environment.
func read(pid int) (Process, bool) {
	folder := filepath.Join("/proc", strconv.Itoa(pid))
	environment, err := os.ReadFile(filepath.Join(folder, "environ"))
	if err != nil || !bytes.Contains(environment, []byte(envInstallation+"=")) {
		return Process{}, false
	}
	p := Process{PID: pid}
	for variable := range strings.SplitSeq(string(environment), "\x00") {
		name, value, _ := strings.Cut(variable, "=")
		switch name {
		case envInstallation:
			p.Installation = value
		case envCluster:
			p.Cluster = value
		case envName:
			p.Name = value
		}
	}
	program, err := os.Readlink(filepath.Join(folder, "exe"))
	if err != nil {
		return Process{}, false
	}
	// A rebuilt program's processes go on running from the old file.
	p.Program = filepath.Base(strings.TrimSuffix(program, " (deleted)"))
	return p, p.Installation != "" && p.Cluster != ""
}

// Kill sends SIGKILL to the processes and waits until all are gone or ctx is done. A
// process whose mark is no longer the same is left alone: the ID was given to another.
func Kill(ctx context.Context, processes []Process) error {
	var handles []int
	defer func() {
		for _, h := range handles {
			unix.Close(h)
		}
	}()
	for _, p := range processes {
		// The handle pins the ID, so the mark is checked on the process that is killed.
		handle, err := unix.PidfdOpen(p.PID, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open process %d (%s): %w", p.PID, p.Name, err)
		}
		handles = append(handles, handle)
		if now, ok := read(p.PID); !ok || now.Mark != p.Mark {
			continue
		}
		if err := unix.PidfdSendSignal(handle, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d (%s): %w", p.PID, p.Name, err)
		}
		if err := awaitExit(ctx, handle); err != nil {
			return fmt.Errorf("process %d (%s) was killed and is still there: %w", p.PID, p.Name, err)
		}
	}
	return nil
}

// awaitExit waits until a process handle says that its process has ended.
func awaitExit(ctx context.Context, handle int) error {
	const slice = 100 * time.Millisecond // how late a cancelled context is noticed
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}}, int(slice.Milliseconds()))
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}
