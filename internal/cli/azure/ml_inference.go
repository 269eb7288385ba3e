package azure

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/berthdev/berth/internal/cli/cmd"
	"github.com/berthdev/berth/internal/mlclient"
)

// inference is what goes into a model container beside the models: the script, its folder, the environment.
type inference struct {
	file, entryScript, source, conda, runtime, baseImage, registry, envName, envVersion, envFolder string
	env                                                                                            map[string]any // from the file
}

func (i *inference) declare(c *cobra.Command, short map[string]string) {
	for _, d := range []struct {
		dest                *string
		flag, letter, alias string
		usage               string
	}{
		{&i.file, "inference-config-file", "", "ic", "JSON or YAML file with the inference configuration, as the v1 extension has it; flags go before it"},
		{&i.entryScript, "entry-script", "", "es", "script with init() and run(), relative to --source-directory if there is one"},
		{&i.source, "source-directory", "", "sd", "folder with all that the script needs"},
		{&i.conda, "conda-file", "", "cf", "conda environment file, relative to --source-directory if there is one"},
		{&i.envName, "environment-name", "e", "", "name of an environment of the workspace"},
		{&i.envVersion, "environment-version", "", "ev", "version of that environment (default: the latest)"},
		{&i.envFolder, "environment-directory", "", "ed", "folder with an environment, as Environment.save_to_directory of azureml-core writes it"},
		{&i.baseImage, "base-image", "", "bi", "image to build on"},
		{&i.registry, "base-image-registry", "", "ir", "registry of that image"},
		{&i.runtime, "runtime", "", "rt", "python, the one runtime"},
	} {
		c.Flags().StringVarP(d.dest, d.flag, d.letter, "", also(d.usage, d.alias))
		if d.alias != "" {
			short[d.alias] = d.flag
		}
	}
}

// read completes the flags with the file. asked is whether there is anything at all: without, the model is
// deployed without code.
func (i *inference) read() (asked bool, err error) {
	if i.file != "" {
		doc, err := readDocument("inference-config-file", i.file)
		if err != nil {
			return false, err
		}
		if err := i.merge(doc); err != nil {
			return false, &cmd.UsageError{Err: fmt.Errorf("--inference-config-file: %s: %w", i.file, err)}
		}
	}
	if i.file == "" && i.entryScript == "" && i.source == "" && i.conda == "" && i.envName == "" && i.envFolder == "" && i.baseImage == "" {
		return false, nil
	}
	if err := i.check(); err != nil {
		return false, &cmd.UsageError{Err: err}
	}
	return true, nil
}

// merge takes from an inference configuration what no flag gave.
func (i *inference) merge(doc map[string]any) error {
	fields := map[string]*string{
		"entryScript": &i.entryScript, "sourceDirectory": &i.source, "condaFile": &i.conda, "runtime": &i.runtime, "baseImage": &i.baseImage,
	}
	for _, k := range slices.Sorted(maps.Keys(doc)) {
		v := doc[k]
		dest, isText := fields[k]
		switch {
		case v == nil || v == false || v == "": // what was left as it is
		case isText:
			given, ok := v.(string)
			if !ok {
				return fmt.Errorf("%s is no text", k)
			}
			if *dest == "" {
				*dest = given
			}
		case k == "environment":
			env, ok := v.(map[string]any)
			if !ok {
				return errors.New("environment is no object. To use an environment of the workspace, name it with --environment-name")
			}
			i.env = env
		case k == "baseImageRegistry":
			registry, _ := v.(map[string]any)
			address, ok := registry["address"].(string)
			if !ok && v != nil {
				return errors.New("baseImageRegistry has no address")
			}
			if registry["username"] != nil || registry["password"] != nil {
				return errors.New("baseImageRegistry has credentials. Give them in environment.docker.baseImageRegistry instead, with an environment")
			}
			i.registry = address
		case k == "description":
		default:
			return fmt.Errorf("Berth has no setting %s. It takes entryScript, sourceDirectory, environment, condaFile, runtime, baseImage and baseImageRegistry", k)
		}
	}
	return nil
}

func (i *inference) check() error {
	if i.entryScript == "" {
		return errors.New("there is no script to run: name it with --entry-script, or as entryScript in the inference configuration")
	}
	if i.runtime != "" && !strings.HasPrefix(strings.ToLower(i.runtime), "python") {
		return fmt.Errorf("the runtime %q is not python, which is the only one", i.runtime)
	}
	if i.envFolder != "" {
		if i.env != nil || i.envName != "" {
			return errors.New("--environment-directory has an environment, and another is named: leave one out")
		}
		if err := i.readFolder(); err != nil {
			return err
		}
	}
	if (i.env != nil || i.envName != "") && (i.conda != "" || i.baseImage != "") {
		return errors.New("an environment brings its own packages and image: leave out --conda-file and --base-image")
	}
	if i.env != nil && i.envName != "" {
		return errors.New("the inference configuration has an environment, and --environment-name names another: leave one out")
	}
	if i.envVersion != "" && i.envName == "" {
		return errors.New("--environment-version needs --environment-name")
	}
	if i.source != "" {
		if info, err := os.Stat(i.source); err != nil || !info.IsDir() {
			return fmt.Errorf("the source directory %s is no folder", i.source)
		}
		if filepath.IsAbs(i.entryScript) {
			return fmt.Errorf("the entry script %s is not relative to the source directory %s", i.entryScript, i.source)
		}
	}
	if filepath.Ext(i.entryScript) != ".py" {
		return fmt.Errorf("the entry script %s is no Python file", i.entryScript)
	}
	for what, file := range map[string]string{"entry script": i.entryScript, "conda file": i.conda} {
		if file == "" {
			continue
		}
		if info, err := os.Stat(i.in(file)); err != nil || !info.Mode().IsRegular() {
			return fmt.Errorf("the %s %s is no file", what, i.in(file))
		}
	}
	return nil
}

