package azure

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/berthdev/berth/internal/armclient"
	"github.com/berthdev/berth/internal/cli/cmd"
)

const (
	aksFields  = "{Name: name, Location: location, ResourceGroup: resourceGroup, KubernetesVersion: kubernetesVersion, CurrentKubernetesVersion: currentKubernetesVersion, ProvisioningState: provisioningState, Fqdn: fqdn}"
	aksTable   = "[]." + aksFields + " || @." + aksFields
	poolFields = "{Name: name, OsType: osType, KubernetesVersion: currentOrchestratorVersion, VmSize: vmSize, Count: count, MaxPods: maxPods, ProvisioningState: provisioningState, Mode: mode}"
	poolTable  = "[]." + poolFields + " || @." + poolFields
)

func (s *session) cluster(group, name string) string {
	return s.group(group) + "/providers/Microsoft.ContainerService/managedClusters/" + url.PathEscape(name)
}

// aksCommand is a verb about one cluster.
type aksFlags struct {
	group, name string
	noWait, yes bool
}

func (f *aksFlags) declare(e *cmd.Env, c *cobra.Command, nameFlagName string) {
	groupFlag(e, c, &f.group, true)
	short := "n"
	if nameFlagName != "name" {
		short = ""
	}
	c.Flags().StringVarP(&f.name, nameFlagName, short, "", "name of the cluster")
	_ = c.MarkFlagRequired(nameFlagName)
	names(e, c, nameFlagName, func(_ *cobra.Command, s *session) string {
		if f.group != "" {
			return s.group(f.group) + "/providers/Microsoft.ContainerService/managedClusters"
		}
		return s.sub() + "/providers/Microsoft.ContainerService/managedClusters"
	}, aksVersion)
}

func newAKS(e *cmd.Env) *cobra.Command {
	return noun("aks", "Manage Kubernetes clusters", aksCreate(e), aksShow(e), aksList(e), aksScale(e), aksDelete(e), aksWait(e), aksCredentials(e), aksVersions(e), newNodepool(e))
}

func aksCreate(e *cmd.Env) *cobra.Command {
	var f aksFlags
	return verb{
		use: "create", short: "Create a Kubernetes cluster", example: "  berth aks create -n c -g rg\n  berth aks create -n c -g rg --node-count 1 --node-vm-size Standard_B2s", table: aksTable,
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			f.declare(e, c, "name")
			fl := c.Flags()
			location := fl.StringP("location", "l", "", "Azure region (default: the group's)")
			count := fl.IntP("node-count", "c", 3, "number of nodes")
			size := fl.StringP("node-vm-size", "s", "", "VM size of the nodes (default: Standard_DS2_v2)")
			version := fl.StringP("kubernetes-version", "k", "", "Kubernetes version (default: the newest)")
			pool := fl.String("nodepool-name", "nodepool1", "name of the first pool")
			prefix := fl.StringP("dns-name-prefix", "p", "", "prefix of the API server's host name")
			serviceCIDR := fl.String("service-cidr", "", "address range for services")
			podCIDR := fl.String("pod-cidr", "", "address range for pods")
			dns := fl.String("dns-service-ip", "", "address of cluster DNS, inside the services' range")
			balancer := fl.String("load-balancer-sku", "", "basic or standard")
			fl.Bool("no-ssh-key", false, "accepted as az has it; local nodes have no SSH")
			fl.Bool("generate-ssh-keys", false, "accepted as az has it; local nodes have no SSH")
			fl.BoolVar(&f.noWait, "no-wait", false, "do not wait until it is ready")
			var tags []string
			tagsFlag(c, &tags)
			return func(ctx context.Context, s *session) (any, error) {
				if _, err := s.get(ctx, s.cluster(f.group, f.name), aksVersion); err == nil {
					return nil, fmt.Errorf("the cluster '%s' exists already in group '%s'. Use scale to change its nodes, or choose another name", f.name, f.group)
				} else if !notFound(err) {
					return nil, err
				}
				loc, err := s.location(ctx, *location, f.group)
				if err != nil {
					return nil, err
				}
				t, err := parseTags(tags)
				if err != nil {
					return nil, err
				}
				network := map[string]any{}
				for k, v := range map[string]string{"serviceCidr": *serviceCIDR, "podCidr": *podCIDR, "dnsServiceIP": *dns, "loadBalancerSku": *balancer} {
					if v != "" {
						network[k] = v
					}
				}
				body := map[string]any{
					"location": loc, "identity": map[string]any{"type": "SystemAssigned"}, "tags": t,
					"properties": map[string]any{
						"kubernetesVersion": *version, "dnsPrefix": *prefix, "networkProfile": network,
						"agentPoolProfiles": []any{map[string]any{"name": *pool, "count": *count, "vmSize": *size, "mode": "System", "osType": "Linux", "type": "VirtualMachineScaleSets"}},
					},
				}
				return flatAKS(s.write(ctx, "aks create", armclient.Request{Method: http.MethodPut, Path: s.cluster(f.group, f.name), Version: aksVersion, Body: body}, f.noWait))
			}
		},
	}.command(e)
}

