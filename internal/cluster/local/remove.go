package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/cluster/local/network"
	"github.com/berthdev/berth/internal/cluster/local/proc"
)

// killTime is how long killed processes may take to be gone: on a busy machine those of models take more than a few
// seconds to give back their memory.
const killTime = 30 * time.Second

func isOf(p proc.Process, n node) bool { return strings.HasPrefix(p.Name, n.Name+"/") }

// remove removes everything of the cluster; the record goes last. Each part may be
// missing already.
func (c *localCluster) remove(ctx context.Context) error {
	running, err := c.processes()
	if err != nil {
		return err
	}
	if err := c.end(ctx, running, c.group()); err != nil {
		return err
	}
	if err := network.Remove(c.runFile("net"), c.hostLink(), claimDir, c.key); err != nil {
		return err
	}
	if err := c.unmount(); err != nil {
		return err
	}
	entries, err := os.ReadDir(c.file())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	paths := []string{c.runFile()}
	for _, entry := range entries {
		if entry.Name() != recordFile {
			paths = append(paths, c.file(entry.Name()))
		}
	}
	if err := removeAll(append(paths, c.file())...); err != nil {
		return err
	}
	return removeShared(c.groups)
}

// end kills processes and whatever else is in a control group, which only the cluster
// uses: containers carry no mark. Then it removes the group.
func (c *localCluster) end(ctx context.Context, marked []proc.Process, group string) error {
	ctx, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	// Containers first die with their group, so that no shim restarts or reports them.
	if err := proc.Kill(ctx, marked); err != nil {
		return err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		pids, err := c.groups.Processes(group)
		if err != nil {
			return err
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d of control group %s: %w", pid, group, err)
			}
		}
		if len(pids) == 0 {
			// A process that has just ended may hold its group for a moment longer.
			if err := c.groups.Remove(group); !errors.Is(err, unix.EBUSY) {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("control group %s is still in use: %w", group, ctx.Err())
		}
	}
}

// unmount ends mounts below the cluster's folders that the host sees. Nodes' own mounts
// are in their namespaces and ended with their processes.
func (c *localCluster) unmount() error {
	points, err := mountPoints(c.runFile(), c.file())
	if err != nil {
		return err
	}
	for _, point := range slices.Backward(points) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return nil
}

// mountPoints lists the host's mounts below folders, outer ones first.
func mountPoints(folders ...string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	// The kernel writes these characters of a path in octal.
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var points []string
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescape.Replace(fields[4])
		if slices.ContainsFunc(folders, func(folder string) bool { return strings.HasPrefix(point, filepath.Clean(folder)+"/") }) {
			points = append(points, point)
		}
	}
	return points, nil
}

func removeAll(paths ...string) error {
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}
