package azure

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"github.com/berthdev/berth/internal/armclient"
	"github.com/berthdev/berth/internal/cli/cmd"
)

const (
	workspaceTable = "[].{Name: name, ResourceGroup: resourceGroup, Location: location, FriendlyName: friendlyName} || @.{Name: name, ResourceGroup: resourceGroup, Location: location, FriendlyName: friendlyName}"
	computeFields  = "{Name: name, ResourceGroup: resourceGroup, State: properties.provisioningState, Attached: properties.isAttachedCompute, Purpose: properties.properties.clusterPurpose, Nodes: properties.properties.agentCount, VmSize: properties.properties.agentVmSize}"
	computeTable   = "[]." + computeFields + " || @." + computeFields
)

func (s *session) workspace(group, name string) string {
	return s.group(group) + "/providers/Microsoft.MachineLearningServices/workspaces/" + url.PathEscape(name)
}

func newML(e *cmd.Env) *cobra.Command {
	return noun("ml", "Manage Azure ML workspaces, computes, models and web services", newWorkspace(e), newComputeTarget(e), newModel(e), newService(e))
}

func workspaceFlag(e *cmd.Env, c *cobra.Command, group, dest *string) {
	c.Flags().StringVarP(dest, "workspace-name", "w", "", "name of the workspace")
	_ = c.MarkFlagRequired("workspace-name")
	names(e, c, "workspace-name", func(_ *cobra.Command, s *session) string {
		return s.group(*group) + "/providers/Microsoft.MachineLearningServices/workspaces"
	}, mlVersion)
}

func newWorkspace(e *cmd.Env) *cobra.Command {
	var group, name string
	var tags []string
	declare := func(c *cobra.Command) {
		groupFlag(e, c, &group, true)
		workspaceFlag(e, c, &group, &name)
	}
	return noun("workspace", "Manage workspaces",
		verb{
			use: "create", short: "Create a workspace", example: "  berth ml workspace create -w ws -g rg", table: workspaceTable,
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				declare(c)
				location := c.Flags().StringP("location", "l", "", "Azure region (default: the group's)")
				friendly := c.Flags().StringP("friendly-name", "f", "", "name for people")
				storage := c.Flags().String("storage-account", "", "ID of the storage account")
				vault := c.Flags().String("keyvault", "", "ID of the key vault")
				insights := c.Flags().String("application-insights", "", "ID of the application insights component")
				registry := c.Flags().String("container-registry", "", "ID of the container registry")
				conflict := c.Flags().String("attach-conflict", "", "what a second attachment of one cluster does: refuse (default) or supersede")
				tagsFlag(c, &tags)
				return func(ctx context.Context, s *session) (any, error) {
					loc, err := s.location(ctx, *location, group)
					if err != nil {
						return nil, err
					}
					t, err := parseTags(tags)
					if err != nil {
						return nil, err
					}
					props := map[string]any{}
					for k, v := range map[string]string{"friendlyName": *friendly, "storageAccount": *storage, "keyVault": *vault, "applicationInsights": *insights, "containerRegistry": *registry, "attachConflict": *conflict} {
						if v != "" {
							props[k] = v
						}
					}
					body := map[string]any{"location": loc, "tags": t, "identity": map[string]any{"type": "SystemAssigned"}, "properties": props}
					return flat(s.write(ctx, "workspace create", armclient.Request{Method: http.MethodPut, Path: s.workspace(group, name), Version: mlVersion, Body: body}, false))
				}
			},
		}.command(e),
		verb{
			use: "show", short: "Show a workspace", example: "  berth ml workspace show -w ws -g rg", table: workspaceTable,
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				declare(c)
				return func(ctx context.Context, s *session) (any, error) {
					return flat(anyOf(s.get(ctx, s.workspace(group, name), mlVersion)))
				}
			},
		}.command(e),
		verb{
			use: "list", short: "List workspaces", example: "  berth ml workspace list -o table", table: workspaceTable,
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				groupFlag(e, c, &group, false)
				return func(ctx context.Context, s *session) (any, error) {
					return flat(anyOf(s.List(ctx, armclient.Request{Path: s.scope(group) + "/providers/Microsoft.MachineLearningServices/workspaces", Version: mlVersion})))
				}
			},
		}.command(e),
		verb{
			use: "update", short: "Change a workspace", example: "  berth ml workspace update -w ws -g rg --friendly-name \"My workspace\"", table: workspaceTable,
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				declare(c)
				friendly := c.Flags().StringP("friendly-name", "f", "", "name for people")
				description := c.Flags().StringP("description", "d", "", "description")
				tagsFlag(c, &tags)
				return func(ctx context.Context, s *session) (any, error) {
					t, err := parseTags(tags)
					if err != nil {
						return nil, err
					}
					props := map[string]any{}
					if c.Flags().Changed("friendly-name") {
						props["friendlyName"] = *friendly
					}
					if c.Flags().Changed("description") {
						props["description"] = *description
					}
					body := map[string]any{"properties": props}
					if t != nil {
						body["tags"] = t
					}
					return flat(s.write(ctx, "workspace update", armclient.Request{Method: http.MethodPatch, Path: s.workspace(group, name), Version: mlVersion, Body: body}, false))
				}
			},
		}.command(e),
		verb{
			use: "delete", short: "Delete a workspace with its computes", example: "  berth ml workspace delete -w ws -g rg --yes",
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				declare(c)
				yes := c.Flags().BoolP("yes", "y", false, "do not ask")
				noWait := c.Flags().Bool("no-wait", false, "do not wait until it is gone")
				return func(ctx context.Context, s *session) (any, error) {
					if err := e.Confirm(*yes, fmt.Sprintf("Delete the workspace %s, detach its attached clusters and delete those it created?", name)); err != nil {
						return nil, err
					}
					return s.write(ctx, "workspace delete", armclient.Request{Method: http.MethodDelete, Path: s.workspace(group, name), Version: mlVersion}, *noWait)
				}
			},
		}.command(e),
	)
}

