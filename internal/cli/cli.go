// Package cli is the berth program: the commands that run an installation, and az's own
// command tree for what it has.
package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/cli/azure"
	"github.com/berthdev/berth/internal/cli/cmd"
	"github.com/berthdev/berth/internal/cli/local"
)

// New is the command tree.
func New(e *cmd.Env) *cobra.Command {
	root := &cobra.Command{
		Use:   "berth",
		Short: "Azure ML's Kubernetes compute, on your own machines",
		Long: `Berth speaks Azure's own REST APIs, so that code written for Azure ML's Kubernetes compute runs
against it unmodified: it creates or attaches real Kubernetes clusters and runs models on them.`,
		Example:       "  berth up --detach\n  berth run -- az group create -n rg -l westeurope\n  berth ml computetarget create aks -n myaks -g rg -w ws",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       app.Version,
	}
	e.Global(root)
	root.SetIn(e.In)
	root.SetOut(e.Out)
	root.SetErr(e.Err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &cmd.UsageError{Err: fmt.Errorf("%w. See: %s --help", err, c.CommandPath())}
	})
	root.AddGroup(&cobra.Group{ID: "local", Title: "Berth on this machine:"}, &cobra.Group{ID: "azure", Title: "Azure's commands:"})
	for _, c := range []*cobra.Command{local.NewUp(e), local.NewDown(e), local.NewStatus(e), local.NewEnv(e), local.NewRun(e)} {
		c.GroupID = "local"
		root.AddCommand(c)
	}
	for _, c := range azure.Commands(e) {
		c.GroupID = "azure"
		root.AddCommand(c)
	}
	return root
}

// Main runs the program and returns its exit code.
func Main(ctx context.Context, e *cmd.Env, args []string) int {
	root := New(e)
	root.SetArgs(args)
	return e.Report(root.ExecuteContext(ctx))
}
