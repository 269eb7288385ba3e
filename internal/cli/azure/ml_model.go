package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/berthdev/berth/internal/armclient"
	"github.com/berthdev/berth/internal/cli/cmd"
	"github.com/berthdev/berth/internal/mlclient"
)

const (
	modelFields = "{Name: name, Version: version, Id: id, Framework: framework, Created: createdTime, Description: description}"
	modelTable  = "[]." + modelFields + " || @." + modelFields
)

func newModel(e *cmd.Env) *cobra.Command {
	return noun("model", "Manage models, and deploy them as web services", newModelRegister(e), newModelList(e), newModelShow(e), newModelUpdate(e), newModelDownload(e), newModelDelete(e), newModelDeploy(e))
}

// modelID is what a version of a model is called.
var modelID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9\-._]{0,254}:[0-9]+$`)

func checkModelID(flag, id string) error {
	if !modelID.MatchString(id) {
		return &cmd.UsageError{Err: fmt.Errorf("--%s: %q is no model's ID. An ID is name:version, as in mymodel:1; berth ml model list shows those of a workspace", flag, id)}
	}
	return nil
}

// shownModel is a model with the names that the v1 extension prints.
func shownModel(v any) map[string]any {
	m, _ := v.(map[string]any)
	rename(m, map[string]string{"resourceRequirements": "resourceConfiguration", "sampleInputData": "sampleInputDatasetId", "sampleOutputData": "sampleOutputDatasetId"})
	return labels(m)
}

// registration is what `model register` is told.
type registration struct {
	place
	name, path, assetPath, description, framework, version, experiment, run, runFile, input, output, metadata string
	tags, properties                                                                                          []string
	cpu, memory, gpu                                                                                          setting
}

func newModelRegister(e *cmd.Env) *cobra.Command {
	return verb{
		use: "register", short: "Upload a model and register it as the next version of its name", table: modelTable,
		example: "  berth ml model register -n mymodel -p model.pkl -g rg -w ws --model-framework ScikitLearn --model-framework-version 1.5.2\n" +
			"  berth ml model register -n mymodel -p outputs/ -g rg -w ws --tag stage=test -t model.json",
		long: "Upload a model, a file or a whole folder, and register it as the next version of its name.\nThe metadata file names the version for a later berth ml model deploy -f.",
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			r := &registration{cpu: setting{kind: kindNumber}, memory: setting{kind: kindNumber}, gpu: setting{kind: kindCount}}
			r.flags(e, c)
			f := c.Flags()
			nameFlag(c, &r.name, "model")
			r.offer(e, c, "name", "/models?latestVersionOnly=true", "name")
			f.StringVarP(&r.path, "model-path", "p", "", "file or folder to upload")
			f.StringVar(&r.assetPath, "asset-path", "", "instead of a file: what the run in --run-id has stored under this path")
			f.StringVarP(&r.description, "description", "d", "", "description")
			f.StringVar(&r.framework, "model-framework", "", "ScikitLearn, Onnx, TensorFlow, Custom or Multi; the first two are deployed without a script")
			f.StringVar(&r.version, "model-framework-version", "", "version of the framework, as in 1.5.2")
			f.StringArrayVar(&r.tags, "tag", nil, "tag as key=value; may be repeated")
			f.StringArrayVar(&r.properties, "property", nil, "property as key=value, which never changes; may be repeated")
			f.StringVar(&r.experiment, "experiment-name", "", "experiment that the model is from")
			f.StringVarP(&r.run, "run-id", "r", "", "run that the model is from")
			f.StringVarP(&r.runFile, "run-metadata-file", "f", "", "JSON file that names the run and its experiment")
			f.StringVarP(&r.metadata, "output-metadata-file", "t", "", "JSON file to write the model's ID to; it must not exist")
			r.needs(c)
			_ = c.RegisterFlagCompletionFunc("model-framework", cobra.FixedCompletions([]string{"ScikitLearn", "Onnx", "TensorFlow", "Custom", "Multi"}, cobra.ShellCompDirectiveNoFileComp))
			return func(ctx context.Context, s *session) (any, error) { return r.do(ctx, s) }
		},
	}.command(e)
}

// needs adds the flags of what a model needs and is used with, which can change later.
func (r *registration) needs(c *cobra.Command) {
	f := c.Flags()
	f.Var(&r.cpu, "cpu-cores", also("CPU cores that the model needs", "cc"))
	f.Var(&r.memory, "memory-gb", also("memory that the model needs, in GB", "gb"))
	f.Var(&r.gpu, "gpu-cores", also("GPUs that the model needs", "gc"))
	f.StringVar(&r.input, "sample-input-dataset-id", "", "ID of a dataset with sample input")
	f.StringVar(&r.output, "sample-output-dataset-id", "", "ID of a dataset with sample output")
	aliases(c, map[string]string{"cc": "cpu-cores", "gb": "memory-gb", "gc": "gpu-cores"})
}

// needed are the needs that were given.
func (r *registration) needed() map[string]any {
	needs := map[string]any{}
	for k, v := range map[string]setting{"cpu": r.cpu, "memoryInGB": r.memory, "gpu": r.gpu} {
		if v.given != nil {
			needs[k] = v.given
		}
	}
	return needs
}

func (r *registration) do(ctx context.Context, s *session) (any, error) {
	body, err := r.model()
	if err != nil {
		return nil, err
	}
	var files []mlclient.File
	base := ""
	if r.path != "" {
		if base, files, err = mlclient.Tree(r.path); err != nil {
			return nil, fmt.Errorf("--model-path: %w", err)
		}
		if len(files) == 0 {
			return nil, &cmd.UsageError{Err: fmt.Errorf("--model-path: the folder %s has no files, so there is nothing to register", r.path)}
		}
	}
	if r.metadata != "" {
		if _, err := os.Stat(r.metadata); !errors.Is(err, fs.ErrNotExist) {
			return nil, &cmd.UsageError{Err: fmt.Errorf("--output-metadata-file: %s exists already. Remove it, or name another", r.metadata)}
		}
	}
	ml, err := r.open(ctx, s)
	if err != nil {
		return nil, err
	}
	p := s.env.NewProgress("model register")
	model, err := r.register(ctx, ml, p, body, base, files)
	p.Done(err)
	if err != nil {
		return nil, err
	}
	return shownModel(model), r.writeMetadata(model)
}

// model is the model as it is sent, without the address of its files.
func (r *registration) model() (map[string]any, error) {
	if (r.path == "") == (r.assetPath == "") {
		return nil, &cmd.UsageError{Err: errors.New("name the model's files: --model-path for those on this machine, or --asset-path for those of a run")}
	}
	if r.version != "" && r.framework == "" {
		return nil, &cmd.UsageError{Err: errors.New("--model-framework-version needs --model-framework")}
	}
	tags, err := pairs("tag", r.tags)
	if err != nil {
		return nil, err
	}
	properties, err := pairs("property", r.properties)
	if err != nil {
		return nil, err
	}
	if r.runFile != "" {
		doc, err := readDocument("run-metadata-file", r.runFile)
		if err != nil {
			return nil, err
		}
		if id, ok := doc["run_id"].(string); ok && r.run == "" {
			r.run = id
		}
		if name, ok := doc["_experiment_name"].(string); ok && r.experiment == "" {
			r.experiment = name
		}
	}
	if r.assetPath != "" && r.run == "" {
		return nil, &cmd.UsageError{Err: errors.New("--asset-path is a path among the files of a run; name that with --run-id")}
	}
	body := map[string]any{"name": r.name, "mimeType": "application/json", "kvTags": tags, "properties": properties, "unpack": false, "datasets": []any{}}
	for k, v := range map[string]string{
		"description": r.description, "framework": r.framework, "frameworkVersion": r.version, "experimentName": r.experiment, "runId": r.run,
	} {
		if v != "" {
			body[k] = v
		}
	}
	for k, id := range map[string]string{"sampleInputData": r.input, "sampleOutputData": r.output} {
		if id != "" {
			body[k] = "aml://dataset/" + id
		}
	}
	if needs := r.needed(); len(needs) > 0 {
		body["resourceRequirements"] = needs
	}
	return body, nil
}

// register uploads the files and registers what they make: artifacts, an asset of them, a model of that.
func (r *registration) register(ctx context.Context, ml *mlclient.Client, p *cmd.Progress, body map[string]any, base string, files []mlclient.File) (map[string]any, error) {
	prefix := "ExperimentRun/dcid." + r.run + "/" + strings.Trim(r.assetPath, "/")
	if len(files) == 0 {
		if err := there(ctx, ml, prefix); err != nil {
			return nil, err
		}
	} else {
		container := time.Now().Format("060102T150405") + "-" + uuid.NewString()[:8]
		if err := upload(ctx, ml, p, container, files); err != nil {
			return nil, err
		}
		prefix = mlclient.Origin + "/" + container + "/" + base
	}
	p.Update("registering", "")
	res, err := ml.Do(ctx, http.MethodPost, ml.Models("/assets"), nil, map[string]any{"name": r.name, "artifacts": []any{map[string]any{"prefix": prefix}}})
	if err != nil {
		return nil, err
	}
	asset, _ := res.Body.(map[string]any)
	body["url"] = fmt.Sprintf("aml://asset/%v", asset["id"])
	if res, err = ml.Do(ctx, http.MethodPost, ml.Models("/models"), nil, body); err != nil {
		return nil, err
	}
	model, _ := res.Body.(map[string]any)
	return model, nil
}

// there makes sure that a run has stored something under a prefix.
func there(ctx context.Context, ml *mlclient.Client, prefix string) error {
	found, err := ml.Get(ctx, ml.Artifacts("/artifacts/prefix/contentinfo/"+(&url.URL{Path: prefix}).EscapedPath()), nil)
	if err != nil {
		return err
	}
	if list, _ := found["value"].([]any); len(list) == 0 {
		return absent("ResourceNotFound", "The workspace has no files at %s. Name a path that the run has uploaded to, or upload the files themselves with --model-path.", prefix)
	}
	return nil
}

// writeMetadata writes what `model deploy -f` reads.
func (r *registration) writeMetadata(model map[string]any) error {
	if r.metadata == "" {
		return nil
	}
	data, err := json.MarshalIndent(map[string]any{"modelId": model["id"], "workspaceName": r.workspace, "resourceGroupName": r.group}, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(r.metadata, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
	if err == nil {
		_, err = f.Write(append(data, '\n'))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("the model %v is registered, but its metadata could not be written: %w", model["id"], err)
	}
	return nil
}

func newModelList(e *cmd.Env) *cobra.Command {
	return verb{
		use: "list", short: "List the models of a workspace, the newest first", table: modelTable,
		example: "  berth ml model list -g rg -w ws -o table\n  berth ml model list -g rg -w ws -n mymodel --latest",
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			var at place
			at.flags(e, c)
			f := c.Flags()
			name := f.StringP("model-name", "n", "", "only versions of this model")
			latest := f.BoolP("latest", "l", false, "only the latest version of each model")
			tags := f.StringArray("tag", nil, "only models with this tag, as key or key=value; may be repeated")
			properties := f.StringArray("property", nil, "only models with this property, as key or key=value; may be repeated")
			run := f.String("run-id", "", "only models from this run")
			dataset := f.String("dataset-id", "", "only models with this dataset")
			at.offer(e, c, "model-name", "/models?latestVersionOnly=true", "name")
			return at.dataPlane(func(ctx context.Context, s *session, ml *mlclient.Client) (any, error) {
				q := filters(map[string]string{
					"name": *name, "tags": strings.Join(*tags, ","), "properties": strings.Join(*properties, ","), "runId": *run, "datasetId": *dataset,
				})
				if *latest {
					q.Set("latestVersionOnly", "true")
				}
				list, err := s.List(ctx, armclient.Request{Path: ml.Models("/models"), Query: q})
				for i := range list {
					list[i] = shownModel(list[i])
				}
				return anyOf(list, err)
			})
		},
	}.command(e)
}

func newModelShow(e *cmd.Env) *cobra.Command {
	return verb{
		use: "show", short: "Show a model", example: "  berth ml model show -n mymodel -g rg -w ws\n  berth ml model show -i mymodel:1 -g rg -w ws", table: modelTable,
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			var at place
			at.flags(e, c)
			f := c.Flags()
			id := f.StringP("model-id", "i", "", "ID of the model, name:version")
			name := f.StringP("model-name", "n", "", "name of the model; its latest version is shown")
			version := f.Int("version", 0, "the version to show, with --model-name")
			run := f.String("run-id", "", "the latest model from this run")
			c.MarkFlagsOneRequired("model-id", "model-name", "run-id")
			c.MarkFlagsMutuallyExclusive("model-id", "model-name")
			at.offer(e, c, "model-id", "/models", "id")
			at.offer(e, c, "model-name", "/models?latestVersionOnly=true", "name")
			return func(ctx context.Context, s *session) (any, error) {
				if *version != 0 && *name == "" {
					return nil, &cmd.UsageError{Err: errors.New("--version needs --model-name")}
				}
				wanted := *id
				if *version != 0 {
					wanted = *name + ":" + strconv.Itoa(*version)
				}
				if wanted != "" {
					if err := checkModelID("model-id", wanted); err != nil {
						return nil, err
					}
				}
				ml, err := at.open(ctx, s)
				if err != nil {
					return nil, err
				}
				m, err := findModel(ctx, s, ml, wanted, *name, *run)
				if err != nil {
					return nil, err
				}
				return shownModel(m), nil
			}
		},
	}.command(e)
}

// findModel finds a model by its ID, or the latest with a name or from a run.
func findModel(ctx context.Context, s *session, ml *mlclient.Client, id, name, run string) (map[string]any, error) {
	if id != "" {
		return ml.Get(ctx, ml.Models("/models/"+url.PathEscape(id)), nil)
	}
	q := filters(map[string]string{"name": name, "runId": run})
	q.Set("count", "1")
	page, err := ml.Get(ctx, ml.Models("/models"), q)
	if err != nil {
		return nil, err
	}
	if found, _ := page["value"].([]any); len(found) > 0 {
		m, _ := found[0].(map[string]any)
		return m, nil
	}
	if name == "" {
		return nil, absent("ModelNotFound", "The workspace has no model from the run '%s'.", run)
	}
	return nil, absent("ModelNotFound", "The workspace has no model '%s'. Register it with: berth ml model register", name)
}

func newModelUpdate(e *cmd.Env) *cobra.Command {
	return verb{
		use: "update", short: "Change the description, tags, properties and needs of a model", table: modelTable,
		example: "  berth ml model update -i mymodel:1 -g rg -w ws --add-tag stage=production --remove-tag stage-old\n  berth ml model update -i mymodel:1 -g rg -w ws -d 'The best one' --cc 1 --gb 2",
		long:    "Change the description, tags, properties and needs of a model. Its files are what they are: others are\nanother version, by berth ml model register.",
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			r := &registration{cpu: setting{kind: kindNumber}, memory: setting{kind: kindNumber}, gpu: setting{kind: kindCount}}
			r.flags(e, c)
			f := c.Flags()
			id := f.StringP("model-id", "i", "", "ID of the model, name:version")
			_ = c.MarkFlagRequired("model-id")
			r.offer(e, c, "model-id", "/models", "id")
			f.StringVarP(&r.description, "description", "d", "", "description")
			f.StringArrayVar(&r.tags, "add-tag", nil, "tag to add, as key=value; may be repeated")
			gone := f.StringArray("remove-tag", nil, "key of a tag to remove; may be repeated")
			f.StringArrayVar(&r.properties, "add-property", nil, "property to add, as key=value; may be repeated")
			r.needs(c)
			return func(ctx context.Context, s *session) (any, error) {
				if err := checkModelID("model-id", *id); err != nil {
					return nil, err
				}
				changes, err := r.changes(*gone, f.Changed("description"))
				if err != nil {
					return nil, err
				}
				ml, err := r.open(ctx, s)
				if err != nil {
					return nil, err
				}
				at := ml.Models("/models/" + url.PathEscape(*id))
				have, err := ml.Get(ctx, at, nil)
				if err != nil {
					return nil, err
				}
				res, err := ml.Do(ctx, http.MethodPatch, at, nil, changes(have))
				if err != nil {
					return nil, err
				}
				return shownModel(res.Body), nil
			}
		},
	}.command(e)
}

// changes are what an update sends, which depends on the tags and the needs that the model has.
func (r *registration) changes(gone []string, described bool) (func(have map[string]any) []change, error) {
	added, err := pairs("add-tag", r.tags)
	if err != nil {
		return nil, err
	}
	properties, err := pairs("add-property", r.properties)
	if err != nil {
		return nil, err
	}
	var out []change
	if described {
		out = append(out, change{"replace", "/description", r.description})
	}
	for k, id := range map[string]string{"sampleInputData": r.input, "sampleOutputData": r.output} {
		if id != "" {
			out = append(out, change{"replace", "/" + k, "aml://dataset/" + id})
		}
	}
	out = append(out, propertyChanges(properties)...)
	needs := r.needed()
	if len(out) == 0 && len(needs) == 0 && len(added) == 0 && len(gone) == 0 {
		return nil, &cmd.UsageError{Err: errors.New("there is nothing to change. See: berth ml model update --help")}
	}
	return func(have map[string]any) []change {
		list := out
		if len(added) > 0 || len(gone) > 0 {
			list = append(list, tagChange(have, added, gone))
		}
		if len(needs) > 0 {
			all := map[string]any{}
			if now, ok := have["resourceRequirements"].(map[string]any); ok {
				maps.Copy(all, now)
			}
			maps.Copy(all, needs)
			list = append(list, change{"replace", "/resourceRequirements", all})
		}
		return list
	}, nil
}

func newModelDownload(e *cmd.Env) *cobra.Command {
	return verb{
		use: "download", short: "Download the files of a model", example: "  berth ml model download -i mymodel:1 -t model_folder -g rg -w ws",
		long: "Download the files of a model into a folder, and print the path of the file or folder that was registered.\nWhat breaks off is gone on with, and nothing has its name before all of it is there.",
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			var at place
			at.flags(e, c)
			f := c.Flags()
			id := f.StringP("model-id", "i", "", "ID of the model, name:version")
			dir := f.StringP("target-dir", "t", "", "folder to download to; it is made if it is not there")
			overwrite := f.Bool("overwrite", false, "replace files that are there already")
			_ = c.MarkFlagRequired("model-id")
			_ = c.MarkFlagRequired("target-dir")
			_ = c.MarkFlagDirname("target-dir")
			at.offer(e, c, "model-id", "/models", "id")
			return func(ctx context.Context, s *session) (any, error) {
				if err := checkModelID("model-id", *id); err != nil {
					return nil, err
				}
				ml, err := at.open(ctx, s)
				if err != nil {
					return nil, err
				}
				m, err := ml.Get(ctx, ml.Models("/models/"+url.PathEscape(*id)), nil)
				if err != nil {
					return nil, err
				}
				from, _ := m["url"].(string)
				files, err := ml.Stored(ctx, strings.TrimPrefix(from, "aml://asset/"))
				if err != nil {
					return nil, fmt.Errorf("the model %s cannot be downloaded: %w", *id, err)
				}
				p := s.env.NewProgress("model download")
				err = download(ctx, ml, p, files, *dir, *overwrite)
				p.Done(err)
				if errors.Is(err, fs.ErrExist) {
					return nil, &cmd.UsageError{Err: fmt.Errorf("%w. Choose another --target-dir, or replace what is there with --overwrite", err)}
				}
				if err != nil {
					return nil, err
				}
				base, _, _ := strings.Cut(files[0].Path, "/")
				return filepath.Join(*dir, base), nil
			}
		},
	}.command(e)
}

func newModelDelete(e *cmd.Env) *cobra.Command {
	return verb{
		use: "delete", short: "Delete a version of a model that no web service has", example: "  berth ml model delete -i mymodel:1 -g rg -w ws",
		flags: func(c *cobra.Command) func(context.Context, *session) (any, error) {
			var at place
			at.flags(e, c)
			id := c.Flags().StringP("model-id", "i", "", "ID of the model, name:version")
			_ = c.MarkFlagRequired("model-id")
			at.offer(e, c, "model-id", "/models", "id")
			return func(ctx context.Context, s *session) (any, error) {
				if err := checkModelID("model-id", *id); err != nil {
					return nil, err
				}
				ml, err := at.open(ctx, s)
				if err != nil {
					return nil, err
				}
				res, err := ml.Do(ctx, http.MethodDelete, ml.Models("/models/"+url.PathEscape(*id)), nil, nil)
				if err == nil && res.Status == http.StatusNoContent {
					e.Warnf("The workspace has no model %s, so nothing was deleted.", *id)
				}
				return nil, err
			}
		},
	}.command(e)
}
