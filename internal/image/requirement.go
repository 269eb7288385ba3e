package image

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// What a definition asks pip for becomes a file that uv reads on this machine. There a line can do more than name a package:
// read files, run on into other lines, take in variables of the process. So only what is known to be harmless passes.

var (
	defaultIndex = regexp.MustCompile(`^https://pypi\.(python\.)?org(/|$)`)
	// requirement is a name, extras, versions and a marker (PEP 508), without the form that has a URL.
	requirement = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[A-Za-z0-9._,\s-]*\])?\s*(\(?\s*(===?|[<>!~]=|[<>])[A-Za-z0-9._*+!,<>=~\s-]*\)?)?\s*(;[A-Za-z0-9._*+!,<>=~()'"\s-]*)?$`)
	comment     = regexp.MustCompile(`(^|\s)#.*$`)
)

// addPip takes one entry of the list for pip: a requirement, or an option.
func (r *recipe) addPip(d *Definition, line string) error {
	if strings.ContainsFunc(line, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
		return unsupported("The environment %q has the pip entry %q, with a line break or another control character in it. Give each requirement an entry of its own.", d.Name, line)
	}
	if line = strings.TrimSpace(comment.ReplaceAllString(line, "")); line == "" {
		return nil
	}
	if strings.HasPrefix(line, "-") {
		option, value, _ := strings.Cut(strings.Replace(line, "=", " ", 1), " ")
		return r.addOption(d, option, strings.TrimSpace(value))
	}
	return r.require(d, line)
}

// options that pip takes and that change nothing here.
var options = []string{"--pre", "--prefer-binary", "--trusted-host", "--no-cache-dir"}

func (r *recipe) addOption(d *Definition, option, value string) error {
	switch option {
	case "--index-url", "-i", "--extra-index-url", "--find-links", "-f":
		if defaultIndex.MatchString(value) {
			return nil // PyPI itself, which is asked anyway; azureml-core adds these lines
		}
		u, err := url.Parse(value)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || strings.ContainsAny(value, "$ \t") {
			return unsupported("The environment %q has the pip option %s with an address that Berth does not take. Name an index by its URL, which begins with https://, has no spaces and no variables.", d.Name, option)
		}
		r.requirements = append(r.requirements, option+" "+value)
		return nil
	}
	if slices.Contains(options, option) {
		return nil
	}
	return unsupported("The environment %q has the pip option %q, which Berth does not pass on. Leave it out.", d.Name, option)
}

// require adds a requirement.
func (r *recipe) require(d *Definition, text string) error {
	if strings.Contains(text, "://") || strings.Contains(text, "@") || strings.HasPrefix(text, ".") || strings.HasPrefix(text, "/") {
		return unsupported("The environment %q installs from a repository, an archive or a folder. Berth installs wheels by name and version: publish it to an index and name that with --extra-index-url.", d.Name)
	}
	if !requirement.MatchString(text) {
		return unsupported("The environment %q has the requirement %q, which Berth cannot read. Write a name, versions and, where needed, a marker, like scikit-learn>=1.5,<2; python_version >= '3.9'.", d.Name, text)
	}
	r.requirements = append(r.requirements, text)
	return nil
}
