package service

import (
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/dataplane/model"
)

// A scikit-learn model gets the version that it was made with, and a Python and a NumPy that this version runs with.
func TestNoCodeEnvironment(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		framework, version string
		has, hasNot        []string
	}{
		{"ScikitLearn", "", []string{`"scikit-learn"`}, []string{"python=", "numpy"}},
		{"ScikitLearn", "1.7.2", []string{`"scikit-learn==1.7.2"`}, []string{"python=", "numpy"}},
		{"ScikitLearn", "1.2.2", []string{`"scikit-learn==1.2.2"`, `"numpy\u003c2"`}, []string{"python="}},
		{"ScikitLearn", "1.0", []string{`"scikit-learn==1.0"`, `"numpy\u003c2"`, `"python=3.9"`}, nil},
		{"ScikitLearn", "0.24.2", []string{`"scikit-learn==0.24.2"`, `"numpy\u003c2"`, `"python=3.9"`}, nil},
		{"scikitlearn", "any", []string{`"scikit-learn==any"`}, []string{"python="}},
		{"Onnx", "1.6", []string{`"onnxruntime"`}, []string{"1.6", "python=", "scikit"}},
	} {
		definition, script := generated(&model.Content{Model: model.Model{Framework: c.framework, FrameworkVersion: c.version}})
		for _, want := range c.has {
			if !strings.Contains(string(definition), want) {
				t.Errorf("%s %s: no %s in %s", c.framework, c.version, want, definition)
			}
		}
		for _, not := range c.hasNot {
			if strings.Contains(string(definition), not) {
				t.Errorf("%s %s: %s in %s", c.framework, c.version, not, definition)
			}
		}
		if (script == onnxScript) != (c.framework == "Onnx") {
			t.Errorf("%s %s: the script is %s", c.framework, c.version, script)
		}
	}
}
