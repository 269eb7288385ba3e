package image

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A definition gets the Python that it asks for, or is refused with the names of those that there are.
func TestChoosePython(t *testing.T) {
	t.Parallel()
	have := []string{"3.9", "3.11", "3.13"}
	for requirement, want := range map[string]string{
		"": "3.11", "=3": "3.11", "=3.*": "3.11", ">=3": "3.11", "<4": "3.11",
		"=3.9": "3.9", "==3.9": "3.9", "=3.9.*": "3.9", "=3.9.13": "3.9", "==3.13.1": "3.13", "=3.11.4=h2755cc3_3_cpython": "3.11",
		">=3.9": "3.11", ">3.9": "3.11", ">=3.12": "3.13", ">3.11": "3.13", "<3.11": "3.9", "<=3.9": "3.9", ">=3.8,<3.11": "3.9", "<3.11.5,>3.9": "3.11",
		"!=3.11.*": "3.13", "~=3.9": "3.11", "~=3.12": "3.13", "~=3.9.2": "3.9",
		"=3.10.18": "3.11", "=3.8.13": "3.9", "==3.6.2": "3.9", // azureml-core's own choices
	} {
		got, note, err := choosePython(have, requirement)
		if err != nil || got != want {
			t.Errorf("python%s gets %q, %v; want %s", requirement, got, err, want)
		}
		if sdk := strings.Contains(note, "azureml-core"); sdk != slices.Contains(sdkDefaults, strings.TrimLeft(requirement, "=")) {
			t.Errorf("python%s: the log says %q", requirement, note)
		}
	}
	for _, requirement := range []string{"=3.10", "=3.10.4", "=3.8", "=2.7", ">=3.14", "<3.9", ">=3.10,<3.11", "=4", "~=2.7", "!=3.*", "=9", "=0.11"} {
		got, _, err := choosePython(have, requirement)
		if err == nil || !strings.Contains(err.Error(), "3.9, 3.11, 3.13") {
			t.Errorf("python%s gets %q, error %v", requirement, got, err)
		}
	}
	for _, requirement := range []string{"=x", "=3.9|3.10", ">=3.9,", "=>3"} {
		if got, _, err := choosePython(have, requirement); err == nil || !strings.Contains(err.Error(), "cannot read") {
			t.Errorf("python%s gets %q, error %v", requirement, got, err)
		}
	}
}

// Whatever bases are there, one is found for a definition that leaves its Python open.
func TestBasesAreDiscovered(t *testing.T) {
	t.Parallel()
	b := &Builder{Bases: t.TempDir()}
	if _, err := b.Environment(t.Context(), []byte(`{"name":"e"}`), func(string) {}); err == nil || !strings.Contains(err.Error(), "make images") {
		t.Errorf("without bases: %v", err)
	}
	for _, name := range []string{"python3.13.tar", "python3.9.tar", "python3.14.tar.part"} {
		if err := os.WriteFile(filepath.Join(b.Bases, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	have, err := b.pythons()
	if err != nil || strings.Join(have, " ") != "3.9 3.13" {
		t.Errorf("found %q, %v", have, err)
	}
	if got := nearest(have, defaultPython); got != "3.13" {
		t.Errorf("the nearest to %s is %s", defaultPython, got)
	}
}
