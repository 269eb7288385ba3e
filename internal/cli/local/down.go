package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/cli/cmd"
)

const stopGrace = 20 * time.Second

// NewDown is the command down.
func NewDown(e *cmd.Env) *cobra.Command {
	var remove, yes bool
	var libexecDir string
	c := &cobra.Command{
		Use:     "down",
		Short:   "Stop Berth on this machine",
		Long:    "Stop Berth on this machine. Its clusters go on running, and are found again by the next up; with --delete they and all data go, too.",
		Example: "  berth down\n  berth down --delete --yes",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			home, err := e.HomeDir()
			if err != nil {
				return err
			}
			if remove {
				if err := e.Confirm(yes, fmt.Sprintf("Delete all clusters and data of the Berth in %s?", home)); err != nil {
					return err
				}
			}
			return down(c.Context(), e, home, remove, libexec(libexecDir))
		},
	}
	c.Flags().BoolVar(&remove, "delete", false, "also delete its clusters and data")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.Flags().StringVar(&libexecDir, "libexec", "", "folder with the programs of the local provider")
	return c
}

func down(ctx context.Context, e *cmd.Env, home app.Home, remove bool, libexecDir string) error {
	s, err := e.ReadState()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s = &cmd.State{}
	case err != nil:
		return err
	}
	running := alive(s.PID, s.Born)
	if err := stop(s.PID, s.Born, stopGrace); err != nil {
		return err
	}
	if running && !e.OnlyErrors {
		fmt.Fprintf(e.Err, "Berth (process %d) has stopped.\n", s.PID)
	}
	if !remove {
		if !running {
			fmt.Fprintln(e.Err, "Berth was not running.")
		}
		return nil
	}
	provider := s.Provider
	if provider == "" {
		provider = "local"
	}
	p := e.NewProgress("delete")
	err = app.Delete(ctx, app.Config{Home: home, Provider: provider, Libexec: libexecDir}, func(what string) { p.Update("deleting", what) })
	p.Done(err)
	if err != nil {
		return err
	}
	return removeFiles(home)
}

// removeFiles removes what Berth and its CLI put into the home folder, and the folder if
// nothing else is in it.
func removeFiles(home app.Home) error {
	for _, path := range home.Files() {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	if err := os.Remove(string(home)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		entries, readErr := os.ReadDir(string(home))
		if readErr == nil && len(entries) > 0 {
			return nil // something of the user's is in there
		}
		return err
	}
	return nil
}
