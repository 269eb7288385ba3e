package clientenv

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// shells are how each shell sets a variable. Every value is quoted so that the shell
// takes it literally.
var shells = map[string]func(v Var) string{
	"sh": func(v Var) string {
		return "export " + v.Name + "='" + strings.ReplaceAll(v.Value, "'", `'\''`) + "'"
	},
	"fish": func(v Var) string {
		return "set -gx " + v.Name + " '" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(v.Value) + "'"
	},
	"powershell": func(v Var) string {
		// PowerShell takes typographic quotes for plain ones, also inside a string.
		double := strings.NewReplacer("'", "''", "\u2018", "\u2018\u2018", "\u2019", "\u2019\u2019", "\u201a", "\u201a\u201a", "\u201b", "\u201b\u201b")
		return "$env:" + v.Name + " = '" + double.Replace(v.Value) + "'"
	},
}

// Shells lists the shells that Render knows.
func Shells() []string {
	var names []string
	for name := range shells {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Render returns commands that set the variables in a shell, one per line. "sh" is for
// bash, zsh and every other POSIX shell.
func Render(shell string, vars []Var) (string, error) {
	set, ok := shells[shell]
	if !ok {
		return "", fmt.Errorf("unknown shell %q: use one of %s", shell, strings.Join(Shells(), ", "))
	}
	var b strings.Builder
	for _, v := range vars {
		if !variableName.MatchString(v.Name) {
			return "", fmt.Errorf("%q is no name for an environment variable", v.Name)
		}
		if strings.ContainsRune(v.Value, 0) {
			return "", fmt.Errorf("the value of %s has a NUL byte; no shell can hold one", v.Name)
		}
		b.WriteString(set(v))
		b.WriteByte('\n')
	}
	return b.String(), nil
}
