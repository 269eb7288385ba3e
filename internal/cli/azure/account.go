package azure

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthdev/berth/internal/armclient"
	"github.com/berthdev/berth/internal/cli/cmd"
)

func newAccount(e *cmd.Env) *cobra.Command {
	// cloud is the cloud's key, for which az has two names.
	one := func(s *session, m map[string]any, cloud string) map[string]any {
		return map[string]any{
			cloud: "AzureCloud", "homeTenantId": m["tenantId"], "id": m["subscriptionId"], "isDefault": m["subscriptionId"] == s.subscription,
			"managedByTenants": []any{}, "name": m["displayName"], "state": m["state"], "tenantId": m["tenantId"],
			"user": map[string]any{"name": s.state.ClientID, "type": "servicePrincipal"},
		}
	}
	const table = "[].{Name: name, CloudName: cloudName, SubscriptionId: id, TenantId: tenantId, State: state, IsDefault: isDefault}"
	return noun("account", "Show subscriptions and get tokens",
		verb{
			use: "show", short: "Show the subscription in use", example: "  berth account show --query id -o tsv",
			flags: func(*cobra.Command) func(context.Context, *session) (any, error) {
				return func(ctx context.Context, s *session) (any, error) {
					m, err := s.get(ctx, s.sub(), "2022-12-01")
					if err != nil {
						return nil, err
					}
					return one(s, m, "environmentName"), nil
				}
			},
		}.command(e),
		verb{
			use: "list", short: "List subscriptions", example: "  berth account list -o table", table: table,
			flags: func(*cobra.Command) func(context.Context, *session) (any, error) {
				return func(ctx context.Context, s *session) (any, error) {
					list, err := s.List(ctx, armclient.Request{Path: "/subscriptions", Version: "2022-12-01"})
					if err != nil {
						return nil, err
					}
					for i := range list {
						m, _ := list[i].(map[string]any)
						list[i] = one(s, m, "cloudName")
					}
					return list, nil
				}
			},
		}.command(e),
		verb{
			use: "list-locations", short: "List the Azure regions with their pairs", example: "  berth account list-locations -o table",
			table: "[].{DisplayName: displayName, Name: name, RegionalDisplayName: regionalDisplayName}",
			flags: func(*cobra.Command) func(context.Context, *session) (any, error) {
				return func(ctx context.Context, s *session) (any, error) {
					return anyOf(s.List(ctx, armclient.Request{Path: s.sub() + "/locations", Version: "2022-12-01"}))
				}
			},
		}.command(e),
		verb{
			use: "get-access-token", short: "Get a token for the REST API", example: "  curl -H \"Authorization: Bearer $(berth account get-access-token --query accessToken -o tsv)\" …",
			flags: func(*cobra.Command) func(context.Context, *session) (any, error) {
				return func(ctx context.Context, s *session) (any, error) {
					token, expires, err := s.Token(ctx)
					if err != nil {
						return nil, err
					}
					return map[string]any{
						"accessToken": token, "expiresOn": expires.Local().Format("2006-01-02 15:04:05.000000"), "expires_on": float64(expires.Unix()),
						"subscription": s.subscription, "tenant": s.state.TenantID, "tokenType": "Bearer",
					}, nil
				}
			},
		}.command(e),
	)
}

func newProvider(e *cmd.Env) *cobra.Command {
	const table = "[].{Namespace: namespace, RegistrationPolicy: registrationPolicy, RegistrationState: registrationState}"
	return noun("provider", "Show the resource providers",
		verb{
			use: "list", short: "List the resource providers", example: "  berth provider list -o table", table: table,
			flags: func(*cobra.Command) func(context.Context, *session) (any, error) {
				return func(ctx context.Context, s *session) (any, error) {
					return anyOf(s.List(ctx, armclient.Request{Path: s.sub() + "/providers", Version: resourcesVersion}))
				}
			},
		}.command(e),
		verb{
			use: "show", short: "Show a resource provider with its types and api-versions", example: "  berth provider show -n Microsoft.ContainerService",
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				ns := c.Flags().StringP("namespace", "n", "", "the provider's namespace")
				_ = c.MarkFlagRequired("namespace")
				return func(ctx context.Context, s *session) (any, error) {
					return anyOf(s.get(ctx, s.sub()+"/providers/"+*ns, resourcesVersion))
				}
			},
		}.command(e),
	)
}

func newResource(e *cmd.Env) *cobra.Command {
	return noun("resource", "Show resources of any type",
		verb{
			use: "list", short: "List the resources of a subscription or group", example: "  berth resource list -g rg -o table",
			table: "[].{Name: name, ResourceGroup: resourceGroup, Location: location, Type: type}",
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				var group string
				groupFlag(e, c, &group, false)
				return func(ctx context.Context, s *session) (any, error) {
					list, err := s.List(ctx, armclient.Request{Path: s.scope(group) + "/resources", Version: resourcesVersion})
					if err != nil {
						return nil, err
					}
					return withGroups(list), nil
				}
			},
		}.command(e),
		verb{
			use: "show", short: "Show a resource by its ID", example: "  berth resource show --ids ID --api-version 2024-04-01",
			flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
				id := c.Flags().String("ids", "", "the resource's ID")
				version := c.Flags().String("api-version", resourcesVersion, "api-version of its type")
				_ = c.MarkFlagRequired("ids")
				return func(ctx context.Context, s *session) (any, error) {
					m, err := s.get(ctx, *id, *version)
					if err != nil {
						return nil, err
					}
					return withGroup(m), nil
				}
			},
		}.command(e),
	)
}

func newREST(e *cmd.Env) *cobra.Command {
	return verb{
		use: "rest", short: "Send a request to the REST API", example: "  berth rest -m get -u \"/subscriptions?api-version=2022-12-01\"\n  berth rest -m put -u URL -b @body.json",
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			method := c.Flags().StringP("method", "m", "get", "delete, get, head, options, patch, post or put")
			target := c.Flags().StringP("url", "u", "", "URL or path; {subscriptionId} stands for the subscription in use")
			body := c.Flags().StringP("body", "b", "", "JSON, or @FILE")
			headers := c.Flags().StringArray("headers", nil, "header as Name=Value; may be repeated")
			_ = c.MarkFlagRequired("url")
			return func(ctx context.Context, s *session) (any, error) {
				r := armclient.Request{Method: strings.ToUpper(*method), Path: strings.ReplaceAll(*target, "{subscriptionId}", s.subscription), Header: map[string]string{}}
				for _, h := range *headers {
					k, v, ok := strings.Cut(h, "=")
					if !ok {
						return nil, &cmd.UsageError{Err: fmt.Errorf("--headers: %q is not Name=Value", h)}
					}
					r.Header[k] = v
				}
				text := *body
				if file, ok := strings.CutPrefix(text, "@"); ok {
					data, err := os.ReadFile(file)
					if err != nil {
						return nil, err
					}
					text = string(data)
				}
				if text != "" {
					if err := json.Unmarshal([]byte(text), &r.Body); err != nil {
						return nil, &cmd.UsageError{Err: fmt.Errorf("--body is not JSON: %w", err)}
					}
				}
				start := time.Now()
				res, err := s.Do(ctx, r)
				if err != nil {
					return nil, err
				}
				if r.Method == http.MethodHead || res.Body == nil {
					e.Logf("status %d after %s", res.Status, time.Since(start).Round(time.Millisecond))
				}
				return res.Body, nil
			}
		},
	}.command(e)
}