func newComputeTarget(e *cmd.Env) *cobra.Command {
	var group, ws, name string
	var noWait bool
	place := func(c *cobra.Command) {
		groupFlag(e, c, &group, true)
		workspaceFlag(e, c, &group, &ws)
	}
	declare := func(c *cobra.Command) {
		place(c)
		nameFlag(c, &name, "compute")
		names(e, c, "name", func(_ *cobra.Command, s *session) string { return s.workspace(group, ws) + "/computes" }, mlVersion)
	}
	wait := func(c *cobra.Command) {
		c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until it is done")
	}
	compute := func(s *session) string { return s.workspace(group, ws) + "/computes/" + url.PathEscape(name) }
	put := func(ctx context.Context, s *session, title string, props map[string]any, tags []string) (any, error) {
		w, err := s.get(ctx, s.workspace(group, ws), mlVersion)
		if err != nil {
			return nil, err
		}
		t, err := parseTags(tags)
		if err != nil {
			return nil, err
		}
		props["computeType"] = "AKS"
		out, err := s.write(ctx, title, armclient.Request{
			Method: http.MethodPut, Path: compute(s), Version: mlVersion, Body: map[string]any{"location": w["location"], "tags": t, "properties": props},
		}, noWait)
		return grouped(out, err)
	}
	remove := func(use, short, action string) *cobra.Command {
		return verb{
			use: use, short: short, example: "  berth ml computetarget " + use + " -n myaks -g rg -w ws",
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				declare(c)
				wait(c)
				return func(ctx context.Context, s *session) (any, error) {
					q := url.Values{"underlyingResourceAction": {action}}
					return s.write(ctx, "computetarget "+use, armclient.Request{Method: http.MethodDelete, Path: compute(s), Version: mlVersion, Query: q}, noWait)
				}
			},
		}.command(e)
	}
	create := verb{
		use: "aks", short: "Create a Kubernetes cluster for a workspace", example: "  berth ml computetarget create aks -n myaks -g rg -w ws\n  berth ml computetarget create aks -n dev -g rg -w ws --cluster-purpose DevTest",
		long:  "Create a Kubernetes cluster for a workspace. Without options it is a production cluster: 3 nodes of\nStandard_D3_v2. The purpose DevTest gives no fault tolerance and is not for production traffic.",
		table: computeTable,
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			declare(c)
			wait(c)
			fl := c.Flags()
			count := fl.IntP("agent-count", "a", 0, "number of nodes (default: 3, or 1 for DevTest)")
			size := fl.StringP("vm-size", "s", "", "VM size of the nodes (default: Standard_D3_v2)")
			purpose := fl.StringP("cluster-purpose", "f", "FastProd", "FastProd, DenseProd or DevTest; DevTest gives no fault tolerance")
			location := fl.StringP("location", "l", "", "Azure region of the cluster (default: the workspace's)")
			cert := fl.String("ssl-cert-file", "", "file with the certificate chain, PEM")
			key := fl.String("ssl-key-file", "", "file with the key, PEM")
			cname := fl.String("ssl-cname", "", "host name of the certificate")
			leaf := fl.String("ssl-leaf-domain-label", "", "leaf domain label")
			balancer := fl.String("load-balancer-type", "", "PublicIp or InternalLoadBalancer")
			subnet := fl.String("load-balancer-subnet", "", "subnet of an internal load balancer")
			var tags []string
			tagsFlag(c, &tags)
			return func(ctx context.Context, s *session) (any, error) {
				aks := map[string]any{"clusterPurpose": *purpose}
				if *count != 0 {
					aks["agentCount"] = *count
				}
				for k, v := range map[string]string{"agentVmSize": *size, "loadBalancerType": *balancer, "loadBalancerSubnet": *subnet} {
					if v != "" {
						aks[k] = v
					}
				}
				ssl, err := sslConfiguration(*cert, *key, *cname, *leaf)
				if err != nil {
					return nil, err
				}
				if ssl != nil {
					aks["sslConfiguration"] = ssl
				}
				props := map[string]any{"properties": aks}
				if *location != "" {
					props["computeLocation"] = *location
				}
				return put(ctx, s, "computetarget create", props, tags)
			}
		},
	}.command(e)
	attach := verb{
		use: "aks", short: "Attach a Kubernetes cluster to a workspace", example: "  berth ml computetarget attach aks -n myaks -g rg -w ws -i $(berth aks show -n c -g rg --query id -o tsv)", table: computeTable,
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			declare(c)
			wait(c)
			id := c.Flags().StringP("compute-resource-id", "i", "", "ID of the managed cluster")
			purpose := c.Flags().String("cluster-purpose", "", "FastProd (default), DenseProd or DevTest")
			_ = c.MarkFlagRequired("compute-resource-id")
			return func(ctx context.Context, s *session) (any, error) {
				aks := map[string]any{}
				if *purpose != "" {
					aks["clusterPurpose"] = *purpose
				}
				return put(ctx, s, "computetarget attach", map[string]any{"resourceId": *id, "properties": aks}, nil)
			}
		},
	}.command(e)
	return noun("computetarget", "Manage computes",
		noun("create", "Create a compute", create),
		noun("attach", "Attach a compute", attach),
		remove("detach", "Detach a cluster from a workspace, and leave it alone", "Detach"),
		remove("delete", "Delete a compute and the cluster it created", "Delete"),
		verb{
			use: "show", short: "Show a compute", example: "  berth ml computetarget show -n myaks -g rg -w ws", table: computeTable,
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				declare(c)
				return func(ctx context.Context, s *session) (any, error) {
					return grouped(anyOf(s.get(ctx, compute(s), mlVersion)))
				}
			},
		}.command(e),
		verb{
			use: "list", short: "List the computes of a workspace", example: "  berth ml computetarget list -g rg -w ws -o table", table: computeTable,
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				place(c)
				return func(ctx context.Context, s *session) (any, error) {
					list, err := s.List(ctx, armclient.Request{Path: s.workspace(group, ws) + "/computes", Version: mlVersion})
					if err != nil {
						return nil, err
					}
					return withGroups(list), nil
				}
			},
		}.command(e),
	)
}

// grouped adds the resource group to a result; a compute's properties stay where they
// are, as the v1 extension prints them.
func grouped(v any, err error) (any, error) {
	if m, ok := v.(map[string]any); ok && err == nil {
		return withGroup(m), nil
	}
	return v, err
}

func sslConfiguration(cert, key, cname, leaf string) (map[string]any, error) {
	if leaf != "" {
		return map[string]any{"status": "Auto", "leafDomainLabel": leaf}, nil
	}
	if cert == "" && key == "" && cname == "" {
		return nil, nil
	}
	out := map[string]any{"status": "Enabled", "cname": cname}
	for field, file := range map[string]string{"cert": cert, "key": key} {
		if file == "" {
			return nil, &cmd.UsageError{Err: fmt.Errorf("--ssl-cert-file, --ssl-key-file and --ssl-cname belong together")}
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		out[field] = string(data)
	}
	return out, nil
}
