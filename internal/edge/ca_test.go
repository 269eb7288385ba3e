package edge

import (
	"bytes"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var testIPs = []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}

func open(t *testing.T, dir string, now time.Time, names ...string) *Authority {
	t.Helper()
	a, err := OpenAuthority(dir, names, testIPs, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAuthority_IsMadeOnceAndPrivate(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tls")
	first := open(t, dir, time.Now(), "localhost", "example.com")
	info, err := os.Stat(filepath.Join(dir, keyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the key's mode: %v, %v", info.Mode(), err)
	}
	if again := open(t, dir, time.Now(), "example.com"); !bytes.Equal(first.PEM(), again.PEM()) {
		t.Error("the second start made another authority")
	}
	if wider := open(t, dir, time.Now(), "example.com", "example.net"); bytes.Equal(first.PEM(), wider.PEM()) {
		t.Error("an authority that does not permit a new name was kept")
	}
	if later := open(t, dir, time.Now().Add(caLifetime-renewBefore), "example.com"); bytes.Equal(first.PEM(), later.PEM()) {
		t.Error("an authority that is about to expire was kept")
	}
	if err := os.Chmod(filepath.Join(dir, keyFile), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(dir, nil, nil, time.Now); err == nil {
		t.Error("a key that others can read was used")
	}
}

func TestAuthority_IsConstrainedToItsNames(t *testing.T) {
	t.Parallel()
	a := open(t, t.TempDir(), time.Now(), "localhost", "api.azureml.ms")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.PEM())
	verify := func(name string) error {
		// Whoever stole the key could sign this much; clients must not believe it.
		c, err := a.certificate(name)
		if err != nil {
			return err
		}
		_, err = c.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name})
		return err
	}
	for _, name := range []string{"localhost", "westeurope.api.azureml.ms", "127.0.0.1", "::1"} {
		if err := verify(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"example.com", "azureml.ms", "127.0.0.2", "10.0.0.1", "fapi.azureml.ms"} {
		if err := verify(name); err == nil {
			t.Errorf("a certificate for %s is valid", name)
		}
	}
}

func TestAuthority_LeavesAreCachedAndRenewed(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a, err := OpenAuthority(t.TempDir(), []string{"example.com"}, nil, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	first, err := a.certificate("example.com")
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := a.certificate("example.com"); again != first {
		t.Error("a second handshake made a second certificate")
	}
	now = now.Add(leafLifetime - renewBefore)
	renewed, err := a.certificate("example.com")
	if err != nil || renewed == first || !renewed.Leaf.NotAfter.After(now.Add(renewBefore)) {
		t.Errorf("the certificate was not renewed: %v", err)
	}
}
