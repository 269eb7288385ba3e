// Package cli runs the scripts in testdata against the real berth program. Each has an
// installation of its own, with the fake provider, that is gone when the script ends.
package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
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
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", filepath.Dir(berth)+string(os.PathListSeparator)+os.Getenv("PATH"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("BERTH_HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("AZ", az)
			vars := e.Vars
			e.Defer(func() {
				down := exec.Command(berth, "down", "--delete", "--yes")
				down.Env = vars
				if out, err := down.CombinedOutput(); err != nil {
					e.T().Log(fmt.Sprintf("berth down: %v\n%s", err, out))
				}
			})
			return nil
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "az":
				if az == "" && os.Getenv("CI") == "true" {
					return false, fmt.Errorf("BERTH_AZ is not set; make test sets it")
				}
				return az != "", nil
			case "root":
				return os.Getuid() == 0, nil
			}
			return false, fmt.Errorf("there is no condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits runs a command and holds its exit code to the one given: exits 3 berth group show …
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARGUMENT…]")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := "0"
	if exit, ok := err.(*exec.ExitError); ok {
		code = fmt.Sprint(exit.ExitCode())
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if code != args[0] {
		ts.Fatalf("exit code %s, want %s", code, args[0])
	}
}
