package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berthdev/berth/internal/cli/cmd"
	"github.com/berthdev/berth/internal/mlclient"
)

// deployment is what `model deploy` and `service update` are told.
type deployment struct {
	place
	settings
	inference
	name, description, computeType string
	models, metadata               []string
	tags, properties               []string
	overwrite, noWait              bool
}

// declare adds the flags that both commands have, and their short names to short.
func (d *deployment) declare(e *cmd.Env, c *cobra.Command, creating bool, short map[string]string) {
	d.place.flags(e, c)
	nameFlag(c, &d.name, "web service")
	d.offer(e, c, "name", "/services", "name")
	f := c.Flags()
	f.StringArrayVarP(&d.models, "model", "m", nil, "model to deploy, name:version, or the name of its latest version; may be repeated")
	d.offer(e, c, "model", "/models", "id")
	f.StringArrayVarP(&d.metadata, "model-metadata-file", "f", nil, "JSON file that names a model, from berth ml model register -t; may be repeated")
	f.BoolVar(&d.noWait, "no-wait", false, "do not wait until it serves")
	d.settings.declare(c, creating, short)
	d.inference.declare(c, short)
}

func newModelDeploy(e *cmd.Env) *cobra.Command {
	return verb{
		use: "deploy", short: "Deploy models as a web service", table: serviceTable,
		example: "  berth ml model deploy -n mysvc -m mymodel:1 --ct myaks -g rg -w ws --ic inference.json --dc deployment.json\n" +
			"  berth ml model deploy -n mysvc -m mymodel:1 --ct myaks -g rg -w ws --sd source --es score.py --cf conda.yml --cc 1 --gb 1\n" +
			"  berth ml model deploy -n mysvc -m mymodel --ct myaks -g rg -w ws --overwrite",
		long: `Deploy models as a web service. Without a script and an environment, one model with the framework
ScikitLearn or Onnx is deployed as it is.

What is given with --overwrite replaces a web service of that name; its keys stay.`,
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			d := &deployment{}
			short := map[string]string{"cp": "compute-type"}
			d.declare(e, c, true, short)
			f := c.Flags()
			f.StringVar(&d.description, "description", "", "description")
			f.StringArrayVar(&d.tags, "tag", nil, "tag as key=value; may be repeated")
			f.StringArrayVar(&d.properties, "property", nil, "property as key=value, which never changes; may be repeated")
			f.StringVar(&d.computeType, "compute-type", "AKS", also("AKS, the one type", "cp"))
			f.BoolVar(&d.overwrite, "overwrite", false, "replace a web service of that name")
			aliases(c, short)
			names(e, c, "compute-target", func(_ *cobra.Command, s *session) string { return s.workspace(d.group, d.workspace) + "/computes" }, mlVersion)
			return func(ctx context.Context, s *session) (any, error) {
				body, err := d.create()
				if err != nil {
					return nil, err
				}
				code, err := d.inference.read()
				if err != nil {
					return nil, err
				}
				ml, err := d.open(ctx, s)
				if err != nil {
					return nil, err
				}
				ids, err := d.modelIDs(ctx, s, ml)
				if err != nil {
					return nil, err
				}
				if !code && len(ids) != 1 {
					return nil, &cmd.UsageError{Err: fmt.Errorf("without a script exactly one model is deployed; here are %d. Name one with --model, or a script with --entry-script", len(ids))}
				}
				p := e.NewProgress("model deploy")
				out, err := d.deploy(ctx, s, ml, p, body, ids, code)
				p.Done(err)
				return out, err
			}
		},
	}.command(e)
}

// create is the request without what goes into the container.
func (d *deployment) create() (map[string]any, error) {
	if err := checkComputeType(d.computeType); err != nil {
		return nil, &cmd.UsageError{Err: fmt.Errorf("--compute-type: %w", err)}
	}
	given, err := d.given()
	if err != nil {
		return nil, err
	}
	if given["computeName"] == nil {
		return nil, &cmd.UsageError{Err: errors.New("name the compute to deploy to with --compute-target; berth ml computetarget list shows those of a workspace")}
	}
	tags, err := pairs("tag", d.tags)
	if err != nil {
		return nil, err
	}
	properties, err := pairs("property", d.properties)
	if err != nil {
		return nil, err
	}
	body := map[string]any{"name": d.name, "computeType": "AKS", "kvTags": tags, "properties": properties}
	if d.description != "" {
		body["description"] = d.description
	}
	if d.overwrite {
		body["overwrite"] = true
	}
	for path, v := range given {
		put(body, path, v)
	}
	return body, nil
}

// modelIDs are the models to deploy. A name without a version means the latest.
func (d *deployment) modelIDs(ctx context.Context, s *session, ml *mlclient.Client) ([]string, error) {
	wanted := append([]string(nil), d.models...)
	for _, file := range d.metadata {
		doc, err := readDocument("model-metadata-file", file)
		if err != nil {
			return nil, err
		}
		id, ok := doc["modelId"].(string)
		if !ok {
			return nil, &cmd.UsageError{Err: fmt.Errorf("--model-metadata-file: %s has no modelId. berth ml model register -t writes such files", file)}
		}
		wanted = append(wanted, id)
	}
	ids := make([]string, len(wanted))
	for i, id := range wanted {
		name := ""
		if !strings.Contains(id, ":") {
			id, name = "", id
		} else if err := checkModelID("model", id); err != nil {
			return nil, err
		}
		m, err := findModel(ctx, s, ml, id, name, "") // before anything is uploaded
		if err != nil {
			return nil, err
		}
		ids[i] = fmt.Sprint(m["id"])
	}
	return ids, nil
}

// deploy uploads the code, sends the request, and waits for the web service.
func (d *deployment) deploy(ctx context.Context, s *session, ml *mlclient.Client, p *cmd.Progress, body map[string]any, ids []string, code bool) (any, error) {
	request := map[string]any{"modelIds": ids}
	if code {
		var err error
		if request, err = d.request(ctx, ml, p, d.name, ids); err != nil {
			return nil, err
		}
	}
	body["environmentImageRequest"] = request
	return d.finish(ctx, s, ml, p, http.MethodPost, "/services", body)
}

// finish sends the request, waits, and shows what it made.
func (d *deployment) finish(ctx context.Context, s *session, ml *mlclient.Client, p *cmd.Progress, method, path string, body any) (any, error) {
	if _, err := s.send(ctx, ml, p, method, ml.Models(path), body, d.noWait); err != nil {
		return nil, d.explain(err)
	}
	if d.noWait {
		return nil, nil
	}
	out, err := ml.Get(ctx, ml.Models("/services/"+url.PathEscape(d.name)), nil)
	if err != nil {
		return nil, err
	}
	return shownService(out, d.workspace), nil
}

// explain says where to look when a deployment failed in the cluster; how the images were made has been shown.
func (d *deployment) explain(err error) error {
	var failed *mlclient.Failure
	if errors.As(err, &failed) && failed.Step == "DeployService" {
		failed.Cause.Message = fmt.Sprintf("%s What the containers said is shown by: berth ml service get-logs -n %s -g %s -w %s", failed.Cause.Message, d.name, d.group, d.workspace)
	}
	return err
}
