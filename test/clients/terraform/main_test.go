package terraform

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	module   = "github.com/Azure/terraform-provider-azapi"
	provider = "terraform-provider-azapi"
	client   = "Terraform azapi" // on the conformance page
)

// berth is where the tests' Berth lives; providers is the folder with the built provider.
var berth, providers string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if _, err := exec.LookPath("terraform"); err != nil {
		return m.Run(), nil // every test says that it needs it
	}
	dir, err := os.MkdirTemp("", "berth-terraform-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	berth, providers = filepath.Join(dir, "home"), filepath.Join(dir, "providers")
	if _, err := command(5*time.Minute, "go", "build", "-o", filepath.Join(providers, provider), module); err != nil {
		return 1, err
	}
	config := fmt.Sprintf("provider_installation {\n  dev_overrides {\n    \"azure/azapi\" = %q\n  }\n}\n", providers)
	if err := os.WriteFile(filepath.Join(dir, "terraformrc"), []byte(config), 0o600); err != nil {
		return 1, err
	}
	for name, value := range map[string]string{
		"BERTH_HOME": berth, "TF_CLI_CONFIG_FILE": filepath.Join(dir, "terraformrc"), "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1",
	} {
		if err := os.Setenv(name, value); err != nil {
			return 1, err
		}
	}
	if _, err := cli("up", "--detach", "--provider", "fake"); err != nil {
		return 1, err
	}
	defer func() {
		_, e := cli("down", "--delete", "--yes")
		err = errors.Join(err, e)
	}()
	return m.Run(), nil
}

// cli runs the berth under test.
func cli(args ...string) (string, error) {
	program := os.Getenv("BERTH_BIN")
	if program == "" {
		program = filepath.Join("..", "..", "..", "bin", "berth")
	}
	return command(2*time.Minute, program, args...)
}

// command runs a program and returns what it prints; the error has what it complained of.
func command(limit time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return string(out), err
}

// proves runs an operation as a subtest and records in $BERTH_CONFORMANCE what came of it, in
// the form that the other suites write.
func proves(t *testing.T, operation string, behaviours []string, f func(*testing.T)) {
	t.Helper()
	result := "fail"
	if t.Run(operation, f) {
		result = "pass"
	}
	folder := os.Getenv("BERTH_CONFORMANCE")
	if folder == "" {
		return
	}
	line, err := json.Marshal(map[string]any{"client": client, "version": version(t), "operation": operation, "behaviours": behaviours, "result": result})
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(proofs(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.Write(append(line, '\n'))
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
}

func proofs() string { return filepath.Join(os.Getenv("BERTH_CONFORMANCE"), "terraform-azapi.jsonl") }

// forgetProofs removes what an earlier run wrote.
func forgetProofs(t *testing.T) {
	if err := os.Remove(proofs()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// version is the provider's, as the built program knows it.
func version(t *testing.T) string {
	t.Helper()
	info, err := buildinfo.ReadFile(filepath.Join(providers, provider))
	if err != nil {
		t.Fatal(err)
	}
	if info.Main.Path == module && info.Main.Replace == nil {
		return info.Main.Version
	}
	t.Fatalf("the provider was not built from the published %s: %+v", module, info.Main)
	return ""
}
