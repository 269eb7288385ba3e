package local

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/berthdev/berth/internal/cluster/pki"
)

// The authorities of a cluster. The API server trusts the second for what aggregated API
// servers are told about users, and it must not be the first.
const (
	clusterAuthority    = "ca"
	frontProxyAuthority = "front-proxy-ca"
)

// Names that the components have towards the API server; Kubernetes' own roles give
// them their rights.
var (
	// The controllers' own accounts would need a token each before the first one works.
	// One process with all rights is as safe here, and starts sooner.
	controllerManagerUser = pki.Request{CommonName: "system:kube-controller-manager", Organizations: []string{"system:masters"}}
	schedulerUser         = pki.Request{CommonName: "system:kube-scheduler"}
	proxyUser             = pki.Request{CommonName: "system:kube-proxy"}
	cloudControllerUser   = pki.Request{CommonName: "berth:cloud-controller"}
	providerUser          = pki.Request{CommonName: "berth:provider", Organizations: []string{"system:masters"}}
	kubeletClientUser     = pki.Request{CommonName: "kube-apiserver-kubelet-client", Organizations: []string{"system:masters"}}
	frontProxyUser        = pki.Request{CommonName: "front-proxy-client"}
)

func (c *localCluster) pkiFile(name string) string { return c.file("pki", name) }

func (c *localCluster) authority(name string) (*pki.Authority, error) {
	cert, err := os.ReadFile(c.pkiFile(name + ".crt"))
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(c.pkiFile(name + ".key"))
	if err != nil {
		return nil, err
	}
	return pki.ParseAuthority(pki.Pair{Cert: cert, Key: key})
}

// ensureCertificates makes all certificates and keys of the control plane, once. They
// appear in one step, so that a crash never leaves some of them.
func (c *localCluster) ensureCertificates() error {
	if _, err := os.Stat(c.file("pki")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	draft := c.file("pki.new")
	if err := errors.Join(os.RemoveAll(draft), os.Mkdir(draft, 0o700)); err != nil {
		return err
	}
	files, err := c.newCertificates()
	if err != nil {
		return err
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(draft, name), data, 0o600); err != nil {
			return err
		}
	}
	return os.Rename(draft, c.file("pki"))
}

func (c *localCluster) newCertificates() (map[string][]byte, error) {
	now := c.config.Now()
	authority, err := pki.NewAuthority("berth "+c.record.Name, now)
	if err != nil {
		return nil, err
	}
	frontProxy, err := pki.NewAuthority("berth front proxy "+c.record.Name, now)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{
		clusterAuthority + ".crt": authority.Cert, clusterAuthority + ".key": authority.Key,
		frontProxyAuthority + ".crt": frontProxy.Cert, frontProxyAuthority + ".key": frontProxy.Key,
		"encryption.yaml": encryptionConfig(),
	}
	hosts := []string{
		c.record.Subnet.Hub().String(), c.services().Addr().Next().String(), "127.0.0.1", "localhost",
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
	}
	if c.record.FQDN != "" {
		hosts = append(hosts, c.record.FQDN)
	}
	for name, from := range map[string]struct {
		issuer  *pki.Authority
		request pki.Request
	}{
		"apiserver":          {authority, pki.Request{CommonName: "kube-apiserver", Hosts: hosts}},
		"kubelet-client":     {authority, kubeletClientUser},
		"front-proxy-client": {frontProxy, frontProxyUser},
		"service-account":    {authority, pki.Request{CommonName: "service-accounts"}}, // only its key is used
	} {
		pair, err := from.issuer.Issue(from.request, now)
		if err != nil {
			return nil, err
		}
		files[name+".crt"], files[name+".key"] = pair.Cert, pair.Key
	}
	for name, user := range map[string]pki.Request{
		"provider": providerUser, "controller-manager": controllerManagerUser,
		"scheduler": schedulerUser, "cloud-controller": cloudControllerUser,
	} {
		if files[name+".kubeconfig"], err = c.kubeconfig(authority, user); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func (c *localCluster) kubeconfig(authority *pki.Authority, user pki.Request) ([]byte, error) {
	pair, err := authority.Issue(user, c.config.Now())
	if err != nil {
		return nil, err
	}
	return pki.Kubeconfig(c.record.Name, user.CommonName, c.endpoint(), authority.Cert, pair)
}

// encryptionConfig makes the API server encrypt Secrets in etcd with a key of their own.
func encryptionConfig() []byte {
	key := make([]byte, 32)
	rand.Read(key) // never fails
	return fmt.Appendf(nil, `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - secretbox: {keys: [{name: key1, secret: %s}]}
  - identity: {}
`, base64.StdEncoding.EncodeToString(key))
}

// ensureNodeCertificates makes what a node needs, like ensureCertificates.
func (c *localCluster) ensureNodeCertificates(n node) error {
	folder := c.nodeFile(n, "pki")
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	authority, err := c.authority(clusterAuthority)
	if err != nil {
		return err
	}
	serving, err := authority.Issue(pki.Request{CommonName: n.Name, Hosts: []string{n.Name, c.address(n)}}, c.config.Now())
	if err != nil {
		return err
	}
	kubelet, err := c.kubeconfig(authority, pki.Request{CommonName: "system:node:" + n.Name, Organizations: []string{"system:nodes"}})
	if err != nil {
		return err
	}
	proxy, err := c.kubeconfig(authority, proxyUser)
	if err != nil {
		return err
	}
	draft := folder + ".new"
	if err := errors.Join(os.RemoveAll(draft), os.MkdirAll(draft, 0o700)); err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"kubelet.crt": serving.Cert, "kubelet.key": serving.Key,
		"kubelet.kubeconfig": kubelet, "proxy.kubeconfig": proxy,
	} {
		if err := os.WriteFile(filepath.Join(draft, name), data, 0o600); err != nil {
			return err
		}
	}
	return os.Rename(draft, folder)
}
