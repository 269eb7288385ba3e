package edge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	caFile  = "ca.pem"
	keyFile = "ca-key.pem"

	caLifetime   = 5 * 365 * 24 * time.Hour
	leafLifetime = 30 * 24 * time.Hour
	// renewBefore is how long before its end a certificate is replaced. For the authority it
	// leaves time to fetch the new one.
	renewBefore = 7 * 24 * time.Hour
	// backdate allows for clients whose clocks are behind.
	backdate = time.Hour
	// cachedLeaves bounds the certificates kept: clients choose the names below a wildcard.
	cachedLeaves = 512
)

// Authority is an installation's own certificate authority. Its certificate permits nothing
// but the names the installation answers for, so that trusting it gives away no more
// than those. Its key never leaves its file and this process. It is safe for concurrent use.
type Authority struct {
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	pem    []byte
	now    func() time.Time
	leaf   *ecdsa.PrivateKey // shared by all leaves, new in every process
	leaves *lru.Cache[string, *tls.Certificate]
}

// OpenAuthority reads the authority in dir, or makes one there. An authority that nears its
// end, or that does not permit all of names and ips, is replaced: clients then need the new
// certificate. names are DNS names; each permits the names below it, too.
func OpenAuthority(dir string, names []string, ips []net.IP, now func() time.Time) (*Authority, error) {
	a := &Authority{now: now}
	var err error
	if a.leaves, err = lru.New[string, *tls.Certificate](cachedLeaves); err != nil {
		return nil, err
	}
	if a.leaf, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("make a key for certificates: %w", err)
	}
	err = a.read(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !a.fits(names, ips) {
		err = a.create(dir, names, ips)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate authority in %s: %w", dir, err)
	}
	return a, nil
}

// PEM is the authority's certificate, for clients to trust.
func (a *Authority) PEM() []byte { return slices.Clone(a.pem) }

func (a *Authority) read(dir string) error {
	keyPath := filepath.Join(dir, keyFile)
	info, err := os.Stat(keyPath)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("others can read the key (mode %04o): run chmod 600 %s, and remove both files if it may have been copied", info.Mode().Perm(), keyPath)
	}
	keyPEM, err := os.ReadFile(keyPath)
	if err != nil {
		return err
	}
	certPEM, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("%w; remove %s and %s to make a new authority", err, caFile, keyFile)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return fmt.Errorf("the key is a %T, not an ECDSA key; remove %s and %s to make a new authority", pair.PrivateKey, caFile, keyFile)
	}
	a.cert, a.key, a.pem = pair.Leaf, key, certPEM
	return nil
}

// fits says whether the authority can go on being used for these names.
func (a *Authority) fits(names []string, ips []net.IP) bool {
	for _, name := range names {
		if !slices.Contains(a.cert.PermittedDNSDomains, name) {
			return false
		}
	}
	for _, ip := range ips {
		if !slices.ContainsFunc(a.cert.PermittedIPRanges, func(n *net.IPNet) bool { return n.Contains(ip) }) {
			return false
		}
	}
	return a.now().Before(a.cert.NotAfter.Add(-renewBefore))
}

func (a *Authority) create(dir string, names []string, ips []net.IP) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := serialNumber()
	if err != nil {
		return err
	}
	now := a.now()
	template := &x509.Certificate{
		SerialNumber: serial,
		// A name of its own per authority, so that a client that trusts several is not confused.
		Subject:                     pkix.Name{Organization: []string{"Berth"}, CommonName: fmt.Sprintf("Berth installation %x", serial.Bytes()[:4])},
		NotBefore:                   now.Add(-backdate),
		NotAfter:                    now.Add(caLifetime),
		IsCA:                        true,
		BasicConstraintsValid:       true,
		MaxPathLenZero:              true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         names,
	}
	for _, ip := range ips {
		bits := 8 * len(ip)
		template.PermittedIPRanges = append(template.PermittedIPRanges, &net.IPNet{IP: ip, Mask: net.CIDRMask(bits, bits)})
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	a.key = key
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// The certificate first: a crash in between leaves no key, and the next start begins anew.
	if err := os.Remove(filepath.Join(dir, keyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(dir, caFile), a.pem, 0o644, renameio.IgnoreUmask()); err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, keyFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600)
}

// certificate returns a certificate for the names, the first of which identifies it.
func (a *Authority) certificate(names ...string) (*tls.Certificate, error) {
	now := a.now()
	if c, ok := a.leaves.Get(names[0]); ok && now.Before(c.Leaf.NotAfter.Add(-renewBefore)) {
		return c, nil
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"Berth"}},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(leafLifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &a.leaf.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", strings.Join(names, ", "), err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.leaf, Leaf: leaf}
	a.leaves.Add(names[0], c)
	return c, nil
}

// serialNumber returns a random serial number of 127 bits, of which the top one is set.
func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return n.SetBit(n, 126, 1), nil
}
