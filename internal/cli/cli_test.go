package cli

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/berthdev/berth/internal/cli/cmd"
	"github.com/berthdev/berth/internal/cli/output"
	"github.com/berthdev/berth/internal/edge/clientenv"
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
	walk(New(e), func(c *cobra.Command) {
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
			example(t, path, strings.TrimSpace(line))
		}
	})
}

var (
	word         = regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`)
	substitution = regexp.MustCompile(`"?\$\((berth [^)]*)\)"?`)
)

// example checks that an example could be typed: its command exists, and takes the flags
// and arguments given, with none missing.
func example(t *testing.T, of, line string) {
	t.Helper()
	for _, m := range substitution.FindAllStringSubmatch(line, -1) {
		example(t, of, m[1])
	}
	line = substitution.ReplaceAllString(line, "ID")
	if !strings.HasPrefix(line, "berth ") {
		return // another program, with what berth prints
	}
	for _, end := range []string{" | ", " && ", " > "} {
		line, _, _ = strings.Cut(line, end)
	}
	words := word.FindAllString(line, -1)[1:]
	e, _, _ := env(t)
	root := New(e)
	c, rest, err := root.Find(words)
	if err != nil || c == root || !c.Runnable() {
		t.Errorf("%s: the example %q leads to no command: %v", of, line, err)
		return
	}
	if err := c.ParseFlags(rest); err != nil {
		t.Errorf("%s: the example %q: %v", of, line, err)
		return
	}
	if err := errors.Join(c.ValidateRequiredFlags(), c.ValidateFlagGroups(), c.ValidateArgs(c.Flags().Args())); err != nil {
		t.Errorf("%s: the example %q: %v", of, line, err)
	}
}

// What takes long in az can be left to go on by itself, and then be awaited.
func TestNoWait(t *testing.T) {
	t.Parallel()
	e, _, _ := env(t)
	long := []string{"create", "add", "scale", "attach", "detach", "delete", "deploy", "regen-key"}
	atOnce := []string{"berth group create", "berth ml workspace create", "berth ml model delete"}
	walk(New(e), func(c *cobra.Command) {
		words := strings.Fields(c.CommandPath())
		isLong := slices.ContainsFunc(words, func(w string) bool { return slices.Contains(long, w) })
		if !c.Runnable() || !isLong || slices.Contains(atOnce, c.CommandPath()) {
			return
		}
		if f := c.Flags().Lookup("no-wait"); f == nil || f.DefValue != "false" {
			t.Errorf("%s has no --no-wait", c.CommandPath())
		}
	})
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		e, out, errs := env(t)
		if code := Main(context.Background(), e, []string{"completion", shell}); code != 0 || !strings.Contains(out.String(), "berth") {
			t.Errorf("%s: code %d, %d bytes, %s", shell, code, out.Len(), errs)
		}
	}
	for line, want := range map[string][]string{
		"aks sh": {"show"}, "ml computetarget create ": {"aks"}, "up --provider ": {"local", "fake"}, "env --shell ": clientenv.Shells(), "group list -o ": output.Formats,
	} {
		e, out, _ := env(t)
		words := append([]string{"__complete"}, strings.Split(line, " ")...)
		code := Main(context.Background(), e, words)
		var offers []string
		for offer := range strings.Lines(out.String()) {
			word, _, _ := strings.Cut(strings.TrimSpace(offer), "\t")
			offers = append(offers, word)
		}
		for _, w := range want {
			if code != 0 || !slices.Contains(offers, w) {
				t.Errorf("berth %s<TAB> offers %q, without %s", line, offers, w)
			}
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
