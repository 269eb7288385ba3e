package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Definition is an environment as azureml-core sends it (Environment._serialize_to_dict).
type Definition struct {
	Name                 string            `json:"name"`
	Version              string            `json:"version"`
	EnvironmentVariables map[string]string `json:"environmentVariables"`
	Python               struct {
		UserManaged  bool `json:"userManagedDependencies"`
		Dependencies *struct {
			Dependencies []json.RawMessage `json:"dependencies"`
			Channels     []string          `json:"channels"`
		} `json:"condaDependencies"`
		BaseConda string `json:"baseCondaEnvironment"`
	} `json:"python"`
	Docker struct {
		BaseImage      string          `json:"baseImage"`
		BaseDockerfile string          `json:"baseDockerfile"`
		BuildContext   json.RawMessage `json:"buildContext"`
		Registry       struct {
			Address  string `json:"address"`
			Username string `json:"username"`
			Password string `json:"password"`
		} `json:"baseImageRegistry"`
		Platform struct {
			OS           string `json:"os"`
			Architecture string `json:"architecture"`
		} `json:"platform"`
	} `json:"docker"`
	Spark struct {
		Packages []json.RawMessage `json:"packages"`
	} `json:"spark"`
	R json.RawMessage `json:"r"`
}

// UserError says what is wrong with an environment's definition and what to do about it.
type UserError struct{ Code, Message string }

func (e *UserError) Error() string { return e.Message }

// ErrorType is what traces call it.
func (e *UserError) ErrorType() string { return e.Code }

// Codes of UserError.
const (
	EnvironmentNotSupported = "EnvironmentNotSupported"
	PackageNotFound         = "PackageNotFound"
	PackageConflict         = "PackageConflict"
	BaseImageNotReachable   = "BaseImageNotReachable"
)

var errNoBases = errors.New("there are no base images")

func unsupported(format string, args ...any) error {
	return &UserError{Code: EnvironmentNotSupported, Message: fmt.Sprintf(format, args...)}
}

// serving is the package that answers requests in a model container.
const serving = "azureml-inference-server-http"

// recipe is what a definition comes to.
type recipe struct {
	python       string   // such as 3.11; "" when the image brings its own packages
	requirements []string // for pip, sorted
	notes        []string // for the build log
}

// has tells whether a requirement names a package, given in lower case.
func (r *recipe) has(pkg string) bool {
	return slices.ContainsFunc(r.requirements, func(s string) bool { return packageName.FindString(normal(s)) == pkg })
}

// text is the requirements as a file for pip.
func (r *recipe) text() string { return strings.Join(r.requirements, "\n") + "\n" }

var packageName = regexp.MustCompile(`^[a-z0-9.-]*`)

// fromConda are packages that conda and PyPI have under the same name and with the same versions.
var fromConda = []string{
	"numpy", "scipy", "pandas", "scikit-learn", "joblib", "matplotlib", "xgboost", "lightgbm", "onnxruntime", "onnx", "requests", "pillow", "pyyaml", "statsmodels", "seaborn", "nltk", "spacy", "flask", "tqdm", "psutil", "pyarrow", "fastparquet", "sqlalchemy", "cython", "dill", "cloudpickle", "h5py", "networkx", "sympy", "numba", "shap", "imbalanced-learn",
}

var condaSpec = regexp.MustCompile(`^([A-Za-z0-9_.-]+)\s*(?:\[.*\])?\s*((?:[=<>!~].*)?)$`)

