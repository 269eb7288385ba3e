package service

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/berthdev/berth/internal/dataplane/model"
)

// noCode reports why a model cannot be deployed without a script.
func noCode(m model.Model) error {
	switch strings.ToLower(m.Framework) {
	case "scikitlearn", "onnx":
		return nil
	}
	return fmt.Errorf("the model '%s' has the framework %q. Without an entry script Berth deploys ScikitLearn and Onnx models; give an InferenceConfig for others", m.Name, m.Framework)
}

const generatedScript = "score.py"

// The scripts answer {"data": …} with the model's predictions, as the original's do.
const sklearnScript = `import json
import os

import joblib
import numpy as np


def init():
    global model
    root = os.environ["AZUREML_MODEL_DIR"]
    files = [os.path.join(d, f) for d, _, fs in os.walk(root) for f in fs]
    model = joblib.load(sorted(files)[0])


def run(raw):
    body = json.loads(raw)
    method = body.get("method", "predict")
    if method not in ("predict", "predict_proba"):
        raise ValueError("method is predict or predict_proba")
    return {method: np.asarray(getattr(model, method)(np.array(body["data"]))).tolist()}
`

const onnxScript = `import json
import os

import numpy as np
import onnxruntime


def init():
    global session
    root = os.environ["AZUREML_MODEL_DIR"]
    files = [os.path.join(d, f) for d, _, fs in os.walk(root) for f in fs if f.endswith(".onnx")]
    session = onnxruntime.InferenceSession(sorted(files)[0], providers=["CPUExecutionProvider"])


def run(raw):
    data = json.loads(raw)["data"]
    inputs = session.get_inputs()
    if not isinstance(data, dict):
        data = {inputs[0].name: data}
    types = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
    feed = {i.name: np.array(data[i.name], dtype=types.get(i.type)) for i in inputs}
    return {o.name: np.asarray(v).tolist() for o, v in zip(session.get_outputs(), session.run(None, feed)) if not isinstance(v, list)}
`

// generated is the environment and the script of a model that is deployed without any.
func generated(c *model.Content) (definition json.RawMessage, script string) {
	script, dependencies := onnxScript, []any{}
	packages := []string{"azureml-inference-server-http", "joblib", "onnxruntime", "numpy"} // the framework's version is ONNX's, not the runtime's
	if !strings.EqualFold(c.Model.Framework, "onnx") {
		script = sklearnScript
		dependencies, packages = sklearn(c.Model.FrameworkVersion)
	}
	definition, err := json.Marshal(map[string]any{
		"name":   "no-code-" + strings.ToLower(c.Model.Framework),
		"python": map[string]any{"condaDependencies": map[string]any{"dependencies": append(dependencies, map[string]any{"pip": packages})}},
	})
	if err != nil {
		panic(err) // strings always marshal
	}
	return definition, script
}

// sklearn is what a model of a version of scikit-learn needs, "" for any. Before 1.1.3 it had no wheels for the default
// Python, and before 1.4.2 it was compiled for NumPy 1, which its requirements do not say.
func sklearn(version string) (conda []any, pip []string) {
	pip = []string{"azureml-inference-server-http", "joblib"}
	if version == "" {
		return nil, append(pip, "scikit-learn")
	}
	var major, minor int
	if n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor); n == 2 && major < 2 { // anything else is the resolver's to refuse
		if major == 0 || minor < 2 {
			conda = append(conda, "python=3.9")
		}
		if major == 0 || minor < 5 {
			pip = append(pip, "numpy<2")
		}
	}
	return conda, append(pip, "scikit-learn=="+version)
}
