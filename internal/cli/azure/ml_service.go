package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthdev/berth/internal/armclient"
	"github.com/berthdev/berth/internal/cli/cmd"
	"github.com/berthdev/berth/internal/mlclient"
)

const (
	serviceFields = "{Name: name, State: state, ComputeType: computeType, Compute: computeName, Ready: deploymentStatus.availableReplicas, ScoringUri: scoringUri, Updated: updatedTime}"
	serviceTable  = "[]." + serviceFields + " || @." + serviceFields
)

func newService(e *cmd.Env) *cobra.Command {
	return noun("service", "Manage web services", newServiceList(e), newServiceShow(e), newServiceUpdate(e), newServiceRun(e), newServiceLogs(e),
		newServiceKeys(e), newServiceRegenKey(e), newServiceToken(e), newServiceDelete(e))
}

// shownService is a web service with the names that the v1 extension prints.
func shownService(v any, workspace string) map[string]any {
	m, _ := v.(map[string]any)
	if image, ok := m["environmentImageRequest"].(map[string]any); ok {
		m["environmentDetails"] = image["environment"]
		delete(m, "environmentImageRequest")
	}
	if versions, ok := m["versions"].(map[string]any); ok {
		for k, v := range versions {
			versions[k] = shownService(v, workspace)
		}
	}
	rename(m, map[string]string{"models": "modelDetails", "type": "versionType"})
	m["workspaceName"] = workspace
	return labels(m)
}

// one is a web service that a command is about.
type one struct {
	place
	name string
}

func (o *one) flags(e *cmd.Env, c *cobra.Command) {
	o.place.flags(e, c)
	nameFlag(c, &o.name, "web service")
	o.offer(e, c, "name", "/services", "name")
}

// at is the URL of the web service, or of something below it.
func (o *one) at(ml *mlclient.Client, below string) string {
	return ml.Models("/services/" + url.PathEscape(o.name) + below)
}

func newServiceList(e *cmd.Env) *cobra.Command {
	return verb{
		use: "list", short: "List the web services of a workspace, the last changed first", table: serviceTable,
		example: "  berth ml service list -g rg -w ws -o table\n  berth ml service list -g rg -w ws --model-name mymodel",
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			var at place
			at.flags(e, c)
			f := c.Flags()
			kind := f.StringP("compute-type", "c", "", "only those of this type: AKS or AKSENDPOINT")
			id := f.String("model-id", "", "only those with this model, name:version")
			name := f.String("model-name", "", "only those with a version of this model")
			digest := f.String("image-digest", "", "only those with this image")
			tags := f.StringArray("tag", nil, "only those with this tag, as key or key=value; may be repeated")
			properties := f.StringArray("property", nil, "only those with this property, as key or key=value; may be repeated")
			at.offer(e, c, "model-id", "/models", "id")
			at.offer(e, c, "model-name", "/models?latestVersionOnly=true", "name")
			return at.dataPlane(func(ctx context.Context, s *session, ml *mlclient.Client) (any, error) {
				q := filters(map[string]string{
					"computeType": *kind, "modelId": *id, "modelName": *name, "imageDigest": *digest,
					"tags": strings.Join(*tags, ","), "properties": strings.Join(*properties, ","), "expand": "true",
				})
				list, err := s.List(ctx, armclient.Request{Path: ml.Models("/services"), Query: q})
				for i := range list {
					list[i] = shownService(list[i], at.workspace)
				}
				return anyOf(list, err)
			})
		},
	}.command(e)
}

func newServiceShow(e *cmd.Env) *cobra.Command {
	return verb{
		use: "show", short: "Show a web service", example: "  berth ml service show -n mysvc -g rg -w ws --query scoringUri -o tsv", table: serviceTable,
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			var o one
			o.flags(e, c)
			return o.dataPlane(func(ctx context.Context, _ *session, ml *mlclient.Client) (any, error) {
				m, err := ml.Get(ctx, o.at(ml, ""), url.Values{"expand": {"true"}})
				if err != nil {
					return nil, err
				}
				return shownService(m, o.workspace), nil
			})
		},
	}.command(e)
}

