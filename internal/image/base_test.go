package image

import "testing"

// The registry that is asked for a base image follows from the image's name and the registry's address together.
func TestBaseRegistry(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ image, address, want string }{
		{"", "", ""}, {" ", "r.test", ""}, {sdkImages + "base:1", "", ""}, {sdkImages + "base:1", "r.test", ""},
		{"python:3.11", "", "index.docker.io"}, {"library/python", "", "index.docker.io"}, {"docker.io/library/python", "", "index.docker.io"}, {"python", "docker.io", "index.docker.io"},
		{"r.test/base:1", "", "r.test"}, {" r.test/base:1 ", "", "r.test"}, {"base:1", "r.test", "r.test"}, {"base:1", "r.test/team", "r.test"}, {"r.test/base:1", "r.test", "r.test"}, {"R.test/base:1", "", "r.test"},
		{"evil.test/base:1", "r.test", "r.test"}, {"r.test.evil.test/base:1", "r.test", "r.test"}, {"r.test/base:1", "evil.test", "evil.test"}, {"r.test/base:1", "evil", "index.docker.io"},
		{"r.test:5000/base", "", "r.test:5000"}, {"base", "localhost:5000", "localhost:5000"}, {"base", "localhost", "localhost"},
		{"base", "https://r.test", ""}, {"base:1", "me@r.test", ""}, {"Base", "r.test", ""},
	} {
		if got := BaseRegistry(c.image, c.address); got != c.want {
			t.Errorf("%q with the address %q is asked of %q, want %q", c.image, c.address, got, c.want)
		}
	}
}