func aksShow(e *cmd.Env) *cobra.Command {
	var f aksFlags
	return verb{
		use: "show", short: "Show a cluster", example: "  berth aks show -n c -g rg --query id", table: aksTable,
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			f.declare(e, c, "name")
			return func(ctx context.Context, s *session) (any, error) {
				return flatAKS(anyOf(s.get(ctx, s.cluster(f.group, f.name), aksVersion)))
			}
		},
	}.command(e)
}

func aksList(e *cmd.Env) *cobra.Command {
	var group string
	return verb{
		use: "list", short: "List clusters", example: "  berth aks list -o table\n  berth aks list -g rg", table: aksTable,
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			groupFlag(e, c, &group, false)
			return func(ctx context.Context, s *session) (any, error) {
				return flatAKS(anyOf(s.List(ctx, armclient.Request{Path: s.scope(group) + "/providers/Microsoft.ContainerService/managedClusters", Version: aksVersion})))
			}
		},
	}.command(e)
}

func aksScale(e *cmd.Env) *cobra.Command {
	var f aksFlags
	return verb{
		use: "scale", short: "Change the number of nodes of a pool", example: "  berth aks scale -n c -g rg --node-count 4", table: aksTable,
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			f.declare(e, c, "name")
			count := c.Flags().IntP("node-count", "c", 0, "number of nodes")
			pool := c.Flags().String("nodepool-name", "", "pool to scale (needed when there are several)")
			_ = c.MarkFlagRequired("node-count")
			c.Flags().BoolVar(&f.noWait, "no-wait", false, "do not wait until it is done")
			return func(ctx context.Context, s *session) (any, error) {
				m, err := s.get(ctx, s.cluster(f.group, f.name), aksVersion)
				if err != nil {
					return nil, err
				}
				props, _ := m["properties"].(map[string]any)
				pools, _ := props["agentPoolProfiles"].([]any)
				found := false
				for _, p := range pools {
					p, _ := p.(map[string]any)
					if *pool == "" && len(pools) == 1 || p["name"] == *pool {
						p["count"], found = *count, true
					}
				}
				if !found {
					return nil, fmt.Errorf("the cluster has %d pools; name one of them with --nodepool-name", len(pools))
				}
				return flatAKS(s.write(ctx, "aks scale", armclient.Request{Method: http.MethodPut, Path: s.cluster(f.group, f.name), Version: aksVersion, Body: m}, f.noWait))
			}
		},
	}.command(e)
}

func aksDelete(e *cmd.Env) *cobra.Command {
	var f aksFlags
	return verb{
		use: "delete", short: "Delete a cluster", example: "  berth aks delete -n c -g rg --yes",
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			f.declare(e, c, "name")
			c.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask")
			c.Flags().BoolVar(&f.noWait, "no-wait", false, "do not wait until it is gone")
			return func(ctx context.Context, s *session) (any, error) {
				if err := e.Confirm(f.yes, fmt.Sprintf("Delete the cluster %s?", f.name)); err != nil {
					return nil, err
				}
				return s.write(ctx, "aks delete", armclient.Request{Method: http.MethodDelete, Path: s.cluster(f.group, f.name), Version: aksVersion}, f.noWait)
			}
		},
	}.command(e)
}

func aksWait(e *cmd.Env) *cobra.Command {
	var f aksFlags
	declare := func(c *cobra.Command) { f.declare(e, c, "name") }
	return waitVerb(e, "Wait until a cluster is as asked for", "  berth aks wait -n c -g rg --created", declare, func(ctx context.Context, s *session) (any, error) {
		return flatAKS(anyOf(s.get(ctx, s.cluster(f.group, f.name), aksVersion)))
	})
}