func newServiceUpdate(e *cmd.Env) *cobra.Command {
	return verb{
		use: "update", short: "Change a web service", table: serviceTable,
		example: "  berth ml service update -n mysvc -g rg -w ws --autoscale-max-replicas 4 --cc 0.5\n" +
			"  berth ml service update -n mysvc -g rg -w ws -m mymodel:2",
		long: "Change a web service. What was deployed serves until the change does, and goes on serving when that\nfails. A model without a script keeps the script and the environment that are deployed.",
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			d := &deployment{}
			short := map[string]string{}
			d.declare(e, c, false, short)
			f := c.Flags()
			f.StringVarP(&d.description, "description", "d", "", "description")
			f.StringArrayVar(&d.tags, "add-tag", nil, "tag to add, as key=value; may be repeated")
			gone := f.StringArray("remove-tag", nil, "key of a tag to remove; may be repeated")
			f.StringArrayVar(&d.properties, "add-property", nil, "property to add, as key=value; may be repeated")
			aliases(c, short)
			return d.dataPlane(func(ctx context.Context, s *session, ml *mlclient.Client) (any, error) {
				p := e.NewProgress("service update")
				changes, err := d.changes(ctx, s, ml, p, *gone, c.Flags().Changed("description"))
				var out any
				if err == nil {
					out, err = d.finish(ctx, s, ml, p, http.MethodPatch, "/services/"+url.PathEscape(d.name), changes)
				}
				p.Done(err)
				return out, err
			})
		},
	}.command(e)
}

// change is one operation of a JSON Patch.
type change struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// tagChange replaces the tags that something has.
func tagChange(have map[string]any, added map[string]string, gone []string) change {
	tags := map[string]any{}
	if now, ok := have["kvTags"].(map[string]any); ok {
		maps.Copy(tags, now)
	}
	for _, k := range gone {
		delete(tags, k)
	}
	for k, v := range added {
		tags[k] = v
	}
	return change{"replace", "/kvTags", tags}
}

