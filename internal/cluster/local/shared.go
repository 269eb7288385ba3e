package local

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/cluster/local/cgroup"
)

// What the clusters of all installations share: the folder of claims, the top control
// group, and the folders that nodes mount over. The first cluster makes them and the
// last one removes them, one at a time.

const topGroup = "berth"

// madeFile lists the mount points that were made because the host had none.
var madeFile = filepath.Join(runDir, "made.json")

// withHostLock runs f while no other process runs anything under the lock. It is held on
// a folder that always exists, so that nothing has to be left behind for it.
func withHostLock(f func() error) error {
	folder, err := os.Open(filepath.Dir(runDir))
	if err != nil {
		return err
	}
	defer folder.Close() // gives the lock up
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(folder.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return fmt.Errorf("wait for other Berth processes: %w", err)
	}
	return f()
}

// makeShared makes what is missing and the cluster's own parts in it, so that
// removeShared finds it in use.
func (c *localCluster) makeShared() error {
	return withHostLock(func() error {
		if err := os.MkdirAll(c.runFile(), 0o700); err != nil {
			return err
		}
		if err := makeMountPoints(); err != nil {
			return err
		}
		return c.groups.Create(c.group("control"))
	})
}

func makeMountPoints() error {
	var made []string
	if err := readJSON(madeFile, &made); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	before := len(made)
	for _, target := range slices.Sorted(maps.Keys(hostFolders)) {
		if _, err := os.Stat(target); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		made = append(made, target)
	}
	if len(made) == before {
		return nil
	}
	return writeFile(madeFile, mustJSON(made))
}

// removeShared removes what no cluster uses any more.
func removeShared(groups cgroup.Host) error {
	return withHostLock(func() error {
		others, err := filepath.Glob(filepath.Join(runDir, "*", "*"))
		if err != nil || len(others) > 0 {
			return err // claims or networks of other clusters
		}
		var made []string
		if err := readJSON(madeFile, &made); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, target := range made {
			// One that is not empty has become somebody else's.
			if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
				return err
			}
		}
		return errors.Join(groups.Remove(topGroup), os.RemoveAll(runDir))
	})
}
