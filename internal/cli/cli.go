// Package cli is the berth program: the commands that run an installation, and az's own
// command tree for what it has.
package cli

import (
	"context"
	"fmt"
	"strings"

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
against it unmodified: it creates real Kubernetes clusters, or attaches them.`,
		Example:       "  berth up --detach\n  berth run -- az group create -n rg -l westeurope\n  berth ml computetarget create aks -n myaks -g rg -w ws",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       app.Version,
	}
	e.Global(root)
	root.SetIn(e.In)
	root.SetOut(e.Out)
	root.SetErr(e.Err)
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

// Main runs the program and returns its exit code. What goes wrong before a command
// begins is a wrong call.
func Main(ctx context.Context, e *cmd.Env, args []string) int {
	root := New(e)
	root.SetArgs(args)
	begun := false
	watch(root, &begun)
	c, err := root.ExecuteContextC(ctx)
	if err != nil && !begun {
		err = &cmd.UsageError{Err: fmt.Errorf("%w. See: %s --help", err, c.CommandPath())}
	}
	return e.Report(err)
}

// watch notes when a command below c begins. A command that only has others below it
// shows them, and refuses what is none of them.
func watch(c *cobra.Command, begun *bool) {
	for _, sub := range c.Commands() {
		watch(sub, begun)
	}
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			*begun = true
			return run(c, args)
		}
		return
	}
	if c.Run != nil || !c.HasSubCommands() {
		return
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		c.SuggestionsMinimumDistance = 2
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			return fmt.Errorf("%s has no command %q. Did you mean %s?", c.CommandPath(), args[0], strings.Join(near, " or "))
		}
		return fmt.Errorf("%s has no command %q", c.CommandPath(), args[0])
	}
	c.Args = cobra.ArbitraryArgs
}
