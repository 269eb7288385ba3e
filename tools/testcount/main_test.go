package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCount runs the program itself, because its exit code is what counts.
func TestCount(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "testcount")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	file := func(name, cases string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(`<testsuites><testsuite name="s">`+cases+`</testsuite></testsuites>`), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pass := file("pass.xml", `<testcase classname="c" name="a"/><testcase classname="c" name="b"/>`)
	fail := file("fail.xml", `<testcase classname="c" name="x"><failure>no</failure></testcase>`)
	broke := file("error.xml", `<testcase classname="c" name="y"><error>no</error></testcase>`)
	skip := file("skip.xml", `<testcase classname="c" name="z"><skipped message="no root"/></testcase>`)
	for _, tt := range []struct {
		name string
		args []string
		ci   string
		ok   bool
		last string
	}{
		{"all pass", []string{pass}, "true", true, "2 passed, 0 failed, 0 skipped"},
		{"one fails", []string{pass, fail, broke}, "", false, "2 passed, 2 failed, 0 skipped"},
		{"one is skipped", []string{pass, skip}, "", true, "2 passed, 0 failed, 1 skipped"},
		{"one is skipped in CI", []string{pass, skip}, "true", false, "2 passed, 0 failed, 1 skipped"},
		{"a suite did not start", []string{"-broken=lint", pass}, "", false, "2 passed, 1 failed, 0 skipped"},
		{"a file is missing", []string{pass, filepath.Join(dir, "absent.xml")}, "", false, "2 passed, 1 failed, 0 skipped"},
		{"nothing ran", nil, "", false, "0 passed, 0 failed, 0 skipped"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(program, tt.args...)
			cmd.Env = append(os.Environ(), "CI="+tt.ci)
			out, err := cmd.CombinedOutput()
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			if (err == nil) != tt.ok || lines[len(lines)-1] != tt.last {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
