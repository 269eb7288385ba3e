package clientenv

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/renameio/v2"
)

// debianPackage has the certificate authorities, and names the bundle that it makes of them.
const debianPackage = "ca-certificates"

// systemBundles are where distributions keep the certificates that the machine trusts. The
// first that exists is used.
var systemBundles = []string{
	"/etc/ssl/certs/" + debianPackage + ".crt",          // Debian, Ubuntu, Arch, Alpine
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL
	"/etc/pki/tls/certs/ca-bundle.crt",                  // older RHEL
	"/etc/ssl/ca-bundle.pem",                            // SUSE
	"/etc/ssl/cert.pem",                                 // Alpine, macOS, BSD
}

// WriteBundle writes a file of all certificates that clients on this machine should trust: ca,
// the system's, and those that the user's own variables name (a company's, say), so that every
// host that is not intercepted still verifies. It replaces the file in one step. sources
// tells which files went in; none means that only ca did.
func WriteBundle(path string, ca []byte, getenv func(string) string) (sources []string, err error) {
	var out bytes.Buffer
	seen := map[string]bool{}
	add := func(data []byte) (added bool) {
		for {
			var block *pem.Block
			if block, data = pem.Decode(data); block == nil {
				return added
			}
			if block.Type != "CERTIFICATE" || seen[string(block.Bytes)] {
				continue
			}
			seen[string(block.Bytes)] = true
			added = true
			_ = pem.Encode(&out, &pem.Block{Type: block.Type, Bytes: block.Bytes}) // a buffer takes all writes
		}
	}
	if !add(ca) {
		return nil, errors.New("the installation's CA certificate is not PEM")
	}
	include := func(file string) error {
		if same(file, path) {
			return nil // this environment was set by an earlier run
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if add(data) {
			sources = append(sources, file)
		}
		return nil
	}
	for _, file := range systemBundles {
		if err := include(file); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read the system's certificates: %w", err)
		}
	}
	for _, name := range []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"} {
		file := getenv(name)
		if file == "" {
			continue
		}
		// REQUESTS_CA_BUNDLE may name a folder, and stale settings are common: neither is ours to mend.
		if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
			continue
		}
		if err := include(file); err != nil {
			return nil, fmt.Errorf("read the certificates that %s names: %w", name, err)
		}
	}
	return sources, renameio.WriteFile(path, out.Bytes(), 0o644, renameio.IgnoreUmask())
}

func same(a, b string) bool {
	one, err1 := os.Stat(a)
	other, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(one, other)
}