// read checks a definition and turns it into a recipe. pythons are the versions that there are bases of.
func read(raw json.RawMessage, pythons []string) (*Definition, *recipe, error) {
	var d Definition
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, nil, unsupported("The environment's definition cannot be read: %v.", err)
	}
	if strings.TrimSpace(d.Docker.BaseDockerfile) != "" || present(d.Docker.BuildContext) {
		return nil, nil, unsupported("The environment %q has a Dockerfile (docker.base_dockerfile or a build context). Berth builds images without Docker: name an image with docker.base_image instead, or list packages in conda dependencies.", d.Name)
	}
	if len(d.Spark.Packages) > 0 || present(d.R) {
		return nil, nil, unsupported("The environment %q asks for Spark packages or R. Berth serves Python: remove them.", d.Name)
	}
	if a := d.Docker.Platform.Architecture; a != "" && a != "amd64" {
		return nil, nil, unsupported("The environment %q is for the architecture %s; Berth's images are for amd64.", d.Name, a)
	}
	r := &recipe{}
	if d.Python.UserManaged {
		return &d, r, nil
	}
	if d.Python.BaseConda != "" {
		return nil, nil, unsupported("The environment %q builds on the conda environment %q of its image. Set python.user_managed_dependencies to True to use what the image has.", d.Name, d.Python.BaseConda)
	}
	if len(pythons) == 0 {
		return nil, nil, errNoBases
	}
	r.python = nearest(pythons, defaultPython)
	if d.Python.Dependencies != nil {
		for _, item := range d.Python.Dependencies.Dependencies {
			if err := r.add(&d, item, pythons); err != nil {
				return nil, nil, err
			}
		}
	}
	if !r.has(serving) && !r.has("azureml-defaults") {
		r.requirements = append(r.requirements, serving)
		r.notes = append(r.notes, "Adding "+serving+", which answers the requests; the definition brings neither it nor azureml-defaults.")
	}
	slices.Sort(r.requirements)
	r.requirements = slices.Compact(r.requirements)
	return &d, r, nil
}

func present(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// normal is a requirement with its name as PyPI compares names.
func normal(requirement string) string {
	return strings.ReplaceAll(strings.ToLower(requirement), "_", "-")
}

func (r *recipe) add(d *Definition, item json.RawMessage, pythons []string) error {
	var text string
	if json.Unmarshal(item, &text) == nil {
		return r.addConda(d, text, pythons)
	}
	var nested struct {
		Pip []string `json:"pip"`
	}
	if err := json.Unmarshal(item, &nested); err != nil || nested.Pip == nil {
		return unsupported("The environment %q has the conda dependency %s, which is neither a package nor a list for pip.", d.Name, item)
	}
	for _, line := range nested.Pip {
		if err := r.addPip(d, strings.TrimSpace(line)); err != nil {
			return err
		}
	}
	return nil
}

func (r *recipe) addConda(d *Definition, text string, pythons []string) error {
	m := condaSpec.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return unsupported("The environment %q has the conda dependency %q, which Berth cannot read. Write name=version, or list the package for pip.", d.Name, text)
	}
	pkg, version := strings.ToLower(m[1]), strings.TrimLeft(strings.ReplaceAll(m[2], " ", ""), "=")
	switch {
	case pkg == "pip" || pkg == "setuptools" || pkg == "wheel":
		return nil
	case pkg == "python":
		return r.choose(d, strings.ReplaceAll(m[2], " ", ""), pythons)
	case slices.Contains(fromConda, pkg):
		requirement := pkg
		if version != "" {
			requirement += "==" + version
			if strings.ContainsAny(version, "<>!~") {
				requirement = pkg + version
			} else if !strings.Contains(m[2], "==") && strings.Count(version, ".") < 2 {
				requirement += ".*" // conda's single = compares as far as it is written
			}
		}
		if err := r.require(d, requirement); err != nil {
			return err
		}
		r.notes = append(r.notes, fmt.Sprintf("Taking the conda package %s from PyPI, as %s.", text, requirement))
		return nil
	}
	return unsupported("The environment %q has the conda package %q. Berth installs wheels from PyPI: if PyPI has it, list it for pip (CondaDependencies.add_pip_package), else use a base image that brings it.", d.Name, text)
}

func (r *recipe) choose(d *Definition, requirement string, pythons []string) error {
	python, note, err := choosePython(pythons, requirement)
	if err != nil {
		return unsupported("The environment %q %v. Set python=%s in the conda dependencies, or name a base image with that Python and set python.user_managed_dependencies to True.", d.Name, err, nearest(pythons, defaultPython))
	}
	r.python = python
	if note != "" {
		r.notes = append(r.notes, note)
	}
	return nil
}