func aksVersions(e *cmd.Env) *cobra.Command {
	return verb{
		use: "get-versions", short: "List the Kubernetes versions on offer", example: "  berth aks get-versions -l westeurope -o table",
		table: "values[].{KubernetesVersion: version, IsDefault: isDefault, Patches: join(', ', keys(patchVersions))}",
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			location := c.Flags().StringP("location", "l", "westeurope", "Azure region")
			return func(ctx context.Context, s *session) (any, error) {
				return anyOf(s.get(ctx, s.sub()+"/providers/Microsoft.ContainerService/locations/"+url.PathEscape(*location)+"/kubernetesVersions", aksVersion))
			}
		},
	}.command(e)
}

func aksCredentials(e *cmd.Env) *cobra.Command {
	var f aksFlags
	return verb{
		use: "get-credentials", short: "Get a kubeconfig and merge it into yours", example: "  berth aks get-credentials -n c -g rg\n  berth aks get-credentials -n c -g rg --admin -f - > kubeconfig",
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			f.declare(e, c, "name")
			admin := c.Flags().BoolP("admin", "a", false, "get the administrator's credentials")
			file := c.Flags().StringP("file", "f", "", "kubeconfig to merge into; - prints to standard output (default: $KUBECONFIG, else ~/.kube/config)")
			overwrite := c.Flags().Bool("overwrite-existing", false, "replace a cluster of the same name")
			contextName := c.Flags().String("context", "", "name of the context")
			return func(ctx context.Context, s *session) (any, error) {
				action := "listClusterUserCredential"
				if *admin {
					action = "listClusterAdminCredential"
				}
				res, err := s.Do(ctx, armclient.Request{Method: http.MethodPost, Path: s.cluster(f.group, f.name) + "/" + action, Version: aksVersion})
				if err != nil {
					return nil, err
				}
				body, _ := res.Body.(map[string]any)
				list, _ := body["kubeconfigs"].([]any)
				if len(list) == 0 {
					return nil, fmt.Errorf("no credentials are available for the cluster %s", f.name)
				}
				first, _ := list[0].(map[string]any)
				kubeconfig, err := base64.StdEncoding.DecodeString(fmt.Sprint(first["value"]))
				if err != nil {
					return nil, fmt.Errorf("the kubeconfig cannot be read: %w", err)
				}
				if *file == "-" {
					_, err := e.Out.Write(kubeconfig)
					return nil, err
				}
				return nil, mergeKubeconfig(e, kubeconfig, *file, *contextName, *overwrite)
			}
		},
	}.command(e)
}

// mergeKubeconfig adds a kubeconfig to the user's and makes its context the current one.
func mergeKubeconfig(e *cmd.Env, data []byte, path, contextName string, overwrite bool) error {
	add, err := clientcmd.Load(data)
	if err != nil {
		return err
	}
	if path == "" {
		path, _, _ = strings.Cut(e.Getenv("KUBECONFIG"), string(os.PathListSeparator))
	}
	if path == "" {
		path = filepath.Join(e.Getenv("HOME"), ".kube", "config")
	}
	have := clientcmdapi.NewConfig()
	if _, err := os.Stat(path); err == nil {
		if have, err = clientcmd.LoadFromFile(path); err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
	}
	if contextName == "" {
		contextName = add.CurrentContext
	}
	for name, c := range add.Clusters {
		if _, taken := have.Clusters[name]; taken && !overwrite {
			return fmt.Errorf("a different cluster named %s is in %s already; repeat the command with --overwrite-existing to replace it", name, path)
		}
		have.Clusters[name] = c
	}
	for name, a := range add.AuthInfos {
		have.AuthInfos[name] = a
	}
	if c, ok := add.Contexts[add.CurrentContext]; ok {
		have.Contexts[contextName] = c
	}
	have.CurrentContext = contextName
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := clientcmd.WriteToFile(*have, path); err != nil {
		return err
	}
	fmt.Fprintf(e.Err, "Merged %q as current context in %s\n", contextName, path)
	return nil
}

