package azure

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthdev/berth/internal/armclient"
	"github.com/berthdev/berth/internal/cli/cmd"
)

const groupTable = "[].{Name: name, Location: location, Status: properties.provisioningState}"

func newGroup(e *cmd.Env) *cobra.Command {
	var name, location string
	var tags []string
	var noWait, yes bool
	groupName := func(c *cobra.Command) {
		c.Flags().StringVarP(&name, "name", "n", "", "name of the resource group")
		c.Flags().StringVarP(&name, "resource-group", "g", "", "the same as --name")
		c.MarkFlagsOneRequired("name", "resource-group")
		for _, flag := range []string{"name", "resource-group"} {
			names(e, c, flag, func(_ *cobra.Command, s *session) string { return s.sub() + "/resourcegroups" }, resourcesVersion)
		}
	}
	return noun("group", "Manage resource groups",
		verb{
			use: "create", short: "Create a resource group", example: "  berth group create -n rg -l westeurope",
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				groupName(c)
				tagsFlag(c, &tags)
				c.Flags().StringVarP(&location, "location", "l", "", "Azure region")
				_ = c.MarkFlagRequired("location")
				return func(ctx context.Context, s *session) (any, error) {
					body := map[string]any{"location": location}
					t, err := parseTags(tags)
					if err != nil {
						return nil, err
					}
					if t != nil {
						body["tags"] = t
					}
					return asGroup(s.write(ctx, "group create", armclient.Request{Method: http.MethodPut, Path: s.group(name), Version: resourcesVersion, Body: body}, false))
				}
			},
		}.command(e),
		verb{
			use: "show", short: "Show a resource group", example: "  berth group show -n rg",
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				groupName(c)
				return func(ctx context.Context, s *session) (any, error) {
					return asGroup(anyOf(s.get(ctx, s.group(name), resourcesVersion)))
				}
			},
		}.command(e),
		verb{
			use: "list", short: "List resource groups", example: "  berth group list -o table\n  berth group list --tag env=test", table: groupTable,
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				tag := c.Flags().String("tag", "", "only groups with this tag, key or key=value")
				return func(ctx context.Context, s *session) (any, error) {
					q := url.Values{}
					if k, v, ok := strings.Cut(*tag, "="); k != "" {
						filter := fmt.Sprintf("tagName eq '%s'", strings.ReplaceAll(k, "'", "''"))
						if ok {
							filter += fmt.Sprintf(" and tagValue eq '%s'", strings.ReplaceAll(v, "'", "''"))
						}
						q.Set("$filter", filter)
					}
					return asGroup(anyOf(s.List(ctx, armclient.Request{Path: s.sub() + "/resourcegroups", Version: resourcesVersion, Query: q})))
				}
			},
		}.command(e),
		verb{
			use: "exists", short: "Tell whether a resource group exists", example: "  berth group exists -n rg",
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				groupName(c)
				return func(ctx context.Context, s *session) (any, error) {
					_, err := s.get(ctx, s.group(name), resourcesVersion)
					if notFound(err) {
						return false, nil
					}
					return err == nil, err
				}
			},
		}.command(e),
		verb{
			use: "update", short: "Change a resource group's tags", example: "  berth group update -n rg --tags env=test",
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				groupName(c)
				tagsFlag(c, &tags)
				_ = c.MarkFlagRequired("tags")
				return func(ctx context.Context, s *session) (any, error) {
					t, err := parseTags(tags)
					if err != nil {
						return nil, err
					}
					return asGroup(s.write(ctx, "group update", armclient.Request{Method: http.MethodPatch, Path: s.group(name), Version: resourcesVersion, Body: map[string]any{"tags": t}}, false))
				}
			},
		}.command(e),
		verb{
			use: "delete", short: "Delete a resource group and everything in it", example: "  berth group delete -n rg --yes",
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				groupName(c)
				c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
				c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until it is gone")
				return func(ctx context.Context, s *session) (any, error) {
					if err := e.Confirm(yes, fmt.Sprintf("Delete the resource group %s and everything in it?", name)); err != nil {
						return nil, err
					}
					return s.write(ctx, "group delete", armclient.Request{Method: http.MethodDelete, Path: s.group(name), Version: resourcesVersion}, noWait)
				}
			},
		}.command(e),
		waitVerb(e, "Wait until a resource group is as asked for", "  berth group wait -n rg --deleted", groupName, func(ctx context.Context, s *session) (any, error) {
			return asGroup(anyOf(s.get(ctx, s.group(name), resourcesVersion)))
		}),
	)
}
