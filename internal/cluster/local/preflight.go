package local

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/local/cgroup"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	// runDir holds what a reboot ends anyway. Its path is short because sockets' paths
	// may have 107 characters only, and fixed because all installations share the claims
	// of networks in it.
	runDir = "/run/berth"
	// minFreeMiB is what one node's images and etcd need, with room to spare.
	minFreeMiB = 1024
)

// libexecFiles are what "make libexec" has to have built.
var libexecFiles = []string{
	"berth-kube", "containerd", "containerd-shim-runc-v2", "runc", "etcd",
	"cni/bridge", "cni/host-local", "cni/loopback", "cni/portmap",
	"images/pause.tar", "images/coredns.tar", "images/hello.tar",
}

// preflight checks all that the machine must have and reports everything missing at once.
// A cluster that exists already is not given up for lack of space.
func (p *Provider) preflight(exists bool) (cgroup.Host, error) {
	var missing []string
	report := func(format string, args ...any) { missing = append(missing, fmt.Sprintf(format, args...)) }

	if os.Geteuid() != 0 {
		report("it needs root, because nodes are network namespaces, mounts and control groups: run it with sudo, or use the fake provider (--provider fake)")
	}
	var absent []string
	for _, file := range libexecFiles {
		if _, err := os.Stat(filepath.Join(p.config.LibexecDir, file)); err != nil {
			absent = append(absent, file)
		}
	}
	if len(absent) > 0 {
		report("%s lacks %s: run make libexec", readablePath(p.config.LibexecDir), strings.Join(absent, ", "))
	}
	for program, debian := range map[string]string{"nft": "nftables", "mount": "mount"} {
		if _, err := exec.LookPath(program); err != nil {
			report("the program %s is not installed: install the package %s", program, debian)
		}
	}
	groups, err := cgroup.Open(cgroupRoot)
	if err != nil {
		report("%v", err)
	}
	if len(missing) == 0 && !exists {
		if err := p.checkStateDir(); err != nil {
			report("%v", err)
		}
	}
	if len(missing) > 0 {
		return cgroup.Host{}, &cluster.Error{
			Kind:    cluster.KindUnsupported,
			Code:    "LocalClustersNotSupported",
			Message: "This machine cannot run local clusters: " + strings.Join(missing, "; ") + ".",
		}
	}
	return groups, nil
}

// checkStateDir tries what containerd will do there: overlay mounts, with enough space.
func (p *Provider) checkStateDir() error {
	if err := os.MkdirAll(p.config.StateDir, 0o700); err != nil {
		return fmt.Errorf("the state folder cannot be made: %w", err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(p.config.StateDir, &stat); err != nil {
		return fmt.Errorf("the state folder cannot be read: %w", err)
	}
	if free := stat.Bavail * uint64(stat.Bsize) >> 20; free < minFreeMiB {
		return fmt.Errorf("%s has %d MiB free and clusters need %d: free some space", readablePath(p.config.StateDir), free, minFreeMiB)
	}
	trial, err := os.MkdirTemp(p.config.StateDir, "trial-")
	if err != nil {
		return fmt.Errorf("the state folder cannot be written: %w", err)
	}
	defer os.RemoveAll(trial)
	var folders []string
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		folders = append(folders, filepath.Join(trial, name))
		if err := os.Mkdir(filepath.Join(trial, name), 0o700); err != nil {
			return fmt.Errorf("the state folder cannot be written: %w", err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", folders[0], folders[1], folders[2])
	if err := unix.Mount("overlay", folders[3], "overlay", 0, options); err != nil {
		return fmt.Errorf("overlay mounts do not work in %s (%w): put the state folder on a local ext4 or xfs disk, and see that the kernel has overlayfs", readablePath(p.config.StateDir), err)
	}
	return unix.Unmount(folders[3], 0)
}
