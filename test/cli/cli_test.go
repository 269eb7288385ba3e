// Package cli runs the scripts in testdata against the real berth program. Each has an
// installation of its own, with the fake provider, that is gone when the script ends.
package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	_ "github.com/berthdev/berth/internal/cli" // what the scripts run: when it changes, go test must not answer from its cache
)

// berth is the program under test.
var berth string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "berth-cli-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	berth = filepath.Join(dir, "berth")
	if out, err := exec.Command("go", "build", "-o", berth, "github.com/berthdev/berth/cmd/berth").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building berth: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

func TestScripts(t *testing.T) {
	t.Parallel()
	az := os.Getenv("BERTH_AZ")
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		WorkdirRoot:         t.TempDir(), // which goes even when only some scripts run
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", filepath.Dir(berth)+string(os.PathListSeparator)+os.Getenv("PATH"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("BERTH_HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("AZ", az)
			e.Defer(func() { clear(e) })
			return nil
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "az":
				if az == "" && os.Getenv("CI") == "true" {
					return false, fmt.Errorf("BERTH_AZ is not set; make test sets it")
				}
				return az != "", nil
			case "userns":
				return exec.Command("unshare", "--user", "true").Run() == nil, nil
			}
			return false, fmt.Errorf("there is no condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "same": same},
	})
}

// clear deletes every installation that a script has left, and looks into its log.
func clear(e *testscript.Env) {
	states, err := filepath.Glob(filepath.Join(e.WorkDir, "*", "berth.json"))
	if err != nil {
		e.T().Fatal(err)
	}
	for _, state := range states {
		home := filepath.Dir(state)
		if log, err := os.ReadFile(filepath.Join(home, "berth.log")); err == nil && bytes.Contains(log, []byte("panic")) {
			e.T().Log(string(log))
			defer e.T().FailNow() // after the rest is gone
		}
		down := exec.Command(berth, "down", "--delete", "--yes", "--home", home)
		down.Env = e.Vars
		if out, err := down.CombinedOutput(); err != nil {
			e.T().Fatal(fmt.Sprintf("berth down: %v\n%s", err, out))
		}
	}
}

// exits runs a command and holds its exit code to the one given: exits 3 berth group show …
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARGUMENT…]")
	}
	if code := exitCode(ts, args[1:]...); code != args[0] {
		ts.Fatalf("exit code %s, want %s", code, args[0])
	}
}

func exitCode(ts *testscript.TestScript, command ...string) string {
	err := ts.Exec(command[0], command[1:]...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	if exit == nil {
		return "0"
	}
	return strconv.Itoa(exit.ExitCode())
}

// same holds a command of berth to what az prints and how it ends: same group show -n rg.
// JSON may lack what az prints as null, and ARM's own way to write times is kept.
func same(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: same NOUN VERB [ARGUMENT…]")
	}
	wantCode := exitCode(ts, append([]string{"berth", "run", "--", ts.Getenv("AZ")}, args...)...)
	want := ts.ReadFile("stdout")
	code := exitCode(ts, append([]string{"berth"}, args...)...)
	got := ts.ReadFile("stdout")
	if code != wantCode {
		ts.Fatalf("berth ends with %s, az with %s", code, wantCode)
	}
	var gotJSON, wantJSON any
	if json.Unmarshal([]byte(got), &gotJSON) == nil && json.Unmarshal([]byte(want), &wantJSON) == nil {
		if diff := cmp.Diff(essence(wantJSON), essence(gotJSON)); diff != "" {
			ts.Fatalf("az prints what has - before it, berth what has +:\n%s", diff)
		}
	} else if got != want {
		ts.Fatalf("az prints:\n%s\nberth prints:\n%s", want, got)
	}
}

// essence is JSON without what same allows to differ.
func essence(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = essence(v[i])
		}
	case map[string]any:
		for k, e := range v {
			if v[k] = essence(e); e == nil || k == "systemData" {
				delete(v, k)
			}
		}
	}
	return v
}
