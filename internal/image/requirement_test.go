package image

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestAddPip(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{ // "" for nothing, ! for a refusal with these words
		"numpy":                    "numpy",
		" scikit-learn >=1.5, <2 ": "scikit-learn >=1.5, <2",
		"torch==2.4.0+cpu":         "torch==2.4.0+cpu",
		"pandas[parquet,s3]~=2.1":  "pandas[parquet,s3]~=2.1",
		"a_b.c (>=1)":              "a_b.c (>=1)",
		"numpy===1!2.0.post1":      "numpy===1!2.0.post1",
		`x<2; python_version < "3.9" and (sys_platform == 'linux')`: `x<2; python_version < "3.9" and (sys_platform == 'linux')`,
		"numpy==1.*  # as measured":                                 "numpy==1.*",
		"# nothing":                                                 "",
		"":                                                          "",
		"--pre":                                                     "",
		"--extra-index-url https://u:p@i.example/simple": "--extra-index-url https://u:p@i.example/simple",
		"--index-url=http://i.example":                   "--index-url http://i.example",

		"six\n-r /etc/passwd":   "!control character",
		"six\r-r /etc/passwd":   "!control character",
		"-r /etc/passwd":        "!does not pass on",
		"-c constraints.txt":    "!does not pass on",
		"-e .":                  "!does not pass on",
		"a @ /etc/x.whl":        "!from a repository",
		"a@file:///etc/x.whl":   "!from a repository",
		"git+https://host/repo": "!from a repository",
		"./folder":              "!from a repository",
		"/etc/x.whl":            "!from a repository",
		"etc/x.whl":             "!cannot read",
		"six==${HOME}":          "!cannot read",
		"six --hash=sha256:00":  "!cannot read",
		"six; -r /etc/passwd":   "!cannot read",
		"--extra-index-url https://h/${AWS_SECRET_ACCESS_KEY}/": "!no variables",
		"--find-links /etc":                                   "!begins with https://",
		"--find-links file:///etc":                            "!begins with https://",
		"--index-url https://h --extra-index-url file:///etc": "!no spaces",
	} {
		r := &recipe{}
		err := r.addPip(&Definition{Name: "env"}, line)
		var refused *UserError
		switch says, refusal := strings.CutPrefix(want, "!"); {
		case refusal && (!errors.As(err, &refused) || !strings.Contains(refused.Message, says)):
			t.Errorf("%q: %q and %v, want a refusal with %q", line, r.requirements, err, says)
		case !refusal && err != nil:
			t.Errorf("%q: %v", line, err)
		case !refusal && strings.Join(r.requirements, "|") != want:
			t.Errorf("%q: %q, want %q", line, r.requirements, want)
		}
	}
}

// Whatever an entry says, it stays one line, and names neither files nor variables of this machine.
func FuzzAddPip(f *testing.F) {
	for _, line := range []string{"numpy>=1", "six\n-r /x", "--extra-index-url https://h/${X}", "a @ file:///x", "x; python_version<'3'"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		r := &recipe{}
		if r.addPip(&Definition{}, line) != nil {
			return
		}
		for _, got := range r.requirements {
			if strings.ContainsAny(got, "\n\r\x00$") || !strings.HasPrefix(got, "-") && strings.ContainsAny(got, "/@:\\") {
				t.Errorf("%q became %q", line, got)
			}
		}
	})
}

func TestPassed(t *testing.T) {
	t.Parallel()
	got := passed([]string{"AWS_SECRET_ACCESS_KEY=x", "PATH=/bin", "https_proxy=p", "UV_INDEX_URL=u", "BERTH_HOME=h"})
	if want := []string{"PATH=/bin", "https_proxy=p", "UV_INDEX_URL=u"}; !slices.Equal(got, want) {
		t.Errorf("uv gets %q, want %q", got, want)
	}
}
