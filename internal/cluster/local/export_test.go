package local

import (
	"context"
	"errors"

	"github.com/berthdev/berth/internal/cluster/local/cgroup"
	"github.com/berthdev/berth/internal/cluster/local/network"
)

// Key is the short name that a cluster's things have on the machine.
func Key(c Config, id string) string { return New(c).cluster(id).key }

// Reboot ends what a restart of the machine would end of a cluster: everything but files.
func Reboot(ctx context.Context, config Config, id string) error {
	c := New(config).cluster(id)
	groups, err := cgroup.Open(cgroupRoot)
	if err != nil {
		return err
	}
	c.groups = groups
	running, err := c.processes()
	if err != nil {
		return err
	}
	return errors.Join(
		c.end(ctx, running, c.group()),
		network.Remove(c.runFile("net"), c.hostLink(), claimDir, c.key),
		removeAll(c.runFile()),
	)
}
