package cli

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/berthdev/berth/internal/cli/cmd"
)

func env(t *testing.T) (*cmd.Env, *bytes.Buffer, *bytes.Buffer) {
	t.Helper()
	var out, err bytes.Buffer
	e := cmd.System()
	e.Out, e.Err, e.In = &out, &err, strings.NewReader("")
	home := t.TempDir()
	e.Getenv = func(name string) string {
		if name == "BERTH_HOME" {
			return home
		}
		return ""
	}
	return e, &out, &err
}

func walk(c *cobra.Command, visit func(*cobra.Command)) {
	visit(c)
	for _, sub := range c.Commands() {
		walk(sub, visit)
	}
}

// Every command explains itself, and its examples are real.
func TestCommands(t *testing.T) {
	t.Parallel()
	e, _, _ := env(t)
	root := New(e)
	walk(root, func(c *cobra.Command) {
		path := c.CommandPath()
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || c.Short[:1] != strings.ToUpper(c.Short[:1]) {
			t.Errorf("%s: Short is %q; it begins with a capital and ends without a full stop", path, c.Short)
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s: --%s has no usage", path, f.Name)
			}
		})
		if !c.Runnable() {
			return
		}
		if c.Args == nil {
			t.Errorf("%s: it does not say what arguments it takes", path)
		}
		if c.Example == "" {
			t.Errorf("%s: it has no example", path)
		}
		for line := range strings.Lines(c.Example) {
			if i := strings.Index(line, "berth "); i >= 0 {
				example(t, root, path, line[i:])
			}
		}
	})
}

// example checks that an example's command and flags exist.
func example(t *testing.T, root *cobra.Command, of, line string) {
	t.Helper()
	line, _, _ = strings.Cut(line, " | ")
	line, _, _ = strings.Cut(line, " && ")
	line = strings.NewReplacer(")", "", `"`, "", "'", "").Replace(line)
	words := strings.Fields(line)[1:]
	if i := slices.Index(words, "--"); i >= 0 {
		words = words[:i]
	}
	c, rest, err := root.Find(words)
	if err != nil || c == root || !c.Runnable() {
		t.Errorf("%s: the example %q leads to no command: %v", of, line, err)
		return
	}
	c.InitDefaultHelpFlag()
	for _, word := range rest {
		name, isLong := strings.CutPrefix(word, "--")
		name, _, _ = strings.Cut(name, "=")
		short, isShort := strings.CutPrefix(word, "-")
		switch {
		case isLong && c.Flag(name) == nil && c.InheritedFlags().Lookup(name) == nil:
			t.Errorf("%s: the example %q has --%s, which does not exist", of, line, name)
		case !isLong && isShort && len(short) == 1 && c.Flags().ShorthandLookup(short) == nil && c.InheritedFlags().ShorthandLookup(short) == nil:
			t.Errorf("%s: the example %q has -%s, which does not exist", of, line, short)
		}
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		e, out, errs := env(t)
		if code := Main(context.Background(), e, []string{"completion", shell}); code != 0 || !strings.Contains(out.String(), "berth") {
			t.Errorf("%s: code %d, %d bytes, %s", shell, code, out.Len(), errs)
		}
	}
	for line, want := range map[string]string{"aks sh": "show", "ml computetarget create ": "aks", "group list -o ": "table", "up --provider ": "fake", "env --shell ": "fish"} {
		e, out, _ := env(t)
		words := append([]string{"__complete"}, strings.Split(line, " ")...)
		if code := Main(context.Background(), e, words); code != 0 || !strings.Contains(out.String(), want) {
			t.Errorf("berth %s<TAB> offers %q, without %s", line, out, want)
		}
	}
}

// What was called wrongly says so, names what is wrong and how to find out, and ends with 2.
func TestWrongCalls(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"aks shwo":                         "show",
		"aks show -n c":                    "resource-group",
		"aks show -g rg":                   "name",
		"group create -n rg":               "location",
		"group list -o xml":                "json, jsonc, yaml",
		"group list --query [?":            "JMESPath",
		"aks scale -n c -g rg":             "node-count",
		"aks create -n c -g rg -c many":    "invalid argument",
		"up --provider docker":             "local",
		"up --log-level loud":              "debug, info, warn, error",
		"up --kubernetes-versions newest":  "1.34-1.38",
		"group list --nonsense":            "--nonsense",
		"group list extra":                 "extra",
		"env --shell tcsh":                 "fish, powershell, sh",
		"run":                              "berth run --",
		"nonsense":                         "nonsense",
		"ml computetarget attach aks -n a": "required",
	} {
		e, out, errs := env(t)
		code := Main(context.Background(), e, strings.Fields(line))
		if code != 2 || !strings.Contains(errs.String(), want) || out.Len() != 0 {
			t.Errorf("berth %s: code %d, without %q\nstdout: %s\nstderr: %s", line, code, want, out, errs)
		}
	}
}

func TestNotRunning(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"group list", "aks show -n c -g rg", "run -- true", "env"} {
		e, _, errs := env(t)
		if code := Main(context.Background(), e, strings.Fields(line)); code != 1 || !strings.Contains(errs.String(), "berth up") {
			t.Errorf("berth %s: code %d: %s", line, code, errs)
		}
	}
}