func newNodepool(e *cmd.Env) *cobra.Command {
	pool := func(s *session, f *aksFlags, name string) string {
		return s.cluster(f.group, f.name) + "/agentPools/" + url.PathEscape(name)
	}
	var f aksFlags
	var name string
	declare := func(c *cobra.Command) {
		f.declare(e, c, "cluster-name")
		nameFlag(c, &name, "pool")
	}
	noWait := func(c *cobra.Command) { c.Flags().BoolVar(&f.noWait, "no-wait", false, "do not wait until it is done") }
	return noun("nodepool", "Manage the node pools of a cluster",
		verb{
			use: "add", short: "Add a pool", example: "  berth aks nodepool add --cluster-name c -g rg -n pool2 --node-count 1", table: poolTable,
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				declare(c)
				noWait(c)
				count := c.Flags().IntP("node-count", "c", 3, "number of nodes")
				size := c.Flags().StringP("node-vm-size", "s", "", "VM size of the nodes (default: Standard_DS2_v2)")
				mode := c.Flags().String("mode", "User", "System or User")
				return func(ctx context.Context, s *session) (any, error) {
					if _, err := s.get(ctx, pool(s, &f, name), aksVersion); err == nil {
						return nil, fmt.Errorf("the pool %s exists already. Use scale to change its nodes", name)
					} else if !notFound(err) {
						return nil, err
					}
					body := map[string]any{"properties": map[string]any{"count": *count, "vmSize": *size, "mode": *mode}}
					return flatAKS(s.write(ctx, "nodepool add", armclient.Request{Method: http.MethodPut, Path: pool(s, &f, name), Version: aksVersion, Body: body}, f.noWait))
				}
			},
		}.command(e),
		verb{
			use: "list", short: "List the pools of a cluster", example: "  berth aks nodepool list --cluster-name c -g rg -o table", table: poolTable,
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				f.declare(e, c, "cluster-name")
				return func(ctx context.Context, s *session) (any, error) {
					return flatAKS(anyOf(s.List(ctx, armclient.Request{Path: s.cluster(f.group, f.name) + "/agentPools", Version: aksVersion})))
				}
			},
		}.command(e),
		verb{
			use: "show", short: "Show a pool", example: "  berth aks nodepool show --cluster-name c -g rg -n nodepool1", table: poolTable,
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				declare(c)
				return func(ctx context.Context, s *session) (any, error) {
					return flatAKS(anyOf(s.get(ctx, pool(s, &f, name), aksVersion)))
				}
			},
		}.command(e),
		verb{
			use: "scale", short: "Change the number of nodes of a pool", example: "  berth aks nodepool scale --cluster-name c -g rg -n nodepool1 --node-count 4", table: poolTable,
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				declare(c)
				noWait(c)
				count := c.Flags().IntP("node-count", "c", 3, "number of nodes")
				return func(ctx context.Context, s *session) (any, error) {
					m, err := s.get(ctx, pool(s, &f, name), aksVersion)
					if err != nil {
						return nil, err
					}
					props, _ := m["properties"].(map[string]any)
					props["count"] = *count
					return flatAKS(s.write(ctx, "nodepool scale", armclient.Request{Method: http.MethodPut, Path: pool(s, &f, name), Version: aksVersion, Body: m}, f.noWait))
				}
			},
		}.command(e),
		verb{
			use: "delete", short: "Delete a pool", example: "  berth aks nodepool delete --cluster-name c -g rg -n pool2",
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				declare(c)
				noWait(c)
				return func(ctx context.Context, s *session) (any, error) {
					list, err := s.List(ctx, armclient.Request{Path: s.cluster(f.group, f.name) + "/agentPools", Version: aksVersion})
					if err != nil {
						return nil, err
					}
					named := func(p any) bool {
						m, _ := p.(map[string]any)
						return strings.EqualFold(fmt.Sprint(m["name"]), name)
					}
					if !slices.ContainsFunc(list, named) { // ARM has no objection to deleting nothing, but az has
						return nil, fmt.Errorf("the cluster %s has no pool %s. List them with: berth aks nodepool list", f.name, name)
					}
					return s.write(ctx, "nodepool delete", armclient.Request{Method: http.MethodDelete, Path: pool(s, &f, name), Version: aksVersion}, f.noWait)
				}
			},
		}.command(e),
		waitVerb(e, "Wait until a pool is as asked for", "  berth aks nodepool wait --cluster-name c -g rg -n pool2 --created", declare, func(ctx context.Context, s *session) (any, error) {
			return flatAKS(anyOf(s.get(ctx, pool(s, &f, name), aksVersion)))
		}),
	)
}
