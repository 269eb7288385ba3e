// Gendocs writes the pages that derive from the code: docs/cli.md from the command tree,
// docs/errors.md from the table of error codes.
package main

import (
	"fmt"
	"os"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/berthdev/berth/internal/arm/armerr"
	"github.com/berthdev/berth/internal/cli"
	"github.com/berthdev/berth/internal/cli/cmd"
)

func main() {
	for path, text := range map[string]string{"docs/cli.md": commands(), "docs/errors.md": errors()} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func commands() string {
	var b strings.Builder
	root := cli.New(cmd.System())
	b.WriteString("# The berth command\n\nWritten by `make generate` from the command tree.\n\n## Options of every command\n\n")
	options(&b, root.PersistentFlags())
	b.WriteString("\nExit codes: 0 done, 1 failed, 2 called wrongly, 3 not found; `berth run` ends with the code of its command.\n")
	walk(&b, root)
	return b.String()
}

func walk(b *strings.Builder, c *cobra.Command) {
	for _, sub := range c.Commands() {
		if sub.Name() == "help" || sub.Name() == "completion" {
			continue
		}
		if sub.HasSubCommands() {
			walk(b, sub)
			continue
		}
		fmt.Fprintf(b, "\n## %s\n\n", sub.CommandPath())
		text := sub.Long
		if text == "" {
			text = sub.Short + "."
		}
		fmt.Fprintf(b, "%s\n\n```\n%s\n```\n", text, strings.TrimRight(unindent(sub.Example), "\n"))
		if sub.LocalFlags().HasAvailableFlags() {
			b.WriteString("\n")
			options(b, sub.LocalNonPersistentFlags())
		}
	}
}

func unindent(s string) string { return strings.ReplaceAll("\n"+s, "\n  ", "\n")[1:] }

func options(b *strings.Builder, flags *pflag.FlagSet) {
	b.WriteString("| option | meaning |\n|---|---|\n")
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		usage := strings.ReplaceAll(f.Usage, "|", "\\|")
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0" {
			usage += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(b, "| %s | %s |\n", name, usage)
	})
}

func errors() string {
	var b strings.Builder
	b.WriteString("# Error codes\n\nWritten by `make generate` from `internal/arm/armerr/codes.go`. An error has ARM's envelope, `{\"error\": {\"code\", \"message\", \"target\", \"details\"}}`; the\nmessage says what happened, which rule it is about, and what to do next. The same shape stands in failed operations and in `provisioningErrors`.\n\n| code | status | when |\n|---|---|---|\n")
	codes := armerr.Codes()
	names := make([]string, 0, len(codes))
	for name := range codes {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Fprintf(&b, "| `%s` | %d | %s |\n", name, codes[name].Status, codes[name].When)
	}
	return b.String()
}