// propertyChanges add properties.
func propertyChanges(properties map[string]string) []change {
	var out []change
	for _, k := range slices.Sorted(maps.Keys(properties)) {
		out = append(out, change{"add", "/properties/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(k), properties[k]})
	}
	return out
}

// changes are what an update sends.
func (d *deployment) changes(ctx context.Context, s *session, ml *mlclient.Client, p *cmd.Progress, gone []string, described bool) ([]change, error) {
	given, err := d.given()
	if err != nil {
		return nil, err
	}
	added, err := pairs("add-tag", d.tags)
	if err != nil {
		return nil, err
	}
	properties, err := pairs("add-property", d.properties)
	if err != nil {
		return nil, err
	}
	code, err := d.inference.read()
	if err != nil {
		return nil, err
	}
	now, err := ml.Get(ctx, ml.Models("/services/"+url.PathEscape(d.name)), nil)
	if err != nil {
		return nil, err
	}
	ids, err := d.modelIDs(ctx, s, ml)
	if err != nil {
		return nil, err
	}
	if now["computeType"] != "AKS" && (code || len(ids) > 0 || len(given) > 0) {
		return nil, fmt.Errorf("the web service %s is of the type %v, whose versions each have their own settings. Change them with azureml-core (AksEndpoint.update_version)", d.name, now["computeType"])
	}
	var out []change
	for _, path := range slices.Sorted(maps.Keys(given)) {
		out = append(out, change{"replace", "/" + path, given[path]})
	}
	if described {
		out = append(out, change{"replace", "/description", d.description})
	}
	if len(added) > 0 || len(gone) > 0 {
		out = append(out, tagChange(now, added, gone))
	}
	out = append(out, propertyChanges(properties)...)
	switch {
	case code:
		if len(ids) == 0 { // the code is new, the models stay
			image, _ := now["environmentImageRequest"].(map[string]any)
			for _, id := range asList(image["modelIds"]) {
				ids = append(ids, fmt.Sprint(id))
			}
		}
		request, err := d.request(ctx, ml, p, d.name, ids)
		if err != nil {
			return nil, err
		}
		out = append(out, change{"replace", "/environmentImageRequest", request})
	case len(ids) > 0:
		out = append(out, change{"replace", "/environmentImageRequest/modelIds", ids})
	}
	if len(out) == 0 {
		return nil, &cmd.UsageError{Err: errors.New("there is nothing to change. See: berth ml service update --help")}
	}
	return out, nil
}

func asList(v any) []any {
	list, _ := v.([]any)
	return list
}

func newServiceRun(e *cmd.Env) *cobra.Command {
	return verb{
		use: "run", short: "Send a request to a web service", example: "  berth ml service run -n mysvc -g rg -w ws -d '{\"data\": [[1, 2]]}'\n  berth ml service run -n mysvc -g rg -w ws -d @input.json",
		long: "Send a request to a web service, with its key or token, and print the answer.",
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			var o one
			o.flags(e, c)
			input := c.Flags().StringP("input-data", "d", "", "the request's body, or @FILE")
			return func(ctx context.Context, s *session) (any, error) {
				body := *input
				if file, ok := strings.CutPrefix(body, "@"); ok {
					data, err := os.ReadFile(file)
					if err != nil {
						return nil, fmt.Errorf("--input-data: %w", err)
					}
					body = string(data)
				}
				ml, err := o.open(ctx, s)
				if err != nil {
					return nil, err
				}
				return o.run(ctx, ml, body)
			}
		},
	}.command(e)
}

func (o *one) run(ctx context.Context, ml *mlclient.Client, body string) (any, error) {
	svc, err := ml.Get(ctx, o.at(ml, ""), nil)
	if err != nil {
		return nil, err
	}
	uri, _ := svc["scoringUri"].(string)
	if uri == "" {
		return nil, fmt.Errorf("the web service %s has no scoring URI: it is %v. Wait until it is Healthy; berth ml service show -n %s -g %s -w %s says how it is", o.name, svc["state"], o.name, o.group, o.workspace)
	}
	permission := ""
	switch {
	case svc["aadAuthEnabled"] == true:
		permission, err = o.secret(ctx, ml, "/token", "accessToken")
	case svc["authEnabled"] == true:
		permission, err = o.secret(ctx, ml, "/listkeys", "primaryKey")
	}
	if err != nil {
		return nil, err
	}
	out, err := score(ctx, uri, permission, body)
	if err != nil {
		return nil, fmt.Errorf("%w\nIts logs are shown by: berth ml service get-logs -n %s -g %s -w %s", err, o.name, o.group, o.workspace)
	}
	return out, nil
}

// score sends a request to a web service. Its address is a cluster's, which is none of the installation's.
func score(ctx context.Context, uri, permission, body string) (any, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, uri, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if permission != "" {
		req.Header.Set("Authorization", "Bearer "+permission)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the web service does not answer: %w", err)
	}
	defer func() { _ = res.Body.Close() }() // it was only read
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the web service's answer: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the web service answered %s: %s", res.Status, strings.TrimSpace(string(answer)))
	}
	var out any
	if json.Unmarshal(answer, &out) != nil {
		return string(answer), nil // a script may answer with anything
	}
	return out, nil
}

// secret is a field of what a POST answers.
func (o *one) secret(ctx context.Context, ml *mlclient.Client, below, field string) (string, error) {
	res, err := ml.Do(ctx, http.MethodPost, o.at(ml, below), nil, nil)
	if err != nil {
		return "", err
	}
	m, _ := res.Body.(map[string]any)
	v, _ := m[field].(string)
	return v, nil
}

func newServiceLogs(e *cmd.Env) *cobra.Command {
	return verb{
		use: "get-logs", short: "Show what the containers of a web service said", example: "  berth ml service get-logs -n mysvc -g rg -w ws\n  berth ml service get-logs -n mysvc -g rg -w ws -l 100",
		long: "Show what the containers of a web service said, as it is. With --output it is one string.",
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			var o one
			o.flags(e, c)
			lines := c.Flags().IntP("num_lines", "l", 5000, "lines to show, the last ones")
			first := c.Flags().BoolP("init", "i", false, "those of the init container; Berth has none")
			aliases(c, map[string]string{"num-lines": "num_lines"})
			return o.dataPlane(func(ctx context.Context, _ *session, ml *mlclient.Client) (any, error) {
				m, err := ml.Get(ctx, o.at(ml, "/logs"), url.Values{"tail": {strconv.Itoa(*lines)}, "init": {strconv.FormatBool(*first)}})
				if err != nil {
					return nil, err
				}
				content, _ := m["content"].(string)
				if c.Flags().Changed("output") || c.Flags().Changed("query") {
					return content, nil
				}
				if content != "" && !strings.HasSuffix(content, "\n") {
					content += "\n"
				}
				_, err = io.WriteString(e.Out, content)
				return nil, err
			})
		},
	}.command(e)
}

