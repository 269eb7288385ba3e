package pki_test

import (
	"crypto/x509"
	"encoding/pem"
	"slices"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/berthdev/berth/internal/cluster"
	"github.com/berthdev/berth/internal/cluster/pki"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func newAuthority(t *testing.T) *pki.Authority {
	t.Helper()
	made, err := pki.NewAuthority("test", now)
	if err != nil {
		t.Fatal(err)
	}
	read, err := pki.ParseAuthority(made.Pair) // as after a restart
	if err != nil {
		t.Fatal(err)
	}
	return read
}

func parse(t *testing.T, data []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(data)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestIssue(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	server, err := ca.Issue(pki.Request{CommonName: "api", Hosts: []string{"10.0.0.1", "api.example"}}, now)
	if err != nil {
		t.Fatal(err)
	}
	client, err := ca.Issue(pki.Request{CommonName: "me", Organizations: []string{"us"}, NotAfter: now.Add(time.Hour)}, now)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(cert *x509.Certificate, usage x509.ExtKeyUsage, host string, at time.Time) error {
		_, err := cert.Verify(x509.VerifyOptions{Roots: ca.Pool(), DNSName: host, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}})
		return err
	}
	for name, err := range map[string]error{
		"server by name":         verify(parse(t, server.Cert), x509.ExtKeyUsageServerAuth, "api.example", now),
		"server by address":      verify(parse(t, server.Cert), x509.ExtKeyUsageServerAuth, "10.0.0.1", now),
		"server after 9 years":   verify(parse(t, server.Cert), x509.ExtKeyUsageServerAuth, "", now.AddDate(9, 0, 0)),
		"client":                 verify(parse(t, client.Cert), x509.ExtKeyUsageClientAuth, "", now),
		"client with slow clock": verify(parse(t, client.Cert), x509.ExtKeyUsageClientAuth, "", now.Add(-time.Minute)),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, err := range map[string]error{
		"client as server":     verify(parse(t, client.Cert), x509.ExtKeyUsageServerAuth, "", now),
		"server as client":     verify(parse(t, server.Cert), x509.ExtKeyUsageClientAuth, "", now),
		"expired client":       verify(parse(t, client.Cert), x509.ExtKeyUsageClientAuth, "", now.Add(2*time.Hour)),
		"server by other name": verify(parse(t, server.Cert), x509.ExtKeyUsageServerAuth, "other.example", now),
	} {
		if err == nil {
			t.Errorf("%s is valid", name)
		}
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for role, want := range map[cluster.Role]struct{ context, group string }{
		cluster.RoleAdmin: {"prod-admin", "system:masters"},
		cluster.RoleUser:  {"prod", pki.UserGroup},
	} {
		got, err := ca.Credentials("prod", "https://10.192.0.2:6443", role, now)
		if err != nil {
			t.Fatal(err)
		}
		config, err := clientcmd.Load(got.Data)
		if err != nil {
			t.Fatal(err)
		}
		user := config.AuthInfos[string(role)+"_prod"]
		if config.CurrentContext != want.context || user == nil || config.Clusters[want.context].Server != "https://10.192.0.2:6443" {
			t.Fatalf("%s: the kubeconfig is not as AKS writes it:\ncontext %s", role, config.CurrentContext)
		}
		cert := parse(t, user.ClientCertificateData)
		if !slices.Equal(cert.Subject.Organization, []string{want.group}) || !cert.NotAfter.Equal(got.Expires) {
			t.Errorf("%s: group %v until %v, want %s until %v", role, cert.Subject.Organization, cert.NotAfter, want.group, got.Expires)
		}
	}
	if _, err := ca.Credentials("prod", "", "owner", now); err == nil {
		t.Error("credentials for an unknown role were issued")
	}
}
