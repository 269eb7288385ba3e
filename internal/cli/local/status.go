package local

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/armclient"
	"github.com/berthdev/berth/internal/cli/cmd"
)

// NewStatus is the command status.
func NewStatus(e *cmd.Env) *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Show whether Berth runs, where, and what it has",
		Example: "  berth status\n  berth status -o json --query url",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p := e.Printer("")
			if err := p.Check(); err != nil {
				return &cmd.UsageError{Err: err}
			}
			out, err := status(c.Context(), e)
			if err != nil {
				return err
			}
			return p.Print(out)
		},
	}
}

func status(ctx context.Context, e *cmd.Env) (map[string]any, error) {
	home, err := e.HomeDir()
	if err != nil {
		return nil, err
	}
	out := map[string]any{"running": false, "home": string(home), "version": app.Version}
	s, err := e.ReadState()
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	out["provider"], out["url"], out["installationId"] = s.Provider, s.URL, s.InstallationID
	out["tenantId"], out["subscriptionId"] = s.TenantID, s.SubscriptionID
	if !alive(s.PID, s.Born) {
		return out, nil
	}
	out["running"], out["pid"], out["uptime"] = true, float64(s.PID), time.Since(s.Started).Round(time.Second).String()
	var problems []any
	if s.Provider == "local" && !s.Root {
		problems = append(problems, notRoot)
	}
	if err := inventory(ctx, e, s.SubscriptionID, out); err != nil {
		problems = append(problems, "It does not answer: "+err.Error())
	}
	if problems != nil {
		out["problems"] = problems
	}
	return out, nil
}

// inventory adds what the installation has.
func inventory(ctx context.Context, e *cmd.Env, subscription string, out map[string]any) error {
	client, _, err := e.Client()
	if err != nil {
		return err
	}
	defer client.Close()
	scope := "/subscriptions/" + subscription
	clusters, err := client.List(ctx, armclient.Request{Path: scope + "/providers/Microsoft.ContainerService/managedClusters", Version: "2024-05-01"})
	if err != nil {
		return err
	}
	all, err := client.List(ctx, armclient.Request{Path: scope + "/resources", Version: "2021-04-01"})
	if err != nil {
		return err
	}
	list := []any{}
	for _, c := range clusters {
		m, _ := c.(map[string]any)
		props, _ := m["properties"].(map[string]any)
		list = append(list, map[string]any{"id": m["id"], "name": m["name"], "provisioningState": props["provisioningState"]})
	}
	out["resources"], out["clusters"] = float64(len(all)), list
	return nil
}