// keys are a web service's keys.
func (o *one) keys(ctx context.Context, ml *mlclient.Client) (any, error) {
	res, err := ml.Do(ctx, http.MethodPost, o.at(ml, "/listkeys"), nil, nil)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

func newServiceKeys(e *cmd.Env) *cobra.Command {
	return verb{
		use: "get-keys", short: "Show the keys of a web service", example: "  berth ml service get-keys -n mysvc -g rg -w ws --query primaryKey -o tsv",
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			var o one
			o.flags(e, c)
			return o.dataPlane(func(ctx context.Context, _ *session, ml *mlclient.Client) (any, error) { return o.keys(ctx, ml) })
		},
	}.command(e)
}

func newServiceRegenKey(e *cmd.Env) *cobra.Command {
	return verb{
		use: "regen-key", short: "Replace a key of a web service, and show the keys", example: "  berth ml service regen-key -n mysvc -g rg -w ws -k Primary",
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			var o one
			o.flags(e, c)
			key := c.Flags().StringP("key", "k", "", "Primary or Secondary")
			value := c.Flags().StringP("set-key", "s", "", "the key's new value (default: Berth makes one)")
			noWait := c.Flags().Bool("no-wait", false, "do not wait until the new key works")
			_ = c.MarkFlagRequired("key")
			_ = c.RegisterFlagCompletionFunc("key", cobra.FixedCompletions([]string{"Primary", "Secondary"}, cobra.ShellCompDirectiveNoFileComp))
			return func(ctx context.Context, s *session) (any, error) {
				which := map[string]string{"primary": "Primary", "secondary": "Secondary"}[strings.ToLower(*key)]
				if which == "" {
					return nil, &cmd.UsageError{Err: fmt.Errorf("--key: %q is not Primary or Secondary", *key)}
				}
				ml, err := o.open(ctx, s)
				if err != nil {
					return nil, err
				}
				body := map[string]any{"keyType": which, "keyValue": nil}
				if *value != "" {
					body["keyValue"] = *value
				}
				p := e.NewProgress("service regen-key")
				_, err = s.send(ctx, ml, p, http.MethodPost, o.at(ml, "/regenerateKeys"), body, *noWait)
				if *noWait {
					return nil, err
				}
				p.Done(err)
				if err != nil {
					return nil, err
				}
				return o.keys(ctx, ml)
			}
		},
	}.command(e)
}

func newServiceToken(e *cmd.Env) *cobra.Command {
	return verb{
		use: "get-access-token", short: "Get a token for a web service that takes tokens", example: "  berth ml service get-access-token -n mysvc -g rg -w ws --query accessToken -o tsv",
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			var o one
			o.flags(e, c)
			return o.dataPlane(func(ctx context.Context, _ *session, ml *mlclient.Client) (any, error) {
				res, err := ml.Do(ctx, http.MethodPost, o.at(ml, "/token"), nil, nil)
				if err != nil {
					return nil, err
				}
				return res.Body, nil
			})
		},
	}.command(e)
}

func newServiceDelete(e *cmd.Env) *cobra.Command {
	return verb{
		use: "delete", short: "Delete a web service", example: "  berth ml service delete -n mysvc -g rg -w ws",
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			var o one
			o.flags(e, c)
			noWait := c.Flags().Bool("no-wait", false, "do not wait until it is gone")
			return o.dataPlane(func(ctx context.Context, s *session, ml *mlclient.Client) (any, error) {
				p := e.NewProgress("service delete")
				res, err := s.send(ctx, ml, p, http.MethodDelete, o.at(ml, ""), nil, *noWait)
				if err == nil && res.Status == http.StatusNoContent {
					e.Warnf("The workspace has no web service %s, so nothing was deleted.", o.name)
				} else if !*noWait {
					p.Done(err)
				}
				return nil, err
			})
		},
	}.command(e)
}
