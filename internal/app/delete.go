package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// deleteStep is the time between two looks at a cluster that is on its way out.
const deleteStep = 100 * time.Millisecond

// Delete deletes every cluster of an installation that does not run any more. progress is
// told what is being deleted.
func Delete(ctx context.Context, cfg Config, progress func(what string)) error {
	cfg = withDefaults(cfg)
	if _, err := os.Stat(cfg.Home.installation()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	in, err := cfg.Home.LoadInstallation()
	if err != nil {
		return err
	}
	provider, err := newProvider(cfg, in, nil)
	if err != nil {
		return err
	}
	owned, err := provider.List(ctx)
	if err != nil {
		return fmt.Errorf("listing the clusters: %w", err)
	}
	for _, c := range owned {
		for done := false; !done; {
			progress(c.ID)
			if done, err = provider.Delete(ctx, c.ID, c.Handle); err != nil {
				return fmt.Errorf("deleting the cluster %s: %w", c.ID, err)
			}
			if done {
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(deleteStep):
			}
		}
	}
	return nil
}