// readFolder reads an environment that azureml-core saved: its definition, and beside it what has a file of its own.
func (i *inference) readFolder() error {
	env, err := readDocument("environment-directory", filepath.Join(i.envFolder, "azureml_environment.json"))
	if err != nil {
		return err
	}
	section := func(name string) map[string]any {
		m, ok := env[name].(map[string]any)
		if !ok {
			m = map[string]any{}
			env[name] = m
		}
		return m
	}
	packages, err := readDocument("environment-directory", filepath.Join(i.envFolder, "conda_dependencies.yml"))
	switch {
	case err == nil:
		section("python")["condaDependencies"] = packages
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	recipe, err := os.ReadFile(filepath.Join(i.envFolder, "BaseDockerfile"))
	switch {
	case err == nil:
		section("docker")["baseDockerfile"] = string(recipe)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("--environment-directory: %w", err)
	}
	i.env = env
	return nil
}

// in is a file of the source directory.
func (i *inference) in(file string) string { return filepath.Join(i.source, file) }

// request uploads the code and describes what goes into the container. The driver that azureml-core
// generates is left out: AZUREML_ENTRY_SCRIPT says the same.
func (i *inference) request(ctx context.Context, ml *mlclient.Client, p *cmd.Progress, service string, models []string) (map[string]any, error) {
	env, err := i.environment(ctx, ml, service)
	if err != nil {
		return nil, err
	}
	vars, _ := env["environmentVariables"].(map[string]any)
	if vars == nil {
		vars = map[string]any{}
	}
	asset := map[string]any{"mimeType": "application/octet-stream"}
	base, files, err := mlclient.Tree(i.entryScript)
	if i.source != "" {
		base, files, err = mlclient.Tree(i.source)
	}
	if err != nil {
		return nil, err
	}
	script := base
	if i.source != "" {
		vars["AZUREML_SOURCE_DIRECTORY"] = base
		script = base + "/" + filepath.ToSlash(filepath.Clean(i.entryScript))
		dir, err := os.MkdirTemp("", "berth-source")
		if err != nil {
			return nil, err
		}
		defer func() { _ = os.RemoveAll(dir) }() // what stays is in the temporary folder
		packed, err := mlclient.Archive(files, dir, uuid.NewString()[:8]+".tar.gz")
		if err != nil {
			return nil, err
		}
		files, asset["unpack"] = []mlclient.File{packed}, true
	}
	vars["AZUREML_ENTRY_SCRIPT"] = script
	env["environmentVariables"] = vars
	container := uuid.NewString()[:8]
	if err := upload(ctx, ml, p, container, files); err != nil {
		return nil, err
	}
	asset["id"] = files[0].Path
	asset["url"] = "aml://artifact/" + mlclient.Origin + "/" + container + "/" + files[0].Path
	return map[string]any{"modelIds": models, "assets": []any{asset}, "environment": env}, nil
}

// environment is the definition of the environment: the workspace's, the configuration's, or one of the parts
// that were named.
func (i *inference) environment(ctx context.Context, ml *mlclient.Client, service string) (map[string]any, error) {
	if i.envName != "" {
		at := "/environments/" + url.PathEscape(i.envName)
		if i.envVersion != "" {
			at += "/versions/" + url.PathEscape(i.envVersion)
		}
		return ml.Get(ctx, ml.Environments(at), nil)
	}
	if i.env != nil {
		if i.env["name"] == nil {
			i.env["name"] = service + "-env"
		}
		return i.env, i.inline()
	}
	python := map[string]any{"interpreterPath": "python", "userManagedDependencies": false}
	if i.conda != "" {
		packages, err := readDocument("conda-file", i.in(i.conda))
		if err != nil {
			return nil, err
		}
		python["condaDependencies"] = packages
	}
	env := map[string]any{"name": service + "-env", "python": python}
	if i.baseImage != "" {
		docker := map[string]any{"baseImage": i.baseImage}
		if i.registry != "" {
			docker["baseImageRegistry"] = map[string]any{"address": i.registry}
		}
		env["docker"] = docker
	}
	return env, nil
}

// inline puts the packages of a file that an environment names into it: the file is on this machine.
func (i *inference) inline() error {
	python, _ := i.env["python"].(map[string]any)
	file, _ := python["condaDependenciesFile"].(string)
	if file == "" || python["condaDependencies"] != nil {
		return nil
	}
	packages, err := readDocument("inference-config-file", i.in(file))
	if err != nil {
		return err
	}
	python["condaDependencies"], python["condaDependenciesFile"] = packages, nil
	return nil
}
