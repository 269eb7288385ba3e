package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"github.com/berthdev/berth/internal/tracing"
)

const (
	// packagesDir is where wheels are in an environment's image.
	packagesDir = "/opt/berth/packages"
	// wheelPlatform is what wheels are chosen for: glibc 2.28 and later, which is Debian 10 and RHEL 8. All
	// bases have that.
	wheelPlatform = "x86_64-manylinux_2_28"
)

// withoutWheels are packages that azureml-defaults asks for, that PyPI has as source only, and that a model's
// container has no use for: fusepy mounts file systems, for which it has no rights.
const withoutWheels = "fusepy; sys_platform == 'none'\n"

// install puts the wheels of a recipe into a folder, as files that Python can run as they are. On one file
// system they are links to those in uv's cache: nothing may be written to them.
func (b *Builder) install(ctx context.Context, dir string, r *recipe) (err error) {
	ctx, span := tracing.Begin(ctx, "install wheels")
	defer func() { tracing.End(span, err) }()
	if _, err := os.Stat(b.UV); err != nil {
		return fmt.Errorf("the program uv is not at %s; make images puts it there", b.UV)
	}
	list, left, python := dir+".txt", dir+".overrides", dir+".python"
	defer func() { // what stays, Clean removes
		_, _, _ = os.Remove(list), os.Remove(left), os.Remove(python)
	}()
	overrides := withoutWheels
	if r.has("fusepy") {
		overrides = ""
	}
	base := b.base(r.python)
	err = errors.Join(
		os.WriteFile(list, []byte(r.text()), 0o600), // may hold passwords of indexes
		os.WriteFile(left, []byte(overrides), 0o600),
		os.WriteFile(python, []byte("#!/bin/sh\nexec '"+strings.Join(base.interpreter(), "' '")+"' \"$@\"\n"), 0o700),
	)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, b.UV, "pip", "install", "--quiet", "--no-progress", "--color=never", "--python", python, "--target", dir,
		"--python-platform", wheelPlatform, "--only-binary", ":all:", "--overrides", left, "--requirements", list)
	cmd.Dir = b.Work // not where a project of somebody's could set uv's options
	cmd.Env = append(passed(os.Environ()), base.environ()...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = run(cmd)
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		return fmt.Errorf("running uv: %w", errors.Join(err, ctx.Err()))
	}
	if err != nil {
		return refusal(stderr.String(), r.python)
	}
	return nil
}

// passed is what uv gets of this process's environment: how the network is reached, where the cache is, and uv's own settings. The rest
// holds secrets, such as those of buckets, that no package index has to know.
func passed(environ []string) []string {
	names := []string{"HOME", "PATH", "TMPDIR", "LANG", "XDG_CACHE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return !slices.Contains(names, strings.ToUpper(name)) && !strings.HasPrefix(name, "UV_")
	})
}

var (
	unknownPackage = regexp.MustCompile("Because (?:only )?([^ ]+) was not found in the package registry")
	unknownVersion = regexp.MustCompile(`^Because (?:there is no version of|only) ([^ ]+)`)
	sourceOnly     = regexp.MustCompile(`^Because (?:all versions of )?([^ ]+) (?:has|have) no (?:usable )?wheels`)
)

// refusal says in one short paragraph why uv found no set of packages.
func refusal(text, python string) error {
	said := reason(text)
	_, cause, solved := strings.Cut(said, "cause: ")
	if !solved || !strings.Contains(said, "No solution found") {
		if strings.Contains(said, "error sending request") || strings.Contains(said, "Failed to fetch") || strings.Contains(said, "timed out") {
			return fmt.Errorf("the package index cannot be reached: %s", said)
		}
		return &UserError{Code: PackageNotFound, Message: "The environment's packages cannot be installed: " + said}
	}
	on := "Python " + python + " on Linux x86_64"
	if m := unknownPackage.FindStringSubmatch(cause); m != nil {
		return &UserError{Code: PackageNotFound, Message: fmt.Sprintf("The package %s does not exist in the package index. Correct its name in the pip packages, or name the index that has it with --extra-index-url; then deploy again.", m[1])}
	}
	if m := sourceOnly.FindStringSubmatch(cause); m != nil {
		return &UserError{Code: EnvironmentNotSupported, Message: fmt.Sprintf("There is no wheel of %s for %s, and Berth does not compile source distributions. Choose a version that has one, or a base image that brings the package; then deploy again.", m[1], on)}
	}
	if m := unknownVersion.FindStringSubmatch(cause); m != nil {
		return &UserError{Code: PackageNotFound, Message: fmt.Sprintf("There is no %s for %s. Choose a version that exists; then deploy again. The resolver says: %s", m[1], on, cause)}
	}
	return &UserError{Code: PackageConflict, Message: "The environment's pip packages exclude each other. Loosen or change their versions, then deploy again. The resolver says: " + cause}
}

// reason is what uv says, in one paragraph of bounded length and without what could be a password in a URL.
func reason(text string) string {
	var words []string
	for _, w := range strings.Fields(text) {
		if scheme, rest, ok := strings.Cut(w, "://"); ok {
			if _, host, secret := strings.Cut(rest, "@"); secret {
				w = scheme + "://" + host
			}
		}
		words = append(words, w)
	}
	const most = 700
	out := strings.Join(words, " ")
	if len(out) > most {
		out = strings.ToValidUTF8(out[:most], "") + " …"
	}
	return out
}
